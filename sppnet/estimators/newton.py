"""Newton's method for many classes at once.

Minimises 0.5 |w|^2 + loss per class. With alpha the dual variables of the present scores and g the gradient,
the duality gap at (w, alpha) is exactly 0.5 |g|^2: the stopping rule is a bound on the distance from the
optimum, at any C, and not a tolerance that C would have to be guessed into.

Axes: k classes, n rows, p numbers per vector.
"""

from functools import cached_property
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sppnet.estimators.margin_loss import MarginLoss
from sppnet.estimators.spaces import Directions, Space

_MAX_STEPS = 200
_PATIENCE = 12  # steps that better neither gap nor value: rounding is in the way
_BETTER_GAP, _BETTER_VALUE = 0.9, 1e-6
_MAX_PRODUCTS = 100  # Hessian products a step
_FORCING = 0.1  # a step solves its linear system to this accuracy
_FINAL = 0.3  # ... and, once the gap is under _CLOSE, aims at this part of the gap allowed
_CLOSE = 1e-2
_LINE_STEPS = 12
_STIFF = 10.0  # spread of eigenvalues from which on a factor is tried


@final
class Point(NamedTuple):
    """Where the classes are.

    Attributes:
        vectors: Weights, as the space holds them.
        scores: Of every row.
        gap: 0.5 |g|^2, float64.
        value: Objective, float64.
    """

    vectors: Float[Tensor, "k p"]
    scores: Float[Tensor, "k n"]
    gap: Float[Tensor, " k"]
    value: Float[Tensor, " k"]


@final
class Preconditioner:
    """The inverse Hessian as the few long directions would have it; they are looked for when first used.

    Args:
        space: Of the vectors.
        num: Directions at most.
    """

    def __init__(self, space: Space, num: int) -> None:
        self.space, self._num = space, num

    @cached_property
    def _directions(self) -> Directions:
        return self.space.find_directions(self._num)

    def stiffness(self, curvature: Float[Tensor, "k n"]) -> float:
        """Spread of the Hessian's eigenvalues that is left, for the worst class."""
        return 1 + float(curvature.mean(1).max() * self._directions.lengths[-1])

    def scales(self, curvature: Float[Tensor, "k n"]) -> Float[Tensor, "k r"]:
        """What to add along each direction, for curvature spread evenly over the rows."""
        lengths = 1 + curvature.mean(1, keepdim=True) * self._directions.lengths
        return lengths[:, -1:] / lengths - 1

    def apply(self, vectors: Float[Tensor, "k p"], scales: Float[Tensor, "k r"]) -> Float[Tensor, "k p"]:
        """Shorten the parts along the directions."""
        return vectors + (vectors @ self._directions.project.T * scales) @ self._directions.expand


def minimise(
    preconditioner: Preconditioner,
    loss: MarginLoss,
    vectors: Float[Tensor, "k p"],
    tolerance: float,
    allowance: Float[Tensor, " k"],
) -> Point:
    """Step until every class's gap is under tolerance * value + allowance, or no longer falls.

    Args:
        preconditioner: Of the space of the vectors.
        loss: Of every class.
        vectors: Where to start.
        tolerance: Relative gap.
        allowance: Absolute gap, float64.
    """
    space = preconditioner.space
    vectors, scores = space.settle(vectors.clone())
    vectors, scores = vectors.clone(), scores.clone()
    point = Point(vectors, scores, allowance.new_zeros(len(vectors)), allowance.new_zeros(len(vectors)))
    open_classes = torch.arange(len(vectors), device=vectors.device)
    best, lowest = torch.full_like(point.gap, torch.inf), torch.full_like(point.gap, torch.inf)
    waited = torch.zeros_like(open_classes)
    for _ in range(_MAX_STEPS):
        part, now = loss.of_classes(open_classes), vectors[open_classes]
        duals = part.duals(scores[open_classes])
        gradient = now - space.adjoint(duals * part.signs)
        gap = 0.5 * space.dot(gradient, gradient).double()
        value = 0.5 * space.dot(now, now).double() + part.value(scores[open_classes], duals)
        point.gap[open_classes], point.value[open_classes] = gap, value
        goal = tolerance * value.abs() + allowance[open_classes]  # a shifted loss can be negative
        is_lower = lowest[open_classes] - value > _BETTER_VALUE * value.abs()
        is_better = (gap < _BETTER_GAP * best[open_classes]) | is_lower
        waited[open_classes] = torch.where(is_better, 0, waited[open_classes] + 1)
        best[open_classes] = torch.minimum(best[open_classes], gap)
        lowest[open_classes] = torch.minimum(lowest[open_classes], value)
        go_on = (gap > goal) & (waited[open_classes] < _PATIENCE)
        if not go_on.any():
            break
        open_classes, gradient, part = (
            open_classes[go_on],
            gradient[go_on],
            part.of_classes(go_on.nonzero()[:, 0]),
        )
        is_close = gap[go_on] < _CLOSE * value[go_on]
        step = _direction(preconditioner, part.curvature(duals[go_on]), gradient, goal[go_on], is_close)
        step, change = space.settle(step)
        length = _line_search(space, part, vectors[open_classes], scores[open_classes], step, change)
        moved, seen = vectors[open_classes] + length * step, scores[open_classes] + length * change
        # Rounding can spoil a step altogether: the class stays where it was, and another space goes on.
        is_good = moved.isfinite().all(1) & seen.isfinite().all(1)
        vectors[open_classes[is_good]], scores[open_classes[is_good]] = moved[is_good], seen[is_good]
        waited[open_classes[~is_good]] = _PATIENCE
    return point


def _direction(
    preconditioner: Preconditioner,
    curvature: Float[Tensor, "k n"],
    gradient: Float[Tensor, "k p"],
    goal: Float[Tensor, " k"],
    is_close: Bool[Tensor, " k"],
) -> Float[Tensor, "k p"]:
    """Solve Hessian * step = -gradient by conjugate gradients; classes leave as they are done."""
    space, scales = preconditioner.space, preconditioner.scales(curvature)
    if preconditioner.stiffness(curvature) > _STIFF:
        exact = space.factor(curvature, gradient)
        if exact is not None:
            return exact
    product, curvature = space.hessian(curvature)
    step, residual = torch.zeros_like(gradient), -gradient
    shaped = preconditioner.apply(residual, scales)
    search, size = shaped, space.dot(residual, shaped)
    target = _FORCING**2 * size
    live: Int[Tensor, " m"] = torch.arange(len(gradient), device=gradient.device)
    for number in range(_MAX_PRODUCTS):
        image = product(search, curvature)
        length = size / space.dot(search, image)
        # Where rounding has eaten a residual, or its curvature, the class leaves with what it has.
        is_sound = (length > 0) & length.isfinite()
        length = torch.where(is_sound, length, 0.0 if number else 1.0).unsqueeze(1)
        step[live] += length * search
        residual = residual - length * image
        shaped = preconditioner.apply(residual, scales)
        new_size = space.dot(residual, shaped)
        search, size = shaped + (new_size / size).unsqueeze(1) * search, new_size
        is_small = 0.5 * space.dot(residual, residual) <= _FINAL * goal
        keep = is_sound & (size > 0) & size.isfinite() & ~(is_small | (~is_close & (size <= target)))
        if not keep.all():
            if not keep.any():
                break
            live, residual, search, size, target = (t[keep] for t in (live, residual, search, size, target))
            scales, curvature, goal, is_close = (t[keep] for t in (scales, curvature, goal, is_close))
    return step


def _line_search(
    space: Space,
    loss: MarginLoss,
    vectors: Float[Tensor, "k p"],
    scores: Float[Tensor, "k n"],
    step: Float[Tensor, "k p"],
    change: Float[Tensor, "k n"],
) -> Float[Tensor, "k 1"]:
    """Find the minimum along every class's step: a root of a rising, piecewise linear function."""
    linear, square = space.dot(vectors, step), space.dot(step, step)
    low, high = torch.zeros_like(linear), torch.full_like(linear, torch.inf)
    length = torch.ones_like(linear)
    for _ in range(_LINE_STEPS):
        duals = loss.duals(torch.addcmul(scores, length.unsqueeze(1), change))
        slope = linear + length * square - (duals * loss.signs * change).sum(1)
        bend = square + (loss.curvature(duals) * change * change).sum(1)
        low, high = torch.where(slope < 0, length, low), torch.where(slope < 0, high, length)
        newton = length - slope / bend.clamp_min(1e-30)
        middle = torch.where(high.isinf(), 2 * length, 0.5 * (low + high))
        length = torch.where((newton > low) & (newton < high), newton, middle)
    return length.unsqueeze(1)
