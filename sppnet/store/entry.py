"""The files of one source: found by content, written whole, computed by one process at a time.

A file is called a shard. It holds rows of one length, of some images (.f32), or what one image has: maps
(.safetensors) or boxes (.boxes, rows x1 y1 x2 y2). Rows are of little-endian float32.
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
from typing import BinaryIO, Final, NamedTuple, TypeVar, final

from sppnet.artifacts import (
    content_key,
    file_digest,
    lock_file,
    remove_temporaries,
    require_inside,
    write_named_by_digest,
)
from sppnet.damage import digest_matches
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


class Images(NamedTuple):
    """Image files and the SHA-256 of their bytes, in order; what they are called does not count.

    Or that of pixels in memory, without files.
    """

    paths: Sequence[Path]
    digest: str

    @classmethod
    def of(cls, paths: Sequence[Path]) -> "Images":
        """Read them.

        Raises:
            DataError: A file cannot be read.
        """
        digest = hashlib.sha256()
        for path in paths:
            try:
                digest.update(bytes.fromhex(file_digest(path)))
            except OSError as error:
                message = f"{path}: cannot read ({error.strerror or error}); restore the file"
                raise DataError(message) from error
        return cls(paths, digest.hexdigest())

    @property
    def stem(self) -> str:
        """How the names of their shards begin."""
        return self.digest[:32]


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
        path: Its directory, which is read once, when something is first looked for.
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
        self._listed: dict[str, list[Path]] | None = None

    def shard_bytes(self, rows: int) -> int:
        """Size of the file of so many rows."""
        return rows * self.dim * BYTES_PER_NUMBER

    def listed(self, images: Images) -> list[Path]:
        """What seems to be the shard of some images; `find` makes sure."""
        if self._listed is None:
            files: dict[str, list[Path]] = {}
            for file in shard_files(self.path):
                files.setdefault(file.name.partition("-")[0], []).append(file)
            self._listed = files
        return self._listed.get(images.stem, [])

    def find(self, images: Images) -> Path | None:
        """Find a whole shard among the files that lay there at first, and note that it was used."""
        return self._whole(images, self.listed(images))

    def get(self, images: Images, compute: Callable[[], bytes]) -> Path:
        """Find a shard, or compute it, or wait for the process that does; raises what `obtain` raises."""
        if file := self.find(images):
            return file
        (file,) = share_work([images], lambda one: self.obtain(one, compute))
        return file

    def obtain(self, images: Images, compute: Callable[[], bytes]) -> Path | None:
        """Compute a shard unless another process has done so; None while another is at it."""
        return obtain({self: self}, images, lambda _: {self: compute()}).get(self)

    def claim(self, images: Images) -> BinaryIO | None:
        """Own the right to compute a shard until what is returned is closed; None if somebody else does."""
        # Locks are shared by all shards whose digests start alike: few files, and a clash only means
        # that a shard is computed later.
        return cache_lock(self.path.parent, f"shard-{content_key([self.path.name, images.digest])[:3]}")

    def find_claimed(self, images: Images) -> Path | None:
        """Find a claimed shard that was written meanwhile; else remove what is damaged or half written."""
        files = list(filter(_has_a_shards_name, self.path.glob(f"{images.stem}-*{self.suffix}")))
        if file := self._whole(images, filter(_is_shard, files)):
            self.counts.reused += 1
            self._note(images, file)
            return file
        remove_temporaries(self.path, of=f"{images.stem}{self.suffix}")
        for file in files:
            log.warning("%s: damaged; it is computed again", file)
            with contextlib.suppress(IsADirectoryError):  # what is in it is not ours; writing says so
                file.unlink(missing_ok=True)
            self.counts.damaged += 1
        return None

    def write(self, images: Images, data: bytes) -> Path:
        """Write a shard that is claimed.

        Raises:
            ResourceError: The disk is full or read-only; other shards are untouched.
        """
        try:
            path = write_named_by_digest(
                self.path, images.stem, self.suffix, lambda stream: stream.write(data)
            )
        except ResourceError as error:
            raise ResourceError(f"{error}; {len(data)} bytes were to be written") from error
        self.counts.computed += 1
        self._note(images, path)
        return path

    def _note(self, images: Images, file: Path) -> None:
        if self._listed is not None:
            self._listed[images.stem] = [file]

    def _whole(self, images: Images, files: Iterable[Path]) -> Path | None:
        """Pick the file that has the bytes that its name vouches for, and note that it was used."""
        for path in files:
            with contextlib.suppress(FileNotFoundError):  # another process has just removed a damaged one
                size = self.shard_bytes(len(images.paths)) if self.suffix == ROWS else None
                if size in (None, path.stat().st_size) and digest_matches(path):
                    with contextlib.suppress(PermissionError):  # somebody else's file in a shared cache
                        os.utime(path)
                    return path
        return None


def obtain(
    entries: Mapping[Name, Entry], images: Images, compute: Callable[[list[Name]], Mapping[Name, bytes]]
) -> dict[Name, Path]:
    """Compute the shards that several sources have of the same images, unless another process has done so.

    Args:
        entries: The sources.
        images: Which images.
        compute: Told which sources are wanted, makes their shards' contents.

    Returns:
        Where they are; without those that another process is at.

    Raises:
        DataError: An image changed while it was read.
        ResourceError: A shard cannot be written.
    """
    found = {}
    with contextlib.ExitStack() as claims:
        ours = []
        for name, entry in entries.items():
            if (lock := entry.claim(images)) is None:
                continue
            claims.enter_context(lock)
            if file := entry.find_claimed(images):
                found[name] = file
            else:
                ours.append(name)
        if ours:
            contents = compute(ours)
            if images.paths and Images.of(images.paths) != images:  # pixels in memory cannot
                where = images.paths[0] if len(images.paths) == 1 else f"an image in {images.paths[0].parent}"
                raise DataError(f"{where}: changed while it was read; run again")
            found |= {name: entries[name].write(images, data) for name, data in contents.items()}
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


def shard_files(entry: Path) -> list[Path]:
    """List the shards in a source's directory, damaged ones included; never a symbolic link."""
    return _shards(entry, _is_shard)


def stray_shards(entry: Path) -> list[Path]:
    """List what lies under a shard's name and is none: a folder, a symbolic link, a pipe."""
    return _shards(entry, lambda file: _has_a_shards_name(file) and not _is_shard(file))


def _shards(entry: Path, is_wanted: "Callable[[os.DirEntry[str]], bool]") -> list[Path]:
    try:
        with os.scandir(entry) as files:  # tells what a file is without asking for each
            return sorted(Path(file) for file in files if is_wanted(file))
    except FileNotFoundError:
        return []


def cache_lock(root: Path, name: str, *, shared: bool = False, wait: bool = False) -> BinaryIO | None:
    """Lock one of a cache's lock files, as `lock_file` does.

    Raises:
        ResourceError: It cannot be opened, or a symbolic link leads out of the cache.
    """
    path = root / _LOCKS / f"{name}.lock"
    require_inside(path.parent, root)
    return lock_file(path, shared=shared, wait=wait)


def _has_a_shards_name(file: Path | os.DirEntry[str]) -> bool:
    return _SHARD_NAME.fullmatch(file.name) is not None


def _is_shard(file: Path | os.DirEntry[str]) -> bool:
    return _has_a_shards_name(file) and file.is_file() and not file.is_symlink()
