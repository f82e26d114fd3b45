"""Rows of the images to come, computed while the caller works on those of this one.

Axes: n windows, d numbers a vector.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from sppnet.features.window_source import WindowSource


class Request(NamedTuple):
    """Windows of one image."""

    index: int  # type: ignore[assignment]  # of the image; hides tuple.index, which nobody needs
    windows: Float[Tensor, "n 4"]


def rows_ahead(
    source: WindowSource, requests: Iterable[Request], *, workers: int
) -> Iterator[tuple[Request, Float[Tensor, "n d"]]]:
    """Yield every request with its rows, in order.

    Memory holds the rows of at most `workers` + 1 images. What is yielded does not depend on `workers`.

    Args:
        source: Asked by several threads.
        requests: Taken as they are needed.
        workers: Images that are computed at a time.
    """
    waiting: deque[tuple[Request, Future[Tensor]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for request in requests:
                waiting.append((request, pool.submit(source.rows, *request)))
                if len(waiting) > workers:
                    done, rows = waiting.popleft()
                    yield done, rows.result()
            while waiting:
                done, rows = waiting.popleft()
                yield done, rows.result()
        finally:
            pool.shutdown(cancel_futures=True)
