"""Detection with what was trained: SVMs score windows, regressors move them (paper §4.1, Tables 9 to 12).

Axes: n windows, d numbers a vector, k classes, p numbers of the pooled vector.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sppnet.data.window_labels import DetectionImage
from sppnet.errors import NonFiniteError
from sppnet.estimators.box_regressor import BoxRegressor, BoxRegressorState
from sppnet.metrics.detection_ap import Detections, VocDetectionAP
from sppnet.ops.boxes import clip_boxes
from sppnet.ops.suppression import suppress_per_class
from sppnet.run.guards import require_scores
from sppnet.windows.source import WindowSource, rows_ahead


@final
class Machines(NamedTuple):
    """One linear SVM a class, on vectors whose mean norm was scaled."""

    coef: Float[Tensor, "k d"]
    intercept: Float[Tensor, " k"]
    feature_scale: Float[Tensor, ""]  # vectors are multiplied by it first

    def scores(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """The SVMs' decision function of the scaled vectors."""
        return rows @ (self.coef * self.feature_scale).T + self.intercept


@final
class Regressors(NamedTuple):
    """One box regressor a class, on pooled vectors whose mean norm was scaled."""

    of_class: tuple[BoxRegressor, ...]
    feature_scale: Float[Tensor, ""]

    def moved(
        self, rows: Float[Tensor, "n p"], boxes: Float[Tensor, "n 4"], labels: Int[Tensor, " n"]
    ) -> Float[Tensor, "n 4"]:
        """Move every box as the regressor of its class says."""
        moved = boxes.clone()
        for label in sorted(set(labels.tolist())):
            chosen = labels == label
            scaled = rows[chosen] * self.feature_scale
            moved[chosen] = self.of_class[label].predict(scaled, boxes[chosen]).to(moved)
        return moved

    def state(self) -> dict[str, Tensor]:
        """Tensors to be written to a file."""
        states = [regressor.state() for regressor in self.of_class]
        return {
            "feature_scale": self.feature_scale,
            **{name: torch.stack([getattr(s, name) for s in states]) for name in BoxRegressorState._fields},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "Regressors":
        """Make the regressors that `state` was taken from."""
        columns = zip(*(state[name] for name in BoxRegressorState._fields), strict=True)
        made = tuple(BoxRegressor.from_state(BoxRegressorState(*one)) for one in columns)
        return cls(made, state["feature_scale"])


@final
class Suppression(NamedTuple):
    """What is kept of the scored windows of an image."""

    score_above: float
    max_overlap: float  # IoU
    max_per_image: int  # of one class

    def keep(
        self, boxes: Float[Tensor, "n *per_class 4"], scores: Float[Tensor, "n k"]
    ) -> list[Int[Tensor, " kept"]]:
        """Rows kept of every class, the best first."""
        kept = suppress_per_class(boxes, scores, score_above=self.score_above, max_overlap=self.max_overlap)
        return [rows[: self.max_per_image] for rows in kept]


def find_objects(
    windows: Float[Tensor, "n 4"], scores: Float[Tensor, "n k"], suppression: Suppression
) -> tuple[Detections, Int[Tensor, " found"]]:
    """Keep the windows that score best; also returns which windows they were."""
    kept = suppression.keep(windows, scores)
    rows = torch.cat([*kept, torch.zeros(0, dtype=torch.int64)])
    labels = torch.cat([torch.full_like(some, label) for label, some in enumerate(kept)] or [rows])
    return Detections(windows[rows], scores[rows, labels], labels), rows


def move_objects(
    found: Detections, rows: Float[Tensor, "n p"], regressors: Regressors, image_size: tuple[int, int]
) -> Detections:
    """Move what was found in an image, and clip it to the image.

    Args:
        found: In an image.
        rows: Pooled vectors of its boxes.
        regressors: Of the classes.
        image_size: Height and width, pixels.

    Raises:
        NonFiniteError: A box is moved to nowhere.
    """
    moved = regressors.moved(rows, found.boxes_xyxy, found.labels)
    if moved.isnan().any():
        raise NonFiniteError(
            "boxes are moved to NaN: the box regressors or the network are damaged or have diverged; remove "
            "their runs and run again, with a larger boxes.ridge"
        )
    return found._replace(boxes_xyxy=clip_boxes(moved, image_size))


def suppress_again(found: Detections, num_classes: int, suppression: Suppression) -> Detections:
    """Suppress, class by class, what overlaps a better one now that boxes have moved."""
    per_class = found.scores.new_full((len(found.scores), num_classes), -torch.inf)
    per_class[torch.arange(len(found.scores)), found.labels] = found.scores
    kept = suppression._replace(score_above=-torch.inf).keep(found.boxes_xyxy, per_class)
    rows = torch.cat([*kept, torch.zeros(0).long()])
    return Detections(*(column[rows] for column in found))


@final
class Detector(NamedTuple):
    """Everything that scores windows, and moves them."""

    machines: Machines
    regressors: Regressors | None  # None: windows stay where they are
    source: WindowSource  # of the vectors that the machines know
    pooled: WindowSource  # of the vectors that the regressors know


@final
class Picture(NamedTuple):
    """An image to find objects in."""

    image: Path
    windows: Float[Tensor, "n 4"]  # its proposals
    size: tuple[int, int]  # height and width, pixels


def detect(
    detectors: Sequence[Detector],
    pictures: Sequence[Iterable[Picture]],
    suppression: Suppression,
    *,
    workers: int,
) -> Iterator[Detections]:
    """Yield what was found, picture by picture.

    Several detectors find objects together (§4.4): the union of the windows that they have scored, all of
    them, is suppressed, so that a better window of one suppresses those of another. What is kept is moved by
    the regressors of the detector whose window it was, and suppressed again.

    Args:
        detectors: One or more, of the same classes.
        pictures: For each of them the same images with its own windows, taken as they are needed.
        suppression: What is kept.
        workers: Pictures whose vectors are computed at a time, by each.
    """
    ahead = [
        rows_ahead(one.source, given, workers=workers) for one, given in zip(detectors, pictures, strict=True)
    ]
    for shown in zip(*ahead, strict=True):
        scores = [one.machines.scores(rows) for one, (_, rows) in zip(detectors, shown, strict=True)]
        for part, (picture, _) in zip(scores, shown, strict=True):
            require_scores(part, f"windows of {picture.image}")
        windows = torch.cat([picture.windows for picture, _ in shown])
        found, where = find_objects(windows, torch.cat(scores), suppression)
        if any(one.regressors is not None for one in detectors):
            boxes, first = found.boxes_xyxy.clone(), 0
            for one, (picture, _) in zip(detectors, shown, strict=True):
                own = (where >= first) & (where < first + len(picture.windows))
                if one.regressors is not None:
                    kept, place = torch.unique(where[own] - first, return_inverse=True)
                    rows = one.pooled.rows(picture.image, picture.windows[kept])[place]
                    its = Detections(*(column[own] for column in found))
                    boxes[own] = move_objects(its, rows, one.regressors, picture.size).boxes_xyxy
                first += len(picture.windows)
            found = suppress_again(found._replace(boxes_xyxy=boxes), scores[0].shape[1], suppression)
        yield found


def judged(
    images: Sequence[DetectionImage], found: Sequence[Detections], *, num_classes: int
) -> VocDetectionAP:
    """Set what was found against what is there, by VOC 2007's eleven-point AP."""
    metric = VocDetectionAP(num_classes=num_classes, min_overlap=0.5, interpolation="11point")
    for number, (image, detections) in enumerate(zip(images, found, strict=True)):
        metric.update(number, detections, image.truth)
    return metric


def pack(found: Sequence[Detections]) -> dict[str, Tensor]:
    """Detections of many images as tensors to be written to a file."""
    boxes, scores, labels = (torch.cat(part) for part in zip(*found, strict=True))
    counts = torch.tensor([len(one.scores) for one in found])
    return {"counts": counts, "boxes_xyxy": boxes, "scores": scores, "labels": labels.to(torch.int32)}


def unpack(tensors: dict[str, Tensor]) -> list[Detections]:
    """The inverse of `pack`."""
    counts = tensors["counts"].tolist()
    columns = (tensors["boxes_xyxy"], tensors["scores"], tensors["labels"].long())
    return [
        Detections(*one) for one in zip(*(torch.split(column, counts) for column in columns), strict=True)
    ]
