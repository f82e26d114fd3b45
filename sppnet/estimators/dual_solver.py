"""One class's support vector machine, solved in the dual from where it last stood (paper §4.1).

Axes: s rows in memory, n of them the class's, d features.
"""

from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from sppnet.estimators.margin_loss import check_parameters
from sppnet.estimators.solve import Loss

_MAX_PASSES = 5000  # a hundred are usual for a gap of 1e-4


@final
class DualSolution(NamedTuple):
    """What was found.

    Attributes:
        weights: d.
        intercept: b.
        duals: n, where the next training begins.
        scores: n.
        gap: Duality gap relative to the objective.
    """

    weights: NDArray[np.float64]
    intercept: float
    duals: NDArray[np.float64]
    scores: NDArray[np.float64]
    gap: float


@final
class DualSolver:
    """The objective of `LinearSvm` and how well to minimise it.

    Args:
        svm_c: Weight of the losses against the norm.
        loss: "hinge" or "squared_hinge".
        bias_multiplier: The constant feature of every row; 0: no bias.
        positive_weight: Weight of positive rows.
        tolerance: Relative duality gap to reach.

    Raises:
        ConfigError: One of them is out of range.
    """

    def __init__(
        self, *, svm_c: float, loss: Loss, bias_multiplier: float, positive_weight: float, tolerance: float
    ) -> None:
        check_parameters(
            loss=loss,
            svm_c=svm_c,
            positive_weight=positive_weight,
            tolerance=tolerance,
            bias_multiplier=bias_multiplier,
        )
        self.svm_c, self.loss, self.tolerance = svm_c, loss, tolerance
        self.bias_multiplier, self.positive_weight = bias_multiplier, positive_weight

    def solve(
        self,
        rows: NDArray[np.float32],
        slots: NDArray[np.int64],
        signs: NDArray[np.int8],
        duals: NDArray[np.float64],
    ) -> DualSolution:
        """Minimise over a class's rows; other threads may solve other classes meanwhile.

        Args:
            rows: s x d, finite.
            slots: n; which of the rows are the class's.
            signs: n; +1 or -1, both of them.
            duals: n; a guess, such as the last solution's, and 0 for new rows.
        """
        from sppnet.estimators.dual_kernels import solve_dual  # numba, half a second

        costs = self.svm_c * np.where(signs > 0, self.positive_weight, 1.0)
        is_hinge = self.loss == "hinge"
        caps = costs if is_hinge else np.full_like(costs, np.inf)
        ridges = np.zeros_like(costs) if is_hinge else 0.5 / costs
        found = duals.copy()
        weights, scores, gap = solve_dual(
            rows,
            slots,
            signs.astype(np.float64),
            found,
            (caps, ridges),
            float(self.bias_multiplier),
            float(self.tolerance),
            _MAX_PASSES,
        )
        return DualSolution(weights[:-1], self.bias_multiplier**2 * weights[-1], found, scores, gap)
