"""At which sizes a network sees its training images: one, several in turn, random, or each image its own.

The paper trains on square regions of one size an epoch (§2.3.2). Whole images of many shapes cannot be
stacked; buckets of like shapes can.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch

from sppnet.errors import ConfigError


@final
@dataclass(frozen=True)
class CyclicSizes:
    """One size for a full epoch, then the next (§2.3.2: 224, 180, 224, ...); one size is "single-size".

    Args:
        sizes: Sides in pixels, in turn.
    """

    sizes: Sequence[int]

    def __post_init__(self) -> None:
        _require_sizes(self.sizes)

    def size_of_epoch(self, epoch: int, *, seed: int) -> int:
        """Side in pixels during `epoch`, counted from 0."""
        return self.sizes[epoch % len(self.sizes)]


@final
@dataclass(frozen=True)
class RandomSizes:
    """A whole number of pixels drawn uniformly for every epoch (§2.3.2: from [180, 224]).

    Args:
        low: Smallest side.
        high: Largest side, itself possible.
    """

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise ConfigError(
                f"train_sizes.low={self.low} must be between 1 and train_sizes.high={self.high}"
            )

    def size_of_epoch(self, epoch: int, *, seed: int) -> int:
        """Side in pixels, drawn by the epoch's own seed, whichever epochs were asked for before."""
        generator = torch.Generator().manual_seed(seed)
        return int(torch.randint(self.low, self.high + 1, (), generator=generator))


EpochSizes = CyclicSizes | RandomSizes  # of square training regions, epoch by epoch


@final
@dataclass(frozen=True)
class BucketSizes:
    """Whole images, batched with others of nearly their size and aspect ratio; not in the paper.

    An image goes to the largest short side that does not enlarge it (the smallest if all do), and to the
    nearest aspect ratio of a geometric series: it is seen whole, stretched by at most the square root of
    one step.

    Args:
        sizes: Short sides, pixels, in any order.
        aspect_step: Ratio of neighbouring aspect ratios, above 1.
        max_aspect: Aspect ratio of the longest bucket; longer images are stretched into it.
    """

    sizes: Sequence[int]
    aspect_step: float
    max_aspect: float

    def __post_init__(self) -> None:
        _require_sizes(self.sizes)
        if self.aspect_step <= 1 or self.max_aspect < 1:
            raise ConfigError(
                f"train_sizes.aspect_step={self.aspect_step} must be above 1 and "
                f"train_sizes.max_aspect={self.max_aspect} at least 1"
            )

    def shape_of(self, width: int, height: int) -> tuple[int, int]:
        """Height and width at which an image of `width` x `height` pixels is seen."""
        fitting = [size for size in self.sizes if size <= min(width, height)]
        short = max(fitting) if fitting else min(self.sizes)
        aspect = min(max(width, height) / min(width, height), self.max_aspect)
        step = math.log(self.aspect_step)
        long = round(short * math.exp(round(math.log(aspect) / step) * step))
        return (short, long) if width >= height else (long, short)


def _require_sizes(sizes: Sequence[int]) -> None:
    listed = list(sizes) if isinstance(sizes, Sequence) else [sizes]
    if not listed or sizes != listed or any(size != int(size) or size < 1 for size in listed):
        raise ConfigError(f"train_sizes.sizes={sizes} must list one or more whole sides of 1 pixel or more")
