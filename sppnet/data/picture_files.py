"""Which files are pictures, and which folders hold data: decided here and nowhere else."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from sppnet.errors import DataError

# Decoders of raster images only (Pillow would also start Ghostscript for a PostScript file named .jpg), and
# the endings such files go by; where two have the same stem, the first ending wins.
_ENDINGS_OF: Final = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
FORMATS: Final = tuple(_ENDINGS_OF)
ENDINGS: Final = tuple(ending for endings in _ENDINGS_OF.values() for ending in endings)
# What file managers, disks and network drives leave in any folder.
_OF_SYSTEMS: Final = frozenset(
    ("__macosx", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "lost+found")
    + ("$recycle.bin", "recycler", "system volume information", "__pycache__")
    + ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")
)
log = logging.getLogger(__name__)


def is_data(name: str) -> bool:
    """Whether a file or folder of this name may be data: not hidden, and not a system's own."""
    return name[0] != "." and name.casefold() not in _OF_SYSTEMS


def files_below(
    folder: str | Path,
    *,
    skip: Callable[[str], bool] = lambda path: False,
    _above: frozenset[str] = frozenset(),
) -> "Iterator[os.DirEntry[str]]":
    """Every file below a folder that may be data, in an order that is the same everywhere.

    Linked folders are followed, but not in circles.

    Args:
        folder: Where to begin.
        skip: Told the path of a folder, whether to leave it out.

    Raises:
        DataError: A folder cannot be read.
    """
    real = os.path.realpath(folder)
    if real in _above:
        return
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry for entry in entries if is_data(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot read the folder ({error.strerror}); change its permissions"
        ) from error
    for entry in found:
        if not entry.is_dir():
            yield entry
        elif not skip(entry.path):
            yield from files_below(entry.path, skip=skip, _above=_above | {real})


def pictures_below(
    folder: str | Path, left_out: Counter[str], *, skip: Callable[[str], bool] = lambda path: False
) -> "Iterator[os.DirEntry[str]]":
    """Those of `files_below` whose names end as a picture's; the endings of the others are counted."""
    for entry in files_below(folder, skip=skip):
        ending = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - a Path a file takes minutes on ImageNet
        if ending in ENDINGS:
            yield entry
        else:
            left_out[ending or "no ending"] += 1


def tell_left_out(folder: str | Path, left_out: Counter[str]) -> None:
    """Warn of the files that are no pictures."""
    if left_out:
        kinds = ", ".join(f"{ending} {count}" for ending, count in left_out.most_common())
        log.warning(
            "%s: left out what is no picture by its ending: %s (%s are)",
            *(folder, kinds, " ".join(ENDINGS)),
        )
