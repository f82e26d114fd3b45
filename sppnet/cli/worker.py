"""A process that runs one cell after the other: `python -m sppnet.cli.worker`, started by the pool.

It reads jobs from standard input and writes events to standard output, a JSON object a line each.
Whatever libraries print goes to the cell's run.log. The end of the input ends the process: the pool is
gone, so a running cell saves and stops.
"""

import contextlib
import json
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import Any, TextIO

from omegaconf import OmegaConf

from sppnet.errors import SppnetError
from sppnet.run.interrupts import Interrupted


def main() -> None:
    """Run jobs until there are no more."""
    # Nobody else may write into the stream of events.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    # Ctrl-C belongs to the pool, which passes it on; between two cells there is nothing to save.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    jobs: queue.Queue[dict[str, Any] | None] = queue.Queue()
    threading.Thread(target=_read, args=(jobs,), daemon=True).start()
    while (job := jobs.get()) is not None:
        _say(events, _run(job, events))


def _read(jobs: "queue.Queue[dict[str, Any] | None]") -> None:
    for line in sys.stdin:
        jobs.put(json.loads(line))
    jobs.put(None)
    os.kill(os.getpid(), signal.SIGTERM)


def _run(job: dict[str, Any], events: TextIO) -> dict[str, Any]:
    """Run one cell; returns the event that says how it ended."""
    from sppnet.cli.cell import run_in

    directory = Path(job["directory"])
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "run.log").open("a") as log:
        os.dup2(log.fileno(), 2)
        os.dup2(log.fileno(), 1)
    try:
        run_in(
            directory,
            OmegaConf.create(job["config"]),
            report=lambda step: _say(events, {"event": "step", **step._asdict()}),
        )
    except Interrupted as stop:
        _say(events, {"event": "interrupted"})
        sys.exit(stop.exit_code)
    except Exception as error:
        code = error.exit_code if isinstance(error, SppnetError) else 1
        return {"event": "failed", "kind": type(error).__name__, "error": str(error), "exit_code": code}
    return {"event": "done"}


def _say(events: TextIO, event: dict[str, Any]) -> None:
    # The pool may be gone: its death is heard at the input's end, after which the run saves and stops.
    with contextlib.suppress(BrokenPipeError):
        events.write(json.dumps(event) + "\n")


if __name__ == "__main__":
    main()
