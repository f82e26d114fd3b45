"""Dual coordinate descent for one class, compiled by numba at its first call (`HardNegativeSvm`).

As liblinear does it (Hsieh et al., ICML 2008): a visit to a row reads it, moves its dual variable to where
the dual objective is largest, and moves the weights along. Other than liblinear, it starts from given dual
variables, weighs the duality gap, which it does reach, and reads the rows in place and in float32: a visit
takes as long as memory takes to deliver the row. Weights and sums are float64.

Arrays only, no checks; `no_type_check` keeps the shape checks of the tests out of what numba compiles.

Axes: n rows of the class, d features.
"""

from typing import Any, no_type_check

import numpy as np
from numba import njit

_compile = njit(nogil=True, error_model="numpy")
# Sums in any order, but the same one each time: what makes them vector operations.
_compile_sum = njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract"})
_SEED = np.uint64(88172645463325252)  # of the xorshift generator; any number but 0


@_compile_sum
@no_type_check
def dot(row: Any, vector: Any) -> Any:
    """Inner product, in float64 where `vector` is."""
    total = 0.0
    for j in range(len(row)):
        total += row[j] * vector[j]
    return total


@_compile
@no_type_check
def add_scaled(vector: Any, step: Any, row: Any) -> None:
    """Add `step` times `row` to `vector`."""
    for j in range(len(row)):
        vector[j] += step * row[j]


@_compile
@no_type_check
def begin(rows: Any, slots: Any, signs: Any, duals: Any, weights: Any) -> Any:
    """Make the weights of the dual variables, and the squared norm of every row."""
    size = len(weights) - 1
    squares = np.empty(len(slots))
    weights[:] = 0.0
    for i in range(len(slots)):
        row = rows[slots[i]]
        squares[i] = dot(row, row)
        if duals[i] > 0:
            add_scaled(weights[:size], duals[i] * signs[i], row)
            weights[size] += duals[i] * signs[i]
    return squares


@_compile
@no_type_check
def gap_of_row(slack: Any, dual: Any, cap: Any, ridge: Any) -> Any:
    """Share of a row in the duality gap; 0 where its dual variable is the best for these weights."""
    if ridge > 0:
        return 0.5 * (max(slack, 0.0) - ridge * dual) ** 2 / ridge - dual * min(slack, 0.0)
    return cap * max(slack, 0.0) - dual * slack


@_compile
@no_type_check
def weigh(rows: Any, slots: Any, signs: Any, duals: Any, limits: Any, weights: Any, bias: Any) -> Any:
    """Score all rows.

    Returns:
        Scores; the duality gap; the objective.
    """
    caps, ridges = limits
    size = len(weights) - 1
    scores = np.empty(len(slots))
    objective = 0.5 * (dot(weights[:size], weights[:size]) + (bias * weights[size]) ** 2)
    gap = 0.0
    for i in range(len(slots)):
        scores[i] = dot(rows[slots[i]], weights) + bias * bias * weights[size]
        slack = 1 - signs[i] * scores[i]
        gap += gap_of_row(slack, duals[i], caps[i], ridges[i])
        if ridges[i] > 0:
            objective += 0.5 * max(slack, 0.0) ** 2 / ridges[i]
        else:
            objective += caps[i] * max(slack, 0.0)
    return scores, gap, objective


@_compile
@no_type_check
def shuffle(order: Any, count: Any, state: Any) -> Any:
    """Permute the first `count` numbers; in the order of storage, descent takes ten times as long."""
    for i in range(count - 1, 0, -1):
        state ^= state << np.uint64(13)
        state ^= state >> np.uint64(7)
        state ^= state << np.uint64(17)
        j = np.int64(state % np.uint64(i + 1))
        order[i], order[j] = order[j], order[i]
    return state


@_compile
@no_type_check
def rests(dual: Any, cap: Any, gradient: Any, farthest: Any) -> Any:
    """Whether a dual variable is at a bound, and its gradient holds it there by more than `farthest`."""
    return (dual <= 0 and gradient > farthest[0]) or (dual >= cap and gradient < -farthest[1])


@_compile
@no_type_check
def sweep(problem: Any, duals: Any, weights: Any, moving: Any, count: Any, farthest: Any) -> Any:
    """Visit the first `count` of `moving` once; those found at rest go behind the others (shrinking).

    Returns:
        How many are still moving; how far the farthest are from rest, to either side; their duality gap.
    """
    rows, slots, signs, caps, ridges, squares, bias = problem
    low, high, gap = 0.0, 0.0, 0.0
    at = 0
    while at < count:
        i = moving[at]
        row = rows[slots[i]]
        score = dot(row, weights) + bias * bias * weights[-1]
        gradient = signs[i] * score - 1 + ridges[i] * duals[i]
        if rests(duals[i], caps[i], gradient, farthest):
            count -= 1
            moving[at], moving[count] = moving[count], i
            continue
        at += 1
        gap += gap_of_row(1 - signs[i] * score, duals[i], caps[i], ridges[i])
        if rests(duals[i], caps[i], gradient, (0.0, 0.0)):
            continue
        low, high = max(low, -gradient), max(high, gradient)
        curvature = squares[i] + bias * bias + ridges[i]
        dual = min(max(duals[i] - gradient / curvature, 0.0), caps[i])
        if dual != duals[i]:
            step = (dual - duals[i]) * signs[i]
            duals[i] = dual
            add_scaled(weights, step, row)
            weights[-1] += step
    unknown = np.inf
    return count, (high if high > 0 else unknown, low if low > 0 else unknown), gap


@_compile
@no_type_check
def solve_dual(
    rows: Any, slots: Any, signs: Any, duals: Any, limits: Any, bias: Any, tolerance: Any, max_passes: Any
) -> Any:
    """Minimise 0.5 |w|^2 + 0.5 (b / bias)^2 + sum of losses.

    Args:
        rows: float32, `any d`.
        slots: n; which of them belong to the class.
        signs: n; +1.0 or -1.0.
        duals: n; where to start, overwritten.
        limits: Two of n, caps and ridges. Hinge: C and 0; squared hinge: infinite and 1 / (2 C).
        bias: The constant feature of every row.
        tolerance: Duality gap to reach, relative to the objective.
        max_passes: Over the rows that are still moving.

    Returns:
        d + 1 weights, of which the last times bias^2 is b; scores; the relative gap.
    """
    caps, ridges = limits
    weights = np.empty(rows.shape[1] + 1)
    squares = begin(rows, slots, signs, duals, weights)
    problem = (rows, slots, signs, caps, ridges, squares, bias)
    moving = np.empty(len(slots), np.int64)
    state = _SEED
    passes = 0
    while True:
        scores, gap, objective = weigh(rows, slots, signs, duals, limits, weights, bias)
        if not gap > tolerance * objective or passes >= max_passes:  # also of a gap that is NaN
            return weights, scores, gap / objective
        count = 0
        for i in range(len(slots)):
            gradient = signs[i] * scores[i] - 1 + ridges[i] * duals[i]
            if not rests(duals[i], caps[i], gradient, (0.0, 0.0)):
                moving[count] = i
                count += 1
        farthest = (np.inf, np.inf)
        open_gap = np.inf
        while count > 0 and open_gap > tolerance * objective and passes < max_passes:
            state = shuffle(moving, count, state)
            count, farthest, open_gap = sweep(problem, duals, weights, moving, count, farthest)
            passes += 1
