"""Twenty one-vs-rest SVMs on features as large as VOC 2007's, against scikit-learn's LinearSVC (liblinear).

LinearSVC is given its defaults, and four of the twenty classes: it solves one after the other, so five times
its time is what twenty take (`PEER_SCALE`). Its precision is its own affair; ours is a relative gap of 1e-5,
checked before timing.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sppnet.bench import Contest
from sppnet.estimators.linear_svm import LinearSvm

_ROWS, _CLASSES, _PEER_CLASSES = 5011, 20, 4
PEER_SCALE = _CLASSES / _PEER_CLASSES
_GAP = 1e-5
_SVM_C = 1.0


def svm_primal() -> Contest:
    """4,096 features: fewer than rows."""
    return _contest(4096)


def svm_dual() -> Contest:
    """12,800 features: more than rows."""
    return _contest(12800)


def relative_gaps(num_features: int, svm_c: float) -> Tensor:
    """How far ours is from the optimum, class by class.

    The reference goes on in float64 from our solution to a gap of 1e-9 of the objective.

    Args:
        num_features: Length of the features.
        svm_c: C.
    """
    features, signs = voc_like(num_features)
    ours = _machine(svm_c, _GAP).fit(features, signs)
    wide = features.double()
    best = _machine(svm_c, 1e-9).fit(wide, signs, coef_init=ours.coef_, intercept_init=ours.intercept_)
    return _objective(ours, wide, signs) / _objective(best, wide, signs) - 1


def voc_like(num_features: int) -> tuple[Tensor, Tensor]:
    """Features of length 1 without negative numbers, a quarter of them not 0, of 1 or 2 classes a row.

    Returns:
        5,011 x d float32, and 5,011 x 20 signs.
    """
    draw = torch.Generator().manual_seed(0)
    hidden = 1024
    # Spectra of a net's features fall like a power of the rank.
    decay = torch.arange(1, hidden + 1).float() ** -0.6
    labels = torch.randint(_CLASSES, (2, _ROWS), generator=draw)
    centres = torch.randn(_CLASSES, hidden, generator=draw) * decay
    causes = 0.6 * centres[labels[0]] + torch.randn(_ROWS, hidden, generator=draw) * decay
    features = causes @ torch.randn(hidden, num_features, generator=draw)
    features /= features.std()
    features += 0.5 * torch.randn(_ROWS, num_features, generator=draw) - 0.7
    features = torch.nn.functional.normalize(features.clamp_(min=0))
    signs = torch.full((_ROWS, _CLASSES), -1)
    signs[torch.arange(_ROWS), labels[0]] = 1
    has_second = torch.rand(_ROWS, generator=draw) < 0.4
    signs[torch.arange(_ROWS)[has_second], labels[1, has_second]] = 1
    return features, signs


def _contest(num_features: int) -> Contest:
    from sklearn.svm import LinearSVC

    features, signs = voc_like(num_features)
    array, columns = features.numpy(), signs.numpy()

    def ours() -> Tensor:
        weights: Tensor = _machine(_SVM_C, _GAP).fit(features, signs).coef_
        return weights

    def peer() -> Tensor:
        fits = (LinearSVC(C=_SVM_C, random_state=0).fit(array, columns[:, k]) for k in range(_PEER_CLASSES))
        return torch.from_numpy(np.concatenate([fit.coef_ for fit in fits]))

    gap = relative_gaps(num_features, _SVM_C).max().item()
    return Contest(ours, peer, gap, PEER_SCALE, repetitions=3)


def _machine(svm_c: float, tolerance: float) -> LinearSvm:
    return LinearSvm(
        svm_c=svm_c, loss="squared_hinge", bias_multiplier=1.0, positive_weight=1.0, tolerance=tolerance
    )


def _objective(machine: Any, features: Tensor, signs: Tensor) -> Tensor:
    """The definition, in float64."""
    weights, bias = machine.coef_.double(), machine.intercept_.double()
    slack = (1 - signs * (features @ weights.T + bias)).clamp_(min=0)
    value: Tensor = 0.5 * (weights.square().sum(1) + bias.square()) + machine.svm_c * slack.square().sum(0)
    return value
