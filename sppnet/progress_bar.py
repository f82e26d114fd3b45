"""Work on many files: a bar, on a terminal and only when there is much of it, and threads."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rich.console import Console
from rich.progress import track

_FEW = 300  # so many images take about a second
_MAX_THREADS = 8
Item = TypeVar("Item")
Result = TypeVar("Result")


def show_progress(items: Iterable[Item], *, label: str, total: int) -> Iterator[Item]:
    """Pass `items` through while a bar shows how many of `total` are done."""
    quiet = total < _FEW or not sys.stderr.isatty()
    yield from track(items, label, total, console=Console(stderr=True), transient=True, disable=quiet)


def map_in_threads(work: Callable[[Item], Result], items: Sequence[Item], *, label: str) -> list[Result]:
    """Decode or digest many files, in order: most of that is done outside the interpreter's lock."""
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        return list(show_progress(pool.map(work, items), label=label, total=len(items)))
