"""What made a run, as its directory says, and whether that is still so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sppnet.artifacts import read_json
from sppnet.errors import ArtifactError
from sppnet.sources import changed_since


@dataclass(frozen=True)
class Provenance:
    """What made a run.

    Attributes:
        takes: Of every process that worked on it: version, commit, software, machine, device, threads,
            precision, command, start. The last one finished it.
        code: SHA-256 of the code it ran, by module or function.
        below: Runs it stands on, as folder/name, by what they are to it.
        ended: ISO time; None of a run that has not.
    """

    takes: Sequence[Mapping[str, Any]]
    code: Mapping[str, str]
    below: Mapping[str, Sequence[str]]
    ended: str | None

    @property
    def last(self) -> Mapping[str, Any]:
        """The take that finished it."""
        return self.takes[-1]

    @property
    def commit(self) -> str:
        """Commit, with a plus where files differed from it; the installed version where there is none."""
        if not self.last.get("commit"):
            return f"version {self.last.get('version', 'unknown')}"
        return f"{self.last['commit']}{'+' if self.last.get('is_dirty') else ''}"


def read_provenance(directory: Path) -> Provenance | None:
    """Read what made a run; None of a run that does not say."""
    try:
        raw = read_json(directory / "provenance.json")
        takes, code, below = raw["takes"], raw["code"], raw["below"]
    except (ArtifactError, KeyError, TypeError):
        return None
    if not (isinstance(takes, list) and takes and isinstance(code, dict) and isinstance(below, dict)):
        return None
    return Provenance(takes, code, below, raw.get("ended"))


def changes_since(directory: Path) -> list[str]:
    """Say what of a run's code, and of the runs it stands on, has changed since; nothing: it is fresh.

    A run whose code has changed is stale. It is still what it was, and what its key names but for the code.
    """
    return list(_changes(directory, {}))


def _changes(directory: Path, known: dict[Path, tuple[str, ...]]) -> tuple[str, ...]:
    if directory in known:
        return known[directory]
    known[directory] = ()
    provenance = read_provenance(directory)
    if provenance is not None:
        own = tuple(f"{name} has changed" for name in changed_since(provenance.code))
        if len({take.get("code") for take in provenance.takes}) > 1:
            own += ("it was resumed with other code than it began with",)
        below = tuple(
            f"{place} is stale"
            for place in dict.fromkeys(name for names in provenance.below.values() for name in names)
            if _changes(directory.parent.parent / place, known)
        )
        known[directory] = own + below
    return known[directory]
