"""Files and folders that a configuration names, by what is in them: a key holds content, not place.

A data set that was moved or copied is the same data set; other pictures under the same path are another one.
Up to a few gigabytes every file is read once, and its digest kept with its size and time; of larger sets
names and sizes count, which is said where the run's provenance is.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple, final

from sppnet.artifacts import content_key, file_digest, lock_file, read_json, remove_temporaries, write_json
from sppnet.data.picture_files import files_below
from sppnet.errors import ArtifactError, DataError

# Of a folder whose files are read: some seconds from memory, half a minute from disk.
_MOST_BYTES: Final = 4_000_000_000
_THREADS: Final = 8
_NOTED: Final = 4  # of a file: size, time, inode, digest
_TOO_NEW: Final = 2 * 10**9  # ns: a file may change again within one tick of its clock
# What a path stands under, in parts that name their class; anything else is text, whatever lies in this
# folder.
PATH_KEYS: Final = frozenset({"root", "path", "paths", "file", "files", "folder", "weights", "model"})


class _File(NamedTuple):
    name: str  # relative, with /
    num_bytes: int
    changed: int  # ns
    inode: int


@final
class Contents:
    """Digests of files and folders, remembered on disk.

    Args:
        cache: The cache's directory; digests are kept in it by `keep`.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache.expanduser() / "digests"
        self._found: dict[tuple[str, tuple[str, ...]], dict[str, Any]] = {}
        self._new: dict[Path, dict[str, list[Any]]] = {}

    def named(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Replace every path in a configuration by what is there; a path where nothing is stays text."""
        return {
            key: self._value(key, value, {}) if isinstance(value, Mapping) else value
            for key, value in given.items()
        }

    def _value(self, key: str, value: Any, facts: Mapping[str, Any]) -> Any:
        if isinstance(value, Mapping):
            facts = value.get("facts") or {}
            return {name: self._value(name, one, facts) for name, one in value.items()}
        if isinstance(value, list):
            return [self._value(key, one, facts) for one in value]
        if not isinstance(value, str) or not (key in PATH_KEYS or value.startswith(("/", "~"))):
            return value
        if key == "root" and facts.get("is_generated"):
            return None  # where generated images lie says nothing of them
        path = Path(value).expanduser()
        if path.is_file():
            return self.of_file(path)
        return self.of_folder(path, facts.get("files") or ()) if path.is_dir() else value

    def of_file(self, path: Path) -> str:
        """SHA-256 of a file."""
        parent = path.resolve().parent
        return self._digests(parent, [_looked_at(path, path.resolve().name)])[0]

    def of_folder(self, root: Path, parts: Sequence[str]) -> dict[str, Any]:
        """Fingerprint of a folder, or of those of its parts that there are.

        Args:
            root: The folder.
            parts: Paths in it that count; of alternatives the first that exists, and the folder itself if
                none. Hidden files never count.

        Returns:
            The number of files and bytes, a SHA-256 and what it is of.
        """
        place = next((root / part for part in parts if (root / part).exists()), root)
        known = (str(place.resolve()), tuple(parts))
        if known not in self._found:
            files = sorted(_listed(place.resolve()))
            num_bytes = sum(file.num_bytes for file in files)
            by = "names and sizes"
            told: Sequence[int | str] = [file.num_bytes for file in files]
            if num_bytes <= _MOST_BYTES:
                by, told = "content", self._digests(place.resolve(), files)
            described = [[file.name, one] for file, one in zip(files, told, strict=True)]
            self._found[known] = {
                "files": len(files), "bytes": num_bytes, "sha256": content_key(described), "by": by
            }  # fmt: skip
        return self._found[known]

    def keep(self) -> None:
        """Write new digests down; called once something is going to run."""
        if not self._new:
            return
        lock = lock_file(self._cache / ".lock", wait=True)
        assert lock is not None, "it was waited for"
        with lock:
            remove_temporaries(self._cache)
            for file, digests in self._new.items():
                write_json(file, digests)
        self._new.clear()

    def _digests(self, root: Path, files: Sequence[_File]) -> list[str]:
        """SHA-256 of some files, from the notes where size, time and inode are the same."""
        notes = self._cache / f"{content_key(str(root))[:32]}.json"
        known = self._new.get(notes) or _read(notes)
        digests: dict[str, list[Any]] = {}
        missing = [file for file in files if known.get(file.name, [])[:3] != [*file[1:]]]
        with ThreadPoolExecutor(_THREADS) as pool:  # digests are made outside the interpreter's lock
            made = dict(zip(missing, pool.map(lambda file: _digest(root / file.name), missing), strict=True))
        now = time.time_ns()
        for file in files:
            digest = made.get(file) or known[file.name][3]
            if now - file.changed > _TOO_NEW:
                digests[file.name] = [*file[1:], digest]
        if made:
            self._new[notes] = {**known, **digests}
        return [made.get(file) or known[file.name][3] for file in files]


def _read(notes: Path) -> dict[str, Any]:
    try:
        known = dict(read_json(notes))
    except (ArtifactError, TypeError, ValueError):
        return {}  # none yet, or damaged: the files are read again
    return {name: note for name, note in known.items() if isinstance(note, list) and len(note) == _NOTED}


def _listed(folder: Path) -> Iterator[_File]:
    """Every file below a folder that may be data."""
    for entry in files_below(folder):
        if entry.is_file():
            yield _looked_at(Path(entry.path), entry.path[len(str(folder)) :].lstrip("/"))


def _looked_at(path: Path, name: str) -> _File:
    stat = path.stat()
    return _File(name, stat.st_size, stat.st_mtime_ns, stat.st_ino)


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise DataError(f"{path}: cannot read ({error.strerror or error}); restore the file") from error
