"""From signs and weights to weight vectors whose distance from the optimum is known (LinearSvm).

Axes: k classes, n rows, d features, p numbers per vector.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

from sppnet.estimators.margin_loss import smoothed_hinge, squared_hinge
from sppnet.estimators.newton import Preconditioner, minimise
from sppnet.estimators.spaces import FeatureSpace, GramSpace, gram_matrix

Loss = Literal["squared_hinge", "hinge"]

# Directions of the preconditioner: as many as cost no more than some ten Hessian products of k classes.
_MIN_DIRECTIONS, _DIRECTIONS_PER_CLASS, _MAX_DIRECTIONS = 32, 10, 256
_SHARPNESS, _SHARPEN, _MAX_SHARPNESS = 4.0, 3.0, 300.0  # of the smoothed hinge: first, growth, last
_BETTER, _PATIENCE = 0.9, 5  # rounds that do not lower the worst gap by so much, before rounding is blamed
_MAX_ROUNDS = 40
_INNER = 0.1  # share of the hinge's gap that a round may leave to its smoothed problem


@final
class Solution(NamedTuple):
    """What was found for every class.

    Attributes:
        vectors: Weights, and last the bias divided by its multiplier.
        gap: Duality gap relative to the objective: a bound on the distance from the optimum.
        duals: Of every row; the hinge's are not determined by the vectors.
    """

    vectors: Float[Tensor, "k p"]
    gap: Float[Tensor, " k"]
    duals: Float[Tensor, "k n"] | None


@final
class SvmSolver:
    """Everything about the features that does not depend on C, the classes or the loss.

    With no more rows than features the n x n Gram matrix replaces the features in all but a few passes.

    Args:
        features: The rows, contiguous, float32 or float64.
        bias_multiplier: The constant feature of every row.
        num_classes: Classes that are solved at a time, to choose the preconditioner's size.
    """

    def __init__(self, features: Float[Tensor, "n d"], bias_multiplier: float, num_classes: int) -> None:
        wanted = max(_MIN_DIRECTIONS, min(_DIRECTIONS_PER_CLASS * num_classes, _MAX_DIRECTIONS))
        self._num_directions = max(1, min(wanted, min(features.shape) // 4))
        self._features, self._bias_multiplier = features, bias_multiplier
        self._primal = Preconditioner(
            FeatureSpace(features, bias_multiplier, exact=False), self._num_directions
        )
        self._dual: Preconditioner | None = None
        if features.shape[0] <= features.shape[1]:
            gram = GramSpace(gram_matrix(features, bias_multiplier))
            self._dual = Preconditioner(gram, self._num_directions)

    def solve(
        self,
        signs: Float[Tensor, "k n"],
        weights: Float[Tensor, "k n"],
        *,
        loss: Loss,
        tolerance: float,
        start: Float[Tensor, "k p"] | None,
    ) -> Solution:
        """Minimise 0.5 |w|^2 + sum of weight * loss, for every class.

        Args:
            signs: +1, -1, or 0 where a row is left out for a class.
            weights: C times the weight of the row's class; 0 where left out.
            loss: Of a row.
            tolerance: Relative duality gap to reach.
            start: Vectors of a similar problem.
        """
        run = _minimise_squared if loss == "squared_hinge" else _minimise_hinge
        primal = self._primal.space
        vectors = primal.zeros(len(signs)) if start is None else start.to(primal.zeros(0))
        duals = None
        if self._dual is not None:
            coefficients = self._dual.space.zeros(len(signs))
            if start is not None:
                duals = squared_hinge(signs, weights).duals(primal.settle(vectors)[1])
                duals = torch.minimum(duals, weights) if loss == "hinge" else duals
                coefficients[:, : signs.shape[1]] = duals * signs
            found = run(self._dual, _Task(signs, weights, tolerance), coefficients, duals)
            vectors, duals = primal.adjoint(found.vectors[:, : signs.shape[1]]), found.duals
        # After the dual, this only confirms the gap on the features themselves.
        for preconditioner in self._stages():
            dtype = preconditioner.space.zeros(0).dtype
            task = _Task(signs.to(dtype), weights.to(dtype), tolerance)
            duals = duals if duals is None else duals.to(dtype)
            found = run(preconditioner, task, vectors.to(dtype), duals)
            vectors, duals = found.vectors, found.duals
            if (found.gap <= tolerance).all():
                break
        return found

    def _stages(self) -> Iterator[Preconditioner]:
        """Working precision, then float64 for what its rounding kept open."""
        yield self._primal
        if self._features.dtype != torch.float64:
            exact = FeatureSpace(self._features, self._bias_multiplier, exact=True)
            yield Preconditioner(exact, self._num_directions)


@final
class _Task(NamedTuple):
    """What to minimise, and how well."""

    signs: Float[Tensor, "k n"]
    weights: Float[Tensor, "k n"]
    tolerance: float


def _minimise_squared(
    preconditioner: Preconditioner,
    task: _Task,
    vectors: Float[Tensor, "k p"],
    duals: Float[Tensor, "k n"] | None,
) -> Solution:
    """The vectors alone say where the search stands."""
    loss = squared_hinge(task.signs, task.weights)
    allowance = vectors.new_zeros(len(vectors), dtype=torch.float64)
    point = minimise(preconditioner, loss, vectors, task.tolerance, allowance)
    return Solution(point.vectors, point.gap / point.value, None)


def _minimise_hinge(
    preconditioner: Preconditioner,
    task: _Task,
    vectors: Float[Tensor, "k p"],
    duals: Float[Tensor, "k n"] | None,
) -> Solution:
    """Method of multipliers: a smoothed problem whose centre follows the dual variables."""
    space = preconditioner.space
    vectors, scores = space.settle(vectors.clone())
    vectors, sharpness = vectors.clone(), _SHARPNESS
    if duals is None:
        none = torch.zeros_like(task.weights)
        duals = smoothed_hinge(task.signs, task.weights, sharpness, none).duals(scores)
    duals = duals.clone()
    relative = vectors.new_full((len(vectors),), torch.inf, dtype=torch.float64)
    allowance = torch.zeros_like(relative)
    todo = torch.arange(len(vectors), device=vectors.device)
    worst, waited = torch.inf, 0
    for _ in range(_MAX_ROUNDS):
        loss = smoothed_hinge(task.signs[todo], task.weights[todo], sharpness, duals[todo])
        point = minimise(preconditioner, loss, vectors[todo], _INNER * task.tolerance, allowance[todo])
        vectors[todo], duals[todo] = point.vectors, loss.duals(point.scores)
        slack = loss.slack(point.scores)
        hinge = task.weights[todo] * slack.clamp(min=0)
        value = 0.5 * space.dot(point.vectors, point.vectors).double() + hinge.sum(1, dtype=torch.float64)
        gap = point.gap + (hinge - duals[todo] * slack).sum(1, dtype=torch.float64)
        relative[todo], allowance[todo] = gap / value, _INNER * gap
        todo = (relative > task.tolerance).nonzero()[:, 0]
        waited = 0 if relative.max() < _BETTER * worst else waited + 1
        worst = min(worst, float(relative.max()))
        if not len(todo) or waited == _PATIENCE:
            break
        sharpness = min(_SHARPEN * sharpness, _MAX_SHARPNESS)
    return Solution(vectors, relative, duals)
