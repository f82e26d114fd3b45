"""Detections drawn into their picture, as in the paper's Fig. 6, and many pictures on one sheet.

The authors draw all windows with a score above 0, each in the colour of its class, with the class and the
score at its upper left corner. Boxes are x1 y1 x2 y2, 0-based inclusive pixels of the picture.

Axes: n labels already placed.
"""

import colorsys
import hashlib
import math
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Int
from PIL import Image, ImageDraw, ImageFont

from sppnet.data.window_labels import GroundTruth
from sppnet.errors import ConfigError
from sppnet.metrics.detection_ap import Detections

# Hues round the circle, three shades in turn: of 24 such colours the two most alike differ by 21 (CIE
# 1976, where 2.3 is just noticeable); hues alone come to 5, the palettes of 20 in use elsewhere to 17.
_NUM_COLOURS = 24
_SHADES = ((1.0, 1.0), (0.55, 1.0), (1.0, 0.55))  # saturation, value
_LINE = 220  # the picture's long side is so many line widths: 2 pixels of VOC's 500
_DASH = 4  # line widths
_TEXT = 38  # the picture's long side is so many text heights: 13 pixels of VOC's 500
_LEAST_USUAL_TEXT = 10  # pixels ...
_LEAST_TEXT = 6  # ... and where a label would be wider than the picture; less is not text any more
_BRIGHT = 140  # of 255; black text on brighter colours, white on the others

Rgb = tuple[int, int, int]
Corners = tuple[int, int, int, int]


@final
class _Label(NamedTuple):
    """What is to be written at a box."""

    text: str
    box: Corners
    colour: Rgb  # of the ground


@final
class NamedDetection(NamedTuple):
    """A detection in words."""

    name: str  # of the class
    score: float
    box_xyxy: tuple[float, float, float, float]


def name_detections(
    detections: Detections, classes: Sequence[str], *, score_above: float
) -> list[NamedDetection]:
    """List the detections whose score is above `score_above`, the best first.

    Args:
        detections: Of one picture, in any order.
        classes: Names of the labels.
        score_above: The paper shows those above 0 (Fig. 6).
    """
    columns = (detections.scores.tolist(), detections.labels.tolist(), detections.boxes_xyxy.tolist())
    found = [
        NamedDetection(classes[label], score, (x1, y1, x2, y2))
        for score, label, (x1, y1, x2, y2) in zip(*columns, strict=True)
        if score > score_above
    ]
    return sorted(found, key=lambda one: -one.score)


def class_colours(classes: Sequence[str]) -> dict[str, Rgb]:
    """Give every class a colour of its own.

    It follows from the name, so that a class keeps it from one detector to the next, save where two names
    would share it: then the one that comes later in the alphabet moves on. The order of `classes` is
    without effect.
    """
    num_colours = max(_NUM_COLOURS, len(set(classes)))
    taken: dict[int, str] = {}
    for name in sorted(set(classes)):
        first = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
        place = next(place % num_colours for place in count(first) if place % num_colours not in taken)
        taken[place] = name
    return {name: _colour(place, num_colours) for place, name in taken.items()}


def draw_detections(
    image: Image.Image,
    detections: Detections,
    classes: Sequence[str],
    *,
    show_above: float,
    truth: GroundTruth | None = None,
) -> Image.Image:
    """Draw boxes with class and score into a copy of a picture (Fig. 6).

    Better detections lie over worse ones. A label stands where it hides the fewest others, the better
    ones being placed first; lines and text grow with the picture.

    Args:
        image: The picture that the boxes refer to.
        detections: Of that picture, in any order.
        classes: Names of the labels.
        show_above: Those with a higher score are drawn; 0 in the paper.
        truth: Objects to be drawn too, in dashed lines of their class's colour.

    Returns:
        RGB, of the same size; the same pixels where there is nothing to draw.
    """
    picture = image.convert("RGB")
    drawing = ImageDraw.Draw(picture)
    width = max(1, round(max(picture.size) / _LINE))
    colours = class_colours(classes)
    if truth is not None:
        for box, label in zip(truth.boxes_xyxy.tolist(), truth.labels.tolist(), strict=True):
            _draw_dashed(drawing, _corners(box, picture.size), colours[classes[label]], width)
    labels = [
        _Label(f"{one.name}: {one.score:.2f}", _corners(one.box_xyxy, picture.size), colours[one.name])
        for one in name_detections(detections, classes, score_above=show_above)
    ]
    for label in reversed(labels):
        drawing.rectangle(label.box, outline=label.colour, width=width)
    _draw_labels(drawing, labels, picture.size)
    return picture


def contact_sheet(images: Sequence[Image.Image], *, columns: int, side: int) -> Image.Image:
    """Put pictures on one white sheet, row by row (Fig. 6).

    Args:
        images: One or more.
        columns: Pictures in a row.
        side: Pixels that a picture may be wide or high; larger ones are made smaller.

    Raises:
        ConfigError: No pictures, or a number below 1.
    """
    if not images or columns < 1 or side < 1:
        raise ConfigError(
            f"a sheet of {len(images)} pictures, columns={columns}, side={side}: all must be 1 or more"
        )
    gap = max(1, side // 50)
    small = [_shrink(image, side) for image in images]
    rows = [small[first : first + columns] for first in range(0, len(small), columns)]
    heights = [max(image.height for image in row) for row in rows]
    num_columns = min(columns, len(images))
    size = (num_columns * (side + gap) + gap, sum(heights) + gap * (len(rows) + 1))
    sheet = Image.new("RGB", size, "white")
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for column, image in enumerate(row):
            left = gap + column * (side + gap)
            sheet.paste(image, (left + (side - image.width) // 2, top + (height - image.height) // 2))
        top += height + gap
    return sheet


def _shrink(image: Image.Image, side: int) -> Image.Image:
    small = image.convert("RGB")
    small.thumbnail((side, side))
    return small


def _colour(place: int, num_colours: int) -> Rgb:
    saturation, value = _SHADES[place % len(_SHADES)]
    red, green, blue = colorsys.hsv_to_rgb(place / num_colours, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _corners(box_xyxy: Sequence[float], size: tuple[int, int]) -> Corners:
    """Whole pixels of the picture."""
    x1, y1, x2, y2 = (
        min(max(round(end), 0), side - 1) for end, side in zip(box_xyxy, (*size, *size), strict=True)
    )
    return x1, y1, max(x1, x2), max(y1, y2)


def _draw_dashed(drawing: ImageDraw.ImageDraw, corners: Corners, colour: Rgb, width: int) -> None:
    x1, y1, x2, y2 = corners
    dash, thick = _DASH * width, width - 1
    for start in range(x1, x2 + 1, 2 * dash):
        for y in (y1, max(y1, y2 - thick)):
            drawing.rectangle((start, y, min(start + dash - 1, x2), y + thick), fill=colour)
    for start in range(y1, y2 + 1, 2 * dash):
        for x in (x1, max(x1, x2 - thick)):
            drawing.rectangle((x, start, x + thick, min(start + dash - 1, y2)), fill=colour)


def _draw_labels(drawing: ImageDraw.ImageDraw, labels: Sequence[_Label], size: tuple[int, int]) -> None:
    """Write labels at their boxes.

    Each stands where, of eight places at its box, it hides the least of those before it; where that
    cannot be avoided, an earlier one lies over a later one.

    Args:
        drawing: Of the picture.
        labels: The most important first.
        size: Width and height of the picture; labels are moved into it.
    """
    if not labels:
        return
    font = _font(size, [label.text for label in labels])
    for label, corners in reversed(list(zip(labels, _place(labels, size, font), strict=True))):
        red, green, blue = label.colour
        is_bright = 0.299 * red + 0.587 * green + 0.114 * blue > _BRIGHT
        x, y = corners[:2]
        drawing.rectangle(corners, fill=label.colour)
        drawing.text((x + _margin(font), y), label.text, font=font, fill="black" if is_bright else "white")


def _font(size: tuple[int, int], texts: Sequence[str]) -> ImageFont.FreeTypeFont:
    """Text in proportion to the picture, smaller where the longest would not fit into its width."""
    height = max(_LEAST_USUAL_TEXT, round(max(size) / _TEXT))
    font = _font_of(height)
    widest = max(_label_size(text, font)[0] for text in texts)
    return font if widest <= size[0] else _font_of(max(_LEAST_TEXT, int(height * size[0] / widest)))


def _font_of(height: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(height)
    assert isinstance(font, ImageFont.FreeTypeFont)  # Pillow's wheels bring FreeType
    return font


def _label_size(text: str, font: ImageFont.FreeTypeFont) -> tuple[int, int]:
    """Width and height of a label, with its margin."""
    ascent, descent = font.getmetrics()
    return math.ceil(font.getlength(text)) + 2 * _margin(font), ascent + descent


def _margin(font: ImageFont.FreeTypeFont) -> int:
    return max(1, round(font.size / 5))


def _place(labels: Sequence[_Label], size: tuple[int, int], font: ImageFont.FreeTypeFont) -> list[Corners]:
    placed = np.zeros((0, 4), dtype=np.int64)
    for label in labels:
        places = _places(label.box, _label_size(label.text, font), size)
        placed = np.vstack([placed, places[_hidden(places, placed).argmin()]])
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in placed.tolist()]


def _places(box: Corners, label: tuple[int, int], size: tuple[int, int]) -> Int[np.ndarray, "8 4"]:
    """Where a label may stand, moved into the picture; above the box's upper left corner before all."""
    x1, y1, x2, y2 = box
    width, height = label
    right, bottom = x2 + 1 - width, y2 + 1 - height
    above, below = y1 - height, y2 + 1
    corners = np.array(
        [
            *((x1, above), (x1, y1), (right, above), (right, y1)),
            *((x1, bottom), (x1, below), (right, bottom), (right, below)),
        ]
    )
    room = np.maximum(np.array(size) - label, 0)
    corners = corners.clip(0, room)
    return np.hstack([corners, corners + label - 1])


def _hidden(places: Int[np.ndarray, "8 4"], placed: Int[np.ndarray, "n 4"]) -> Int[np.ndarray, "8"]:
    """How many pixels of labels already placed each place would hide."""
    upper = np.maximum(places[:, None, :2], placed[None, :, :2])
    lower = np.minimum(places[:, None, 2:], placed[None, :, 2:])
    return np.asarray((lower - upper + 1).clip(min=0).prod(axis=2).sum(axis=1))
