"""Detections drawn into their picture, as in the paper's Fig. 6, and many pictures on one sheet.

The authors draw all windows with a score above 0, each in the colour of its class, with the class and the
score at its upper left corner. Boxes are x1 y1 x2 y2, 0-based inclusive pixels of the picture.
"""

import colorsys
import hashlib
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple, final

from PIL import Image, ImageDraw

from sppnet.errors import ConfigError
from sppnet.figures.labels import Corners, Label, Rgb, draw_labels
from sppnet.metrics.detection_ap import Detections, Truth

# Hues round the circle, three shades in turn: of 24 such colours the two most alike differ by 21 (CIE
# 1976, where 2.3 is just noticeable); hues alone come to 5, the palettes of 20 in use elsewhere to 17.
_NUM_COLOURS = 24
_SHADES = ((1.0, 1.0), (0.55, 1.0), (1.0, 0.55))  # saturation, value
_LINE = 220  # the picture's long side is so many line widths: 2 pixels of VOC's 500
_DASH = 4  # line widths


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
    truth: Truth | None = None,
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
        Label(f"{one.name}: {one.score:.2f}", _corners(one.box_xyxy, picture.size), colours[one.name])
        for one in name_detections(detections, classes, score_above=show_above)
    ]
    for label in reversed(labels):
        drawing.rectangle(label.box, outline=label.colour, width=width)
    draw_labels(drawing, labels, picture.size)
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
