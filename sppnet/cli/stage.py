"""What every stage of a run is given, and what it leaves."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig

from sppnet.run.directory import RunDirectory
from sppnet.run.interrupts import Interruption

if TYPE_CHECKING:  # imports Lightning
    from sppnet.run.progress import Report


class Stage(NamedTuple):
    """A run under way."""

    config: DictConfig
    settings: Mapping[str, Any]  # the same, resolved and plain
    directory: RunDirectory
    interruption: Interruption
    report: "Report"


class Outcome(NamedTuple):
    """What a stage leaves."""

    metrics: dict[str, float]  # fractions and counts
    files: tuple[str, ...]  # written to its directory
