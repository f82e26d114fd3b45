"""`sppnet status`: how far every run of a table is."""

import argparse
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from sppnet.artifacts import read_json, reading
from sppnet.cli.report import add_table_arguments
from sppnet.errors import ArtifactError
from sppnet.progress_bar import time_left
from sppnet.run.directory import PROGRESS
from sppnet.tables.escape import clean
from sppnet.tables.results import read_table, table_directories
from sppnet.tables.table import Run, Table

_Line = tuple[str, str, str, str]


def main(argv: Sequence[str]) -> int:
    """Run the verb; returns 0, whatever the runs' states.

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
        lines = [*(_line(run, run.stage) for run in table.built_on), *_lines(table)]
        width = max(len(cell) for _, _, cell, _ in lines)
        for state, seconds, cell, rest in lines:
            print(f"{state:<11} {seconds:>9}  {cell:<{width}}  {rest}".rstrip())
        for note in table.notes:
            print(f"note: {note}")
        counts = Counter(state for state, *_ in lines)
        print(", ".join(f"{count} {state}" for state, count in counts.most_common()))
    return 0


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
    spent = run.seconds or 0.0
    if run.state == "running" and run.started:
        spent += time.time() - run.started
    seconds = "-" if run.seconds is None else f"{spent:.1f} s"
    said = _progress(run) or run.error or (f"stale: {run.first_change}" if run.changes else "")
    return run.state, seconds, cell, f"{run.directory}" + (f"  {said}" if said else "")


def _progress(run: Run) -> str:
    """How far a run is, at what rate, and how long it will take; nothing of one that does not run."""
    if run.state != "running":
        return ""
    file = run.directory / PROGRESS
    with contextlib.suppress(ArtifactError), reading(file):
        step = read_json(file)
        text = f"{step['stage']} {step['completed']}/{step['total']} {step['detail']}".rstrip()
        return clean(f"{text}, {step['rate']:.2g} a second{time_left(step['seconds_left'] or None)}")
    return ""
