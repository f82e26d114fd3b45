"""A run's directory: named by its key, locked while it runs, complete only with its marker.

What a run does is not known here. Nothing heavy is imported: finding out that a sweep is done must not cost a
torch import.
"""

import contextlib
import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO

import yaml

from sppnet.artifacts import (
    cannot_write,
    damage_behind,
    file_digest,
    lock_file,
    read_json,
    remove_temporaries,
    require_inside,
    sealed,
    unsealed,
    write_json,
    write_text,
)
from sppnet.errors import ArtifactError, ResourceError

PROVENANCE: Final = "provenance.json"
PROGRESS: Final = "progress.json"
_CONFIG: Final = "config.yaml"
_MARKER: Final = "COMPLETE"
_MAX_SLUG: Final = 80
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser is tens of times as fast
_WAIT_SECONDS: Final = 1.0
_NOTE_SECONDS: Final = 5.0


def slug(text: str) -> str:
    """Make any text a readable file name of at most 80 characters."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")[:_MAX_SLUG] or "cell"


class RunDirectory:
    """`runs/<folder>/<name>-<8 hex>/`: configuration, provenance, status, metrics, checkpoints, marker."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seconds_before = 0.0

    @property
    def is_complete(self) -> bool:
        """Whether the run's marker was written, last of all, and what it vouches for is as it was."""
        return (self.path / _MARKER).is_file() and self.damage is None

    @property
    def damage(self) -> str | None:
        """What is not as its marker vouches for, in words; None of a run without a marker, too."""
        marker = self.path / _MARKER
        return damage_behind(marker) if marker.is_file() else None

    def require_complete(self, otherwise: str) -> None:
        """Make sure that what is read of the run is what was written.

        Raises:
            ArtifactError: It is damaged; or it is not complete, which `otherwise` says in words.
        """
        if damage := self.damage:
            raise ArtifactError(f"{damage}; run the table's command again, it makes that run again")
        if not self.is_complete:
            raise ArtifactError(otherwise)

    def read_config(self) -> dict[str, Any]:
        """What the run is, and all that it is given.

        Raises:
            ArtifactError: It is not there, or not readable.
        """
        file = self.path / _CONFIG
        try:
            config = _Loader(unsealed(file.read_text(encoding="utf-8"))).get_single_data()
        except FileNotFoundError as error:
            raise ArtifactError(f"{self.path}: no {_CONFIG} in it; give the directory of a run") from error
        except (OSError, ValueError, yaml.YAMLError) as error:
            found = " ".join(str(error).split())
            raise ArtifactError(f"{file}: not readable ({found}); remove the directory") from error
        if not isinstance(config, dict) or not isinstance(config.get("run"), dict):
            raise ArtifactError(f"{file}: says nothing of a run (no key run); remove the directory")
        return config

    def prepare(self, config: Mapping[str, Any]) -> None:
        """Write down what the run is, for whatever process takes it up.

        Raises:
            ArtifactError: The directory holds another run: keys that end alike, or a directory that was
                renamed.
            ResourceError: It cannot be written.
        """
        with self.hold() as is_ours:
            exists, asked = (self.path / _CONFIG).exists(), config["run"]["key"]
            try:
                known = self.read_config()["run"].get("key") if exists else asked
            except ArtifactError:
                if not (self.path / _MARKER).exists():  # of what was finished nothing is gone on from
                    raise
                known = asked
            if known != asked:
                raise ArtifactError(
                    f"{self.path / _CONFIG}: holds another configuration than the one asked for; "
                    f"remove or rename {self.path} and run again"
                )
            if is_ours or not exists:  # else another process runs it, with the same one
                write_text(self.path / _CONFIG, sealed(yaml.safe_dump(dict(config), sort_keys=False)))

    @contextlib.contextmanager
    def hold(self, *, wait: Callable[[], None] | None = None) -> Iterator[bool]:
        """Own the directory for one run; yields False when another process owns it.

        Args:
            wait: Called every second until the other process is through; None gives up at once.

        Raises:
            ResourceError: It cannot be written or locked, or a symbolic link leads out of the folder of runs.
        """
        require_inside(self.path, self.path.parent.parent)
        for link in filter(Path.is_symlink, self.path.glob("*")):
            raise ResourceError(f"{link}: a symbolic link where a run writes; remove it and run again")
        while (lock := lock_file(self.path / ".lock")) is None:
            if wait is None:
                yield False
                return
            wait()
            time.sleep(_WAIT_SECONDS)
        with lock:
            remove_temporaries(self.path)
            self._seconds_before = self._seconds_spent()
            yield True

    def open_log(self) -> TextIO:
        """Open run.log, to write at its end.

        Raises:
            ResourceError: It cannot be written.
        """
        try:
            return (self.path / "run.log").open("a", encoding="utf-8")
        except OSError as error:
            raise cannot_write(self.path / "run.log", error) from error

    def write_status(
        self, state: str, *, about: Mapping[str, Any], started: float, error: str | None
    ) -> None:
        """Say where the run stands.

        Args:
            state: running, complete, failed or interrupted.
            about: What it is: stage, label.
            started: `time.time()` when this process took the run up.
            error: One line, for a failed run.
        """
        status = {
            **about,
            "state": state,
            "started": datetime.fromtimestamp(started, tz=UTC).isoformat(timespec="seconds"),
            "seconds": round(self._seconds_before + time.time() - started, 2),
            "error": error,
            "pid": os.getpid(),
            "host": platform.node(),
        }
        write_json(self.path / "status.json", status)

    def _seconds_spent(self) -> float:
        """Seconds that earlier, interrupted takes of this run have used."""
        try:
            status = read_json(self.path / "status.json")
            spent = float(status["seconds"]) if status["state"] == "interrupted" else 0.0
            return spent if 0 <= spent < float("inf") else 0.0
        except (ArtifactError, KeyError, TypeError, ValueError):
            return 0.0

    def noting(self, report: Callable[[Any], None]) -> Callable[[Any], None]:
        """A report of steps (run/progress.py) that is kept every few seconds, too, for `sppnet status`."""
        began: dict[str, tuple[float, int]] = {}
        noted = 0.0

        def both(step: Any) -> None:
            nonlocal noted
            now = time.time()
            first, done = began.setdefault(step.stage, (now, step.completed))
            if now - noted > _NOTE_SECONDS:
                noted = now
                rate = (step.completed - done) / (now - first) if now > first else 0.0
                left = (step.total - step.completed) / rate if rate > 0 else None
                write_json(self.path / PROGRESS, {**step._asdict(), "rate": rate, "seconds_left": left})
            report(step)

        return both

    def write_complete(self, metrics: Mapping[str, float], *, files: tuple[str, ...]) -> None:
        """Write the metrics, then the marker that vouches for them and for `files`."""
        write_json(self.path / "metrics.json", dict(metrics))
        entries = {
            name: {"bytes": (self.path / name).stat().st_size, "sha256": file_digest(self.path / name)}
            for name in ("metrics.json", *files)
        }
        write_json(self.path / _MARKER, {"files": entries})

    def reopen(self) -> None:
        """Make a complete run one that is to be made again; what it left stays until it is written anew."""
        (self.path / _MARKER).unlink(missing_ok=True)
