"""Runs side by side on this machine: a process for each, which all are stopped together.

Both ends of the pipes stand here. A worker, `python -m sppnet.experiment.workers FD`, reads directories of
runs from standard input and writes events, a line of JSON each, to a pipe that nobody else knows. Whatever
libraries print goes to the run's log, and into the message when the process ends before it has one. The end
of the input ends the process: the sweep is gone, so a run under way saves and stops.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, TextIO, final

from sppnet.errors import exit_code_of
from sppnet.experiment.plan import PlannedRun
from sppnet.experiment.runners import Ended, OnStep, RunError, Runner
from sppnet.run.directory import RunDirectory
from sppnet.run.interrupts import Interrupted, Interruption

_POLL_SECONDS = 0.2
_EVENTS: Final[Mapping[str, set[str]]] = {  # what is said in each
    "step": {"stage", "completed", "total", "detail"},
    "failed": {"kind", "error", "exit_code"},
    "done": set(),
    "interrupted": set(),
}


class _Event(NamedTuple):
    """What a worker said."""

    worker: int
    content: dict[str, Any]


@final
class SideBySide(Runner):
    """A process for each of `room` runs; all are stopped together."""

    is_shared = True

    def __init__(self, room: int, on_step: OnStep) -> None:
        self.room = room
        self._on_step = on_step
        self._interruption = Interruption(self._kill)
        self._events: queue.Queue[_Event] = queue.Queue()
        self._workers = [self._start_worker(number) for number in range(room)]
        self._running: dict[int, PlannedRun] = {}

    @classmethod
    @contextlib.contextmanager
    def with_workers(cls, room: int, on_step: OnStep) -> "Iterator[SideBySide]":
        """Processes that end with the block."""
        runner = cls(room, on_step)
        with runner._interruption.listen():
            try:
                yield runner
            finally:
                runner.close()

    def start(self, run: PlannedRun) -> None:
        """Give it to an idle worker."""
        number = next(number for number in range(self.room) if number not in self._running)
        self._running[number] = run
        stream = self._workers[number].stdin
        assert stream is not None
        with contextlib.suppress(BrokenPipeError):  # its reader says "gone"
            stream.write(json.dumps(str(run.directory.path)) + "\n")
            stream.flush()

    def wait(self) -> list[Ended]:
        """Listen to the workers until one of them is through."""
        while True:
            if self._interruption.requested:
                self._stop()
            try:
                number, content = self._events.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if content["event"] == "step" and number in self._running:
                self._on_step(self._running[number], content)
            elif content["event"] != "step" and (run := self._running.pop(number, None)) is not None:
                if content["event"] == "gone":  # the process died: the next run gets a new one
                    self._workers[number] = self._start_worker(number)
                return [Ended(run, _error_of(content))]

    def close(self) -> None:
        """Let the workers end."""
        for worker in self._workers:
            assert worker.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                worker.stdin.close()
        for worker in self._workers:
            worker.wait()

    def _start_worker(self, number: int) -> "subprocess.Popen[str]":
        reading, writing = os.pipe()
        printed = tempfile.TemporaryFile()  # noqa: SIM115 - closed by _listen
        worker = subprocess.Popen(
            # -P: a queue.py that lies in the current folder is none of ours.
            [sys.executable, "-P", "-m", "sppnet.experiment.workers", str(writing)],
            stdin=subprocess.PIPE,
            stdout=printed,
            stderr=printed,
            pass_fds=[writing],
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            start_new_session=True,  # a terminal's Ctrl-C reaches only us, and we pass it on once
        )
        os.close(writing)
        events = os.fdopen(reading, encoding="utf-8", errors="replace")
        threading.Thread(target=self._listen, args=(number, worker, events, printed), daemon=True).start()
        return worker

    def _listen(
        self, number: int, worker: "subprocess.Popen[str]", events: TextIO, printed: BinaryIO
    ) -> None:
        with events, printed:
            for line in events:
                content = _event_of(line)
                if content is not None and content["event"] != "interrupted":
                    self._events.put(_Event(number, content))
            code = worker.wait()
            printed.seek(0)
            said = printed.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(said) if line.strip()), "")
        self._events.put(_Event(number, {"event": "gone", "code": code, "said": last}))

    def _stop(self) -> None:
        """Pass the signal on, wait until every run has saved, and stop ourselves."""
        assert self._interruption.signal_number is not None
        for worker in self._workers:
            if worker.poll() is None:
                worker.send_signal(signal.Signals(self._interruption.signal_number))
        for worker in self._workers:
            worker.wait()
        raise Interrupted(self._interruption.signal_number)

    def _kill(self) -> None:
        """End those that did not stop in time: a process that was halted."""
        for worker in self._workers:
            worker.kill()


def _event_of(line: str) -> dict[str, Any] | None:
    """What a worker said; None of what is no event."""
    try:
        content = json.loads(line)
        return content if {*content} >= _EVENTS[content["event"]] else None
    except (ValueError, TypeError, KeyError):
        return None


def _error_of(content: dict[str, Any]) -> RunError | None:
    if content["event"] == "done":
        return None
    if content["event"] == "failed":
        return RunError(content["kind"], content["error"], content["exit_code"])
    code = content["code"]
    killed = f"by signal {-code}, perhaps for want of memory" if code < 0 else f"with exit code {code}"
    said = f": {content['said']}" if content["said"] else ""
    return RunError("ResourceError", f"the cell's process ended {killed}{said}", 6 if code < 0 else 1)


def main() -> None:
    """Run runs until there are no more."""
    events = os.fdopen(int(sys.argv[1]), "w", encoding="utf-8", buffering=1)
    # A file of its own without a lock: a process that loads images is a fork, and closes sys.stdin first.
    directories = os.fdopen(os.dup(0), "rb", buffering=0)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    # Ctrl-C belongs to the sweep, which passes it on; between two runs there is nothing to save.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    runs: queue.Queue[Path | None] = queue.Queue()
    threading.Thread(target=_read, args=(directories, runs), daemon=True).start()
    while (directory := runs.get()) is not None:
        _say(events, _run(directory, events))


def _read(directories: RawIOBase, runs: "queue.Queue[Path | None]") -> None:
    for line in directories:
        runs.put(Path(json.loads(line)))
    runs.put(None)
    os.kill(os.getpid(), signal.SIGTERM)


def _run(directory: Path, events: TextIO) -> dict[str, Any]:
    """Run one run; returns the event that says how it ended."""
    from sppnet.experiment.execution import run_in

    try:
        with RunDirectory(directory).open_log() as log:
            os.dup2(log.fileno(), 2)
            os.dup2(log.fileno(), 1)
        run_in(directory, report=lambda step: _say(events, {"event": "step", **step._asdict()}))
    except Interrupted as stop:
        _say(events, {"event": "interrupted"})
        sys.exit(stop.exit_code)
    except Exception as error:
        code = exit_code_of(error)
        return {"event": "failed", "kind": type(error).__name__, "error": str(error), "exit_code": code}
    return {"event": "done"}


def _say(events: TextIO, event: dict[str, Any]) -> None:
    # The sweep may be gone: its death is heard at the input's end, after which the run saves and stops.
    with contextlib.suppress(BrokenPipeError):
        events.write(json.dumps(event) + "\n")


if __name__ == "__main__":
    main()
