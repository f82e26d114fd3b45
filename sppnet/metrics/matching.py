"""Detections of a class against the objects of that class, in all images at once (devkit: VOCevaldet.m).

Axes: n detections, best score first; m objects, image by image; i images.

A detection is compared with the object of its image that it overlaps most, be that one found already or
not. So no detection has to wait for another's choice: of those that chose the same object, the first is
right.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Int8
from torch import Tensor

from sppnet.ops.boxes import require_boxes, require_tensors


class Ranked(NamedTuple):
    """A class's detections, best score first."""

    images: Int[np.ndarray, " n"]  # numbers from 0 on
    rows: Int[np.ndarray, " n"]  # where their boxes are; few of these are ever needed
    boxes_xyxy: Float32[np.ndarray, "all 4"]  # of all classes, inclusive pixels


class Objects(NamedTuple):
    """A class's objects, image by image."""

    images: Int[np.ndarray, " m"]
    boxes_xyxy: Float32[np.ndarray, "m 4"]
    is_difficult: Bool[np.ndarray, " m"]


def require_columns(boxes: Tensor, *columns: Tensor, name: str) -> None:
    """Refuse columns that are not one value a box.

    Raises:
        TypeError: They are no tensors.
        ValueError: They are not; the message calls a box `name`.
    """
    require_tensors(boxes, *columns)
    if boxes.shape[1:] != (4,) or any(column.shape != boxes.shape[:1] for column in columns):
        shapes = [tuple(column.shape) for column in (boxes, *columns)]
        raise ValueError(f"boxes, and what is said of each {name}, have shapes {shapes}: expected n x 4, n")


def require_objects(boxes: Tensor, is_difficult: Tensor, *columns: Tensor) -> None:
    """Refuse objects that are not boxes with a flag each.

    Raises:
        ValueError: Numbers differ, a box is inverted or not finite, or a flag is neither bool nor 0 or 1.
    """
    require_columns(boxes, is_difficult, *columns, name="object")
    require_boxes(boxes, "object")
    if not ((is_difficult == 0) | (is_difficult == 1)).all():
        raise ValueError("is_difficult is neither bool nor 0 and 1")


def judge_detections(ranked: Ranked, objects: Objects, min_overlap: float) -> Int8[np.ndarray, " n"]:
    """Find out which detections are right.

    Args:
        ranked: What was found.
        objects: What there is.
        min_overlap: Least intersection over union of a detection that has found its object.

    Returns:
        +1 for the first that found an object, 0 for all that found a difficult one, -1 for the others.
    """
    num_images = 1 + max(ranked.images.max(initial=0), objects.images.max(initial=0))
    num_objects = np.bincount(objects.images, minlength=num_images)
    outcomes = np.full(len(ranked.images), -1, dtype=np.int8)
    near = np.flatnonzero(num_objects[ranked.images])  # the others are where no object of the class is
    boxes = ranked.boxes_xyxy[ranked.rows[near]]
    overlaps, chosen = _choose(boxes, ranked.images[near], objects.boxes_xyxy, num_objects)
    found = overlaps >= min_overlap
    near, chosen = near[found], chosen[found]
    is_difficult = objects.is_difficult[chosen]
    outcomes[near[is_difficult]] = 0
    firsts = np.unique(chosen[~is_difficult], return_index=True)[1]
    outcomes[near[~is_difficult][firsts]] = 1
    return outcomes


def _choose(
    boxes: Float32[np.ndarray, "n 4"],
    images: Int[np.ndarray, " n"],
    objects: Float32[np.ndarray, "m 4"],
    num_objects: Int[np.ndarray, " i"],
) -> tuple[Float64[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Return every detection's largest overlap with an object, and the first object that has it."""
    best = np.full(len(images), -np.inf)
    first = (np.cumsum(num_objects) - num_objects)[images]
    count = num_objects[images]
    chosen = first.copy()
    # The first object of every image, then the second where there is one, and so on.
    for number in range(count.max(initial=0)):
        rivals = np.flatnonzero(count > number)
        candidates = first[rivals] + number
        overlaps = _overlap(boxes[rivals], objects[candidates])
        better = overlaps > best[rivals]
        best[rivals[better]] = overlaps[better]
        chosen[rivals[better]] = candidates[better]
    return best, chosen


def _overlap(
    boxes: Float32[np.ndarray, "n 4"], others: Float32[np.ndarray, "n 4"]
) -> Float64[np.ndarray, " n"]:
    """Intersection over union of pairs of boxes; a box from 3 to 5 is 3 pixels wide.

    In double precision as the devkit's, so that an overlap of exactly one half is found.
    """
    ours, theirs = boxes.T.astype(np.float64), others.T.astype(np.float64)
    width = np.minimum(ours[2], theirs[2]) - np.maximum(ours[0], theirs[0]) + 1
    height = np.minimum(ours[3], theirs[3]) - np.maximum(ours[1], theirs[1]) + 1
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (ours, theirs)]
    overlap: Float64[np.ndarray, " n"] = shared / (areas[0] + areas[1] - shared)
    return overlap
