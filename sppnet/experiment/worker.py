"""A process that runs one run after the other: `python -m sppnet.experiment.worker`, started by the sweep.

It reads directories of runs from standard input and writes events to standard output, a line of JSON each.
Whatever libraries print goes to the run's log. The end of the input ends the process: the sweep is gone, so
a run under way saves and stops.
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

from sppnet.errors import SppnetError
from sppnet.run.interrupts import Interrupted


def main() -> None:
    """Run runs until there are no more."""
    # Nobody else may write into the stream of events.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    # Ctrl-C belongs to the sweep, which passes it on; between two runs there is nothing to save.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    runs: queue.Queue[Path | None] = queue.Queue()
    threading.Thread(target=_read, args=(runs,), daemon=True).start()
    while (directory := runs.get()) is not None:
        _say(events, _run(directory, events))


def _read(runs: "queue.Queue[Path | None]") -> None:
    for line in sys.stdin:
        runs.put(Path(json.loads(line)))
    runs.put(None)
    os.kill(os.getpid(), signal.SIGTERM)


def _run(directory: Path, events: TextIO) -> dict[str, Any]:
    """Run one run; returns the event that says how it ended."""
    from sppnet.experiment.execution import run_in

    with (directory / "run.log").open("a") as log:
        os.dup2(log.fileno(), 2)
        os.dup2(log.fileno(), 1)
    try:
        run_in(directory, report=lambda step: _say(events, {"event": "step", **step._asdict()}))
    except Interrupted as stop:
        _say(events, {"event": "interrupted"})
        sys.exit(stop.exit_code)
    except Exception as error:
        code = error.exit_code if isinstance(error, SppnetError) else 1
        return {"event": "failed", "kind": type(error).__name__, "error": str(error), "exit_code": code}
    return {"event": "done"}


def _say(events: TextIO, event: dict[str, Any]) -> None:
    # The sweep may be gone: its death is heard at the input's end, after which the run saves and stops.
    with contextlib.suppress(BrokenPipeError):
        events.write(json.dumps(event) + "\n")


if __name__ == "__main__":
    main()
