"""Learn to move windows to the objects they overlap, class by class (paper §4.1, as in R-CNN).

Axes: n windows, p numbers of the pooled vector.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

from sppnet.artifacts import stable_seed
from sppnet.data.window_labels import AssignedWindows, DetectionImage, assign_truth
from sppnet.estimators.box_regressor import BoxRegressor
from sppnet.windows.source import WindowSource


@final
class Regression(NamedTuple):
    """What regressors learn from, and how."""

    min_overlap: float  # IoU of a window with its object
    max_windows: int  # of a class; drawn at random where there are more
    ridge: float
    seed: int


@final
class _Chosen(NamedTuple):
    """Windows of one class in one image."""

    image: Path
    windows: Float[Tensor, "n 4"]
    truth: Float[Tensor, "n 4"]


def fit_regressors(
    images: Sequence[DetectionImage],
    source: WindowSource,
    *,
    regression: Regression,
    scale: Float[Tensor, ""],
    num_classes: int,
    first: int,
    workers: int,
) -> Iterator[BoxRegressor]:
    """Yield one regressor after the other; memory holds the windows of `workers` classes.

    Args:
        images: To learn from.
        source: Of pooled vectors.
        regression: What to learn from them.
        scale: What vectors are multiplied by.
        num_classes: All classes.
        first: Class to begin with, where earlier ones are known already.
        workers: Classes that are fitted at a time.
    """
    assigned = [
        assign_truth(image.proposals, image.truth, min_overlap=regression.min_overlap) for image in images
    ]

    def fit(label: int) -> BoxRegressor:
        chosen = _choose(images, assigned, label, regression)
        windows = torch.cat([part.windows for part in chosen] or [torch.zeros(0, 4)])
        truth = torch.cat([part.truth for part in chosen] or [torch.zeros(0, 4)])
        features = torch.empty(len(windows), source.dim)
        for part, room in zip(chosen, torch.split(features, [len(p.windows) for p in chosen]), strict=True):
            source.rows(part.image, part.windows, out=room).mul_(scale)
        return BoxRegressor(ridge=regression.ridge).fit(features, windows, truth)

    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(fit, range(first, num_classes))  # cancels what has not begun when it is closed


def _choose(
    images: Sequence[DetectionImage], assigned: Sequence[AssignedWindows], label: int, regression: Regression
) -> list[_Chosen]:
    """The windows of a class, or as many of them as may be used, image by image."""
    of_class = [(part.labels == label).nonzero()[:, 0] for part in assigned]
    total = sum(map(len, of_class))
    generator = torch.Generator().manual_seed(stable_seed(regression.seed, "boxes", label))
    is_used = torch.zeros(total, dtype=torch.bool)
    is_used[torch.randperm(total, generator=generator)[: regression.max_windows]] = True
    used = torch.split(is_used, [len(rows) for rows in of_class])
    return [
        _Chosen(image.image.path, part.windows[rows[kept]], part.truth[rows[kept]])
        for image, part, rows, kept in zip(images, assigned, of_class, used, strict=True)
        if kept.any()
    ]
