"""What every source does with the boxes it has found.

Axes: n boxes.
"""

import hashlib

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor


def rects_to_boxes(rects: Int[np.ndarray, "n 4"]) -> Float[Tensor, "n 4"]:
    """Turn OpenCV's x y width height into x1 y1 x2 y2 with both ends inside."""
    first, size = rects[:, :2], rects[:, 2:]
    return torch.from_numpy(np.concatenate([first, first + size - 1], axis=1).astype(np.float32))


def keep_windows(
    boxes: Float[Tensor, "n 4"], *, min_side: int, max_proposals: int
) -> Float[Tensor, "kept 4"]:
    """Drop duplicates (the first stays), boxes with a side under `min_side` pixels, and the surplus."""
    _, first = np.unique(boxes.numpy(), axis=0, return_index=True)
    boxes = boxes[torch.from_numpy(np.sort(first))]
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    return boxes[sides.amin(dim=1) >= min_side][:max_proposals]


def seed_of(image: Image.Image, seed: int) -> int:
    """A seed in [0, 2^63) that an image's pixels and `seed` decide."""
    digest = hashlib.blake2b(image.tobytes(), digest_size=8, salt=seed.to_bytes(8, "big")).digest()
    return int.from_bytes(digest, "big") >> 1
