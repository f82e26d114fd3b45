"""What is not as a seal, or a completion marker, vouches for.

A run's marker holds the size and the SHA-256 of each of its files; config.yaml, which is there before, has
its own in its last line; other files have it in their names.
"""

import functools
import hashlib
import re
from pathlib import Path
from typing import Any, Final

from sppnet.artifacts import file_digest, read_json, regular
from sppnet.errors import ArtifactError

PROVENANCE: Final = "provenance.json"
SEAL: Final = "sha256: "
_ENDS_IN_KEY = re.compile(r"-([0-9a-f]{8})$")


def digest_matches(path: Path) -> bool:
    """Whether a file written by `write_named_by_digest` still has the content its name states.

    Raises:
        FileNotFoundError: It is gone.
    """
    try:
        return file_digest(path)[:16] == path.stem.rpartition("-")[2]
    except FileNotFoundError:
        raise
    except OSError:  # a folder, a pipe
        return False


def sealed_body(file: Path) -> str:
    """A text file without its last line, which vouches for the rest: `sha256: ` and its SHA-256.

    Raises:
        OSError: What `regular` raises.
        ValueError: It is not what was sealed.
    """
    body, _, seal = regular(file).read_text(encoding="utf-8").rpartition(SEAL)
    if hashlib.sha256(body.encode()).hexdigest() != seal.strip():
        raise ValueError("it is not what its last line vouches for")
    return body


def damage_behind(marker: Path) -> str | None:
    """What is not as a completion marker vouches for, in words; None if all of it is.

    Every file is read, once a process as long as its inode, size and time stay the same. A directory whose
    name ends in a key is the run with that key, and no other.
    """
    try:
        files = read_json(marker)["files"]
        if "metrics.json" not in files:
            return f"{marker}: does not vouch for metrics.json"
        for name, entry in files.items():
            path = marker.parent / name
            if ".." in Path(name).parts or not path.is_relative_to(marker.parent):
                raise ValueError(f"it vouches for {name!r}, which is not in its directory")
            now = regular(path).stat()
            digest = _known_digest(path, now.st_ino, now.st_size, now.st_mtime_ns)
            if (now.st_size, digest) != (entry["bytes"], entry["sha256"]):
                return (
                    f"{path}: {now.st_size} bytes that are not the {entry['bytes']} its COMPLETE marker "
                    f"vouches for"
                )
        if PROVENANCE in files:
            key = read_json(marker.with_name(PROVENANCE)).get("key")
            return _damage_of(marker.with_name("config.yaml")) or foreign(marker.parent, key)
    except OSError as error:
        found = "gone" if isinstance(error, FileNotFoundError) else error.strerror
        return f"{error.filename}: {found}, but its COMPLETE marker vouches for it"
    except (ArtifactError, LookupError, TypeError, ValueError, AttributeError) as error:
        return f"{marker}: not readable ({type(error).__name__}: {' '.join(str(error).split())})"
    return None


def _damage_of(config: Path) -> str | None:
    try:
        sealed_body(config)
    except ValueError as error:
        return f"{config}: not readable ({error})"
    return None


def foreign(directory: Path, key: Any) -> str | None:
    """What is wrong, in words, where a directory whose name ends in a key holds the run of another one."""
    named = _ENDS_IN_KEY.search(directory.name)
    if named is None or key is None or str(key).startswith(named[1]):
        return None
    return f"{directory}: holds another run ({str(key)[:8]!r}) than its name says"


@functools.cache
def _known_digest(path: Path, *_state: int) -> str:
    return file_digest(path)
