"""Greedy suppression of detections that overlap a better one (paper §4.1: IoU of 30 %).

Areas count both ends of a box, as VOC and the authors' code do; `torchvision.ops.nms` does not.

Axes: n boxes, classes without the background.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from sppnet.errors import NonFiniteError
from sppnet.ops.boxes import require_boxes, require_tensors
from sppnet.ops.compiled import load_kernels


def suppress(
    boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], max_overlap: float
) -> Int[Tensor, " kept"]:
    """Keep the best box, drop all that overlap it by more than `max_overlap`, and so on with the rest.

    Computed in float64 on the processor, wherever the boxes are.

    Args:
        boxes: x1 y1 x2 y2, 0-based inclusive pixels.
        scores: Larger is better; of two as good, the one that stands first.
        max_overlap: Intersection over union, 0 to 1; a box that reaches it exactly is kept.

    Returns:
        Positions of the boxes kept, the best first.

    Raises:
        ValueError: A box is inverted or not finite, scores are not one a box, or `max_overlap` is out
            of range.
        NonFiniteError: A score is NaN.
    """
    require_boxes(boxes, "box")
    _require_scores(scores, max_overlap, (len(boxes),))
    kept = _greedy(_on_processor(boxes), _on_processor(scores), max_overlap)
    return torch.from_numpy(kept).to(boxes.device)


def suppress_per_class(
    boxes: Float[Tensor, "n *per_class 4"],
    scores: Float[Tensor, "n classes"],
    *,
    score_above: float,
    max_overlap: float,
) -> list[Int[Tensor, " kept"]]:
    """Suppress every class by itself, after dropping what scores too low to matter.

    Args:
        boxes: x1 y1 x2 y2, the same for all classes, or `n classes 4` where each class has moved them.
        scores: One column per class.
        score_above: Only boxes that score more are looked at (-1.5 in the authors' spp_test.m).
        max_overlap: As for `suppress`.

    Returns:
        For every class the rows kept, the best first.

    Raises:
        ValueError: A box is inverted or not finite, `max_overlap` is out of range, or `score_above` NaN.
        NonFiniteError: A score is NaN.
    """
    require_tensors(boxes, scores)
    require_boxes(boxes.flatten(0, -2), "box")
    columns = boxes.shape[1] if boxes.dim() == 3 else scores.shape[1] if scores.dim() == 2 else "classes"
    _require_scores(scores, max_overlap, (len(boxes), columns))
    if math.isnan(score_above):
        raise ValueError("score_above is NaN: no score is above it")
    numbers, places = _on_processor(scores), _on_processor(boxes)
    results = []
    for label in range(scores.shape[1]):
        rows = np.flatnonzero(numbers[:, label] > score_above)
        of_class = places[rows] if boxes.dim() == 2 else places[rows, label]
        kept = rows[_greedy(of_class, numbers[rows, label], max_overlap)]
        results.append(torch.from_numpy(kept).to(boxes.device))
    return results


def _greedy(boxes: NDArray[np.float64], scores: NDArray[np.float64], max_overlap: float) -> NDArray[np.int64]:
    order = np.argsort(-scores, kind="stable")
    sides = np.ascontiguousarray(boxes[order].T)
    kept = np.empty(len(order), dtype=np.int64)
    kernels = load_kernels()
    count = (kernels.keep_greedily if kernels else _keep_greedily)(sides, max_overlap, kept)
    result: NDArray[np.int64] = order[kept[:count]]
    return result


def _keep_greedily(sides: NDArray[np.float64], max_overlap: float, kept: NDArray[np.int64]) -> int:
    """Do what the kernel of this name does, one kept box at a time."""
    x1, y1, x2, y2 = sides
    areas = (x2 - x1 + 1) * (y2 - y1 + 1)
    left = np.arange(len(x1))
    count = 0
    while len(left):
        best, left = left[0], left[1:]
        kept[count] = best
        count += 1
        width = np.minimum(x2[best], x2[left]) - np.maximum(x1[best], x1[left]) + 1
        height = np.minimum(y2[best], y2[left]) - np.maximum(y1[best], y1[left]) + 1
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        left = left[shared / (areas[best] + areas[left] - shared) <= max_overlap]
    return count


def _on_processor(numbers: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = numbers.detach().cpu().double().numpy()
    return array


def _require_scores(scores: Tensor, max_overlap: float, shape: tuple[int | str, ...]) -> None:
    require_tensors(scores)
    if scores.shape != shape:
        expected = " x ".join(map(str, shape))
        raise ValueError(f"scores of shape {tuple(scores.shape)}: expected {expected}, as there are boxes")
    if not 0 <= max_overlap <= 1:
        raise ValueError(f"max_overlap={max_overlap}: expected an intersection over union from 0 to 1")
    if scores.isnan().any():
        raise NonFiniteError(
            f"{int(scores.isnan().sum())} of {scores.numel()} scores are NaN; check the features and scorer"
        )
