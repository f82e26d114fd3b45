"""A trained detector of objects: SVMs that score windows, and regressors that move them (paper §4.1).

Axes: n windows, d numbers a vector, k classes, p numbers of the pooled vector.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sppnet.estimators.box_regressor import BoxRegressor, BoxRegressorState
from sppnet.metrics.detection_ap import Detections
from sppnet.ops.boxes import clip_boxes
from sppnet.ops.suppression import suppress_per_class


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
    """
    boxes = clip_boxes(regressors.moved(rows, found.boxes_xyxy, found.labels), image_size)
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
