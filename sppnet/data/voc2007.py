"""Images with boxes in the layout of the VOC devkit (paper §3.2 and §4: VOC 2007).

Whatever is in that layout can be read, other years and other classes too. Every annotation of a set is
checked, together with the size in its image's header, before anything is computed from the first.
"""

import codecs
import glob
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor

from sppnet.artifacts import regular
from sppnet.data.folder import require_root
from sppnet.data.images import image_size
from sppnet.data.picture_files import ENDINGS, files_below
from sppnet.data.voc_annotation import UNSAFE, Annotation, read_annotation
from sppnet.errors import ConfigError, DataError

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)
_LAYOUT = "VOCdevkit/VOC2007/{Annotations,ImageSets/Main,JPEGImages}"
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
log = logging.getLogger(__name__)


class AnnotatedImage(NamedTuple):
    """An image file and its ground truth; n objects."""

    image_id: str
    path: Path
    width: int
    height: int
    boxes_xyxy: Float[Tensor, "n 4"]  # 0-based pixels of the file as stored, both ends belong to the box
    labels: Int[Tensor, " n"]  # positions in `AnnotatedImages.classes`
    is_difficult: Bool[Tensor, " n"]
    is_complete: bool = True  # whether all objects are annotated: what shows none of them is background


class _Folders(NamedTuple):
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


class AnnotatedImages(NamedTuple):
    """An image set, in the order of its file."""

    images: tuple[AnnotatedImage, ...]
    classes: tuple[str, ...]


def read_voc(
    root: Path | None, image_set: str, *, classes: Sequence[str] | None, is_finer: bool = False
) -> AnnotatedImages:
    """Read an image set of a VOC devkit.

    Args:
        root: The folder VOC2007 (or another year's), VOCdevkit, or the one that holds VOCdevkit; or ILSVRC,
            with DET as it is distributed (Annotations/DET, Data/DET, ImageSets/DET).
        image_set: trainval, test, ...: a file in `ImageSets/Main`. Several are joined by a plus: of those
            after the first only the objects count, as they are not known to be all (§4.5: "val+train").
        classes: The class list, such as that of the training images for a test set. None: those that have
            a file `<class>_<image_set>.txt`; without such files VOC's 20, and if there are others among
            the objects, the names of the objects in alphabetical order (as VOC's are).
        is_finer: Whether objects count as their sub-categories, where they have one (§4.5).

    Raises:
        ConfigError: `image_set` is not a name.
        DataError: The layout or the set is not there; ids that are repeated, have no file or are paths;
            annotations that cannot be used or name other classes; images of another size than annotated.
            The first 20 are listed, and their number.
    """
    folders = _find_year(require_root(root, _LAYOUT))
    image_ids = _read_ids(folders, image_set)
    files = _list_images(folders.images)
    problems: list[str] = []
    found: list[tuple[str, Path, Annotation]] = []
    for image_id in image_ids:
        try:
            annotation = read_annotation(folders.annotations / f"{image_id}.xml")
            if image_id not in files:
                raise DataError(_missing(folders.images / image_id, image_set))
            _check_size(files[image_id], annotation)
            if is_finer:
                named = tuple(one._replace(name=one.subcategory or one.name) for one in annotation.objects)
                annotation = annotation._replace(objects=named)
            found.append((image_id, files[image_id], annotation))
        except DataError as error:
            problems.extend(str(error).split("\n"))
    listed = [] if is_finer else _list_classes(folders.sets, image_set)
    names = tuple(classes or listed or _name_classes(found))
    source = "" if classes or not listed else f", by the names of the files *_{image_set}.txt"
    problems.extend(_unknown_classes(folders.annotations, found, names))
    among = f"{len(image_ids)} images of {folders.sets / image_set}.txt"
    _raise_any(problems, f"{among} (classes: {', '.join(names)}{source})" if found else among)
    _warn(among, [annotation for _, _, annotation in found])
    records = (_to_record(*one, names) for one in found)
    complete = (image._replace(is_complete=image_ids[image.image_id]) for image in records)
    return AnnotatedImages(tuple(complete), names)


def require_apart(train: AnnotatedImages, test: AnnotatedImages, names: str) -> None:
    """Refuse image sets that share images: what was trained on is no test.

    Raises:
        DataError: Names some.
    """
    known = {image.image_id for image in train.images}
    if shared := [image.image_id for image in test.images if image.image_id in known]:
        raise DataError(
            f"image sets {names} share {len(shared)} images ({', '.join(shared[:5])}): what is trained on "
            f"cannot be tested on; remove them from one of the lists"
        )


def class_labels(annotated: AnnotatedImages) -> Int8[Tensor, "n k"]:
    """Say of every image and class: 1 present, 0 only difficult ones are, -1 absent.

    These are the labels in the devkit's `<class>_<set>.txt`, which are not read.
    """
    presence = torch.full((len(annotated.images), len(annotated.classes)), -1, dtype=torch.int8)
    for row, image in zip(presence, annotated.images, strict=True):
        row[image.labels[image.is_difficult]] = 0
        row[image.labels[~image.is_difficult]] = 1
    return presence


def _find_year(root: Path) -> _Folders:
    """Return the folders of `root`, or of the only data set below it or below its VOCdevkit."""
    for parents in ([root], [*sorted(root.glob("*/")), *sorted(root.glob("VOCdevkit/*/"))]):
        years = [
            _Folders(*(place / name for name in names))
            for place in parents
            for names in (_FOLDERS, _DET_FOLDERS)
            if all((place / name).is_dir() for name in names)
        ]
        if len(years) == 1:
            return years[0]
        if years:
            several = ", ".join(str(year.sets.parent.parent) for year in years)
            raise DataError(f"data.root={root}: several data sets, {several}; give one of these folders")
    raise DataError(f"data.root={root}: no {_LAYOUT} in it or below; extract a VOC devkit there")


def _read_ids(folders: _Folders, image_set: str) -> dict[str, bool]:
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


def _read_list(folders: _Folders, image_set: str) -> list[str]:
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
    _raise_any(problems, f"{len(lines)} lines")
    if not numbers:
        raise DataError(f"{path}: no image ids in it; expected one per line, such as 000005")
    return list(numbers)


def _list_images(folder: Path) -> dict[str, Path]:
    """Find the image file of every id; of several the one whose ending comes first."""
    files: dict[str, dict[str, Path]] = {ending: {} for ending in reversed(ENDINGS)}
    for entry in files_below(folder):
        stem, ending = os.path.splitext(entry.path[len(str(folder)) + 1 :])  # noqa: PTH122 - many files
        if ending.lower() in files:
            files[ending.lower()][stem] = Path(entry.path)
    return {image_id: path for of_ending in files.values() for image_id, path in of_ending.items()}


def _missing(path: Path, image_set: str) -> str:
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


def _check_size(path: Path, annotation: Annotation) -> None:
    """Compare with the header: boxes refer to the pixels as stored, whatever EXIF says."""
    size = image_size(path, upright=False, max_pixels=None)
    if size != (annotation.width, annotation.height):
        raise DataError(
            f"{path}: {size[0]} x {size[1]} pixels, but its annotation says "
            f"{annotation.width} x {annotation.height}; both must come from the same data set"
        )


def _list_classes(sets: Path, image_set: str) -> list[str]:
    """Read the class list off the names of the classes' image sets; their lines are an id and a label."""
    ending = f"_{image_set}"
    names: list[str] = []
    for path in sets.glob(f"*{ending}.txt"):
        with regular(path).open(encoding="utf-8", errors="replace") as lines:
            if _LABEL.search(next(filter(str.strip, lines), "").strip()):
                names.append(path.stem.removesuffix(ending))
    return sorted(names)


def _name_classes(found: Sequence[tuple[str, Path, Annotation]]) -> list[str]:
    names = {one.name for _, _, annotation in found for one in annotation.objects}
    return sorted(names if names - set(VOC_CLASSES) else VOC_CLASSES)


def _unknown_classes(
    annotations: Path, found: Sequence[tuple[str, Path, Annotation]], classes: Sequence[str]
) -> Iterator[str]:
    known = set(classes)
    for image_id, _, annotation in found:
        for number, one in enumerate(annotation.objects, start=1):
            if one.name not in known:
                path = annotations / f"{image_id}.xml"
                yield f"{path}: object {number}: unknown class {one.name!r}"


def _warn(among: str, annotations: Sequence[Annotation]) -> None:
    """Say what was put up with."""
    if num_clipped := sum(annotation.num_clipped for annotation in annotations):
        log.warning("%s: %d boxes ended a pixel outside their image and were clipped", among, num_clipped)
    if num_repeated := sum(len(one.objects) - len(set(one.objects)) for one in annotations):
        log.warning("%s: %d objects are repeated; every one counts, as in the devkit", among, num_repeated)


def _raise_any(problems: Sequence[str], among: str) -> None:
    if problems:
        more = [f"... and {len(problems) - _NUM_LISTED} more"] if len(problems) > _NUM_LISTED else []
        heading = f"{len(problems)} problems in {among}:"
        raise DataError("\n".join([heading, *problems[:_NUM_LISTED], *more]))


def _to_record(image_id: str, path: Path, annotation: Annotation, classes: Sequence[str]) -> AnnotatedImage:
    objects = annotation.objects
    return AnnotatedImage(
        image_id,
        path,
        annotation.width,
        annotation.height,
        torch.tensor([one.box_xyxy for one in objects], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([classes.index(one.name) for one in objects], dtype=torch.long),
        torch.tensor([one.is_difficult for one in objects], dtype=torch.bool),
    )
