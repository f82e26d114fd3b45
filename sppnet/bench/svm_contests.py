"""Twenty SVMs on features as large as VOC 2007's, against scikit-learn's LinearSVC (liblinear).

LinearSVC is given four of the twenty classes: it solves one after the other, so five times its time is what
twenty take. Its precision is its own affair.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sppnet.bench.rows import Contest
from sppnet.estimators.hard_negatives import HardNegativeSvm
from sppnet.estimators.linear_svm import LinearSvm

_CLASSES = 20
_IMAGES, _IMAGE_CLASSES = 5011, (0, 1, 2, 3)
_SVM_C = 1.0
_WINDOWS, _FEATURES = 10_000, 12_800
_FEWEST, _MOST = 30, 1500  # positives of a class: VOC's classes differ as much
_NEGATIVES = 3500  # of a class: those nearest to it
_WINDOW_CLASSES = (0, 6, 12, 19)  # from the fewest positives to the most
_BIAS, _POSITIVE_WEIGHT = 10.0, 2.0
_WINDOW_SVM_C, _WINDOW_GAP = 1e-3, 1e-4


def one_vs_rest(num_features: int) -> Contest:
    """One-vs-rest SVMs of images, both sides by their defaults; ours is checked before timing."""
    from sklearn.svm import LinearSVC

    features, signs = _voc_like(num_features)
    array, columns = features.numpy(), signs.numpy()

    def ours() -> Tensor:
        weights: Tensor = LinearSvm(svm_c=_SVM_C).fit(features, signs).coef_
        return weights

    def peer() -> Tensor:
        fits = (LinearSVC(C=_SVM_C, random_state=0).fit(array, columns[:, k]) for k in _IMAGE_CLASSES)
        return torch.from_numpy(np.concatenate([fit.coef_ for fit in fits]))

    gap = _relative_gaps(features, signs).max().item()
    return Contest(ours, peer, gap, _CLASSES / len(_IMAGE_CLASSES), repetitions=3)


def hard_negatives() -> Contest:
    """One training of a detector's SVMs on cached windows; LinearSVC is given R-CNN's objective.

    Ours begins at zero, too, and copies the rows into its cache; in a real run it begins at the last
    training's solution.
    """
    from sklearn.svm import LinearSVC

    rows, signs = _cached_windows()
    array, columns = rows.numpy(), signs.numpy()

    def ours() -> Tensor:
        return _trained(rows, signs).coef

    def peer() -> Tensor:
        coef = []
        for label in _WINDOW_CLASSES:
            held = columns[:, label] != 0
            machine = LinearSVC(
                C=_WINDOW_SVM_C,
                loss="hinge",
                class_weight={1: _POSITIVE_WEIGHT},
                intercept_scaling=_BIAS,
                random_state=0,
            )
            coef.append(machine.fit(array[held], columns[held, label]).coef_)
        return torch.from_numpy(np.concatenate(coef))

    gap = _trained(rows, signs).gap.max().item()
    return Contest(ours, peer, gap, _CLASSES / len(_WINDOW_CLASSES), repetitions=1)


def _relative_gaps(features: Tensor, signs: Tensor) -> Tensor:
    """How far ours is from the optimum, class by class.

    The reference goes on in float64 from our solution to a gap of 1e-9 of the objective.
    """
    ours, wide = LinearSvm(svm_c=_SVM_C).fit(features, signs), features.double()
    best = LinearSvm(svm_c=_SVM_C, tolerance=1e-9)
    best.fit(wide, signs, coef_init=ours.coef_, intercept_init=ours.intercept_)
    return _objective(ours, wide, signs) / _objective(best, wide, signs) - 1


def _objective(machine: Any, features: Tensor, signs: Tensor) -> Tensor:
    """The definition, in float64."""
    weights, bias = machine.coef_.double(), machine.intercept_.double()
    slack = (1 - signs * (features @ weights.T + bias)).clamp_(min=0)
    value: Tensor = 0.5 * (weights.square().sum(1) + bias.square()) + machine.svm_c * slack.square().sum(0)
    return value


def _trained(rows: Tensor, signs: Tensor) -> HardNegativeSvm:
    """Give all rows to a new machine, and train it once."""
    machine = HardNegativeSvm(
        num_classes=signs.shape[1],
        num_features=rows.shape[1],
        svm_c=_WINDOW_SVM_C,
        loss="hinge",
        bias_multiplier=_BIAS,
        positive_weight=_POSITIVE_WEIGHT,
        tolerance=_WINDOW_GAP,
        hard_above=-1.0001,
        evict_below=-1.2,
        retrain_after=2000,
        max_rows=len(rows),
    )
    is_positive, labels = (signs > 0).max(dim=1)
    positives = is_positive.nonzero()[:, 0]
    machine.add_positives(rows[positives], labels[positives], positives)
    machine.see(rows, signs, torch.arange(len(rows)))
    return machine


def _voc_like(num_features: int) -> tuple[Tensor, Tensor]:
    """Features of length 1 without negative numbers, a quarter of them not 0, of 1 or 2 classes a row.

    Returns:
        5,011 x d float32, and 5,011 x 20 signs.
    """
    draw = torch.Generator().manual_seed(0)
    decay = _decay(1024)
    labels = torch.randint(_CLASSES, (2, _IMAGES), generator=draw)
    centres = torch.randn(_CLASSES, len(decay), generator=draw) * decay
    causes = 0.6 * centres[labels[0]] + torch.randn(_IMAGES, len(decay), generator=draw) * decay
    features = torch.nn.functional.normalize(_activations(causes, num_features, 0.7, draw))
    signs = torch.full((_IMAGES, _CLASSES), -1)
    signs[torch.arange(_IMAGES), labels[0]] = 1
    has_second = torch.rand(_IMAGES, generator=draw) < 0.4
    signs[torch.arange(_IMAGES)[has_second], labels[1, has_second]] = 1
    return features, signs


def _cached_windows() -> tuple[Tensor, Tensor]:
    """Maxima as they come out of a pyramid: a fifth of them not 0, of a mean norm of 20.

    Every row is positive for one class or for none, and negative for the classes it is most alike.

    Returns:
        10,000 x 12,800 float32, and 10,000 x 20 signs.
    """
    draw = torch.Generator().manual_seed(0)
    counts = torch.logspace(np.log10(_FEWEST), np.log10(_MOST), _CLASSES).long()
    labels = torch.full((_WINDOWS,), -1)
    labels[: int(counts.sum())] = torch.arange(_CLASSES).repeat_interleave(counts)
    labels = labels[torch.randperm(_WINDOWS, generator=draw)]
    decay = _decay(512)
    centres = torch.randn(_CLASSES + 1, len(decay), generator=draw) * decay
    causes = 0.5 * centres[labels] + torch.randn(_WINDOWS, len(decay), generator=draw) * decay
    rows = _activations(causes, _FEATURES, 0.9, draw)
    rows *= 20 / rows.norm(dim=1).mean()
    likeness = causes @ centres[:_CLASSES].T
    own = labels[:, None] == torch.arange(_CLASSES)
    likeness[own] = -torch.inf
    signs = torch.zeros(_WINDOWS, _CLASSES, dtype=torch.int64)
    signs.scatter_(0, likeness.topk(_NEGATIVES, dim=0).indices, -1)
    signs[own] = 1
    return rows, signs


def _decay(hidden: int) -> Tensor:
    """Spectra of a net's features fall like a power of the rank."""
    return torch.arange(1, hidden + 1) ** -0.6


def _activations(causes: Tensor, num_features: int, threshold: float, draw: torch.Generator) -> Tensor:
    """What of random mixtures of the causes, and of some noise, is above a threshold."""
    rows = causes @ torch.randn(causes.shape[1], num_features, generator=draw)
    rows /= rows.std()
    rows += 0.5 * torch.randn(len(rows), num_features, generator=draw) - threshold
    return rows.clamp_(min=0)
