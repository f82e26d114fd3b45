"""How long the vectors of an image's windows take, by SPP-net and by R-CNN (paper §4.3, Table 10).

What is timed is what detects: the sources in `windows`, which tell a stopwatch how far they are.
"""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from sppnet.errors import ConfigError
from sppnet.windows.source import WindowSource
from sppnet.windows.stopwatch import StageSeconds, Stopwatch

Clock = Literal["wall", "cpu"]


@final
@dataclass(frozen=True)
class DetectionSeconds:
    """Times of a method on some images, one entry an image.

    Attributes:
        wall: Elapsed seconds.
        cpu: The process's seconds on all cores: the fairer ones on a machine shared with others.
        num_windows: Proposals.
        num_computed: Windows that were computed. SPP-net's other windows cover the same cells as one of
            them. R-CNN's others were not computed: its stages before fc are extrapolated from these.
        device: "cpu" or the type of the accelerator.
        num_threads: Of torch, on the CPU.
    """

    wall: tuple[StageSeconds, ...]
    cpu: tuple[StageSeconds, ...]
    num_windows: tuple[int, ...]
    num_computed: tuple[int, ...]
    device: str
    num_threads: int

    def mean(self, clock: Clock) -> StageSeconds:
        """Mean of every stage, as in the paper."""
        return self._over_images(statistics.fmean, clock)

    def median(self, clock: Clock) -> StageSeconds:
        """Median of every stage; its totals are sums of medians."""
        return self._over_images(statistics.median, clock)

    def _over_images(self, statistic: Callable[[Iterable[float]], float], clock: Clock) -> StageSeconds:
        images = self.wall if clock == "wall" else self.cpu
        return StageSeconds(*(statistic(stage) for stage in zip(*images, strict=True)))


def time_detection(
    source: WindowSource,
    images: Sequence[tuple[Path, Float[Tensor, "_ 4"]]],
    *,
    device: torch.device,
    num_warmup: int,
) -> DetectionSeconds:
    """Time what makes the vectors that detectors are made of; proposals are given (Table 10).

    Args:
        source: SPP-net's windows or R-CNN's, of layer fc7.
        images: Files and the proposals in them, one or more each.
        device: Where the network is.
        num_warmup: How many of the images are computed before, untimed.

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
    watches = watches[-len(images) :]
    return DetectionSeconds(
        wall=tuple(watch.wall for watch in watches),
        cpu=tuple(watch.cpu for watch in watches),
        num_windows=tuple(len(windows) for _, windows in images),
        num_computed=tuple(watch.num_computed for watch in watches),
        device=device.type,
        num_threads=torch.get_num_threads(),
    )
