"""A bar for work on many files, on a terminal and only when there is much of it."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

_FEW = 300  # so many images take about a second
Item = TypeVar("Item")


def show_progress(items: Iterable[Item], *, label: str, total: int) -> Iterator[Item]:
    """Pass `items` through while a bar shows how many of `total` are done."""
    quiet = total < _FEW or not sys.stderr.isatty()
    yield from track(items, label, total, console=Console(stderr=True), transient=True, disable=quiet)
