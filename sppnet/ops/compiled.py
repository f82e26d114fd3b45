"""Where the compiled loops come from, and how they share out their work.

They are compiled in memory, a second per process: numba's cache on disk would be pickles beside the source,
and fails where neither the package nor the home directory can be written.
"""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import torch

# Fewer items than this are done sooner than a thread is started.
_SHARE = 64


@functools.cache
def load_kernels() -> ModuleType | None:
    """Import `sppnet.ops.kernels` when first needed; None where numba is not installed."""
    try:
        from sppnet.ops import kernels
    except ImportError:
        return None
    return kernels


def run_in_shares(kernel: Callable[..., None], count: int, *arguments: Any) -> None:
    """Call `kernel(*arguments, start, stop)` for equal shares of `count`, on torch's number of threads."""
    shares = max(1, min(torch.get_num_threads(), count // _SHARE))
    if shares == 1:
        kernel(*arguments, 0, count)
        return
    bounds = [count * share // shares for share in range(shares + 1)]
    with ThreadPoolExecutor(shares) as pool:
        tasks = [pool.submit(kernel, *arguments, *bounds[share : share + 2]) for share in range(shares)]
        for task in tasks:
            task.result()
