"""Work on many files: how far it is, when it takes long, and threads."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Final, TypeVar

_FEW = 300  # so many images take about a second
LINE_EVERY_SECONDS: Final = 30.0  # where no bar is shown
_MAX_THREADS = 8
Item = TypeVar("Item")
Result = TypeVar("Result")


def show_progress(
    items: Iterable[Item], *, label: str, total: int, report: Callable[[int, int], None] | None = None
) -> Iterator[Item]:
    """Pass `items` through while it is shown how many are done.

    Args:
        items: As they are done.
        label: What they are.
        total: How many.
        report: Shows it, told after each how many are done, and of how many; None: a bar if they are many and
            there is a terminal, otherwise a line now and then.
    """
    if report is None and total >= _FEW and sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track

        yield from track(items, label, total, console=Console(stderr=True), transient=True)
        return
    began = said = time.monotonic()
    for done, item in enumerate(items, 1):
        now = time.monotonic()
        if report is not None:
            report(done, total)
        elif now - said >= LINE_EVERY_SECONDS:
            said = now
            left = time_left((now - began) / done * (total - done))
            print(f"{label} {done}/{total}{left}", file=sys.stderr, flush=True)
        yield item


def time_left(seconds: float | None) -> str:
    """How long something will take, to stand behind how far it is; nothing if that is unknown."""
    return "" if seconds is None else f", about {timedelta(seconds=round(seconds))} left"


def map_in_threads(work: Callable[[Item], Result], items: Sequence[Item], *, label: str) -> list[Result]:
    """Decode or digest many files, in order: most of that is done outside the interpreter's lock."""
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        return list(show_progress(pool.map(work, items), label=label, total=len(items)))
