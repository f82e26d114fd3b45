"""Images with boxes in the layout of the VOC devkit (paper §3.2 and §4: VOC 2007).

Whatever is in that layout can be read, other years and other classes too. Every annotation of a set is
checked, together with the size in its image's header, before anything is computed from the first.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor

from sppnet.data.folder import require_root
from sppnet.data.image_sets import (
    LAYOUT,
    find_data_set,
    list_classes,
    list_images,
    missing_image,
    raise_any,
    read_ids,
)
from sppnet.data.images import image_size
from sppnet.data.voc_annotation import Annotation, read_annotation
from sppnet.errors import DataError

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)
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
    folders = find_data_set(require_root(root, LAYOUT))
    image_ids = read_ids(folders, image_set)
    files = list_images(folders.images)
    problems: list[str] = []
    found: list[tuple[str, Path, Annotation]] = []
    for image_id in image_ids:
        try:
            annotation = read_annotation(folders.annotations / f"{image_id}.xml")
            if image_id not in files:
                raise DataError(missing_image(folders.images / image_id, image_set))
            _check_size(files[image_id], annotation)
            if is_finer:
                named = tuple(one._replace(name=one.subcategory or one.name) for one in annotation.objects)
                annotation = annotation._replace(objects=named)
            found.append((image_id, files[image_id], annotation))
        except DataError as error:
            problems.extend(str(error).split("\n"))
    listed = [] if is_finer else list_classes(folders.sets, image_set)
    names = tuple(classes or listed or _name_classes(found))
    source = "" if classes or not listed else f", by the names of the files *_{image_set}.txt"
    problems.extend(_unknown_classes(folders.annotations, found, names))
    among = f"{len(image_ids)} images of {folders.sets / image_set}.txt"
    raise_any(problems, f"{among} (classes: {', '.join(names)}{source})" if found else among)
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


def _check_size(path: Path, annotation: Annotation) -> None:
    """Compare with the header: boxes refer to the pixels as stored, whatever EXIF says."""
    size = image_size(path, upright=False, max_pixels=None)
    if size != (annotation.width, annotation.height):
        raise DataError(
            f"{path}: {size[0]} x {size[1]} pixels, but its annotation says "
            f"{annotation.width} x {annotation.height}; both must come from the same data set"
        )


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
