"""Average precision of detections (paper §4; devkit: VOCevaldet.m).

Axes: n detections and m objects of an image (or of all), i images, k classes.
"""

import operator
from typing import Literal, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int, Int8
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from sppnet.data.window_labels import GroundTruth
from sppnet.errors import ConfigError, DataError, NonFiniteError
from sppnet.metrics.average_precision import (
    OfEveryClass,
    PrecisionRecall,
    area_ap,
    best_first,
    eleven_point_ap,
    real,
    require_classes,
    trace_curve,
)
from sppnet.metrics.matching import Objects, Ranked, judge_detections, require_columns, require_objects
from sppnet.metrics.replicates import eleven_point_aps
from sppnet.ops.boxes import whole

# Type and width of every state; a row of `images` is an image's number and how many rows are its own.
_EMPTY = {
    "images": torch.empty(0, 3, dtype=torch.long),
    "boxes_xyxy": torch.empty(0, 4),
    "scores": torch.empty(0, dtype=torch.float64),
    "labels": torch.empty(0, dtype=torch.int32),
    "truth_boxes_xyxy": torch.empty(0, 4),
    "truth_labels": torch.empty(0, dtype=torch.int32),
    "truth_is_difficult": torch.empty(0, dtype=torch.uint8),
}
# A slice of everything copies nothing.
_Rows = Int[np.ndarray, "_"] | slice
_AREAS = {"11point": eleven_point_ap, "area": area_ap}


class Detections(NamedTuple):
    """What was found in an image, after suppression."""

    boxes_xyxy: Float[Tensor, "n 4"]  # 0-based pixels, both ends belong to the box
    scores: Float[Tensor, " n"]
    labels: Int[Tensor, " n"]


class _Found(NamedTuple):
    """The detections of all images, image by image."""

    images: Int[np.ndarray, " n"]  # positions among the images
    boxes_xyxy: Float32[np.ndarray, "n 4"]
    scores: Float64[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]


@final
class VocDetectionAP(OfEveryClass):
    """AP of every class by the rules of the VOC devkit.

    Per class, detections go by descending score; equal scores by image number, then in their order. One
    whose best object overlaps by at least `min_overlap` is right the first time the object is met, wrong
    after that, and not counted if the object is difficult; the others are wrong.

    Args:
        num_classes: k; labels are 0 to k - 1.
        min_overlap: Intersection over union that counts as found, in (0, 1]; 0.5 in the paper.
        interpolation: "11point" (VOC 2007, the paper's) or "area" (VOC 2010 and later).

    Raises:
        ConfigError: One of these is something else.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    images: list[Tensor]
    boxes_xyxy: list[Tensor]
    scores: list[Tensor]
    labels: list[Tensor]
    truth_boxes_xyxy: list[Tensor]
    truth_labels: list[Tensor]
    truth_is_difficult: list[Tensor]

    def __init__(
        self, *, num_classes: int, min_overlap: float, interpolation: Literal["11point", "area"]
    ) -> None:
        super().__init__()
        if interpolation not in _AREAS:
            raise ConfigError(f"interpolation={interpolation!r}: expected {' or '.join(_AREAS)}")
        if not 0 < min_overlap <= 1:
            raise ConfigError(f"min_overlap={min_overlap} must be above 0 and at most 1")
        self.num_classes = require_classes(num_classes)
        self.min_overlap = min_overlap
        self.interpolation = interpolation
        for name in _EMPTY:
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.reset()

    def reset(self) -> None:
        """Forget everything seen."""
        super().reset()
        # A rank that never sees an image takes part in the gathering: its tensors need type and width.
        for name, empty in _EMPTY.items():
            getattr(self, name).append(empty.to(self.device))

    def update(self, image: int, detections: Detections, truth: GroundTruth) -> None:
        """Take an image.

        Args:
            image: Its number in the image set. When it comes again (samplers repeat images so that ranks
                get equally many), the first time counts.
            detections: All that was found in it.
            truth: All that there is.

        Raises:
            TypeError: They are no tensors, or `image` is no integer.
            ValueError: Boxes, scores, labels or flags of unequal number, flags other than 0 and 1, labels
                that are no whole numbers, or an object whose box is none.
        """
        if not hasattr(image, "__index__"):
            raise TypeError(f"image={image!r}: expected its number in the image set, an integer")
        require_columns(*detections, name="detection")
        require_objects(truth.boxes_xyxy, truth.is_difficult, truth.labels)
        counts = [[operator.index(image), len(detections.scores), len(truth.labels)]]
        self.images.append(torch.tensor(counts, device=self.device))
        self.boxes_xyxy.append(detections.boxes_xyxy.detach().float())
        self.scores.append(real(detections.scores))
        self.labels.append(whole(detections.labels, torch.int32, "labels of detections"))
        self.truth_boxes_xyxy.append(truth.boxes_xyxy.float())
        self.truth_labels.append(whole(truth.labels, torch.int32, "labels of objects"))
        self.truth_is_difficult.append(truth.is_difficult.to(torch.uint8))

    def compute(self) -> Float64[Tensor, " k"]:
        """AP of every class, a fraction; NaN for a class without an object that counts.

        Raises:
            DataError: A label outside the classes, or an image that came again with other detections.
            NonFiniteError: A score is NaN, or a box is NaN or infinite.
            ValueError: A box is inverted.
        """
        area = _AREAS[self.interpolation]
        return torch.tensor([area(curve) for curve in self.curves()], dtype=torch.float64)

    def curves(self) -> list[PrecisionRecall]:
        """Precision and recall of every class, for pictures; of all ranks within `sync_context()`.

        Raises:
            DataError: See `compute`.
            NonFiniteError: See `compute`.
        """
        return [
            trace_curve(one.outcomes, one.scores, int(one.num_positives.sum())) for one in self._rankings()
        ]

    def replicates(self, weights: Float64[np.ndarray, "b i"]) -> Float64[np.ndarray, " b"]:
        """Mean 11-point AP over the images drawn anew (replicates.py).

        Args:
            weights: How often every image counts in every draw, by ascending number.

        Raises:
            DataError: See `compute`.
            NonFiniteError: See `compute`.
        """
        aps = [
            eleven_point_aps(one.outcomes, one.images, one.num_positives, weights) for one in self._rankings()
        ]
        with np.errstate(all="ignore"):
            averaged: Float64[np.ndarray, " b"] = np.nanmean(np.stack(aps), axis=0)
        return averaged

    def _rankings(self) -> "list[_Ranking]":
        tables = {name: dim_zero_cat(getattr(self, name)).cpu().numpy() for name in _EMPTY}
        images, found_rows, truth_rows = _order_images(tables["images"])
        positions = np.arange(len(images), dtype=np.int32)
        found = _Found(
            np.repeat(positions, images[:, 1]),
            *(tables[name][found_rows] for name in ("boxes_xyxy", "scores", "labels")),
        )
        objects = Objects(
            np.repeat(positions, images[:, 2]),
            tables["truth_boxes_xyxy"][truth_rows],
            tables["truth_is_difficult"][truth_rows] > 0,
        )
        object_labels = tables["truth_labels"][truth_rows]
        _check(found, object_labels, self.num_classes)
        return [
            self._rank_class(
                found, rows, Objects(*(column[object_labels == label] for column in objects)), len(images)
            )
            for label, rows in enumerate(_rows_by_class(found.labels, self.num_classes))
        ]

    def _rank_class(
        self, found: _Found, rows: Int[np.ndarray, " n"], objects: Objects, num_images: int
    ) -> "_Ranking":
        """Rank and judge the detections of a class, which are those `rows` of all."""
        rows = rows[best_first(found.scores[rows])]
        ranked = Ranked(found.images[rows], rows, found.boxes_xyxy)
        outcomes = judge_detections(ranked, objects, self.min_overlap)
        counted = objects.images[~objects.is_difficult]
        return _Ranking(
            outcomes, found.scores[rows], ranked.images, np.bincount(counted, minlength=num_images)
        )


class _Ranking(NamedTuple):
    """A class's detections, best score first."""

    outcomes: Int8[np.ndarray, " n"]
    scores: Float32[np.ndarray, " n"]
    images: Int[np.ndarray, " n"]
    num_positives: Int[np.ndarray, " i"]  # objects of every image that count


def _order_images(
    images: Int[np.ndarray, "j 3"],
) -> tuple[Int[np.ndarray, "i 3"], _Rows, _Rows]:
    """Sort the images by number and keep the first of equal ones.

    Returns:
        Rows of `images`, and where their detections and their objects are.
    """
    numbers = images[:, 0]
    if (numbers[1:] > numbers[:-1]).all():
        return images, slice(None), slice(None)
    _, chosen, first = np.unique(numbers, return_index=True, return_inverse=True)
    if (differs := (images != images[chosen][first]).any(axis=1)).any():
        raise DataError(
            f"image {numbers[differs][0]} came twice with different numbers of detections or objects; "
            f"an image must come with everything in it"
        )
    kept = images[chosen]
    return kept, _rows_of(images[:, 1], chosen), _rows_of(images[:, 2], chosen)


def _rows_of(counts: Int[np.ndarray, " j"], chosen: Int[np.ndarray, " i"]) -> Int[np.ndarray, " rows"]:
    """Rows of the chosen blocks, where `counts` are the sizes of all blocks in their order."""
    starts, sizes = (np.cumsum(counts) - counts)[chosen], counts[chosen]
    shifts = starts - (np.cumsum(sizes) - sizes)
    return np.repeat(shifts, sizes) + np.arange(sizes.sum())


def _rows_by_class(labels: Int[np.ndarray, " n"], num_classes: int) -> list[Int[np.ndarray, " rows"]]:
    """Rows of every class, in their order."""
    # Of numbers of at most 16 bits, NumPy's stable sort is a radix sort.
    order = np.argsort(labels.astype(np.min_scalar_type(num_classes)), kind="stable")
    return np.split(order, np.cumsum(np.bincount(labels, minlength=num_classes))[:-1])


def _check(found: _Found, object_labels: Int[np.ndarray, " m"], num_classes: int) -> None:
    for whose, labels in (("detections", found.labels), ("objects", object_labels)):
        if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
            raise DataError(
                f"labels of {whose} are from {labels.min()} to {labels.max()}, expected "
                f"0 to {num_classes - 1}; were they numbered by another list of classes?"
            )
    if np.isnan(found.scores).any() or not np.isfinite(found.boxes_xyxy).all():
        raise NonFiniteError("scores or boxes of detections are NaN or infinite; look at what made them")
    if (found.boxes_xyxy[:, :2] > found.boxes_xyxy[:, 2:]).any():
        raise ValueError("boxes of detections are inverted; expected x1 y1 x2 y2 with x1 <= x2 and y1 <= y2")
