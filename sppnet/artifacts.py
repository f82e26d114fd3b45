"""The one writer of files, their locks, and the keys and seeds that are made of content.

Every artifact (checkpoint, metrics, marker, table) is written to a temporary file in its own
directory, flushed, synchronised, and only then given its name: a reader never sees a part of it,
whenever the writer is killed.
"""

import contextlib
import errno
import fcntl
import glob
import hashlib
import io
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from sppnet.errors import ArtifactError, ResourceError

_TEMPORARY_SUFFIX = ".tmp"
_SEAL = "sha256"


class _File(io.FileIO):
    """Remembers why it could not be written, whatever a library makes of the error (torch.save)."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def write_atomic(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Give `path` the bytes that `write` puts into a stream, all of them or none.

    Args:
        path: Final name; its directory is created when missing.
        write: Called once with a binary stream open for writing.

    Raises:
        ResourceError: The disk is full or the directory cannot be written; `path` is as it was.
    """
    if path.is_char_device():  # /dev/stdout, /dev/null: never to be replaced by a file
        try:
            with path.open("wb") as stream:
                write(stream)
        except OSError as error:
            raise cannot_write(path, error) from error
        return
    with _temporary_beside(path, write) as temporary:
        temporary.replace(path)


def write_named_by_digest(directory: Path, stem: str, suffix: str, write: Callable[[BinaryIO], Any]) -> Path:
    """Atomically write `directory/stem-<16 hex of the content's SHA-256><suffix>`; return its path.

    The name vouches for the content: `digest_matches` finds every damaged copy.
    """
    with _temporary_beside(directory / f"{stem}{suffix}", write) as temporary:
        path = directory / f"{stem}-{file_digest(temporary)[:16]}{suffix}"
        temporary.replace(path)
    return path


@contextlib.contextmanager
def _temporary_beside(path: Path, write: Callable[[BinaryIO], Any]) -> Iterator[Path]:
    """Write and synchronise a temporary file in `path`'s directory; the caller gives it its name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{_TEMPORARY_SUFFIX}")
    file = None
    try:
        make_directory(path.parent)
        # "x": never follow or reuse a file somebody else left under this name.
        file = _File(temporary, "xb")
        with io.BufferedWriter(file) as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        yield temporary
        _sync_directory(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        cause = (file and file.error) or error
        if isinstance(cause, OSError):
            raise cannot_write(path, cause) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Atomically write `text` as UTF-8."""
    write_atomic(path, lambda stream: stream.write(text.encode()))


def append_line(path: Path, line: str) -> None:
    """Add a line to the end of a file that is there; it survives a power cut.

    Raises:
        ResourceError: The disk is full or the file cannot be written.
    """
    try:
        with path.open("ab") as stream:
            stream.write(f"{line}\n".encode())
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise cannot_write(path, error) from error


def write_json(path: Path, value: Any) -> None:
    """Atomically write `value` as JSON, indented, one trailing newline."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_sealed_json(path: Path, value: Mapping[str, Any]) -> None:
    """Atomically write a mapping that no marker vouches for, with a digest of all of it beside its keys."""
    plain = json.loads(json.dumps(value, allow_nan=False))
    write_json(path, {**plain, _SEAL: content_key(plain)})


def read_json(path: Path) -> Any:
    """Read one of our own JSON files.

    Raises:
        ArtifactError: The file is missing, not JSON, or not what its seal vouches for.
    """
    try:
        value = json.loads(regular(path).read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        if isinstance(value, dict) and _SEAL in value and value.pop(_SEAL) != content_key(value):
            raise ValueError(f"it is not what its {_SEAL} vouches for")
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file; run the command that makes it again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not readable as JSON ({error}); remove it and run again") from error
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
    """While the block runs, what a file of ours holds is used: whatever trips over it means damage.

    Raises:
        ArtifactError: Something was not as this version writes it.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        found = " ".join(f"{type(error).__name__}: {error}".split())
        raise ArtifactError(
            f"{file}: not as this version of sppnet writes it ({found}); remove its directory and run the "
            f"command that made it again"
        ) from error


def content_key(value: Any) -> str:
    """Hexadecimal SHA-256 of a plain value (mappings in any order, lists, strings, numbers)."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def stable_seed(*parts: int | str) -> int:
    """A seed in [0, 2^63) made of numbers and names; the same in every process and Python version."""
    digest = hashlib.blake2b(
        "\0".join(map(str, parts)).encode(errors="surrogateescape"), digest_size=8
    ).digest()
    return int.from_bytes(digest, "big") >> 1


def regular(path: Path) -> Path:
    """The path itself, of a file with an end; opening a pipe would wait for ever.

    Raises:
        OSError: It is something else, or is not there.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "a pipe or a device, not a file", str(path))
    return path


def file_digest(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes; raises what `regular` raises."""
    with regular(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def lock_file(path: Path, *, shared: bool = False, wait: bool = False) -> BinaryIO | None:
    """Lock a file until what is returned is closed or its process ends, in whatever way it ends.

    The lock is the kernel's (flock). Never remove a file that is locked so: its name must stay one inode.

    Args:
        path: Made when missing, with its directory; never a symbolic link.
        shared: With others that share it, instead of alone.
        wait: Until it is free.

    Returns:
        The open file; None if somebody else has it, and that was not to be waited for.

    Raises:
        ResourceError: The file cannot be opened, or its file system knows no locks.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        make_directory(path.parent)
        stream = os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BaseException as error:
        stream.close()
        if isinstance(error, BlockingIOError):
            return None
        if isinstance(error, OSError):
            raise ResourceError(
                f"{path}: cannot be locked ({error.strerror or error}); put paths.runs and paths.cache on a "
                f"file system with flock: a local disk, or a cluster's mounted with it"
            ) from error
        raise
    return stream


def require_inside(path: Path, root: Path) -> None:
    """Refuse a place that symbolic links, or "..", lead out of a folder.

    Raises:
        ResourceError: Names where it leads.
    """
    if not path.resolve().is_relative_to(root.resolve()):
        raise ResourceError(
            f"{path}: leads out of {root}, to {path.resolve()}; remove the symbolic link, or set paths.runs "
            f"(paths.cache) to where things are to be kept"
        )


def remove_temporaries(directory: Path, *, of: str = "") -> None:
    """Remove what killed writers left in `directory`, whose lock is held: nobody else writes there.

    Args:
        directory: Where.
        of: Only those of one file, whose lock it is.
    """
    for leftover in directory.glob(f".{glob.escape(of)}*{_TEMPORARY_SUFFIX}"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def make_directory(directory: Path) -> None:
    """Make a directory with those above it; a power cut takes none of them away."""
    made = [one for one in (directory, *directory.parents) if not one.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for one in made:
        _sync_directory(one.parent)


def _sync_directory(directory: Path) -> None:
    """Make the names in `directory` survive a power cut, where the platform can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def cannot_write(path: Path, error: OSError) -> ResourceError:
    """Turn a failed write into one line that names the path and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        place = next(one for one in (path, *path.absolute().parents) if one.exists())
        free = shutil.disk_usage(place).free
        return ResourceError(
            f"{path}: the disk is full or the file too large ({free / 1e9:.2f} GB free); "
            f"free some space and run the same command again, it goes on where it stopped"
        )
    if error.errno == errno.EISDIR:
        return ResourceError(
            f"{error.filename2 or path}: a folder where a file belongs; move it away and run again"
        )
    return ResourceError(
        f"{path}: cannot write ({error.strerror or error}); choose another paths.runs or paths.cache"
    )
