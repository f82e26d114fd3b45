"""The ten classes of the generated data set, as polygons within a circle of radius 1.

Points are rows (x, y), y downwards. A shape is a sequence of polygons painted over each other, filled
with 255 (shape) or 0 (hole).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

Points = np.ndarray[tuple[int, int], np.dtype[np.float64]]
Outline = Sequence[tuple[Points, int]]


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
