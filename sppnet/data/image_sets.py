"""Image sets in the layout of the VOC devkit, or of ILSVRC DET: where they are and which images they list."""

import codecs
import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from sppnet.artifacts import regular
from sppnet.data.picture_files import ENDINGS, files_below
from sppnet.data.voc_annotation import UNSAFE
from sppnet.errors import ConfigError, DataError

LAYOUT: Final = "VOCdevkit/VOC2007/{Annotations,ImageSets/Main,JPEGImages}"
_FOLDERS = ("Annotations", "ImageSets/Main", "JPEGImages")
_DET_FOLDERS = ("Annotations/DET", "ImageSets/DET", "Data/DET")  # of ILSVRC DET as it is distributed
_IMAGE_SET = re.compile(r"\w[\w-]*(\+\w[\w-]*)*")
# What a line may hold beside an id: the label in a class's own list, the folder, the ending.
_LABEL = re.compile(r"(?<=\S)\s+(-1|0|1)$")
_DET_NUMBER = re.compile(r"\s+-?\d+$")  # a label, or which line it is
_XML = re.compile(r"(?<=\S)\s+\S*Annotations/\S+\.xml$")
_FOLDER = re.compile(r"^(.*/)?JPEGImages/")
_ENDING = re.compile(rf"({'|'.join(map(re.escape, ENDINGS))})$", re.IGNORECASE)
# An id becomes part of paths.
_IMAGE_ID = re.compile(r"(?!.*(^|/)[./])(?!.*\\)(?!.:)[^/].*")
_NUM_LISTED = 20


class Folders(NamedTuple):
    """Where a data set is, in VOC's layout or in that of ILSVRC DET."""

    annotations: Path
    sets: Path
    images: Path

    @property
    def is_det(self) -> bool:
        """Whether ids begin with the folder of their part: val/ILSVRC2012_val_00000001."""
        return self.sets.name == "DET"

    def part(self, image_set: str) -> str:
        """The folder of DET that an image set is of: train of train_1, val of val1."""
        parts = [place.name for place in self.annotations.iterdir() if image_set.startswith(place.name)]
        return max(parts, key=len, default=image_set)


def find_data_set(root: Path) -> Folders:
    """Return the folders of `root`, or of the only data set below it or below its VOCdevkit."""
    for parents in ([root], [*sorted(root.glob("*/")), *sorted(root.glob("VOCdevkit/*/"))]):
        years = [
            Folders(*(place / name for name in names))
            for place in parents
            for names in (_FOLDERS, _DET_FOLDERS)
            if all((place / name).is_dir() for name in names)
        ]
        if len(years) == 1:
            return years[0]
        if years:
            several = ", ".join(str(year.sets.parent.parent) for year in years)
            raise DataError(f"data.root={root}: several data sets, {several}; give one of these folders")
    raise DataError(f"data.root={root}: no {LAYOUT} in it or below; extract a VOC devkit there")


def read_ids(folders: Folders, image_set: str) -> dict[str, bool]:
    """Read the ids of a set, or of several joined ones, and whether they are of the first."""
    if not _IMAGE_SET.fullmatch(image_set):
        raise ConfigError(f"image set {image_set!r}: expected the name of one, such as trainval or test")
    first, *others = image_set.split("+")
    ids = dict.fromkeys(_read_list(folders, first), True)
    for other in others:
        added = _read_list(folders, other)
        if shared := sorted(ids.keys() & set(added)):
            raise DataError(
                f"image set {image_set}: {len(shared)} images are in more than one part of it "
                f"({', '.join(shared[:5])}); remove them from one of the lists"
            )
        ids |= dict.fromkeys(added, False)
    return ids


def _read_list(folders: Folders, image_set: str) -> list[str]:
    """Read the ids of a set, one per line."""
    path = folders.sets / f"{image_set}.txt"
    start = f"{folders.part(image_set)}/" if folders.is_det else ""
    try:
        content = regular(path).read_bytes()
        is_utf16 = content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        lines = content.decode("utf-16" if is_utf16 else "utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        others = ", ".join(sorted(file.stem for file in path.parent.glob("*.txt") if "_" not in file.stem))
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason}); image sets there: {others or 'none'}") from error
    numbers: dict[str, int] = {}
    problems: list[str] = []
    for number, line in enumerate(lines, start=1):
        bare = _DET_NUMBER.sub("", line) if folders.is_det else line
        image_id = _to_id(bare.strip(), folders.annotations)
        if not image_id:
            continue
        image_id = start + image_id
        if UNSAFE.search(image_id) or not _IMAGE_ID.fullmatch(image_id):
            problems.append(
                f"{path}, line {number}: {image_id[:60]!r} is not an image id, such as 000005: the name of "
                f"an image in JPEGImages without its ending, no hidden file and no path from elsewhere"
            )
        elif image_id in numbers:
            problems.append(f"{path}, line {number}: {image_id} again, first in line {numbers[image_id]}")
        numbers.setdefault(image_id, number)
    raise_any(problems, f"{len(lines)} lines")
    if not numbers:
        raise DataError(f"{path}: no image ids in it; expected one per line, such as 000005")
    return list(numbers)


def list_images(folder: Path) -> dict[str, Path]:
    """Find the image file of every id; of several the one whose ending comes first."""
    files: dict[str, dict[str, Path]] = {ending: {} for ending in reversed(ENDINGS)}
    for entry in files_below(folder):
        stem, ending = os.path.splitext(entry.path[len(str(folder)) + 1 :])  # noqa: PTH122 - many files
        if ending.lower() in files:
            files[ending.lower()][stem] = Path(entry.path)
    return {image_id: path for of_ending in files.values() for image_id, path in of_ending.items()}


def missing_image(path: Path, image_set: str) -> str:
    """Say that an id has no image, and what is there instead."""
    others = sorted(file.name for file in path.parent.glob(f"{glob.escape(path.name)}.*"))
    there = f"; {', '.join(others)} is of a kind that is not read: convert it" if others else ""
    return f"{path}.jpg: no such file, but {image_set} names it{there}"


def _to_id(line: str, annotations: Path) -> str:
    """The id in a line that may hold more: label or annotation behind, JPEGImages/ before it, an ending."""
    for part in (_LABEL, _XML, _FOLDER, _ENDING):
        if UNSAFE.search(line) or os.path.lexists(annotations / f"{line}.xml"):
            break
        line = part.sub("", line)
    return line


def list_classes(sets: Path, image_set: str) -> list[str]:
    """Read the class list off the names of the classes' image sets; their lines are an id and a label."""
    ending = f"_{image_set}"
    names: list[str] = []
    for path in sets.glob(f"*{ending}.txt"):
        with regular(path).open(encoding="utf-8", errors="replace") as lines:
            if _LABEL.search(next(filter(str.strip, lines), "").strip()):
                names.append(path.stem.removesuffix(ending))
    return sorted(names)


def raise_any(problems: Sequence[str], among: str) -> None:
    """List the first problems, and their number.

    Raises:
        DataError: There are some.
    """
    if problems:
        more = [f"... and {len(problems) - _NUM_LISTED} more"] if len(problems) > _NUM_LISTED else []
        heading = f"{len(problems)} problems in {among}:"
        raise DataError("\n".join([heading, *problems[:_NUM_LISTED], *more]))
