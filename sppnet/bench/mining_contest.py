"""One training of a detector's twenty SVMs on cached windows, against scikit-learn's LinearSVC (liblinear).

LinearSVC is given R-CNN's objective, its own tolerance, and four of the twenty classes, from the fewest
positives to the most: it solves one after the other, so five times its time is what twenty take. Ours begins
at zero, too, and copies the rows into its cache; in a real run it begins at the last training's solution.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sppnet.bench import Contest
from sppnet.estimators.hard_negatives import HardNegativeSvm

_ROWS, _FEATURES, _CLASSES = 10_000, 12_800, 20
_FEWEST, _MOST = 30, 1500  # positives of a class: VOC's classes differ as much
_NEGATIVES = 3500  # of a class: those nearest to it
_PEER_CLASSES = (0, 6, 12, 19)
_SVM_C, _BIAS, _POSITIVE_WEIGHT = 1e-3, 10.0, 2.0
_GAP = 1e-4


class CachedWindows(NamedTuple):
    """What a mining run holds at some time."""

    rows: Tensor  # n d
    signs: Tensor  # n k


def hard_negatives() -> Contest:
    """10,000 rows of 12,800 numbers, 20 classes."""
    from sklearn.svm import LinearSVC

    windows = cached_windows(_ROWS, _FEATURES)
    array, columns = windows.rows.numpy(), windows.signs.numpy()

    def ours() -> Tensor:
        return trained(windows, _GAP).coef

    def peer() -> Tensor:
        coef = []
        for label in _PEER_CLASSES:
            held = columns[:, label] != 0
            machine = LinearSVC(
                C=_SVM_C,
                loss="hinge",
                class_weight={1: _POSITIVE_WEIGHT},
                intercept_scaling=_BIAS,
                random_state=0,
            )
            coef.append(machine.fit(array[held], columns[held, label]).coef_)
        return torch.from_numpy(np.concatenate(coef))

    gap = trained(windows, _GAP).gap.max().item()
    return Contest(ours, peer, gap, _CLASSES / len(_PEER_CLASSES), repetitions=1)


def trained(windows: CachedWindows, tolerance: float) -> HardNegativeSvm:
    """Give all rows to a new machine, and train it once.

    Args:
        windows: The rows, and what they are to each class.
        tolerance: Relative duality gap.
    """
    rows, signs = windows
    machine = HardNegativeSvm(
        num_classes=signs.shape[1],
        num_features=rows.shape[1],
        svm_c=_SVM_C,
        loss="hinge",
        bias_multiplier=_BIAS,
        positive_weight=_POSITIVE_WEIGHT,
        tolerance=tolerance,
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


def cached_windows(num_rows: int, num_features: int) -> CachedWindows:
    """Maxima as they come out of a pyramid: a fifth of them not 0, of a mean norm of 20.

    Every row is positive for one class or for none, and negative for the classes it is most alike.

    Args:
        num_rows: 10,000, or fewer with fewer positives in proportion.
        num_features: Length of a row.
    """
    draw = torch.Generator().manual_seed(0)
    share = num_rows / _ROWS
    counts = torch.logspace(np.log10(_FEWEST), np.log10(_MOST), _CLASSES).mul(share).clamp(min=2).long()
    labels = torch.full((num_rows,), -1)
    labels[: int(counts.sum())] = torch.arange(_CLASSES).repeat_interleave(counts)
    labels = labels[torch.randperm(num_rows, generator=draw)]
    hidden = 512
    decay = torch.arange(1, hidden + 1) ** -0.6  # spectra of a net's features fall like a power of the rank
    centres = torch.randn(_CLASSES + 1, hidden, generator=draw) * decay
    causes = 0.5 * centres[labels] + torch.randn(num_rows, hidden, generator=draw) * decay
    rows = causes @ torch.randn(hidden, num_features, generator=draw)
    rows /= rows.std()
    rows += 0.5 * torch.randn(num_rows, num_features, generator=draw) - 0.9
    rows.clamp_(min=0)
    rows *= 20 / rows.norm(dim=1).mean()
    likeness = causes @ centres[:_CLASSES].T
    own = labels[:, None] == torch.arange(_CLASSES)
    likeness[own] = -torch.inf
    signs = torch.zeros(num_rows, _CLASSES, dtype=torch.int64)
    signs.scatter_(0, likeness.topk(int(_NEGATIVES * share), dim=0).indices, -1)
    signs[own] = 1
    return CachedWindows(rows, signs)
