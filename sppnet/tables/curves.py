"""A table as a picture: one curve a row, over columns that are numbers (Figs. of error against test size)."""

import contextlib
from pathlib import Path

from sppnet.artifacts import write_atomic
from sppnet.tables.table import Metric, Setting, Table
from sppnet.tables.wording import legend

_WIDTH, _HEIGHT, _DPI = 7.0, 4.5, 130  # inches, and pixels an inch


def draw_curves(table: Table, file: Path) -> Path | None:
    """Draw the headline metric of every row against the columns, as a PNG.

    Args:
        table: Whose `curve` says what the columns measure.
        file: Where to.

    Returns:
        The file; None where there is nothing to draw (no curve, or fewer than two points in every row).

    Raises:
        ResourceError: The file cannot be written.
    """
    if table.curve is None:
        return None
    metric = table.metrics[0]
    curves = {row: _points(table, metric, row) for row in table.rows}
    if max(map(len, curves.values())) < 2:
        return None
    # Matplotlib costs a second: only who wants a picture waits for it.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    axes = figure.subplots()
    for row, points in curves.items():
        if points:
            places, values, deviations = zip(*points, strict=True)
            axes.errorbar(places, values, yerr=deviations, marker="o", capsize=3, label=row.label)
    axes.set_xlabel(table.curve)
    axes.set_ylabel(metric.label)
    axes.set_title(table.heading, fontsize="medium", wrap=True)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.supxlabel(legend(table), fontsize="small")
    write_atomic(file, lambda stream: figure.savefig(stream, format="png", dpi=_DPI))
    return file


def _points(table: Table, metric: Metric, row: Setting) -> list[tuple[float, float, float]]:
    """List place, our number and its deviation over seeds, of finished cells."""
    points = []
    for column in table.columns:
        one, place = table.cells[row.id, column.id].measured[metric.key], _number(column)
        if one.ours is not None and place is not None:
            points.append((place, one.ours, one.std or 0.0))
    return sorted(points)


def _number(column: Setting) -> float | None:
    """A column's value: 144 of the id "144", 5 of "per_class=5"; None of one that is no number."""
    with contextlib.suppress(ValueError):
        return float(column.id.rpartition("=")[2])
    return None
