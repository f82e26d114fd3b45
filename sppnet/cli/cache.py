"""`sppnet cache`: what is kept of features, maps and proposals, whether it is whole, and making room."""

import argparse
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from sppnet.errors import ArtifactError
from sppnet.store.housekeeping import gc, stat, verify
from sppnet.tables.escape import clean

_DEFAULT = "runs/.cache"  # as paths.cache
_MOST_NAMES = 20


def main(argv: Sequence[str]) -> int:
    """Run the verb; returns 0.

    Raises:
        SppnetError: No such directory, or damaged shards were found.
    """
    parser = argparse.ArgumentParser(
        prog="sppnet cache",
        description="Look after the features, maps and proposals that experiments keep on disk. "
        "Removing any only costs time.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in (
        ("stat", "one line per kind, source and view"),
        ("verify", "read every file and compare its digest"),
        ("gc", "remove what was not used for long; never what a running process holds"),
    ):
        verbs.add_parser(verb, help=text, description=text).add_argument(
            "directory", nargs="?", type=Path, default=Path(_DEFAULT), help=f"default: {_DEFAULT}"
        )
    limits = verbs.choices["gc"].add_mutually_exclusive_group(required=True)
    limits.add_argument("--days", type=_positive, help="remove what was last used so many days ago")
    limits.add_argument("--max-gb", type=_positive, help="remove the longest unused until so much is left")
    limits.add_argument("--all", action="store_true", help="remove everything")
    arguments = parser.parse_args(list(argv))
    {"stat": _stat, "verify": _verify, "gc": _gc}[arguments.verb](arguments)
    return 0


def _positive(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(text)
    return value


def _stat(arguments: argparse.Namespace) -> None:
    reports = stat(arguments.directory)
    header = ("kind", "source", "view", "short side", "images", "dim", "GB", "last used", "directory")
    rows = [
        (
            clean(report.kind), clean(report.source), clean(report.view),
            f"{report.short_side or '-'}", f"{report.images}", f"{report.dim}",
            f"{report.num_bytes / 1e9:.3f}", _when(report.last_used), report.directory,
        )
        for report in reports
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"{len(reports)} entries, {sum(report.num_bytes for report in reports) / 1e9:.3f} GB")


def _verify(arguments: argparse.Namespace) -> None:
    total, damaged = verify(arguments.directory)
    if damaged:
        more = [f"... and {len(damaged) - _MOST_NAMES} more"] if len(damaged) > _MOST_NAMES else []
        count = f"{len(damaged)} of {total} shards are damaged; whoever needs one computes it again:"
        raise ArtifactError("\n".join([count, *map(str, damaged[:_MOST_NAMES]), *more]))
    print(f"{total} shards, all whole")


def _gc(arguments: argparse.Namespace) -> None:
    max_bytes = 0 if arguments.all else None if arguments.max_gb is None else int(arguments.max_gb * 1e9)
    freed = gc(arguments.directory, unused_days=arguments.days, max_bytes=max_bytes)
    print(f"removed {freed.shards} shards, {freed.num_bytes / 1e9:.3f} GB")
    if freed.held:
        print(f"kept, because a process uses them: {', '.join(freed.held)}")


def _when(seconds: float) -> str:
    if not seconds:
        return "never"
    day = datetime.fromtimestamp(seconds).astimezone()
    return day.strftime("%Y-%m-%d") if time.time() - seconds > 24 * 3600 else day.strftime("%H:%M")
