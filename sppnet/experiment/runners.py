"""Runs what is pending, each behind all it stands on: here, side by side, or by Hydra's launcher.

One loop decides what may start and what is lost because something before it failed; the three ways differ
only in how a run is started and heard of. Narrow networks gain little from a second core and lose much when
it is busy elsewhere; two cells on a core each are twice as fast as one on two.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, final

from sppnet.errors import SppnetError
from sppnet.experiment.execution import describe, run_in
from sppnet.experiment.plan import PlannedRun
from sppnet.experiment.stages import STAGES
from sppnet.run.interrupts import Interrupted, Interruption

_POLL_SECONDS = 0.2
OnStep = Callable[[PlannedRun, dict[str, Any]], None]  # a run's step: stage, completed, total, detail


class RunError(SppnetError):
    """What a run raised, wherever it ran, with that error's exit code."""

    def __init__(self, kind: str, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.kind = kind
        self.exit_code = exit_code  # type: ignore[misc]

    @classmethod
    def of(cls, error: BaseException) -> "RunError":
        """An error of this process, or one that a job brought back."""
        return cls(type(error).__name__, str(error), getattr(error, "exit_code", 1))

    @property
    def line(self) -> str:
        """Its kind and the first line of what it says."""
        return f"{self.kind}: {(str(self).splitlines() or [''])[0]}"


class Ended(NamedTuple):
    """A run that came to its end."""

    run: PlannedRun
    error: RunError | None


class Runner(Protocol):
    """A way to run runs."""

    room: int  # so many at a time
    is_shared: bool  # whether all run on one machine, so that what looks at the clock runs alone

    def start(self, run: PlannedRun) -> None:
        """Begin a run, or note it for `wait`."""

    def wait(self) -> list[Ended]:
        """Wait until some of those that were started are through.

        Raises:
            Interrupted: A signal came; every run has saved and stopped.
        """


def run_all(
    pending: Sequence[PlannedRun], runner: Runner, on_end: Callable[[Ended], None]
) -> dict[Path, RunError]:
    """Run all, none before those it stands on; returns what failed, by directory.

    A run that stands on a failed one fails with its error, and its status says so.

    Args:
        pending: Each behind all it stands on.
        runner: How.
        on_end: Told of every run that has ended, or cannot begin.
    """
    waiting = list(pending)
    errors: dict[Path, RunError] = {}
    running: list[PlannedRun] = []

    def end(ended: Ended) -> None:
        if ended.error is not None:
            errors[ended.run.directory.path] = ended.error
        on_end(ended)

    while waiting or running:
        for run in list(waiting):
            causes = [errors[one.directory.path] for one in run.after if one.directory.path in errors]
            if causes:
                waiting.remove(run)
                _mark_lost(run, causes[0])
                end(Ended(run, causes[0]))
        for run in list(waiting):
            if len(running) < runner.room and _may_start(run, waiting, running, is_shared=runner.is_shared):
                waiting.remove(run)
                running.append(run)
                run.directory.prepare(run.config)
                runner.start(run)
        for ended in runner.wait() if running else []:
            running.remove(ended.run)
            if ended.error is not None and not (ended.run.directory.path / "status.json").exists():
                _mark_lost(ended.run, ended.error)
            end(ended)
    return errors


def _may_start(
    run: PlannedRun, waiting: Sequence[PlannedRun], running: Sequence[PlannedRun], *, is_shared: bool
) -> bool:
    """Whether all before it is through, and a clock runs alone."""
    unfinished = {one.directory.path for one in (*waiting, *running)}
    if any(one.directory.path in unfinished for one in run.after):
        return False
    if not (is_shared and running):
        return True
    return not any(STAGES[one.plan.stage].is_alone for one in (run, *running))


def _mark_lost(run: PlannedRun, cause: RunError) -> None:
    """Say in a run's directory that it, or what it stands on, has failed."""
    run.directory.prepare(run.config)
    run.directory.write_status("failed", about=describe(run.plan), started=time.time(), error=cause.line)


@final
class Here(Runner):
    """One after the other, in this process."""

    room, is_shared = 1, True

    def __init__(self, on_step: OnStep) -> None:
        self._on_step = on_step
        self._begun: list[PlannedRun] = []

    def start(self, run: PlannedRun) -> None:
        """Note it: it runs when it is waited for."""
        self._begun.append(run)

    def wait(self) -> list[Ended]:
        """Run it."""
        run = self._begun.pop()
        try:
            run_in(run.directory.path, report=lambda step: self._on_step(run, step._asdict()))
        except Exception as error:
            return [Ended(run, RunError.of(error))]
        return [Ended(run, None)]


@final
class Launched(Runner):
    """All that can go at once as one array of jobs of Hydra's launcher, and then the next.

    Args:
        launch: From overrides, a list for every job, to what each raised or None.
    """

    room, is_shared = sys.maxsize, False

    def __init__(self, launch: Callable[[list[list[str]]], list[BaseException | None]]) -> None:
        self._launch = launch
        self._begun: list[PlannedRun] = []

    def start(self, run: PlannedRun) -> None:
        """Note it for the next array."""
        self._begun.append(run)

    def wait(self) -> list[Ended]:
        """Launch the array and wait for it."""
        runs, self._begun = self._begun, []
        raised = self._launch([_job(run.directory.path.absolute()) for run in runs])
        return [
            Ended(run, None if error is None else RunError.of(error))
            for run, error in zip(runs, raised, strict=True)
        ]


def _job(path: Path) -> list[str]:
    """What makes a launcher's job run a directory, and Hydra write nowhere else."""
    places = {"run_directory": path, "hydra.sweep.dir": path.parent, "hydra.sweep.subdir": path.name}
    return [f"{key}='{_escaped(str(value))}'" for key, value in places.items()]


def _escaped(text: str) -> str:
    """Text as it stands between single quotes in Hydra's override grammar, whatever is in it."""
    return text.replace("\\", "\\\\").replace("'", "\\'")


class _Event(NamedTuple):
    """What a worker said."""

    worker: int
    content: dict[str, Any]


@final
class SideBySide(Runner):
    """A process for each of `room` runs; all are stopped together."""

    is_shared = True

    def __init__(self, room: int, on_step: OnStep, interruption: Interruption) -> None:
        self.room = room
        self._on_step = on_step
        self._interruption = interruption
        self._events: queue.Queue[_Event] = queue.Queue()
        self._workers = [self._start_worker(number) for number in range(room)]
        self._running: dict[int, PlannedRun] = {}

    @classmethod
    @contextlib.contextmanager
    def with_workers(cls, room: int, on_step: OnStep) -> "Iterator[SideBySide]":
        """Processes that end with the block."""
        interruption = Interruption()
        with interruption.listen():
            runner = cls(room, on_step, interruption)
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
        worker = subprocess.Popen(
            # -P: a queue.py that lies in the current folder is none of ours.
            [sys.executable, "-P", "-m", "sppnet.experiment.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            start_new_session=True,  # a terminal's Ctrl-C reaches only us, and we pass it on once
        )
        threading.Thread(target=self._listen, args=(number, worker), daemon=True).start()
        return worker

    def _listen(self, number: int, worker: "subprocess.Popen[str]") -> None:
        assert worker.stdout is not None
        for line in worker.stdout:
            content = json.loads(line)
            if content["event"] != "interrupted":
                self._events.put(_Event(number, content))
        self._events.put(_Event(number, {"event": "gone", "code": worker.wait()}))

    def _stop(self) -> None:
        """Pass the signal on, wait until every run has saved, and stop ourselves."""
        assert self._interruption.signal_number is not None
        for worker in self._workers:
            if worker.poll() is None:
                worker.send_signal(signal.Signals(self._interruption.signal_number))
        for worker in self._workers:
            worker.wait()
        raise Interrupted(self._interruption.signal_number)


def _error_of(content: dict[str, Any]) -> RunError | None:
    if content["event"] == "done":
        return None
    if content["event"] == "failed":
        return RunError(content["kind"], content["error"], content["exit_code"])
    code = content["code"]
    killed = f"by signal {-code}, perhaps for want of memory" if code < 0 else f"with exit code {code}"
    return RunError("ResourceError", f"the cell's process ended {killed}", 6 if code < 0 else 1)
