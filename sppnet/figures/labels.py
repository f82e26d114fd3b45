"""Labels of boxes: text in proportion to the picture, inside it, hiding each other as little as can be.

Axes: n labels already placed; rectangles are x1 y1 x2 y2, inclusive pixels.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Int
from PIL import ImageDraw, ImageFont

_TEXT = 38  # the picture's long side is so many text heights: 13 pixels of VOC's 500
_LEAST_USUAL_TEXT = 10  # pixels ...
_LEAST_TEXT = 6  # ... and where a label would be wider than the picture; less is not text any more
_BRIGHT = 140  # of 255; black text on brighter colours, white on the others

Rgb = tuple[int, int, int]
Corners = tuple[int, int, int, int]


@final
class Label(NamedTuple):
    """What is to be written at a box."""

    text: str
    box: Corners
    colour: Rgb  # of the ground


def draw_labels(drawing: ImageDraw.ImageDraw, labels: Sequence[Label], size: tuple[int, int]) -> None:
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


def _place(labels: Sequence[Label], size: tuple[int, int], font: ImageFont.FreeTypeFont) -> list[Corners]:
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
