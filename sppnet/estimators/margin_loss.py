"""Hinge losses of many classes at once, smooth enough for Newton's method.

Both losses are members of one family: with xi = 1 - y * score, a row's loss is

    max over 0 <= alpha <= cap of   alpha * xi - (alpha - shift)**2 / (2 * slope)

Squared hinge, C * max(0, xi)**2, has slope 2C, no shift, no cap. Hinge, C * max(0, xi), has cap C; its
slope would be infinite, and is reached by moving the shift to the last alpha over and over (the method of
multipliers; solve.py). The alpha of the maximum is the row's dual variable.

Axes: k classes, n rows.
"""

from collections.abc import Mapping
from numbers import Real
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sppnet.errors import ConfigError

_TINY = 1e-30  # slope of rows that are left out, where 0/0 must be 0


@final
class MarginLoss(NamedTuple):
    """The loss of every class and row.

    Attributes:
        signs: +1, -1, or 0 where the row is left out for the class.
        slope: Of alpha in xi; 0 where left out.
        cap: Largest alpha; infinite for squared hinge, 0 where left out.
        shift: The alpha that the quadratic term is centred on.
    """

    signs: Float[Tensor, "k n"]
    slope: Float[Tensor, "k n"]
    cap: Float[Tensor, "k n"]
    shift: Float[Tensor, "k n"]

    def slack(self, scores: Float[Tensor, "k n"]) -> Float[Tensor, "k n"]:
        """How far every row is on the wrong side of its margin, xi; any sign."""
        return 1 - self.signs * scores

    def duals(self, scores: Float[Tensor, "k n"]) -> Float[Tensor, "k n"]:
        """The alpha of every row, feasible whatever the scores."""
        wanted = torch.addcmul(self.shift, self.slope, self.slack(scores))
        return torch.minimum(wanted.clamp_(min=0), self.cap)

    def value(self, scores: Float[Tensor, "k n"], duals: Float[Tensor, "k n"]) -> Float[Tensor, " k"]:
        """Sum of the losses of every class, in float64.

        Args:
            scores: Decision values.
            duals: `duals(scores)`.
        """
        losses = duals * self.slack(scores) - (duals - self.shift).square() / (2 * self.slope + _TINY)
        return losses.sum(1, dtype=torch.float64)

    def curvature(self, duals: Float[Tensor, "k n"]) -> Float[Tensor, "k n"]:
        """Second derivative in the score: the slope between the two bounds, 0 at and beyond them."""
        return self.slope * ((duals > 0) & (duals < self.cap))

    def of_classes(self, classes: Int[Tensor, " m"]) -> "MarginLoss":
        """The losses of some classes only."""
        return MarginLoss(*(field[classes] for field in self))

    def to(self, dtype: torch.dtype) -> "MarginLoss":
        """The same loss in another precision."""
        return MarginLoss(*(field.to(dtype) for field in self))


def squared_hinge(signs: Float[Tensor, "k n"], weights: Float[Tensor, "k n"]) -> MarginLoss:
    """Squared hinge, weight * max(0, xi)**2.

    Args:
        signs: +1, -1 or 0.
        weights: C times the weight of the class; 0 where left out.
    """
    return MarginLoss(signs, 2 * weights, torch.full_like(weights, torch.inf), torch.zeros_like(weights))


def smoothed_hinge(
    signs: Float[Tensor, "k n"], weights: Float[Tensor, "k n"], sharpness: float, shift: Float[Tensor, "k n"]
) -> MarginLoss:
    """Hinge, weight * max(0, xi), rounded off around the `shift`.

    Args:
        signs: +1, -1 or 0.
        weights: C times the weight of the class; 0 where left out.
        sharpness: Slope in units of the weight.
        shift: The last alpha; when it is the solution's, so is the loss's minimum.
    """
    return MarginLoss(signs, sharpness * weights, weights, shift)


def check_parameters(numbers: Mapping[str, Any]) -> None:
    """Refuse an SVM's numbers that are out of range, whoever solves it.

    Args:
        numbers: By name, those of `LinearSvm` and any others.

    Raises:
        ConfigError: Names the number.
    """
    if numbers["loss"] not in ("squared_hinge", "hinge"):
        raise ConfigError(f"loss={numbers['loss']!r} is neither 'squared_hinge' nor 'hinge'")
    for name in ("svm_c", "positive_weight", "tolerance", "bias_multiplier"):
        value = numbers[name]
        is_zero = name == "bias_multiplier" and value == 0
        if not isinstance(value, Real) or not (is_zero or 0 < float(value) < float("inf")):
            raise ConfigError(f"{name}={value!r} must be positive and finite")
