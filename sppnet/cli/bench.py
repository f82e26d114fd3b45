"""`sppnet bench`: our kernels against their peers, in one process, interleaved, on one thread."""

import argparse
import json
from collections.abc import Sequence

from sppnet.bench.rows import ROWS, available_rows, run_bench


def main(argv: Sequence[str]) -> int:
    """Time the rows and print them; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="sppnet bench",
        description="Time our kernels against their peers: CPU time, one thread, interleaved, medians.",
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"default: all of {', '.join(ROWS)}")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(list(argv))
    unknown = sorted(set(arguments.rows) - set(ROWS))
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    results = run_bench(arguments.rows or available_rows())
    if arguments.json:
        print(json.dumps([row._asdict() for row in results], indent=1))
        return 0
    print(f"{'row':28} {'ours ms':>9} {'peer ms':>9} {'ratio':>7}  note")
    for row in results:
        print(f"{row.name:28} {row.ours_ms:9.1f} {row.peer_ms:9.1f} {row.ratio:6.1f}x  {row.note}")
    return 0
