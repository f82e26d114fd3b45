"""What is kept - vectors, maps, proposals - whether it is whole, and what may go."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sppnet.artifacts import read_json, remove_temporaries
from sppnet.damage import digest_matches
from sppnet.errors import ArtifactError
from sppnet.progress_bar import show_progress
from sppnet.store.entry import BYTES_PER_NUMBER, MANIFEST, ROWS, cache_lock, shard_files, stray_shards
from sppnet.store.feature_cache import entries


class EntryReport(NamedTuple):
    """One source's shards. What only its manifest tells is "?" or 0 where that is damaged."""

    directory: str
    source: str  # a net, a method
    kind: str  # a layer and its levels, maps, proposals
    view: str
    short_side: int  # pixels; of the square for a warped view; 0 for images as they are
    images: int
    dim: int
    num_bytes: int
    last_used: float  # seconds since 1970


class Freed(NamedTuple):
    """What `gc` removed, and what it left because a process holds it."""

    shards: int
    num_bytes: int
    held: tuple[str, ...]


class _File(NamedTuple):
    path: Path
    num_bytes: int
    last_used: float


def stat(root: Path) -> list[EntryReport]:
    """Describe every source, the one used last first.

    Raises:
        DataError: There is no such directory.
    """
    return sorted(map(_report, entries(root)), key=lambda report: -report.last_used)


def verify(root: Path) -> tuple[int, list[Path]]:
    """Read every shard; returns how many there are, and the damaged ones.

    Raises:
        DataError: There is no such directory.
    """
    found = entries(root)
    shards = [shard for entry in found for shard in shard_files(entry)]
    damaged = [stray for entry in found for stray in stray_shards(entry)]
    num_shards = len(shards) + len(damaged)
    for shard in show_progress(shards, label="reading shards", total=len(shards)):
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            if not digest_matches(shard):
                damaged.append(shard)
    return num_shards, sorted(damaged)


def gc(root: Path, *, unused_days: float | None, max_bytes: int | None) -> Freed:
    """Remove shards no living process holds: those unused for long, then the longest unused.

    Args:
        root: The cache.
        unused_days: Remove what was last used so many days ago or earlier; None to keep old shards.
        max_bytes: Then go on until this much is left at most; None to stop there.

    Raises:
        DataError: There is no such directory.
    """
    with contextlib.ExitStack() as locks:
        found = entries(root)
        free = []
        for entry in found:
            if lock := cache_lock(root, f"entry-{entry.name}"):
                locks.enter_context(lock)
                free.append(entry)
        files = sorted((f for entry in free for f in _files(entry)), key=lambda file: file.last_used)
        left = sum(file.num_bytes for entry in found for file in _files(entry))
        oldest = float("-inf") if unused_days is None else time.time() - unused_days * 24 * 3600
        removed = []
        for file in files:
            if file.last_used <= oldest or (max_bytes is not None and left > max_bytes):
                file.path.unlink(missing_ok=True)
                left -= file.num_bytes
                removed.append(file)
        for entry in free:
            _tidy(entry)
    held = tuple(entry.name for entry in found if entry not in free)
    return Freed(len(removed), sum(file.num_bytes for file in removed), held)


def _files(entry: Path) -> Iterator[_File]:
    for path in shard_files(entry):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            yield _File(path, status.st_size, status.st_mtime)


def _tidy(entry: Path) -> None:
    """Remove what killed writers left, and a source without shards."""
    remove_temporaries(entry)
    if not shard_files(entry):
        (entry / MANIFEST).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something not ours lies in it
            entry.rmdir()


def _report(entry: Path) -> EntryReport:
    manifest = _manifest(entry)
    files = list(_files(entry))
    num_bytes = sum(file.num_bytes for file in files)
    view = manifest["identity"]["view"]
    return EntryReport(
        directory=entry.name,
        source=manifest["source"],
        kind=manifest["kind"],
        view=view["kind"],
        short_side=view.get("short_side", view.get("crop", 0)),
        images=_num_images(files, manifest["dim"]),
        dim=manifest["dim"],
        num_bytes=num_bytes,
        last_used=max((file.last_used for file in files), default=0.0),
    )


def _num_images(files: Sequence[_File], dim: int) -> int:
    """Rows share a file, any number of them; whatever else there is has one for an image."""
    num_alone = sum(file.path.suffix != ROWS for file in files)
    num_bytes = sum(file.num_bytes for file in files if file.path.suffix == ROWS)
    return num_alone + (num_bytes // (BYTES_PER_NUMBER * dim) if dim else 0)


def _manifest(entry: Path) -> dict[str, Any]:
    """Read a manifest that at least has the keys, or make up one that admits to know nothing."""
    unknown = {"source": "?", "kind": "?"}
    with contextlib.suppress(ArtifactError, KeyError, TypeError):
        manifest: dict[str, Any] = read_json(entry / MANIFEST)
        if isinstance(manifest["identity"]["view"]["kind"], str) and isinstance(manifest["dim"], int):
            return {**unknown, **manifest}
    return {**unknown, "dim": 0, "identity": {"view": {"kind": "?"}}}
