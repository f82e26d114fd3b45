"""Where the vectors of windows come from (paper §4.1), and how they are computed ahead of their use.

Axes: n windows, d numbers a vector, p numbers of the pooled vector.
"""

import queue
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar, final, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sppnet.errors import ConfigError
from sppnet.models.sppnet import SppNet
from sppnet.ops.linear import linear_relu
from sppnet.ops.pyramid import num_bins
from sppnet.ops.window_pooling import Order, bins_first
from sppnet.windows.stopwatch import Stopwatch

Windows = Float[Tensor, "n 4"]  # x1 y1 x2 y2, 0-based inclusive pixels of the image as stored
Scales = Int[Tensor, " n"]  # short side of the image, pixels
Places = Int[Tensor, "n 5"]
Rows = Float[Tensor, "n d"]


class WindowSource(ABC):
    """Makes the vectors of windows; may be asked by several threads at once.

    Attributes:
        dim: Length of a vector.
        places: Tells what windows of an image are pooled from: those of equal places have equal vectors.
            Scale, first column, first row, last column, last row: cells of the map, inclusive. None where
            windows cover no cells.
    """

    dim: int
    places: Callable[[Path, Windows], Places] | None = None

    @final
    def rows(
        self,
        image: Path,
        windows: Windows,
        *,
        scales: Scales | None = None,
        out: Rows | None = None,
        watch: Stopwatch | None = None,
    ) -> Rows:
        """Compute the vectors of windows of one image.

        Args:
            image: The file.
            windows: Of it.
            scales: At which each window is looked at; None chooses as §4.1 does.
            out: Where to write them: fresh memory costs more than pooling.
            watch: Is told what the stages took; what was kept of the image is not used then.

        Returns:
            float32; `out`, or a fresh tensor.

        Raises:
            BadImageError: The file cannot be used.
            ConfigError: Scales for windows that are looked at in one size.
            NonFiniteError: A map or a vector is NaN or infinite.
            ValueError: A window is inverted, not finite or, of those that are warped, beyond the image.
        """
        out = torch.empty(len(windows), self.dim) if out is None else out
        self.compute(out, image, windows, scales, watch)
        return out

    @abstractmethod
    def compute(
        self, out: Rows, image: Path, windows: Windows, scales: Scales | None, watch: Stopwatch | None
    ) -> None:
        """Write the vectors of windows to `out` (see `rows`)."""


@final
class FcLayers:
    """What pooled windows are taken through, dropout off: nothing, fc6, or fc6 and fc7.

    Args:
        net: Has them.
        layer: The last one: "pool" (nothing), "fc6" or "fc7".
        order: Of the numbers of a pooled vector (`sppnet.pool_windows`).

    Attributes:
        num_pooled: p.
        dim: Length of what comes out.

    Raises:
        ConfigError: No such layer.
    """

    def __init__(self, net: SppNet, layer: str, order: Order) -> None:
        if layer not in ("pool", "fc6", "fc7"):
            raise ConfigError(f"layer {layer!r} of windows: expected pool, fc6 or fc7")
        self.layer = layer
        self.num_pooled = net.backbone.out_channels * num_bins(net.levels)
        self.dim = self.num_pooled if layer == "pool" else net.fc6.out_features
        weight = net.fc6.weight.detach()
        # Weights are permuted once, not vectors window by window; none where there is no fc layer.
        self._fc6 = bins_first(weight, net.levels) if layer != "pool" and order == "bins_first" else weight
        self._net = net

    def __call__(self, pooled: Float[Tensor, "n p"]) -> Rows:
        """Take all windows through the layers together: their weights are read once."""
        if self.layer == "pool":
            return pooled
        with torch.inference_mode():
            rows = linear_relu(pooled, self._fc6, self._net.fc6.bias)
            return (
                rows if self.layer == "fc6" else linear_relu(rows, self._net.fc7.weight, self._net.fc7.bias)
            )


@runtime_checkable  # the tests check argument types
class Request(Protocol):
    """Windows of one image, and whatever else the caller wants to know when their rows are there."""

    @property
    def image(self) -> Path:
        """The file."""

    @property
    def windows(self) -> Windows:
        """Of the image."""


_Request = TypeVar("_Request", bound=Request)


def rows_ahead(
    source: WindowSource, requests: Iterable[_Request], *, workers: int
) -> Iterator[tuple[_Request, Rows]]:
    """Yield every request with its rows, in order; others are computed while the caller works on these.

    Memory holds the rows of at most `workers` + 1 images, in buffers that are used again and again. What is
    yielded does not depend on `workers`.

    Args:
        source: Asked by several threads.
        requests: Taken as they are needed.
        workers: Images that are computed at a time.

    Yields:
        Rows that may be changed, and are valid until the next ones are asked for.
    """
    waiting: deque[tuple[_Request, Future[tuple[Tensor, Tensor]]]] = deque()
    buffers: queue.SimpleQueue[Tensor] = queue.SimpleQueue()
    for _ in range(workers + 1):
        buffers.put(torch.empty(0))

    def compute(request: _Request) -> tuple[Tensor, Tensor]:
        needed = len(request.windows) * source.dim
        buffer = buffers.get()
        if len(buffer) < needed:
            buffer = torch.empty(needed)
        room = buffer[:needed].view(len(request.windows), source.dim)
        return source.rows(request.image, request.windows, out=room), buffer

    def first() -> Iterator[tuple[_Request, Tensor]]:
        request, future = waiting.popleft()
        rows, buffer = future.result()
        yield request, rows
        buffers.put(buffer)  # the caller has come back: it is free

    with ThreadPoolExecutor(workers) as pool:
        try:
            for request in requests:
                waiting.append((request, pool.submit(compute, request)))
                if len(waiting) > workers:
                    yield from first()
            while waiting:
                yield from first()
        finally:
            pool.shutdown(cancel_futures=True)
