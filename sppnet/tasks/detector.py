"""Detection with what was trained: SVMs score windows, regressors move them (paper §4.1, Tables 9 to 12).

Axes: n windows, d numbers a vector, k classes, p numbers of the pooled vector.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, final

import torch
from jaxtyping import Float, Float64, Int
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
    found: Detections,
    rows: Float[Tensor, "n p"],
    regressors: Regressors,
    image_size: tuple[int, int],
    suppression: Suppression,
) -> Detections:
    """Move what was found, clip it to the image, and suppress what now overlaps a better one.

    Args:
        found: In an image.
        rows: Pooled vectors of its boxes.
        regressors: Of the classes.
        image_size: Height and width, pixels.
        suppression: As before moving.

    Raises:
        NonFiniteError: A box is moved to nowhere.
    """
    boxes = clip_boxes(regressors.moved(rows, found.boxes_xyxy, found.labels), image_size)
    if not boxes.isfinite().all():
        raise NonFiniteError(
            "boxes are moved to NaN: the box regressors or the network are damaged or have diverged; remove "
            "their runs and run again, with a larger boxes.ridge"
        )
    return combine([found._replace(boxes_xyxy=boxes)], len(regressors.of_class), suppression)


def combine(members: Sequence[Detections], num_classes: int, suppression: Suppression) -> Detections:
    """Suppress the union of what several detectors found in an image, class by class (§4.4).

    A detector combined with itself finds what it found: with `max_overlap` under 1, a box is suppressed by
    its double.
    """
    boxes, scores, labels = (torch.cat(part) for part in zip(*members, strict=True))
    per_class = scores.new_full((len(scores), num_classes), -torch.inf)
    per_class[torch.arange(len(scores)), labels] = scores
    kept = torch.cat(
        [*suppression._replace(score_above=-torch.inf).keep(boxes, per_class), torch.zeros(0).long()]
    )
    return Detections(boxes[kept], scores[kept], labels[kept])


@final
class DetectorParts(NamedTuple):
    """Everything that turns windows into objects."""

    machines: Machines
    regressors: Regressors | None  # None: windows stay where they are
    suppression: Suppression


@final
class Picture(NamedTuple):
    """An image to find objects in."""

    image: Path
    windows: Float[Tensor, "n 4"]  # its proposals
    size: tuple[int, int]  # height and width, pixels


def detect(
    parts: DetectorParts,
    source: WindowSource,
    pooled: WindowSource,
    pictures: Iterable[Picture],
    *,
    workers: int,
) -> Iterator[Detections]:
    """Yield what was found, picture by picture.

    Args:
        parts: The detector.
        source: Of the vectors that the machines know.
        pooled: Of the vectors that the regressors know.
        pictures: Taken as they are needed.
        workers: Pictures whose vectors are computed at a time.
    """
    for picture, rows in rows_ahead(source, pictures, workers=workers):
        scores = parts.machines.scores(rows)
        require_scores(scores, f"windows of {picture.image}")
        found, where = find_objects(picture.windows, scores, parts.suppression)
        if parts.regressors is not None:
            kept, place = torch.unique(where, return_inverse=True)
            vectors = pooled.rows(picture.image, picture.windows[kept])[place]
            found = move_objects(found, vectors, parts.regressors, picture.size, parts.suppression)
        yield found


def average_precision(
    images: Sequence[DetectionImage], found: Sequence[Detections], *, num_classes: int
) -> Float64[Tensor, " k"]:
    """Eleven-point AP of every class (VOC 2007), a fraction; NaN for a class without objects."""
    metric = VocDetectionAP(num_classes=num_classes, min_overlap=0.5, interpolation="11point")
    for number, (image, detections) in enumerate(zip(images, found, strict=True)):
        metric.update(number, detections, image.truth)
    return metric.compute()


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
