"""One annotation of the VOC devkit's layout: XML from anywhere, so nothing in it is believed.

The files count pixels from 1 and both ends belong to a box; here pixels count from 0.
"""

import codecs
import math
import re
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree
from xml.parsers import expat

from sppnet.artifacts import regular
from sppnet.errors import DataError

# VOC's own have some kilobytes and a depth of 5 (a corner of the box of a part of an object).
_MAX_BYTES = 1 << 20
_MAX_DEPTH = 64
# Control characters, ends of lines, and what turns the direction of text: nothing that a terminal would obey.
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LONGEST_NAME = 200
_DECLARED = re.compile(rb"<\?xml[^>]*?\sencoding\s*=\s*[\"']([\w.:-]+)[\"']")
_INVALID_TOKEN = expat.errors.codes[expat.errors.XML_ERROR_INVALID_TOKEN]
_DIFFICULT = {
    **dict.fromkeys(("", "0", "0.0", "false", "no", "unspecified", "unknown"), False),
    **dict.fromkeys(("1", "1.0", "true", "yes"), True),
}

Box = tuple[float, float, float, float]


class AnnotatedObject(NamedTuple):
    """An object as its annotation describes it."""

    name: str
    box_xyxy: Box  # 0-based pixels, both ends belong to the box
    is_difficult: bool
    subcategory: str | None  # finer than the name, where a data set has it (ILSVRC DET's leaves, §4.5)


class Annotation(NamedTuple):
    """What the XML file of an image says."""

    width: int
    height: int
    objects: tuple[AnnotatedObject, ...]
    num_clipped: int  # boxes that reached up to one pixel outside the image


def read_annotation(path: Path) -> Annotation:
    """Read an image's size and objects, and subtract VOC's 1 from the boxes.

    A box that reaches at most one pixel outside the image is clipped and counted; that is how tools that
    count from 0 write a box at the left border. A missing `difficult` means 0. No object is no problem.

    Args:
        path: A file in `Annotations`; UTF-8, UTF-16, Latin-1 or what its first line declares.

    Raises:
        DataError: Missing, no XML, more than 1 MiB, nested deeper than 64, with a document type; no image
            size; or objects without a name or a box, with a box that is inverted or further outside, with a
            `difficult` that says neither yes nor no. A line for each thing that is wrong.
    """
    try:
        root = _parse(path)
        width, height = (_read_size(root, side) for side in ("width", "height"))
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    objects: list[AnnotatedObject] = []
    problems: list[str] = []
    num_clipped = 0
    for number, entry in enumerate(root.findall("object"), start=1):
        try:
            box = _read_box(entry)
            clipped = _clip(box, width, height)
            name, finer = _read_name(entry, "name"), None
            if entry.find("subcategory") is not None:
                finer = _read_name(entry, "subcategory")
            objects.append(AnnotatedObject(name, clipped, _read_difficult(entry), finer))
            num_clipped += clipped != box
        except ValueError as error:
            problems.append(f"{path}: object {number}: {error}")
    if problems:
        raise DataError("\n".join(problems))
    return Annotation(width, height, tuple(objects), num_clipped)


def _parse(path: Path) -> ElementTree.Element:
    """Parse with the limits above; without a document type there are no entities to expand or to fetch."""
    try:
        with regular(path).open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror or error})") from error
    if len(content) > _MAX_BYTES:
        raise ValueError(f"more than {_MAX_BYTES} bytes; an annotation has a few thousand")
    builder = ElementTree.TreeBuilder()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise ValueError(f"elements nested deeper than {_MAX_DEPTH}")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse_doctype(*_: object) -> None:
        raise ValueError("has a document type (<!DOCTYPE ...>), which no annotation needs; remove it")

    content = content.lstrip(b" \t\r\n")
    declared = _DECLARED.match(content)
    try:
        if declared:  # Python knows more encodings than expat
            content = content.decode(declared[1].decode()).encode()
    except (LookupError, ValueError) as error:
        raise ValueError(
            f"not readable as XML in the encoding it declares ({error}); save it as UTF-8"
        ) from error
    parser = expat.ParserCreate("utf-8" if declared else None)
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse_doctype
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        if error.code == _INVALID_TOKEN and not declared and not _is_unicode(content):
            raise ValueError(
                "not readable as XML: no UTF-8, nothing else declared; save it as UTF-8"
            ) from error
        raise ValueError(
            f"not readable as XML ({error}); mend that line (& is written &amp;, < is &lt;) or copy it again"
        ) from error
    root = builder.close()
    if root.tag != "annotation":
        raise ValueError(f"<{root.tag[:40]}> instead of <annotation>: not an annotation of VOC's format")
    return root


def _is_unicode(content: bytes) -> bool:
    try:
        content.decode("utf-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8")
    except UnicodeError:
        return False
    return True


def _read_size(root: ElementTree.Element, side: str) -> int:
    text = (root.findtext(f"size/{side}") or "").strip()
    if not re.fullmatch(r"[0-9]{1,7}", text) or int(text) == 0:
        raise ValueError(f"size/{side} is {_show(text)}, expected the image's {side} in pixels")
    return int(text)


def _read_name(entry: ElementTree.Element, tag: str) -> str:
    name = (entry.findtext(tag) or "").strip()
    if not name or len(name) > _LONGEST_NAME or UNSAFE.search(name):
        raise ValueError(
            f"{tag} is {_show(name)}, expected a class: up to {_LONGEST_NAME} visible characters"
        )
    return name


def _read_difficult(entry: ElementTree.Element) -> bool:
    text = (entry.findtext("difficult") or "").strip()
    if text.lower() not in _DIFFICULT:
        raise ValueError(f"difficult is {_show(text)}, expected 0 or 1")
    return _DIFFICULT[text.lower()]


def _read_box(entry: ElementTree.Element) -> Box:
    x1, y1, x2, y2 = (_read_corner(entry, corner) - 1 for corner in ("xmin", "ymin", "xmax", "ymax"))
    return x1, y1, x2, y2


def _read_corner(entry: ElementTree.Element, corner: str) -> float:
    text = (entry.findtext(f"bndbox/{corner}") or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"bndbox/{corner} is {_show(text)}, expected a number")
    return value


def _clip(box: Box, width: int, height: int) -> Box:
    """Clip what is up to one pixel outside; refuse what is further out or inverted (one pixel: x1 = x2)."""
    x1, y1, x2, y2 = box
    shown = f"box {x1 + 1:g} {y1 + 1:g} {x2 + 1:g} {y2 + 1:g}"
    if min(x1, y1) < -1 or x2 > width or y2 > height:
        raise ValueError(f"{shown} is more than a pixel outside the image of {width} x {height}")
    clipped = max(x1, 0.0), max(y1, 0.0), min(x2, width - 1.0), min(y2, height - 1.0)
    if clipped[2] < clipped[0] or clipped[3] < clipped[1]:
        raise ValueError(f"{shown} is empty or inverted; expected xmin <= xmax and ymin <= ymax")
    return clipped


def _show(text: str) -> str:
    """Foreign text for a message: short, and with nothing in it that a terminal would obey."""
    return repr(text[:40]) if text else "missing"
