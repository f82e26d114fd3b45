"""How long the features of an image's windows take, by SPP-net and by R-CNN (paper §4.3, Table 10).

The methods are in timed_methods.py. Axes: n windows, d numbers of fc7.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from sppnet.data.images import read_image
from sppnet.errors import ConfigError
from sppnet.features.compute import frozen
from sppnet.models.sppnet import SppNet

Stage = Literal["decode", "prepare", "conv", "pooling", "fc"]
Clock = Literal["wall", "cpu"]


class StageSeconds(NamedTuple):
    """Seconds per image.

    Attributes:
        decode: Reading the file; in no total.
        prepare: Resizing the image to every scale, or warping its windows.
        conv: The convolutions alone, the mean subtracted.
        pooling: From maps to pooled windows.
        fc: From pooled windows to fc7.
    """

    decode: float = 0.0
    prepare: float = 0.0
    conv: float = 0.0
    pooling: float = 0.0
    fc: float = 0.0

    @property
    def to_pooled(self) -> float:
        """What Table 10 is compared with as "conv": from the decoded image to pooled windows."""
        return self.prepare + self.conv + self.pooling

    @property
    def total(self) -> float:
        """From the decoded image and its proposals to fc7."""
        return self.to_pooled + self.fc


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


@final
class Stopwatch:
    """Adds up the time of stages; on a GPU it waits for what was started before and in a stage."""

    def __init__(self, device: torch.device) -> None:
        self.wall, self.cpu = StageSeconds(), StageSeconds()
        self._device = device

    @contextlib.contextmanager
    def stage(self, name: Stage, times: float = 1.0) -> Iterator[None]:
        """Add the time of the block, `times` over where it does a part of the work."""
        self._wait()
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self._wait()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        self.wall = self.wall._replace(**{name: getattr(self.wall, name) + times * wall})
        self.cpu = self.cpu._replace(**{name: getattr(self.cpu, name) + times * cpu})

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class Fc7(NamedTuple):
    """Features of all windows, and how many different ones were computed."""

    rows: Float[Tensor, "n d"]
    num_computed: int


@runtime_checkable  # the tests check argument types
class Method(Protocol):
    """A way from a decoded image to fc7 of its windows."""

    @property
    def net(self) -> SppNet:
        """Its network."""

    def fc7(self, image: Image.Image, windows: Float[Tensor, "n 4"], watch: Stopwatch) -> Fc7:
        """Compute the features of windows, x1 y1 x2 y2 in 0-based inclusive pixels, stage by stage."""


def time_detection(
    method: Method,
    images: Sequence[tuple[Path, Float[Tensor, "_ 4"]]],
    *,
    num_warmup: int,
    max_pixels: int,
) -> DetectionSeconds:
    """Time a method; proposals are given, and reading files is in no total (Table 10).

    Args:
        method: SPP-net or R-CNN.
        images: Files and the proposals in them, one or more each.
        num_warmup: How many of the images are computed before, untimed.
        max_pixels: Larger files are refused.

    Raises:
        BadImageError: A file cannot be used.
        ConfigError: There are no images, or one has no proposals.
    """
    if not images or not all(len(windows) for _, windows in images):
        raise ConfigError(f"timing of {len(images)} images: expected one or more, all with proposals")
    device = next(method.net.parameters()).device
    watches, computed = [], []
    with frozen(method.net):
        for number, (path, windows) in enumerate([*images[:num_warmup], *images]):
            watch = Stopwatch(device)
            with watch.stage("decode"):
                image = read_image(path, upright=False, max_pixels=max_pixels)
            _, num_computed = method.fc7(image, windows.to(device), watch)
            if number >= min(num_warmup, len(images)):
                watches.append(watch)
                computed.append(num_computed)
    return DetectionSeconds(
        wall=tuple(watch.wall for watch in watches),
        cpu=tuple(watch.cpu for watch in watches),
        num_windows=tuple(len(windows) for _, windows in images),
        num_computed=tuple(computed),
        device=device.type,
        num_threads=torch.get_num_threads(),
    )
