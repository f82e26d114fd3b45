"""Boxes and windows: overlap, clipping, mirroring, duplicates, offsets of box regression (paper §4.1).

A box is x1 y1 x2 y2, 0-based pixels, both ends inside: one pixel is x1 = x2, and a width is x2 - x1 + 1
wherever VOC counts. Box regression alone measures x2 - x1, as R-CNN's code does.

Axes: n m boxes.
"""

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

# Keeps the size of a box of one pixel from being zero (MATLAB's eps, in R-CNN's code).
_EPS = torch.finfo(torch.float64).eps


def iou(a: Real[Tensor, "n 4"], b: Real[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """Intersection over union of every pair, both ends of a box counted (VOCdevkit, VOCevaldet.m).

    In float64: at whole pixels a ratio such as 3/10 then equals the literal it is compared with.

    Raises:
        TypeError: They are no tensors.
        ValueError: They are not n x 4 numbers, or one is inverted or not finite.
    """
    require_boxes(a, "box")
    require_boxes(b, "box")
    a, b = a.double(), b.double()
    first = torch.maximum(a[:, None, :2], b[None, :, :2])
    last = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (last - first + 1).clamp(min=0).prod(dim=2)
    return shared / (_areas(a)[:, None] + _areas(b)[None, :] - shared)


def clip_boxes(boxes: Real[Tensor, "*n 4"], image_size: tuple[int, int]) -> Real[Tensor, "*n 4"]:
    """Move the ends that lie outside an image of height x width pixels to its first or last pixel."""
    height, width = image_size
    limits = torch.tensor([width - 1, height - 1, width - 1, height - 1], device=boxes.device)
    return boxes.clamp(min=0).minimum(limits)


def flip_boxes(boxes: Real[Tensor, "*n 4"], width: int) -> Real[Tensor, "*n 4"]:
    """Mirror boxes with an image of `width` pixels, left to right; whole numbers become int64."""
    x1, y1, x2, y2 = _wide(boxes).unbind(dim=-1)
    return torch.stack([width - 1 - x2, y1, width - 1 - x1, y2], dim=-1)


def encode_offsets(windows: Real[Tensor, "n 4"], truth: Real[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
    """Tell where the truth lies, seen from the window: what box regression learns to predict.

    Args:
        windows: Proposals.
        truth: The box each of them should become.

    Returns:
        dx, dy (the centre's move, in window sizes) and dw, dh (natural logarithms of the growth).

    Raises:
        ValueError: A box is inverted or not finite, or there are not as many of both.
    """
    require_boxes(windows, "window")
    require_boxes(truth, "truth")
    _require_equal(windows, truth)
    centre, size = _centre_and_size(windows)
    true_centre, true_size = _centre_and_size(truth)
    return torch.cat([(true_centre - centre) / size, (true_size / size).log()], dim=1)


def decode_offsets(windows: Float[Tensor, "n 4"], offsets: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
    """Move the windows by predicted offsets; the inverse of `encode_offsets`.

    Raises:
        ValueError: A window is inverted or not finite, or there are not as many offsets.
    """
    require_boxes(windows, "window")
    _require_equal(windows, offsets)
    centre, size = _centre_and_size(windows)
    centre = centre + offsets[:, :2] * size
    half = offsets[:, 2:].exp() * size / 2
    return torch.cat([centre - half, centre + half], dim=1)


def require_boxes(boxes: Real[Tensor, "n 4"], name: str) -> None:
    """Refuse boxes that a division or a logarithm would turn into NaN.

    Raises:
        TypeError: They are no tensor.
        ValueError: A box is inverted, not finite or not of four numbers; the message calls it `name` and
            its position.
    """
    require_tensors(boxes)
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name}: shape {tuple(boxes.shape)}, expected n x 4, x1 y1 x2 y2")
    good = (boxes[:, :2] <= boxes[:, 2:]).all(dim=1) & boxes.isfinite().all(dim=1)
    if not good.all():
        index = int((~good).nonzero()[0])
        raise ValueError(
            f"{name} {index} is {boxes[index].tolist()}: expected finite x1 y1 x2 y2 with x1 <= x2 and "
            f"y1 <= y2; check where it comes from"
        )


def require_tensors(*values: object) -> None:
    """Refuse NumPy's arrays and lists where tensors are computed with.

    Raises:
        TypeError: Says what was given.
    """
    for value in values:
        if not isinstance(value, Tensor):
            raise TypeError(f"{type(value).__name__} where a tensor is needed: torch.as_tensor makes it one")


def whole(numbers: Tensor, kind: torch.dtype, name: str) -> Tensor:
    """Labels or ids as integers of a kind, if that is what they are.

    Raises:
        ValueError: One is no whole number, or too large; the message calls them `name`.
    """
    found = numbers.to(kind)
    if not (found == numbers).all():
        wrong = numbers[found != numbers][0].item()
        raise ValueError(f"{name} hold {wrong}: expected whole numbers that fit into {kind}")
    return found


def _require_equal(windows: Tensor, others: Tensor) -> None:
    if windows.shape != others.shape:
        raise ValueError(f"{tuple(windows.shape)} windows and {tuple(others.shape)} beside: one a window")


def _wide(boxes: Tensor) -> Tensor:
    """Boxes as numbers whose differences do not overflow."""
    return boxes if boxes.is_floating_point() else boxes.long()


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2] + 1).prod(dim=1)


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    boxes = _wide(boxes)
    size = boxes[:, 2:] - boxes[:, :2] + _EPS
    return boxes[:, :2] + size / 2, size


def rects_to_boxes(rects: Int[np.ndarray, "n 4"]) -> Float[Tensor, "n 4"]:
    """Turn OpenCV's x y width height into x1 y1 x2 y2 with both ends inside."""
    first, size = rects[:, :2], rects[:, 2:]
    return torch.from_numpy(np.concatenate([first, first + size - 1], axis=1).astype(np.float32))


def keep_windows(boxes: Real[Tensor, "n 4"], *, min_side: int, max_proposals: int) -> Real[Tensor, "kept 4"]:
    """Drop duplicates (the first stays), boxes with a side under `min_side` pixels, and the surplus."""
    _, first = np.unique(boxes.double().numpy(), axis=0, return_index=True)
    boxes = boxes[torch.from_numpy(np.sort(first))]
    sides = _wide(boxes)[:, 2:] - boxes[:, :2] + 1
    return boxes[sides.amin(dim=1) >= min_side][:max_proposals]
