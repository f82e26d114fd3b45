"""Write the generated scenes' annotations as the VOC2007 devkit lays them out.

Boxes are 0-based up to here and 1-based in the files; both ends belong to the box.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from sppnet.data.shape_drawing import Painted
from sppnet.data.shape_outlines import CLASSES

_HIDDEN_WHEN_VISIBLE_BELOW = 0.6  # an object of which less is left is "difficult"


class AnnotatedImage(NamedTuple):
    """What the image sets say of an image: its name and its objects' classes."""

    stem: str
    easy: frozenset[str]
    difficult: frozenset[str]


def write_voc_image(path: Path, size: tuple[int, int], painted: Sequence[Painted]) -> AnnotatedImage:
    """Write one image's annotation; objects painted later lie in front.

    Args:
        path: The XML file; its stem is the image's.
        size: Width and height of the image, pixels.
        painted: The objects, back to front.
    """
    root = ElementTree.Element("annotation")
    _add(root, {"folder": "VOC2007", "filename": f"{path.stem}.jpg"})
    _add(ElementTree.SubElement(root, "source"), {"database": "sppnet shapes"})
    width, height = size
    _add(ElementTree.SubElement(root, "size"), {"width": width, "height": height, "depth": 3})
    _add(root, {"segmented": 0})
    found: dict[bool, set[str]] = {False: set(), True: set()}
    for i, one in enumerate(painted):
        is_difficult = _visible_share(one, painted[i + 1 :]) < _HIDDEN_WHEN_VISIBLE_BELOW
        found[is_difficult].add(one.name)
        entry = ElementTree.SubElement(root, "object")
        _add(entry, {"name": one.name, "pose": "Unspecified", "truncated": 0, "difficult": int(is_difficult)})
        names = ("xmin", "ymin", "xmax", "ymax")
        one_based = [value + 1 for value in one.box_xyxy]
        _add(ElementTree.SubElement(entry, "bndbox"), dict(zip(names, one_based, strict=True)))
    ElementTree.indent(root, "\t")
    path.write_text(ElementTree.tostring(root, encoding="unicode") + "\n", encoding="utf-8")
    return AnnotatedImage(path.stem, frozenset(found[False]), frozenset(found[True] - found[False]))


def write_image_sets(folder: Path, sets: Mapping[str, Sequence[AnnotatedImage]]) -> None:
    """Write `<set>.txt` and `<class>_<set>.txt`: 1 present, 0 only difficult ones, -1 absent."""
    for name, images in sets.items():
        (folder / f"{name}.txt").write_text("".join(f"{image.stem}\n" for image in images))
        for label in CLASSES:
            lines = [f"{image.stem} {_presence(image, label):2d}\n" for image in images]
            (folder / f"{label}_{name}.txt").write_text("".join(lines))


def _presence(image: AnnotatedImage, label: str) -> int:
    if label in image.easy:
        return 1
    return 0 if label in image.difficult else -1


def _visible_share(one: Painted, in_front: Sequence[Painted]) -> float:
    """Share of a box that no box in front covers, at least (overlaps among those are counted twice)."""
    x1, y1, x2, y2 = one.box_xyxy
    covered = 0
    for other in in_front:
        a1, b1, a2, b2 = other.box_xyxy
        covered += max(0, min(x2, a2) - max(x1, a1) + 1) * max(0, min(y2, b2) - max(y1, b1) + 1)
    return 1 - covered / ((x2 - x1 + 1) * (y2 - y1 + 1))


def _add(parent: ElementTree.Element, children: Mapping[str, str | int]) -> None:
    for tag, value in children.items():
        ElementTree.SubElement(parent, tag).text = str(value)
