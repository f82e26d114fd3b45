"""Shards of features on disk: found by content, written whole, computed by one process at a time.

A shard holds rows of one length, of some images (.f32), or the maps of a single image (.safetensors).

Nothing heavy is imported here: the command line looks at a cache without torch.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, final

from sppnet.artifacts import content_key, digest_matches, read_json, write_json, write_named_by_digest
from sppnet.errors import ArtifactError, ResourceError

SHARD_IMAGES: Final = 64  # some seconds of work on one core, some megabytes
BYTES_PER_NUMBER: Final = 4
MANIFEST: Final = "entry.json"
ROWS: Final = ".f32"
MAPS: Final = ".safetensors"
_SHARD_NAME = re.compile(r"[0-9a-f]{32}-[0-9a-f]{16}\.(f32|safetensors)")
_ENTRY_NAME = re.compile(r"[0-9a-f]{32}")
_LOCKS = ".locks"


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
    """The shards of one extractor.

    Args:
        path: Its directory.
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

    def shard_bytes(self, rows: int) -> int:
        """Size of the file of so many rows."""
        return rows * self.dim * BYTES_PER_NUMBER

    def find(self, *, rows: int | None, candidates: Iterable[Path]) -> Path | None:
        """Pick the whole shard out of some files, and note that it was used.

        Args:
            rows: How many images they are of; None for maps, whose files have any size.
            candidates: As `listed`, or `listed_all`, read them from the directory.
        """
        for path in candidates:
            with contextlib.suppress(FileNotFoundError):  # another process has just removed a damaged one
                fits = rows is None or path.stat().st_size == self.shard_bytes(rows)
                if fits and digest_matches(path):
                    with contextlib.suppress(PermissionError):  # somebody else's file in a shared cache
                        os.utime(path)
                    return path
        return None

    def listed(self, images: str) -> list[Path]:
        """Files that ought to be the shard of some images."""
        return [path for path in self.path.glob(f"{images[:32]}-*{self.suffix}") if _is_shard(path)]

    def listed_all(self) -> dict[str, list[Path]]:
        """Read the directory once, for many shards: files by the first 32 digits of their images' digest."""
        files: dict[str, list[Path]] = {}
        for path in shard_files(self.path):
            files.setdefault(path.name[:32], []).append(path)
        return files

    @contextlib.contextmanager
    def claim(self, images: str) -> Iterator[bool]:
        """Own the right to compute a shard; yields False while another process has it."""
        # Locks are shared by all shards whose digests start alike: few files, and a clash only means
        # that a shard is computed later.
        slot = content_key([self.path.name, images])[:3]
        with _locked(self.path.parent, f"shard-{slot}", fcntl.LOCK_EX | fcntl.LOCK_NB) as lock:
            yield lock is not None

    def clear(self, images: str) -> None:
        """Remove what is damaged or half written of a shard that is claimed and was not found."""
        for leftover in self.path.glob(f".{images[:32]}{self.suffix}.*.tmp"):
            leftover.unlink(missing_ok=True)
        for path in self.listed(images):
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
        return path


@final
class FeatureCache:
    """A directory of extractors' shards that any number of processes may use at once.

    Args:
        root: The directory; made when missing.
        shard_images: Images whose rows share a file. Other shards hold other rows: keep to one number.

    Attributes:
        counts: What became of the shards asked for so far.
    """

    def __init__(self, root: Path, *, shard_images: int = SHARD_IMAGES) -> None:
        self.root = root.expanduser().resolve()
        self.shard_images = shard_images
        self.counts = Counts()

    def entry(
        self, identity: Mapping[str, Any], *, network: str, feature: str, dim: int, suffix: str = ROWS
    ) -> Entry:
        """Open, or begin, the shards of an extractor; `gc` leaves them alone while the entry is alive.

        Args:
            identity: Everything but the images that decides a row.
            network: What reports call the net.
            feature: What they call the layer and its levels.
            dim: Length of a row; of maps, their channels.
            suffix: `ROWS` or `MAPS`.
        """
        name = content_key(identity)[:32]
        hold = _open_lock(self.root, f"entry-{name}", fcntl.LOCK_SH)
        manifest = {"network": network, "feature": feature, "dim": dim, "identity": identity}
        # For people only; keys and sizes decide. One that is missing or damaged is written again.
        if _read(self.root / name / MANIFEST) != json.loads(json.dumps(manifest)):
            write_json(self.root / name / MANIFEST, manifest)
        return Entry(self.root / name, dim=dim, suffix=suffix, hold=hold, counts=self.counts)

    def require_space(self, needed: int) -> None:
        """Refuse to begin what cannot be finished.

        Raises:
            ResourceError: The disk has fewer than `needed` bytes left.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.root).free
        if needed > free:
            raise ResourceError(
                f"{self.root}: these features need {needed} bytes ({needed / 1e9:.2f} GB) and {free} bytes "
                f"({free / 1e9:.2f} GB) are free; run sppnet cache gc, or choose another cache directory"
            )


def entries(root: Path) -> list[Path]:
    """List the extractors' directories; whatever else lies in `root` is left alone."""
    return sorted(p for p in root.iterdir() if _ENTRY_NAME.fullmatch(p.name) and _is_own_directory(p))


def shard_files(entry: Path) -> list[Path]:
    """List the shards of an extractor, damaged ones included; never a symbolic link."""
    try:
        return sorted(path for path in entry.iterdir() if _is_shard(path))
    except FileNotFoundError:
        return []


@contextlib.contextmanager
def exclusive(root: Path, entry: str) -> Iterator[bool]:
    """Own an extractor's shards, to remove them; yields False when a process reads or writes them."""
    with _locked(root, f"entry-{entry}", fcntl.LOCK_EX | fcntl.LOCK_NB) as lock:
        yield lock is not None


def _is_shard(path: Path) -> bool:
    return _SHARD_NAME.fullmatch(path.name) is not None and path.is_file() and not path.is_symlink()


def _is_own_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _read(manifest: Path) -> Any:
    with contextlib.suppress(ArtifactError):
        return read_json(manifest)
    return None


@contextlib.contextmanager
def _locked(root: Path, name: str, operation: int) -> Iterator[BinaryIO | None]:
    try:
        lock = _open_lock(root, name, operation)
    except BlockingIOError:
        yield None
        return
    with lock:
        yield lock


def _open_lock(root: Path, name: str, operation: int) -> BinaryIO:
    """Open a lock file and lock it. Lock files are empty and never removed: a name is one inode forever."""
    try:
        (root / _LOCKS).mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        stream = os.fdopen(os.open(root / _LOCKS / f"{name}.lock", flags, 0o666), "r+b", buffering=0)
    except OSError as error:
        raise ResourceError(
            f"{root}: cannot be used as a feature cache ({error.strerror or error}); choose another directory"
        ) from error
    try:
        fcntl.flock(stream, operation)
    except BaseException:
        stream.close()
        raise
    return stream
