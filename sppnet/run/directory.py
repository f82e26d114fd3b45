"""A run's directory: named by its key, locked while it runs, complete only with its marker.

What a run does is not known here. Nothing heavy is imported: finding out that a sweep is done must not cost a
torch import.
"""

import contextlib
import hashlib
import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, TextIO

import yaml

from sppnet.artifacts import (
    cannot_write,
    file_digest,
    lock_file,
    read_json,
    reading,
    regular,
    remove_temporaries,
    require_inside,
    write_json,
    write_text,
)
from sppnet.damage import PROVENANCE, SEAL, damage_behind, foreign, sealed_body
from sppnet.errors import ArtifactError, ResourceError

PROGRESS: Final = "progress.json"
_CONFIG: Final = "config.yaml"
_MARKER: Final = "COMPLETE"
_MAX_SLUG: Final = 80
_MOST_DEPTH: Final = 50
_MOST_VALUES: Final = 20_000
_PLACE: Final = re.compile(r"[^./\0][^/\0]*/[^./\0][^/\0]*")  # folder/name
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser is tens of times as fast
_WAIT_SECONDS: Final = 1.0
_NOTE_SECONDS: Final = 5.0


def slug(text: str) -> str:
    """Make any text a readable file name of at most 80 characters."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")[:_MAX_SLUG] or "cell"


def sealed(config: Mapping[str, Any]) -> str:
    """What `config.yaml` holds: YAML, and the SHA-256 of all of it in the last line."""
    body = yaml.dump(dict(config), Dumper=_Dumper, sort_keys=False)
    return f"{body}{SEAL}{hashlib.sha256(body.encode()).hexdigest()}\n"


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # no stubs
    """Writes what stands in two places twice."""

    def ignore_aliases(self, data: Any) -> bool:
        """Make no anchors."""
        return True


def refuse_bombs(yaml_text: str | BinaryIO) -> None:
    """Refuse YAML of which a few lines blow up: anchors in anchors, or in themselves, and deep nesting.

    Raises:
        ValueError: It has more than 50 levels, or more than 20 000 values once anchors are written out.
        YAMLError: It is no YAML.
    """
    values = 0
    anchored: dict[str, int] = {}  # anchor -> values behind it
    open_parts: list[tuple[str | None, int]] = []
    for event in yaml.parse(yaml_text, Loader=_Loader):
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_parts.pop()
            if anchor:
                anchored[anchor] = values - before
        elif isinstance(event, yaml.AliasEvent):
            values += anchored.get(event.anchor, _MOST_VALUES)  # one that is open holds itself
        elif isinstance(event, yaml.NodeEvent):
            values += 1
            if isinstance(event, yaml.CollectionStartEvent):
                open_parts.append((event.anchor, values))
            elif event.anchor:
                anchored[event.anchor] = 1
        if len(open_parts) > _MOST_DEPTH or values > _MOST_VALUES:
            raise ValueError(
                f"more than {_MOST_DEPTH} levels, or more than {_MOST_VALUES} values with anchors written out"
            )


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
        if not os.path.lexists(marker):
            return None
        if damage := damage_behind(marker):
            return damage
        try:
            self.read_config()
        except ArtifactError as error:
            return str(error)
        return None

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
            ArtifactError: It is not there, not readable, or another run's.
        """
        config = self._written_config()
        if found := foreign(self.path, config["run"].get("key")):
            raise ArtifactError(f"{found} ({_CONFIG}); run its command again, or move the directory away")
        with reading(self.path / _CONFIG):
            for place in (place for places in config["run"].get("below", {}).values() for place in places):
                if not _PLACE.fullmatch(place):
                    raise ValueError(f"stands on {place!r}, which is no run beside it")
        return config

    def _written_config(self) -> dict[str, Any]:
        file = self.path / _CONFIG
        try:
            body = sealed_body(file)
            refuse_bombs(body)
            config = _Loader(body).get_single_data()
        except FileNotFoundError as error:
            raise ArtifactError(f"{self.path}: no {_CONFIG} in it; give the directory of a run") from error
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            found = " ".join(str(error).split())
            raise ArtifactError(
                f"{file}: not readable ({found}); run its command again, or remove the directory"
            ) from error
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
            written, key = None, config["run"]["key"]
            # One that is damaged is written anew; so is a stray one, where what made the run says it is ours.
            with contextlib.suppress(ArtifactError):
                written = self._written_config()["run"].get("key")
            if written not in (None, key) and self._key_of_maker() != key:
                raise ArtifactError(
                    f"{self.path / _CONFIG}: holds another configuration than the one asked for; "
                    f"remove or rename {self.path} and run again"
                )
            if is_ours or written is None:  # else another process runs it, with the same one
                write_text(self.path / _CONFIG, sealed(config))

    def _key_of_maker(self) -> Any:
        try:
            return read_json(self.path / PROVENANCE)["key"]
        except (ArtifactError, LookupError, TypeError):
            return None

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
        file = self.path / "run.log"
        try:
            return (regular(file) if file.exists() else file).open("a", encoding="utf-8")
        except OSError as error:
            raise cannot_write(file, error) from error

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
        """Seconds that earlier takes of this run have used, however they ended."""
        try:
            status = read_json(self.path / "status.json")
            spent = float(status["seconds"]) if status["state"] != "complete" else 0.0
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
