"""Linear support vector machines for all classes at once (paper §3.2, §4.1).

Axes: n rows, d features, k classes.
"""

import inspect
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sppnet.errors import ConfigError, NonFiniteError
from sppnet.estimators.arrays import OneVsRest, as_array, as_kind_of, read_features, read_signs
from sppnet.estimators.margin_loss import check_parameters
from sppnet.estimators.solve import Loss, SvmSolver

Status = Literal["converged", "not converged", "no positives", "no negatives", "no samples"]

_log = logging.getLogger(__name__)


@final
class LinearSvm:
    """One-vs-rest linear SVMs, with scikit-learn's interface.

    Minimises for every class, as liblinear does,

        0.5 |w|^2 + 0.5 (b / bias_multiplier)^2 + svm_c * sum_i weight_i * loss(1 - y_i (w x_i + b))

    with loss max(0, .)^2 or max(0, .) and weight_i = positive_weight where y_i = +1, else 1. Every pass over
    the features serves all classes. Beside the features, memory holds at most one more copy of them: half of
    one in the primal (more rows than features), the n x n Gram matrix in the dual. Features of another dtype
    than float32 or float64, not contiguous or on another device are copied first.

    Arrays may be numpy's (memory maps, too) or torch's; what comes back is of the same kind.

    Args:
        svm_c: Weight of the losses against the norm, C.
        loss: "squared_hinge", or "hinge" as in R-CNN.
        bias_multiplier: The constant feature of every row; the larger, the freer the bias. 0: no bias.
        positive_weight: Weight of positive rows.
        tolerance: Duality gap to reach, relative to the objective: a bound on the distance from the optimum.
        device: Where to compute; None: where the features are.

    Attributes:
        coef_: k x d weights; zeros for a class without positives or without negatives.
        intercept_: k biases; -1 for a class without positives, +1 without negatives.
        classes_: Labels, or the columns' numbers.
        gap_: Relative duality gap reached, per class; 0 where there was nothing to solve.
        status_: Per class "converged", "not converged", "no positives", "no negatives" or "no samples".
    """

    classes_: Any
    coef_: Any
    intercept_: Any
    gap_: Any
    status_: list[Status]
    n_features_in_: int
    _absent: int | None  # what predictions say of a class that is not there; None: they are labels

    def __init__(
        self,
        *,
        svm_c: float = 1.0,
        loss: Loss = "squared_hinge",
        bias_multiplier: float = 1.0,
        positive_weight: float = 1.0,
        tolerance: float = 1e-5,
        device: str | torch.device | None = None,
    ) -> None:
        self.svm_c, self.loss, self.tolerance = svm_c, loss, tolerance
        self.bias_multiplier, self.positive_weight, self.device = bias_multiplier, positive_weight, device

    def fit(self, X: Any, y: Any, coef_init: Any = None, intercept_init: Any = None) -> "LinearSvm":
        """Find the weights.

        Args:
            X: n x d features.
            y: n labels of any kind; or n x k signs: -1, +1, or 0 where a row is left out for a class; or an
                n x k indicator of 0 and 1. A vector that holds exactly -1, 0 and +1 is signs.
            coef_init: k x d weights of a similar problem to start from; the solution does not depend on it.
            intercept_init: Their k biases.

        Raises:
            ConfigError: A hyperparameter is out of range.
            ValueError: Features or targets are not of these shapes; features are not finite.
        """
        (fitted,) = _fit_each(self, X, y, [self.svm_c], (coef_init, intercept_init))
        vars(self).update(vars(fitted))
        return self

    def fit_path(self, X: Any, y: Any, svm_c: Sequence[float]) -> Iterator["LinearSvm"]:
        """Yield a fitted machine for every C, each begun at the one before; rising C is the fastest order.

        The Gram matrix and everything else that does not depend on C are made once.

        Args:
            X: As for `fit`.
            y: As for `fit`.
            svm_c: Instead of the machine's own.
        """
        return _fit_each(self, X, y, svm_c, (None, None))

    def decision_function(self, X: Any) -> Any:
        """Scores, n x k; n for a single class made of a vector of labels. The kind is that of `X`."""
        if not self.__sklearn_is_fitted__():
            # Scikit-learn expects its own class, where it is in use.
            kind = getattr(sys.modules.get("sklearn.exceptions"), "NotFittedError", NotFittedError)
            raise kind("This LinearSvm instance is not fitted yet: call fit first")
        features = read_features(X, None)
        if features.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {features.shape[1]} features, but LinearSvm is expecting {self.n_features_in_} "
                f"features as input"
            )
        weights, bias = (torch.as_tensor(part).to(features) for part in (self.coef_, self.intercept_))
        scores = features @ weights.T + bias
        return as_kind_of(scores[:, 0] if self._absent is None and len(bias) == 1 else scores, X)

    def predict(self, X: Any) -> Any:
        """Labels (numpy's, if they are no numbers); of a matrix, every class's sign (or 0 or 1)."""
        scores = self.decision_function(X)
        if self._absent is not None:
            where: Any = torch.where if isinstance(scores, Tensor) else np.where
            return where(scores > 0, 1, self._absent)
        best = (scores > 0) * (len(self.classes_) - 1) if scores.ndim == 1 else scores.argmax(1)
        labels = self.classes_[best.cpu().numpy() if isinstance(best, Tensor) else best]
        is_number = self.classes_.dtype.kind in "biuf"  # torch has no strings
        return torch.as_tensor(labels, device=X.device) if isinstance(X, Tensor) and is_number else labels

    def score(self, X: Any, y: Any) -> float:
        """Share of labels (or signs) that are predicted right."""
        labels, predicted = as_array(y), as_array(self.predict(X))
        if 1 in (labels.ndim, predicted.ndim) and labels.size == predicted.size:  # one is a column
            labels = labels.reshape(predicted.shape)
        if labels.shape != predicted.shape:
            raise ValueError(f"labels of shape {labels.shape} for {len(predicted)} rows of features")
        return float((labels == predicted).mean())

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Hyperparameters by name."""
        return {name: getattr(self, name) for name in _PARAMETERS}

    def set_params(self, **parameters: Any) -> "LinearSvm":
        """Change hyperparameters.

        Raises:
            ConfigError: There is no such hyperparameter.
        """
        for name, value in parameters.items():
            if name not in _PARAMETERS:
                raise ConfigError(f"LinearSvm has no parameter {name!r}; there are {', '.join(_PARAMETERS)}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        return f"LinearSvm({', '.join(f'{name}={value!r}' for name, value in self.get_params().items())})"

    def __sklearn_is_fitted__(self) -> bool:
        return "coef_" in vars(self)

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn may ask of it; only scikit-learn calls this."""
        from sklearn.utils import (  # only for those who have it
            ClassifierTags,
            InputTags,
            Tags,
            TargetTags,
        )

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True, multi_output=True),
            classifier_tags=ClassifierTags(multi_label=True),
            input_tags=InputTags(),
        )


@final
class NotFittedError(ValueError, AttributeError):
    """A machine was asked before it was fitted; the bases are those of scikit-learn's error of this name."""


_PARAMETERS = [name for name in inspect.signature(LinearSvm).parameters if name != "self"]


def _fit_each(
    svm: LinearSvm, X: Any, y: Any, svm_c: Sequence[float], init: tuple[Any, Any]
) -> Iterator[LinearSvm]:
    machines = [LinearSvm(**(svm.get_params() | {"svm_c": value})) for value in svm_c]
    for machine in machines:
        check_parameters(vars(machine))
    features = read_features(X, svm.device)
    targets = read_signs(y, features)
    signs = targets.signs
    has_both = (signs > 0).any(1) & (signs < 0).any(1)
    solver = SvmSolver(features, svm.bias_multiplier, int(has_both.sum())) if has_both.any() else None
    vectors = None
    if any(part is not None for part in init):
        coef, bias = _read_start(init, (len(signs), features.shape[1]), features)
        coef, bias = coef[has_both], bias[has_both]
        vectors = torch.cat([coef, bias.unsqueeze(1) / (svm.bias_multiplier or 1.0)], 1)
    weights = torch.where(signs > 0, svm.positive_weight, 1.0).to(signs) * signs.abs()
    for machine in machines:
        gap = features.new_zeros(len(signs), dtype=torch.float64)
        full = features.new_zeros(len(signs), features.shape[1] + 1)
        if solver is not None:
            costs = machine.svm_c * weights[has_both]
            found = solver.solve(
                signs[has_both], costs, loss=svm.loss, tolerance=svm.tolerance, start=vectors
            )
            vectors = found.vectors
            full[has_both], gap[has_both] = vectors.to(full.dtype), found.gap
        _set_fitted(machine, targets, full, gap, X)
        yield machine


def _read_start(init: tuple[Any, Any], shape: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and biases to start from."""
    if None in [None if part is None else 0 for part in init]:
        raise ValueError("coef_init without intercept_init, or the other way round; give both, or neither")
    coef, bias = (torch.as_tensor(part).to(like) for part in init)
    if (coef.shape, bias.shape) != (shape, shape[:1]):
        raise ValueError(
            f"coef_init {tuple(coef.shape)} and intercept_init {tuple(bias.shape)}: expected {shape} and "
            f"{shape[:1]}, a row a class"
        )
    return coef, bias


def _set_fitted(
    fitted: LinearSvm, targets: OneVsRest, vectors: Float[Tensor, "k p"], gap: Float[Tensor, " k"], X: Any
) -> None:
    """Give a machine its weights, as the kind of array that the features are."""
    if not vectors.isfinite().all():
        raise NonFiniteError("weights of the SVMs are NaN or infinite; look at the features and coef_init")
    signs = targets.signs
    constant = (signs > 0).any(1).to(vectors) - (signs < 0).any(1).to(vectors)  # 0 if there are both
    fitted.classes_ = targets.classes
    fitted.n_features_in_ = vectors.shape[1] - 1
    fitted.coef_ = as_kind_of(vectors[:, :-1].contiguous(), X)
    fitted.intercept_ = as_kind_of(fitted.bias_multiplier * vectors[:, -1] + constant, X)
    fitted.gap_ = as_kind_of(gap, X)
    fitted.status_ = [
        _status(row, float(reached), fitted.tolerance) for row, reached in zip(signs, gap, strict=True)
    ]
    fitted._absent = targets.absent
    for name, status, reached in zip(targets.classes, fitted.status_, gap.tolist(), strict=False):
        if status != "converged":
            left_out = "; 0 leaves a row out" if targets.absent == -1 and status == "no negatives" else ""
            _log.warning(
                "class %s, svm_c=%g: %s (relative gap %.0e)%s", name, fitted.svm_c, status, reached, left_out
            )


def _status(signs: Float[Tensor, " n"], gap: float, tolerance: float) -> Status:
    if not signs.any():
        return "no samples"
    if not (signs > 0).any():
        return "no positives"
    if not (signs < 0).any():
        return "no negatives"
    return "converged" if gap <= tolerance else "not converged"
