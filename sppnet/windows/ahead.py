"""Rows of the images to come, computed while the caller works on those of this one.

Axes: n windows, d numbers a vector.
"""

import queue
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sppnet.windows.source import WindowSource


class Request(NamedTuple):
    """Windows of one image."""

    index: int  # type: ignore[assignment]  # of the image; hides tuple.index, which nobody needs
    windows: Float[Tensor, "n 4"]


def rows_ahead(
    source: WindowSource, requests: Iterable[Request], *, workers: int
) -> Iterator[tuple[Request, Float[Tensor, "n d"]]]:
    """Yield every request with its rows, in order.

    Memory holds the rows of at most `workers` + 1 images, in buffers that are used again and again. What is
    yielded does not depend on `workers`.

    Args:
        source: Asked by several threads.
        requests: Taken as they are needed.
        workers: Images that are computed at a time.

    Yields:
        Rows that may be changed, and are valid until the next ones are asked for.
    """
    waiting: deque[tuple[Request, Future[tuple[Tensor, Tensor]]]] = deque()
    buffers: queue.SimpleQueue[Tensor] = queue.SimpleQueue()
    for _ in range(workers + 1):
        buffers.put(torch.empty(0))

    def compute(request: Request) -> tuple[Tensor, Tensor]:
        needed = len(request.windows) * source.dim
        buffer = buffers.get()
        if len(buffer) < needed:
            buffer = torch.empty(needed)
        room = buffer[:needed].view(len(request.windows), source.dim)
        return source.rows(request.index, request.windows, out=room), buffer

    with ThreadPoolExecutor(workers) as pool:
        try:
            for request in requests:
                waiting.append((request, pool.submit(compute, request)))
                if len(waiting) > workers:
                    yield from _first(waiting, buffers)
            while waiting:
                yield from _first(waiting, buffers)
        finally:
            pool.shutdown(cancel_futures=True)


def _first(
    waiting: "deque[tuple[Request, Future[tuple[Tensor, Tensor]]]]", buffers: "queue.SimpleQueue[Tensor]"
) -> Iterator[tuple[Request, Tensor]]:
    """Yield the rows that were asked for first; their buffer is free when the caller comes back."""
    request, future = waiting.popleft()
    rows, buffer = future.result()
    yield request, rows
    buffers.put(buffer)
