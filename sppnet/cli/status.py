"""`sppnet status`: how far every run of a table is."""

import argparse
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

from sppnet.cli.report import add_table_arguments
from sppnet.tables import Table, read_table, table_directories


def main(argv: Sequence[str]) -> int:
    """Run the verb.

    Args:
        argv: Words after `sppnet status`.

    Returns:
        0, whatever the runs' states.

    Raises:
        SppnetError: No such table, or a damaged one.
    """
    parser = argparse.ArgumentParser(
        prog="sppnet status", description="Print one line per run: state, seconds, cell, directory, error."
    )
    add_table_arguments(parser)
    arguments = parser.parse_args(argv)
    for directory in table_directories(arguments.directory):
        table = read_table(directory, arguments.group)
        print(f"{directory}: {table.heading}, group {table.group}")
        lines = [*_lines_of_built_on(table), *_lines(table)]
        width = max(len(cell) for _, _, cell, _ in lines)
        for state, seconds, cell, rest in lines:
            print(f"{state:<11} {seconds:>9}  {cell:<{width}}  {rest}".rstrip())
        for note in table.notes:
            print(f"note: {note}")
        counts = Counter(state for state, *_ in lines)
        print(", ".join(f"{count} {state}" for state, count in counts.most_common()))
    return 0


def _lines_of_built_on(table: Table) -> Iterator[tuple[str, str, str, str]]:
    """Yield the same for the networks and features that the cells look at."""
    for run in table.built_on:
        seconds = "-" if run.seconds is None else f"{run.seconds:.1f} s"
        yield (
            run.state,
            seconds,
            run.directory.parent.name,
            f"{run.directory}" + (f"  {run.error}" if run.error else ""),
        )


def _lines(table: Table) -> Iterator[tuple[str, str, str, str]]:
    """Yield state, seconds, cell, and directory with error, in the table's order."""
    for row, column, seed in itertools.product(table.rows, table.columns, table.seeds):
        if table.cells[row.id, column.id].status == "reference":
            continue
        cell = f"{row.id}/{column.id}/seed {seed}"
        runs = [run for run in table.runs if (run.row, run.column, run.seed) == (row.id, column.id, seed)]
        for run in runs:
            seconds = "-" if run.seconds is None else f"{run.seconds:.1f} s"
            yield run.state, seconds, cell, f"{run.directory}" + (f"  {run.error}" if run.error else "")
        if not runs:
            yield "missing", "-", cell, ""
