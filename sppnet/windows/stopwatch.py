"""Seconds of the stages between an image and the vectors of its windows (paper §4.3, Table 10)."""

import contextlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple, final

import torch

Stage = Literal["decode", "prepare", "conv", "pooling", "fc"]


class StageSeconds(NamedTuple):
    """Seconds per image."""

    decode: float = 0.0  # reading the file; in no total
    prepare: float = 0.0  # resizing the image to every scale, or warping its windows
    conv: float = 0.0  # the convolutions alone, the mean subtracted
    pooling: float = 0.0  # from maps to pooled windows
    fc: float = 0.0  # from pooled windows to fc7

    @property
    def to_pooled(self) -> float:
        """What Table 10 is compared with as "conv": from the decoded image to pooled windows."""
        return self.prepare + self.conv + self.pooling

    @property
    def total(self) -> float:
        """From the decoded image and its proposals to fc7."""
        return self.to_pooled + self.fc


@final
class Stopwatch:
    """Adds up the time of stages; on a GPU it waits for what was started before and in a stage.

    Attributes:
        wall: Elapsed seconds.
        cpu: The process's seconds on all cores.
        num_computed: Windows that were computed; others have the vector of one of these.
    """

    def __init__(self, device: torch.device) -> None:
        self.wall, self.cpu = StageSeconds(), StageSeconds()
        self.num_computed = 0
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


def timed(watch: Stopwatch | None, name: Stage, times: float = 1.0) -> AbstractContextManager[None]:
    """A stage of a watch, or nothing where there is none."""
    return contextlib.nullcontext() if watch is None else watch.stage(name, times)
