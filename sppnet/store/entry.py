"""The files of one source: found by content, written whole, computed by one process at a time.

A file is called a shard. It holds rows of one length, of some images (.f32), or what one image has: maps
(.safetensors) or boxes (.boxes, rows x1 y1 x2 y2). Numbers are little-endian float32.
"""

import contextlib
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, TypeVar, final

from sppnet.artifacts import content_key, digest_matches, file_digest, lock_file, write_named_by_digest
from sppnet.errors import DataError, ResourceError

BYTES_PER_NUMBER: Final = 4
MANIFEST: Final = "entry.json"
ROWS: Final = ".f32"
MAPS: Final = ".safetensors"
BOXES: Final = ".boxes"
_SHARD_NAME = re.compile(r"[0-9a-f]{32}-[0-9a-f]{16}(\.f32|\.safetensors|\.boxes)")
_LOCKS = ".locks"
_SECONDS_BETWEEN_LOOKS = 0.05
Name = TypeVar("Name")
Job = TypeVar("Job")
Result = TypeVar("Result")
log = logging.getLogger(__name__)


@dataclass
class Counts:
    """What became of the shards that were asked for.

    Attributes:
        computed: Written by this process.
        reused: Found whole, or written by another process meanwhile.
        damaged: Found with other bytes than their name vouches for, removed, and computed again.
    """

    computed: int = 0
    reused: int = 0
    damaged: int = 0


@final
class Entry:
    """The shards of one source.

    Args:
        path: Its directory, which is read once, now.
        dim: Length of a row; of maps, their channels.
        suffix: Of the shards' files.
        hold: An open file whose lock keeps `gc` away.
        counts: Kept up to date.
    """

    def __init__(self, path: Path, *, dim: int, suffix: str, hold: BinaryIO, counts: Counts) -> None:
        self.path = path
        self.dim = dim
        self.suffix = suffix
        self.hold = hold
        self.counts = counts
        self._listed: dict[str, list[Path]] = {}
        for file in shard_files(path):
            self._listed.setdefault(file.name[:32], []).append(file)

    def shard_bytes(self, rows: int) -> int:
        """Size of the file of so many rows."""
        return rows * self.dim * BYTES_PER_NUMBER

    def is_listed(self, images: str) -> bool:
        """Whether there seems to be a shard of some images; `find` makes sure."""
        return bool(self._listed.get(images[:32]))

    def find(self, images: str, *, rows: int | None = None) -> Path | None:
        """Find a whole shard among the files that lay there, or were written here, since this was made.

        Args:
            images: As `images_digest` names them.
            rows: How many they are; None for maps and boxes, whose files have any size.
        """
        return self._whole(self._listed.get(images[:32], ()), rows)

    def get(self, images: str, compute: Callable[[], bytes]) -> Path:
        """Find the shard of one image, or compute it, or wait for the process that does.

        Raises:
            ResourceError: It cannot be written.
        """
        file = self.find(images)
        if file is None:
            (file,) = share_work([images], lambda one: self.obtain(one, compute))
        return file

    def obtain(self, images: str, compute: Callable[[], bytes]) -> Path | None:
        """Find the shard of one image or compute it; None while another process does."""
        return obtain({self: self}, images, lambda _: {self: compute()}, rows=None).get(self)

    def look_again(self, images: str, *, rows: int | None) -> Path | None:
        """Find a shard that another process may have written meanwhile."""
        self._listed[images[:32]] = self._lying(images)
        return self.find(images, rows=rows)

    @contextlib.contextmanager
    def claim(self, images: str) -> Iterator[bool]:
        """Own the right to compute a shard; yields False while another process has it."""
        # Locks are shared by all shards whose digests start alike: few files, and a clash only means
        # that a shard is computed later.
        slot = content_key([self.path.name, images])[:3]
        lock = cache_lock(self.path.parent, f"shard-{slot}")
        with lock or contextlib.nullcontext():
            yield lock is not None

    def clear(self, images: str) -> None:
        """Remove what is damaged or half written of a shard that is claimed and was not found."""
        for leftover in self.path.glob(f".{images[:32]}{self.suffix}.*.tmp"):
            leftover.unlink(missing_ok=True)
        for path in self._lying(images):
            log.warning("%s: damaged; it is computed again", path)
            path.unlink(missing_ok=True)
            self.counts.damaged += 1

    def write(self, images: str, data: bytes) -> Path:
        """Write a shard that is claimed.

        Raises:
            ResourceError: The disk is full or read-only; other shards are untouched.
        """
        try:
            path = write_named_by_digest(
                self.path, images[:32], self.suffix, lambda stream: stream.write(data)
            )
        except ResourceError as error:
            raise ResourceError(f"{error}; {len(data)} bytes were to be written") from error
        self.counts.computed += 1
        self._listed[images[:32]] = [path]
        return path

    def _lying(self, images: str) -> list[Path]:
        """Files that ought to be the shard of some images, read from the directory now."""
        return [path for path in self.path.glob(f"{images[:32]}-*{self.suffix}") if _is_shard(path)]

    def _whole(self, candidates: Iterable[Path], rows: int | None) -> Path | None:
        """Pick the file that is what its name says, and note that it was used."""
        for path in candidates:
            with contextlib.suppress(FileNotFoundError):  # another process has just removed a damaged one
                fits = rows is None or path.stat().st_size == self.shard_bytes(rows)
                if fits and digest_matches(path):
                    with contextlib.suppress(PermissionError):  # somebody else's file in a shared cache
                        os.utime(path)
                    return path
        return None


def obtain(
    entries: Mapping[Name, Entry],
    images: str,
    compute: Callable[[list[Name]], Mapping[Name, bytes]],
    *,
    rows: int | None,
) -> dict[Name, Path]:
    """Find the shards that several sources have of the same images, or compute them together.

    Args:
        entries: The sources.
        images: As `images_digest` names them.
        compute: Told which are wanted, makes their contents.
        rows: As for `Entry.find`.

    Returns:
        Where they are; without those that another process is computing.

    Raises:
        ResourceError: One cannot be written.
    """
    found = {}
    with contextlib.ExitStack() as claims:
        ours = []
        for name, entry in entries.items():
            if not claims.enter_context(entry.claim(images)):
                continue
            # Another process may have finished it since it was first looked for.
            if file := entry.look_again(images, rows=rows):
                found[name] = file
                entry.counts.reused += 1
            else:
                entry.clear(images)
                ours.append(name)
        if ours:
            found |= {name: entries[name].write(images, data) for name, data in compute(ours).items()}
    return found


def share_work(jobs: Sequence[Job], attempt: Callable[[Job], Result | None]) -> Iterator[Result]:
    """Do jobs that other processes may be at, too; those are left for the end, and waited for.

    Args:
        jobs: In the order in which they are tried.
        attempt: Does a job, or finds it done, and returns what came of it; or None, at once, while another
            process is at it. The job of one that was killed is free again.

    Yields:
        What came of them, as they are done.
    """
    while jobs:
        busy = []
        for job in jobs:
            if (result := attempt(job)) is not None:
                yield result
            else:
                busy.append(job)
        if len(busy) == len(jobs):  # others are at all of them
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        jobs = busy


def images_digest(paths: Iterable[Path]) -> str:
    """SHA-256 of the bytes of image files, in order; what they are called does not count.

    Raises:
        DataError: A file cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(bytes.fromhex(file_digest(path)))
        except OSError as error:
            raise DataError(f"{path}: cannot read ({error.strerror or error}); restore the file") from error
    return digest.hexdigest()


def shard_files(entry: Path) -> list[Path]:
    """List the shards in a source's directory, damaged ones included; never a symbolic link."""
    try:
        return sorted(path for path in entry.iterdir() if _is_shard(path))
    except FileNotFoundError:
        return []


def cache_lock(root: Path, name: str, *, shared: bool = False, wait: bool = False) -> BinaryIO | None:
    """Lock one of a cache's lock files, as `lock_file` does.

    Raises:
        ResourceError: It cannot be opened.
    """
    try:
        return lock_file(root / _LOCKS / f"{name}.lock", shared=shared, wait=wait)
    except OSError as error:
        raise ResourceError(
            f"{root}: cannot be used as a feature cache ({error.strerror or error}); choose another directory"
        ) from error


def _is_shard(path: Path) -> bool:
    return _SHARD_NAME.fullmatch(path.name) is not None and path.is_file() and not path.is_symlink()
