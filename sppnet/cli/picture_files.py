"""Which pictures a command line means, and the names of those that are made of them."""

import glob
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count, takewhile
from pathlib import Path

from sppnet.data.picture_files import ENDINGS, pictures_below, tell_left_out
from sppnet.errors import ConfigError, DataError, ResourceError

_LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif")
_MAGIC = frozenset("*?[")


def find_pictures(words: Sequence[str], *, out: Path) -> list[Path]:
    """List the pictures that words of a command line name, in their order and each once.

    Args:
        words: Files, whatever their endings; folders, searched with all below them for what ends as a
            picture, hidden ones aside; or patterns of these (*, ?, [...], ** for any folders).
        out: What lies in it is found only by a word that begins in it: else a second run would look at
            the pictures of the first.

    Returns:
        Paths that begin as they were typed.

    Raises:
        DataError: A word names nothing, or a folder cannot be read.
    """
    found: dict[Path, Path] = {}
    for word in words:
        begin = _begin(word)
        spared = None if _is_in(begin, out) else out.resolve()
        files = [file for path in _expand(word, begin) for file in _files(path, spared)]
        if not files:
            raise DataError(f"{word}: {_nothing(begin)}")
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def name_pictures(files: Sequence[Path]) -> list[str]:
    """Name a picture after each file, .jpg after a JPEG and .png after all others.

    Where stems are the same but for their case, later ones get -2, -3, ...
    """
    taken: set[str] = set()
    names: list[str] = []
    for file in files:
        stems = (file.stem if number == 1 else f"{file.stem}-{number}" for number in count(1))
        stem = next(stem for stem in stems if stem.casefold() not in taken)
        taken.add(stem.casefold())
        names.append(stem + (".jpg" if file.suffix.lower() in _LOSSY else ".png"))
    return names


def require_apart(files: Sequence[Path], out: Path) -> None:
    """Refuse to write beside what was read, where a new picture could take an old one's place.

    Raises:
        ConfigError: One of `files` lies in `out`.
    """
    home = out.resolve()
    for file in files:
        if home in (file.parent.resolve(), file.resolve().parent):
            raise ConfigError(
                f"--out={out}: holds {file}, one of the images; pictures with boxes need another folder"
            )


def require_writable(folder: Path) -> None:
    """Find out whether files can be written to a folder, existing or not; leaves nothing behind.

    Raises:
        ResourceError: They cannot.
    """
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ResourceError(
            f"{folder}: cannot write there ({error.strerror or error}); choose another --out or --json"
        ) from error


def _begin(word: str) -> Path:
    """The folder or file from which a word is followed: all before its first special letter."""
    path = Path(word).expanduser()
    if os.path.lexists(path):
        return path
    return Path(*takewhile(lambda part: not _MAGIC & set(part), path.parts))


def _expand(word: str, begin: Path) -> Iterator[Path]:
    path = Path(word).expanduser()
    if path == begin:
        yield from [path] if os.path.lexists(path) else []
    else:
        # Path.glob finds hidden files too, and begins in a folder.
        yield from map(Path, sorted(glob.glob(str(path), recursive=True)))  # noqa: PTH207


def _files(path: Path, spared: Path | None) -> Iterator[Path]:
    """A file itself; of a folder the images below it, in an order that is the same everywhere."""
    if spared is not None and _is_in(path, spared):
        return
    if not path.is_dir():
        yield path
        return
    left_out: Counter[str] = Counter()
    found = pictures_below(path, left_out, skip=lambda folder: Path(folder).resolve() == spared)
    yield from (Path(entry.path) for entry in found)
    tell_left_out(path, left_out)


def _is_in(path: Path, folder: Path) -> bool:
    """Whether `path` is `folder` or below it."""
    return path.resolve().is_relative_to(folder.resolve())


def _nothing(begin: Path) -> str:
    """Say why a word gave no pictures."""
    endings = ", ".join(ENDINGS)
    if begin.is_dir():
        return f"no images there; expected files ending in {endings}, at any depth"
    return f"no such file or folder (looked in {Path.cwd()}); give images, folders or patterns of them"
