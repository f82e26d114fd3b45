"""A take: one process's work on a run. What a stage is given, and what it leaves."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sppnet.experiment.installation import usable_cores
from sppnet.run.directory import RunDirectory
from sppnet.run.interrupts import Interruption

if TYPE_CHECKING:  # import Lightning
    from sppnet.experiment.schema import Conf
    from sppnet.run.progress import Report


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run is, as its `config.yaml` says under `run`."""

    stage: str  # its row in `stages.STAGES`
    key: str  # SHA-256 of all that decides its result; the directory's name ends in the first eight digits
    label: str  # what progress calls it
    image_set: str = ""  # trainval or test, of stages that look at one of them
    scale: int = 0  # short side of maps, pixels
    is_mirrored: bool = False  # whether maps are of mirrored images
    layers: list[str] = field(default_factory=list)  # features that are wanted, computed in one pass
    below: dict[str, list[str]] = field(default_factory=dict)  # folder/name of what it stands on, by role
    command: str = ""  # that asked for it last
    is_waited_for: bool = True  # others build on it: another process waits for the one that has it


@dataclass(frozen=True)
class Take:
    """A run under way."""

    plan: RunPlan
    conf: "Conf"  # what its stage reads of the configuration, and nothing else
    directory: RunDirectory
    interruption: Interruption  # whether somebody asked it to stop
    report: "Report"  # is told how far it is

    @property
    def path(self) -> Path:
        """Its directory."""
        return self.directory.path

    @property
    def workers(self) -> int:
        """How many images may be worked on at a time: the trainer's threads, or all cores."""
        return self.conf.trainer.threads or usable_cores()

    def below(self, role: str) -> list[Path]:
        """Directories of the runs it stands on, beside its own: runs may be moved together.

        Raises:
            ArtifactError: One is damaged, or not complete.
        """
        paths = [self.path.parent.parent / name for name in self.plan.below.get(role, [])]
        for path in paths:
            RunDirectory(path).require_complete(f"{path}: not complete; run the table's command again")
        return paths

    def one_below(self, role: str) -> Path:
        """The directory of the one run of that role."""
        (path,) = self.below(role)
        return path

    def progress(self, doing: str, completed: int = 0, total: int = 1, detail: str = "") -> None:
        """Say how far it is.

        Raises:
            Interrupted: Somebody asked to stop.
        """
        from sppnet.run.progress import Step

        self.report(Step(doing, completed, total, detail))
        self.interruption.raise_if_requested()


class Outcome(NamedTuple):
    """What a stage leaves."""

    metrics: dict[str, float]  # fractions and counts
    files: tuple[str, ...] = ()  # written to its directory
