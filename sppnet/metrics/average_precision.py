"""Average precision of a ranking, and of a multi-label classifier (paper §3.2; devkit: VOCevalcls.m).

Axes: n images, k classes, p true positives of a class in the order of their scores.

A ranking is a sequence of outcomes, best score first: +1 right, -1 wrong, 0 neither (the object is
difficult). Precision rises only where something is right, so the curve is kept at its p true positives.
"""

import functools
from collections.abc import Callable
from numbers import Integral
from typing import Any, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int8, Integer
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from sppnet.errors import ConfigError, DataError, NonFiniteError
from sppnet.ops.boxes import require_tensors, whole


class PrecisionRecall(NamedTuple):
    """A precision-recall curve at its true positives, best score first."""

    recall: Float64[np.ndarray, " p"]
    precision: Float64[np.ndarray, " p"]
    scores: Float64[np.ndarray, " p"]
    num_positives: int  # what a recall of 1 would find


class MeanAP(NamedTuple):
    """A mean over the classes that have positives, and how many these are."""

    value: float
    num_counted: int
    num_classes: int

    def __str__(self) -> str:
        return f"{self.value:.4f} over {self.num_counted} of {self.num_classes} classes"


def mean_ap(ap: Float[Tensor, "*k"]) -> MeanAP:
    """Average the classes' AP; a class without positives is NaN and left out (all of them: NaN)."""
    counted = ap[~ap.isnan()]
    return MeanAP(float(counted.mean()), counted.numel(), ap.numel())


def best_first(scores: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Positions by descending score; equal scores keep their order, as in the devkit's sort.

    Scores that are float32, in whatever type, become one integer with their position, because NumPy sorts
    integers many times as fast as it sorts stably.
    """
    with np.errstate(over="ignore"):
        narrow = scores.astype(np.float32)
    if not np.array_equal(narrow, scores):
        return np.argsort(-scores, kind="stable")
    scores = narrow
    # As integers, floats of one sign order like floats; the other sign's order is turned around.
    bits = (scores + np.float32(0)).view(np.int32)  # -0 + 0 = 0: both zeros are equal
    ascending = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
    keys = (-ascending.astype(np.int64) << 32) | np.arange(len(scores))
    keys.sort()
    return keys & 0xFFFFFFFF


def trace_curve(
    outcomes: Int8[np.ndarray, " n"], scores: Float[np.ndarray, " n"], num_positives: int
) -> PrecisionRecall:
    """Trace the curve of a ranking.

    Args:
        outcomes: +1, -1 or 0 (neither), best score first.
        scores: Their scores.
        num_positives: What there is to find, found or not.
    """
    hits = np.flatnonzero(outcomes > 0)
    num_hits = np.arange(1, len(hits) + 1)
    num_counted = np.cumsum(outcomes != 0)[hits]
    return PrecisionRecall(
        num_hits / max(num_positives, 1), num_hits / num_counted, scores[hits], num_positives
    )


def eleven_point_ap(curve: PrecisionRecall) -> float:
    """Average over recalls 0, 0.1, ..., 1 the best precision at that recall or a higher one (VOC 2007).

    Whether a recall is reached is decided in integers: 3 of 10 reach 0.3. (The devkit's 0:0.1:1 rounds
    3 * 0.1 up and misses them, where the number of positives is a multiple of 10.)

    Returns:
        A fraction, NaN without positives.
    """
    if curve.num_positives == 0:
        return float("nan")
    needed = np.maximum(-(-np.arange(11) * curve.num_positives // 10), 1)  # true positives, rounded up
    return float(_envelope(curve)[needed[needed <= len(curve.precision)] - 1].sum() / 11)


def area_ap(curve: PrecisionRecall) -> float:
    """Area under the curve, every precision raised to the best one at a higher recall (VOC 2010 and later).

    Returns:
        A fraction, NaN without positives.
    """
    if curve.num_positives == 0:
        return float("nan")
    return float(_envelope(curve).sum() / curve.num_positives)


class OfEveryClass(Metric):
    """A metric with a number a class, also where there is one class: torchmetrics would make it no vector."""

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        wrapped = super()._wrap_compute(compute)

        @functools.wraps(compute)
        def as_vector(*args: Any, **kwargs: Any) -> Any:
            return wrapped(*args, **kwargs).reshape(-1)

        return as_vector


@final
class AveragePrecision(OfEveryClass):
    """11-point AP of every class of a multi-label classifier.

    Args:
        num_classes: k.

    Raises:
        ConfigError: `num_classes` is not 1 or more.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    scores: list[Tensor]
    labels: list[Tensor]
    ids: list[Tensor]

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.num_classes = require_classes(num_classes)
        for name in ("scores", "labels", "ids"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.reset()

    def reset(self) -> None:
        """Forget everything seen."""
        super().reset()
        # A rank that never sees an image takes part in the gathering: its tensors need type and width.
        self.scores.append(torch.empty(0, self.num_classes, dtype=torch.float64, device=self.device))
        self.labels.append(torch.empty(0, self.num_classes, dtype=torch.int8, device=self.device))
        self.ids.append(torch.empty(0, dtype=torch.long, device=self.device))

    def update(
        self,
        scores: Float[Tensor, "n k"],
        labels: Integer[Tensor, "n k"] | Bool[Tensor, "n k"],
        ids: Int[Tensor, " n"] | None = None,
    ) -> None:
        """Take a batch.

        Args:
            scores: Any numbers; only their order within a class matters.
            labels: +1 present, -1 absent, 0 only difficult ones (counts neither way); bool or uint8: absent.
            ids: Numbers of the images. Of equal ones a single image counts (samplers repeat images so that
                ranks get equally many), and equal scores are in their order. None: all are different.

        Raises:
            DataError: A label other than -1, 0, 1.
            TypeError: They are no tensors.
            ValueError: Shapes that do not fit together, or ids that are no numbers from 0 on.
        """
        require_tensors(scores, labels, *(() if ids is None else (ids,)))
        shape = (len(scores), self.num_classes)
        if not (scores.shape == labels.shape == shape and (ids is None or ids.shape == shape[:1])):
            raise ValueError(
                f"scores {tuple(scores.shape)}, labels {tuple(labels.shape)} and ids "
                f"{None if ids is None else tuple(ids.shape)}: expected a row an image and "
                f"{self.num_classes} columns"
            )
        is_flag = labels.dtype in (torch.bool, torch.uint8)
        known = (labels == 1) | (labels == 0) | ((labels == -1) if not is_flag else (labels == 0))
        if not known.all():
            expected = "0 and 1" if is_flag else "-1, 0 and 1"
            raise DataError(f"a label is {labels[~known][0].item()}; expected {expected}")
        if ids is not None and (ids := whole(ids, torch.long, "ids")).lt(0).any():
            raise ValueError(f"ids from {int(ids.min())} on: expected numbers of images, 0 or more")
        self.scores.append(real(scores))
        self.labels.append(labels.to(torch.int8) * 2 - 1 if is_flag else labels.to(torch.int8))
        self.ids.append(torch.full((len(scores),), -1, device=scores.device) if ids is None else ids)

    def compute(self) -> Float64[Tensor, " k"]:
        """AP of every class, a fraction; NaN for a class without positives.

        Raises:
            NonFiniteError: A score is NaN.
        """
        return torch.tensor([eleven_point_ap(curve) for curve in self.curves()], dtype=torch.float64)

    def curves(self) -> list[PrecisionRecall]:
        """Precision and recall of every class, for pictures; of all ranks within `sync_context()`.

        Raises:
            NonFiniteError: A score is NaN.
            DataError: No label of a class is -1, but some are 0 and some 1: nothing could be wrong.
        """
        scores, labels, ids = (
            dim_zero_cat(state).cpu().numpy() for state in (self.scores, self.labels, self.ids)
        )
        if len(ids) and ids.min() >= 0:
            chosen = np.unique(ids, return_index=True)[1]
            scores, labels = scores[chosen], labels[chosen]
        unlike = (labels == 0).any(axis=0) & (labels > 0).any(axis=0) & ~(labels < 0).any(axis=0)
        if unlike.any():
            raise DataError(
                f"labels of class {np.flatnonzero(unlike)[0]} are 0 and 1, and 0 counts neither way; give -1 "
                f"where it is absent, or bool"
            )
        if np.isnan(scores).any():
            classes = np.flatnonzero(np.isnan(scores).any(axis=0))
            raise NonFiniteError(f"scores of classes {classes.tolist()} are NaN; look at what trained them")
        return [_trace_class(scores[:, k], labels[:, k]) for k in range(self.num_classes)]


def require_classes(num_classes: int) -> int:
    """The number of classes itself, if it is one.

    Raises:
        ConfigError: It is not 1 or more.
    """
    if not isinstance(num_classes, Integral) or num_classes < 1:
        raise ConfigError(f"num_classes={num_classes!r} must be a whole number, 1 or more")
    return num_classes


def real(scores: Tensor) -> Float64[Tensor, "*n"]:
    """Scores in float64, in which those of any other type stay apart.

    Raises:
        ValueError: They are complex.
    """
    if scores.is_complex():
        raise ValueError(f"scores of type {scores.dtype} have no order; give real numbers")
    return scores.detach().double()


def _trace_class(scores: Float64[np.ndarray, " n"], labels: Int8[np.ndarray, " n"]) -> PrecisionRecall:
    order = best_first(scores)
    return trace_curve(labels[order], scores[order], int((labels > 0).sum()))


def _envelope(curve: PrecisionRecall) -> Float64[np.ndarray, " p"]:
    """Best precision at a true positive or a later one."""
    return np.maximum.accumulate(curve.precision[::-1])[::-1]
