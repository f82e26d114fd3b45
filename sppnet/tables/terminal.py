"""A table on a terminal: three lines a row, as many blocks of columns as its width needs."""

import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from io import StringIO, TextIOWrapper
from pathlib import Path

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from sppnet.errors import ResourceError
from sppnet.tables.curves import draw_curves
from sppnet.tables.per_class import per_class_table
from sppnet.tables.table import CellStatus, Metric, Setting, Table
from sppnet.tables.wording import MARK, legend, one_line, ours_text, paper_text, rows_of, tested

# A row is three lines high: a long label wraps without costing a line.
_LABEL_WIDTH = 15
_GAP = 2
_COLOUR: dict[CellStatus, str] = {"complete": "bold", "failed": "red", "damaged": "red"}


def print_table(table: Table, directory: Path) -> None:
    """Print a table on standard output: as wide as the terminal and in colour if it is one.

    Args:
        table: To be shown.
        directory: Where it was read; its curves are drawn there, beside the table file, if it can be written.
    """
    is_terminal = sys.stdout.isatty()
    if isinstance(sys.stdout, TextIOWrapper):
        # A terminal that knows no "±" shows "?"; the table does not crash on it.
        sys.stdout.reconfigure(errors="replace")
    width = shutil.get_terminal_size((80, 24)).columns
    print(to_terminal(table, width=width, is_coloured=is_terminal and "NO_COLOR" not in os.environ), end="")
    home = directory.parent if directory.is_file() else directory
    try:
        if (picture := draw_curves(table, home / f"table-{table.group}.png")) is not None:
            print(f"picture: {picture}")
    except ResourceError as error:
        print(f"no picture: {error}", file=sys.stderr)


def to_terminal(table: Table, *, width: int, is_coloured: bool) -> str:
    """Return the table as text.

    Args:
        table: To be shown.
        width: Columns of the terminal.
        is_coloured: Whether to write colour codes; only a terminal wants them.
    """
    stream = StringIO()
    console = Console(
        file=stream,
        width=width,
        force_terminal=is_coloured,
        color_system="standard" if is_coloured else None,
        highlight=False,
    )
    # Text, not str, everywhere: a label in square brackets is not markup.
    console.print(Text(table.heading, style="bold"))
    if nothing := _nothing_measured(table):
        console.print(Text(nothing, style="yellow"))
        for note in table.notes:
            console.print(Text(f"note: {note}", style="yellow"))
        return _lines(stream)
    if table.reduced:
        console.print(Padding(Text(f"reduced: {'; '.join(table.reduced)}"), (0, 0, 0, 2)))
    console.print(Text(legend(table)))
    begun = _begun(table)
    for metric in table.metrics:
        rows = rows_of(begun, metric)
        grid = _grid if table.has_paper(metric) and table.is_compared(metric) else _plain_grid
        for columns in _blocks(begun, metric, width) if rows else []:
            console.print()
            console.print(grid(begun, metric, columns, rows))
    if missing := [
        setting.label
        for setting in (*table.rows, *table.columns)
        if setting not in begun.rows + begun.columns
    ]:
        console.print()
        console.print(Text(f"not run yet: {'; '.join(missing)}", style="yellow"))
    if (by_class := per_class_table(table)) is not None:
        told = by_class.metrics[0]
        grid = _grid if by_class.has_paper(told) and by_class.is_compared(told) else _plain_grid
        for columns in _blocks(by_class, by_class.metrics[0], width):
            console.print()
            console.print(grid(by_class, by_class.metrics[0], columns, by_class.rows))
    console.print()
    for claim in tested(table):
        style = {"confirmed": "green", "refuted": "red"}.get(claim.verdict, "yellow")
        console.print(Text.assemble((f"{MARK[claim.verdict]} {claim.verdict}", style), f": {claim.sentence}"))
        console.print(Padding(Text(claim.detail), (0, 0, 0, 2)))
    others = sum(claim.verdict == "not tested" for claim in table.claims)
    if others and not table.is_demonstration:
        console.print(Text(f"- not tested: {others} (--format md says why)"))
    for note in table.notes:
        console.print(Text(f"note: {note}", style="yellow"))
    return _lines(stream)


def _lines(stream: StringIO) -> str:
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _nothing_measured(table: Table) -> str:
    """What is said in place of a table without one number of ours; nothing of others."""
    cells = [cell for cell in table.cells.values() if cell.status != "reference"]
    if not cells or any(one.ours is not None for cell in cells for one in cell.measured.values()):
        return ""
    states = Counter("not run" if cell.status == "missing" else cell.status for cell in cells)
    return f"nothing measured yet; cells: {', '.join(f'{count} {state}' for state, count in states.items())}"


def _begun(table: Table) -> Table:
    """The table without rows, and then columns, of which nothing has begun; all of it if nothing has."""

    def is_begun(places: Iterable[tuple[str, str]]) -> bool:
        states = {table.cells[place].status for place in places}
        return "missing" not in states or not states <= {"missing", "reference"}

    rows = tuple(row for row in table.rows if is_begun((row.id, column.id) for column in table.columns))
    columns = tuple(column for column in table.columns if is_begun((row.id, column.id) for row in rows))
    return replace(table, rows=rows, columns=columns) if rows and columns else table


def _texts(table: Table, metric: Metric, row: Setting, column: Setting) -> tuple[str, str, str]:
    """Print ours, the paper's and the difference of one cell."""
    cell = table.cells[row.id, column.id]
    one = cell.measured[metric.key]
    difference = metric.signed_text(one.difference) if one.difference is not None else "-"
    return ours_text(table, cell, metric), paper_text(one, metric), difference


def _blocks(table: Table, metric: Metric, width: int) -> list[list[Setting]]:
    """Part the columns into runs that fit into `width`; a run has at least one."""
    label = min(
        max(cell_len(text) for text in (metric.label, *(row.label for row in table.rows))), _LABEL_WIDTH
    )
    is_compared = table.has_paper(metric) and table.is_compared(metric)
    room = width - label - _GAP - len("paper") * is_compared

    def texts_of(row: Setting, column: Setting) -> Sequence[str]:
        cell = table.cells[row.id, column.id]
        return _texts(table, metric, row, column) if is_compared else [one_line(table, cell, metric)]

    blocks: list[list[Setting]] = [[]]
    left = room
    for column in table.columns:
        texts = [text for row in table.rows for text in texts_of(row, column)]
        needed = max(cell_len(text) for text in (column.label, *texts)) + _GAP
        if blocks[-1] and needed > left:
            blocks.append([])
            left = room
        blocks[-1].append(column)
        left -= needed
    return blocks


def _plain_grid(table: Table, metric: Metric, columns: list[Setting], rows: Sequence[Setting]) -> Grid:
    """A line a row: ours, and the paper's in brackets where it is of other data."""
    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
    grid.add_column(Text(metric.label), max_width=2 * _LABEL_WIDTH, overflow="fold")
    for column in columns:
        grid.add_column(Text(column.label), justify="right", overflow="fold")
    for row in rows:
        cells = [one_line(table, table.cells[row.id, column.id], metric) for column in columns]
        grid.add_row(Text(row.label), *cells)
    return grid


def _grid(table: Table, metric: Metric, columns: list[Setting], rows: Sequence[Setting]) -> Grid:
    # The box's divider is one blank, the padding makes up the rest of the gap.
    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
    grid.add_column(Text(metric.label), max_width=_LABEL_WIDTH, overflow="fold")
    grid.add_column("")
    for column in columns:
        grid.add_column(Text(column.label), justify="right", overflow="fold")
    for row in rows:
        cells = []
        for column in columns:
            ours, paper, difference = _texts(table, metric, row, column)
            style = _COLOUR.get(table.cells[row.id, column.id].status, "yellow")
            cells.append(Text.assemble((ours, style), f"\n{paper}\n{difference}"))
        grid.add_row(Text(row.label), Text("ours\npaper\ndiff"), *cells)
    return grid
