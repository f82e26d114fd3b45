"""`sppnet status`: how far every run of a table is."""

import argparse
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

from sppnet.cli.report import add_table_arguments
from sppnet.tables.results import read_table, table_directories
from sppnet.tables.table import Run, Table

_Line = tuple[str, str, str, str]


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


def _lines_of_built_on(table: Table) -> Iterator[_Line]:
    """Yield the same for what the cells stand on, each with its stage."""
    for run in table.built_on:
        yield _line(run, run.stage)


def _lines(table: Table) -> Iterator[_Line]:
    """Yield state, seconds, cell, and directory with what is to be said of it, in the table's order."""
    by_place = {(run.row, run.column, run.repeat): run for run in table.runs}
    for row, column, repeat in itertools.product(table.rows, table.columns, table.seeds):
        if table.cells[row.id, column.id].status == "reference":
            continue
        cell = f"{row.id}/{column.id}/{table.repeats} {repeat}"
        run = by_place.get((row.id, column.id, repeat))
        yield _line(run, cell) if run else ("missing", "-", cell, "")


def _line(run: Run, cell: str) -> _Line:
    seconds = "-" if run.seconds is None else f"{run.seconds:.1f} s"
    said = run.error or (f"stale: {run.first_change}" if run.changes else "")
    return run.state, seconds, cell, f"{run.directory}" + (f"  {said}" if said else "")
