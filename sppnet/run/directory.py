"""A run's directory: named by its configuration, locked while it runs, complete only with its marker.

Nothing heavy is imported here: finding out that a sweep is done must not cost a torch import.
"""

import contextlib
import fcntl
import json
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import yaml

from sppnet.artifacts import (
    content_key,
    file_digest,
    read_json,
    remove_stale_temporaries,
    write_json,
    write_marker,
    write_text,
)
from sppnet.errors import ArtifactError

# What a configuration holds beside what decides a run's result.
NOT_IDENTITY: Final = (
    *("hydra", "paths", "logger", "cell", "table", "data_loading", "progress", "jobs", "reduced"),
    "reduced_detection",
    *("data.workers", "data.cache_gb", "data.max_pixels"),
    # The parts that use these hold them.
    *("image.test_sides", "image.curve_sides", "image.object_short_side"),
    *("image.transfer_side", "image.transfer_side_overfeat7"),
    *("trainer.threads", "trainer.keep_memory", "trainer.checkpoint_minutes", "trainer.every_steps"),
)
# What it holds beside what decides a trained network: how it is looked at.
NOT_TRAINING: Final = (
    *("view", "ensemble", "data.test_per_class"),
    *("features", "target", "transfer", "split"),
)
# What detection reads, and nothing else does.
DETECTION: Final = (
    *("proposals", "test_proposals", "windows", "detection", "protocol"),
    *("mining", "boxes", "suppression", "finetuning", "timing"),
)
# What it holds beside what decides the features of images.
NOT_FEATURES: Final = ("view", "ensemble", "data.test_per_class", "transfer", "split")
IGNORED: Final = {"network": NOT_TRAINING, "features": NOT_FEATURES}
# Stages of detection, one behind the other: what of the configuration decides their results, beside the runs
# that they build on and the images they look at.
_WINDOWS: Final = ("target", "proposals", "windows")
_NORM: Final = ("mining.mean_norm", "mining.norm_images", "mining.norm_windows")
DECIDED_BY: Final = {
    "proposals": ("target", "proposals"),
    "maps": ("target",),
    "finetuning": (*_WINDOWS, "finetuning", *_NORM, "head", "seed"),
    "machines": (*_WINDOWS, "mining", "detection.layer"),
    "regressors": (*_WINDOWS, "boxes", *_NORM),
}
_PLACE: Final = ("network", "image_set", "scale", "is_mirrored")
_MAX_SLUG = 80
_WAIT_SECONDS = 1.0


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a resolved configuration that decides the result of its stage."""
    stage = config.get("cell", {}).get("stage", "")
    if stage in DECIDED_BY:
        return _decided_by(config, DECIDED_BY[stage])
    ignored = NOT_IDENTITY + IGNORED.get(stage, ())
    if stage in IGNORED or not config.get("detection"):
        ignored += DETECTION
    elif config["detection"]["layer"] == "time":  # the number of threads decides what a clock says
        ignored = tuple(key for key in ignored if key != "trainer.threads")

    def kept(part: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        return {
            key: kept(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
            for key, value in part.items()
            if f"{prefix}{key}" not in ignored
        }

    return kept(config, "")


def _decided_by(config: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Some parts of a configuration, and where the run stands among others."""
    found: dict[str, Any] = {}
    for key in keys:
        first, _, second = key.partition(".")
        found[key] = config[first][second] if second else config[first]
    place = {key: config["cell"][key] for key in _PLACE}
    if place["image_set"] == "test" and "proposals" in found:
        found["proposals"] = config["test_proposals"] or config["proposals"]
    return {**found, "cell": {**place, "network": Path(place["network"]).name}}


def identity_key(config: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits of a resolved configuration's identity."""
    return content_key(identity(config))[:8]


def slug(text: str) -> str:
    """Make any text a readable file name of at most 80 characters."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")[:_MAX_SLUG] or "cell"


def _is_locked(file: IO[str]) -> bool:
    """Lock a file for this process, if no other has."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class RunDirectory:
    """`runs/<table>/<cell>-<8 hex>/`: configuration, status, metrics, checkpoints, marker."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seconds_before = 0.0

    @property
    def is_complete(self) -> bool:
        """Whether the run's marker was written, last of all, and what it vouches for is as it was."""
        marker = self.path / "COMPLETE"
        if not marker.is_file():
            return False
        try:
            entries = read_json(marker)["files"]
            sizes = all(
                (self.path / name).stat().st_size == entry["bytes"] for name, entry in entries.items()
            )
            return sizes and file_digest(self.path / "metrics.json") == entries["metrics.json"]["sha256"]
        except (ArtifactError, OSError, KeyError, TypeError):
            return False  # damaged: it runs again

    @contextlib.contextmanager
    def hold(self, config: Mapping[str, Any], *, wait: Callable[[], None] | None = None) -> Iterator[bool]:
        """Own the directory for one run; yields False when another process owns it.

        The lock is the kernel's (flock): it is freed when its owner is killed.

        Args:
            config: The resolved configuration, plain containers only.
            wait: Called every second until the other process is through; None gives up at once.

        Raises:
            ArtifactError: The directory holds another configuration.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("a") as lock:
            while not _is_locked(lock):
                if wait is None:
                    yield False
                    return
                wait()
                time.sleep(_WAIT_SECONDS)
            remove_stale_temporaries(self.path)
            self._keep_config(config)
            self._seconds_before = self._seconds_spent()
            yield True

    def _keep_config(self, config: Mapping[str, Any]) -> None:
        file = self.path / "config.yaml"
        if file.exists():
            try:
                stored = yaml.safe_load(file.read_text(encoding="utf-8"))
            except yaml.YAMLError as error:
                raise ArtifactError(f"{file}: not readable ({error}); remove the directory") from error
            # Through JSON, as the key is: tuples and lists, 1 and 1.0 in YAML, are then alike.
            if json.dumps(identity(stored), sort_keys=True) != json.dumps(identity(config), sort_keys=True):
                raise ArtifactError(
                    f"{file}: holds another configuration than the one asked for; "
                    f"remove or rename {self.path} and run again"
                )
        write_text(file, yaml.safe_dump(dict(config), sort_keys=True))

    def write_status(self, state: str, *, cell: Mapping[str, Any], started: float, error: str | None) -> None:
        """Say where the run stands.

        Args:
            state: running, complete, failed or interrupted.
            cell: Its place in the table: group, row, column, seed.
            started: `time.time()` when this process took the run up.
            error: One line, for a failed run.
        """
        status = {
            **cell,
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
        except ArtifactError:
            return 0.0
        return float(status["seconds"]) if status["state"] == "interrupted" else 0.0

    def write_complete(self, metrics: Mapping[str, float], *, files: tuple[str, ...]) -> None:
        """Write the metrics, then the marker that vouches for them and for `files`."""
        write_json(self.path / "metrics.json", dict(metrics))
        names = ("metrics.json", *files)
        write_marker(self.path / "COMPLETE", {name: self.path / name for name in names})
