"""Paint a scene: one or more shapes, deformed, somewhere on a cluttered background.

Shapes are brighter than what is around them, which lets small networks learn them from few images; but
neither position, size, colour nor brightness tells the class, only the outline does. All lengths are
in pixels of the finished scene, unless said; painting happens on a canvas twice as large, so that edges
are smooth. Points are rows (x, y).
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

_OVERSAMPLING = 2
_BACKGROUND_RANGE = (0, 110)  # grey levels of each colour, of gradients and patches
_CLUTTER_RANGE = (0, 140)  # the same of strokes and blobs
_MIN_CONTRAST = 90  # of a shape's brightness above what it covers, at least above _DARK, grey levels
_DARK = 60
_BRIGHT = 220  # and never asked to be brighter than this
_PATCH_DEVIATION = (5.0, 15.0)  # of the patches on the background's gradient, grey levels
_NOISE_DEVIATION = (2.0, 10.0)  # of the noise on every pixel, grey levels
_NUM_STROKES = (1, 3)
_NUM_BLOBS = (1, 2)
_BLOB_RADIUS = (0.05, 0.14)  # over the scene's short side
_MAX_TURN = 25  # degrees, either way
Points = np.ndarray[tuple[int, int], np.dtype[np.float64]]
Outline = Sequence[tuple[Points, int]]  # polygons over each other, filled with 255 (shape) or 0 (hole)


class Placement(NamedTuple):
    """Where a shape is to stand: its centre and its radius, pixels."""

    name: str
    x: float
    y: float
    radius: float


class Painted(NamedTuple):
    """A shape as it came out: its box, 0-based, inclusive ends."""

    name: str
    box_xyxy: tuple[int, int, int, int]


def paint_scene(
    size: tuple[int, int], placements: Sequence[Placement], random: np.random.Generator
) -> tuple[Image.Image, list[Painted]]:
    """Paint shapes on a new background, the last one in front.

    Args:
        size: Width and height, pixels.
        placements: What stands where.
        random: Source of everything else.
    """
    width, height = size
    canvas = _smooth_colours((width * _OVERSAMPLING, height * _OVERSAMPLING), random)
    _paint_clutter(canvas, random)
    painted = [_paint_shape(canvas, placement, random) for placement in placements]
    pixels = np.asarray(canvas.reduce(_OVERSAMPLING), dtype=np.float32)
    noise = random.standard_normal(pixels.shape, dtype=np.float32) * random.uniform(*_NOISE_DEVIATION)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)), painted


def _smooth_colours(size: tuple[int, int], random: np.random.Generator) -> Image.Image:
    """A gradient between random colours, with patches of other colours on it."""
    rows, columns = random.integers(3, 14, size=2)
    low, high = _BACKGROUND_RANGE
    corners = Image.fromarray(random.integers(low, high, (2, 2, 3), dtype=np.uint8))
    gradient = np.asarray(
        corners.resize((int(columns), int(rows)), Image.Resampling.BILINEAR), dtype=np.float32
    )
    patches = random.standard_normal(gradient.shape) * random.uniform(*_PATCH_DEVIATION)
    grid = np.clip(gradient + patches, low, high).astype(np.uint8)
    return Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC)


def _paint_clutter(canvas: Image.Image, random: np.random.Generator) -> None:
    """Strokes and elongated blobs, which are shapes of no class."""
    draw = ImageDraw.Draw(canvas)
    extent = np.array(canvas.size)
    for _ in range(random.integers(*_NUM_STROKES, endpoint=True)):
        points = random.uniform(-0.1, 1.1, (3, 2)) * extent
        draw.line(
            _flat(points),
            fill=_random_colour(random, limits=_CLUTTER_RANGE),
            width=int(random.integers(2, 9)),
            joint="curve",
        )
    for _ in range(random.integers(*_NUM_BLOBS, endpoint=True)):
        angles = np.linspace(0, 2 * math.pi, 40, endpoint=False)
        radii = 1 + sum(0.22 * np.cos(k * angles + random.uniform(0, 2 * math.pi)) for k in (2, 3, 5))
        blob = np.stack([np.cos(angles) * radii, np.sin(angles) * radii * random.uniform(0.3, 0.5)], axis=1)
        radius = random.uniform(*_BLOB_RADIUS) * extent.min()
        turned = blob @ _rotation(random.uniform(0, 2 * math.pi)).T * radius
        draw.polygon(
            _flat(turned + random.uniform(0, 1, 2) * extent),
            fill=_random_colour(random, limits=_CLUTTER_RANGE),
        )


def _paint_shape(canvas: Image.Image, placement: Placement, random: np.random.Generator) -> Painted:
    """Paint one shape in a colour that stands out, and measure it."""
    deform = _random_deformation(random)
    centre = np.array([placement.x, placement.y]) * _OVERSAMPLING
    parts = [
        (deform(points) * placement.radius * _OVERSAMPLING + centre, fill)
        for points, fill in OUTLINES[placement.name]
    ]
    # The patch starts at a whole pixel of the finished scene.
    left, top = np.floor(parts[0][0].min(axis=0) / _OVERSAMPLING).astype(int)
    right, bottom = np.ceil(parts[0][0].max(axis=0) / _OVERSAMPLING).astype(int) + 1
    corner = np.array([left, top]) * _OVERSAMPLING
    mask = Image.new("L", ((right - left) * _OVERSAMPLING, (bottom - top) * _OVERSAMPLING))
    draw = ImageDraw.Draw(mask)
    for points, fill in parts:
        draw.polygon(_flat(points - corner), fill=fill)
    covered = canvas.crop((*corner, *(corner + mask.size))).resize((1, 1), Image.Resampling.BOX)
    canvas.paste(_contrasting_colour(np.array(covered)[0, 0], random), (int(corner[0]), int(corner[1])), mask)
    seen = mask.reduce(_OVERSAMPLING).point(lambda value: 255 * (value > 127))
    x1, y1, x2, y2 = seen.getbbox() or (0, 0, 1, 1)
    box = (int(left) + x1, int(top) + y1, int(left) + x2 - 1, int(top) + y2 - 1)
    return Painted(placement.name, box)


class _Deformation(NamedTuple):
    """Turn, shear and stretch by `matrix`, then push points along slow waves."""

    matrix: Points
    waves: Points  # rows: direction x, direction y, phase
    pushes: Points  # rows: where each wave pushes

    def __call__(self, points: Points) -> Points:
        moved = points @ self.matrix.T
        heights = np.sin(moved @ self.waves[:, :2].T + self.waves[:, 2])
        return moved + heights @ self.pushes


def _random_deformation(random: np.random.Generator) -> _Deformation:
    """Any small shear, stretch and bend; turned a little."""
    turn = _rotation(math.radians(random.uniform(-_MAX_TURN, _MAX_TURN)))
    shear = np.array([[1.0, random.uniform(-0.2, 0.2)], [0.0, random.uniform(0.8, 1.0)]])
    waves = np.concatenate([random.uniform(-3, 3, (2, 2)), random.uniform(0, 2 * math.pi, (2, 1))], axis=1)
    matrix = turn @ shear
    # Within a circle of radius 1, whatever the draw: a placed shape never leaves its place.
    pushes = random.uniform(-0.05, 0.05, (2, 2))
    longest = float(np.linalg.norm(matrix, 2) + np.abs(pushes).sum())
    return _Deformation(matrix / longest, waves, pushes / longest)


def _rotation(angle: float) -> Points:
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[cosine, -sine], [sine, cosine]])


def _random_colour(random: np.random.Generator, *, limits: tuple[int, int]) -> tuple[int, int, int]:
    red, green, blue = random.integers(*limits, 3).tolist()
    return red, green, blue


def _contrasting_colour(
    covered: np.ndarray[tuple[int], np.dtype[np.uint8]], random: np.random.Generator
) -> tuple[int, int, int]:
    """A random colour clearly brighter than the mean colour that it covers."""
    weights = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's grey
    # What is covered may be another shape, brighter than any colour could outdo.
    wanted = min(max(float(weights @ covered), _DARK) + _MIN_CONTRAST, _BRIGHT)
    while True:
        colour = _random_colour(random, limits=(0, 256))
        if weights @ colour >= wanted:
            return colour


def _flat(points: Points) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points]


def _regular(num_corners: int, *, radii: Sequence[float] = (1.0,), start: float = -math.pi / 2) -> Points:
    """Corners at equal angles from `start`, at the radii in turn."""
    angles = start + np.arange(num_corners) * 2 * math.pi / num_corners
    lengths = np.resize(np.asarray(radii), num_corners)
    return np.stack([np.cos(angles) * lengths, np.sin(angles) * lengths], axis=1)


def _subdivide(corners: Points, pieces: int = 10) -> Points:
    """Insert points on the edges, so that a deformation can bend them."""
    steps = np.arange(pieces)[:, None] / pieces
    edges = zip(corners, np.roll(corners, -1, axis=0), strict=True)
    return np.concatenate([first + steps * (second - first) for first, second in edges])


def _heart() -> Points:
    """The usual curve 16 sin^3 t, 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, scaled into the circle."""
    t = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y - 2.5], axis=1) / 18.5


def _cross(half: float) -> Points:
    """A plus sign whose bars are 2 * `half` wide."""
    reach = math.sqrt(1 - half**2)
    quarter = np.array([[half, -reach], [half, -half], [reach, -half]])
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


_CIRCLE = _regular(60)
_ARROW = np.array(
    [[0.0, -1.0], [0.72, -0.15], [0.26, -0.15], [0.26, 0.95], [-0.26, 0.95], [-0.26, -0.15], [-0.72, -0.15]]
)

# The ten classes, within a circle of radius 1, y downwards.
OUTLINES: Mapping[str, Outline] = {
    "arrow": [(_subdivide(_ARROW), 255)],
    "circle": [(_CIRCLE, 255)],
    "crescent": [(_CIRCLE, 255), (_CIRCLE * 0.85 + np.array([0.5, 0.0]), 0)],
    "cross": [(_subdivide(_cross(0.3)), 255)],
    "heart": [(_heart(), 255)],
    "hexagon": [(_subdivide(_regular(6)), 255)],
    "ring": [(_CIRCLE, 255), (_CIRCLE * 0.55, 0)],
    "square": [(_subdivide(_regular(4, start=math.pi / 4)), 255)],
    "star": [(_subdivide(_regular(10, radii=(1.0, 0.42))), 255)],
    "triangle": [(_subdivide(_regular(3)), 255)],
}
CLASSES = tuple(sorted(OUTLINES))
