"""Runs what is pending, each behind all it stands on: here, side by side, or by Hydra's launcher.

One loop decides what may start and what is lost because something before it failed; the three ways differ
only in how a run is started and heard of. Narrow networks gain little from a second core and lose much when
it is busy elsewhere; two cells on a core each are twice as fast as one on two.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, final

from sppnet.errors import SppnetError, exit_code_of
from sppnet.experiment.command_line import in_quotes
from sppnet.experiment.execution import describe, run_in
from sppnet.experiment.plan import PlannedRun
from sppnet.experiment.stages import STAGES

OnStep = Callable[[PlannedRun, dict[str, Any]], None]  # a run's step: stage, completed, total, detail
# From overrides, a list for every job of Hydra's launcher, to what each raised or None.
Launch = Callable[[list[list[str]]], list[BaseException | None]]


class RunError(SppnetError):
    """What a run raised, wherever it ran, with that error's exit code."""

    def __init__(self, kind: str, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.kind = kind
        self.exit_code = exit_code  # type: ignore[misc]

    @classmethod
    def of(cls, error: BaseException) -> "RunError":
        """An error of this process, or one that a job brought back."""
        return cls(type(error).__name__, str(error), exit_code_of(error))

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
                try:
                    run.directory.prepare(run.config)
                except SppnetError as error:
                    end(Ended(run, RunError.of(error)))
                    break  # what stands on it is lost, too
                running.append(run)
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
    """Say in a run's directory that it, or what it stands on, has failed, if it can be written."""
    with contextlib.suppress(SppnetError):
        run.directory.prepare(run.config)
        with run.directory.hold() as is_ours:
            if is_ours:
                about = describe(run.plan)
                run.directory.write_status("failed", about=about, started=time.time(), error=cause.line)


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
    """All that can go at once as one array of jobs of Hydra's launcher, and then the next."""

    room, is_shared = sys.maxsize, False

    def __init__(self, launch: Launch) -> None:
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
    return [f"{key}={in_quotes(str(value))}" for key, value in places.items()]
