"""How long the vectors of an image's windows take, by SPP-net and by R-CNN (paper §4.3, Table 10).

What is timed is what detects: the sources in `windows`, which tell a stopwatch how far they are.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from sppnet.errors import ConfigError
from sppnet.windows.source import WindowSource
from sppnet.windows.stopwatch import StageSeconds, Stopwatch


def over_images(
    statistic: Callable[[Sequence[float]], float], seconds: Sequence[StageSeconds]
) -> StageSeconds:
    """A statistic of every stage, such as the mean (as in the paper); its totals are sums of these."""
    return StageSeconds(*map(statistic, zip(*seconds, strict=True)))


def time_detection(
    source: WindowSource,
    images: Sequence[tuple[Path, Float[Tensor, "_ 4"]]],
    *,
    device: torch.device,
    num_warmup: int,
) -> list[Stopwatch]:
    """Time what makes the vectors that detectors are made of; proposals are given (Table 10).

    Args:
        source: SPP-net's windows or R-CNN's, of layer fc7.
        images: Files and the proposals in them, one or more each.
        device: Where the network is.
        num_warmup: How many of the images are computed before, untimed.

    Returns:
        What was measured, one an image. SPP-net computes no window whose cells another one covers. R-CNN may
        compute a part, from which its stages before fc are extrapolated.

    Raises:
        BadImageError: A file cannot be used.
        ConfigError: There are no images, or one has no proposals.
    """
    if not images or not all(len(windows) for _, windows in images):
        raise ConfigError(f"timing of {len(images)} images: expected one or more, all with proposals")
    watches = []
    for path, windows in [*images[:num_warmup], *images]:
        watches.append(Stopwatch(device))
        source.rows(path, windows, watch=watches[-1])
    return watches[-len(images) :]
