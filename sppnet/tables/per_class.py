"""The same cells class by class: a row for every cell of a table, a column for every class."""

from collections.abc import Sequence
from dataclasses import replace

from sppnet.tables.escape import clean
from sppnet.tables.table import Cell, Measurement, Metric, Run, Setting, Table


def per_class_table(table: Table) -> Table | None:
    """Make a table of what the runs measured of each class.

    Args:
        table: Whose `per_class` is the beginning of those metrics' keys, such as "test/ap/".

    Returns:
        Classes in alphabetical order; None where nothing was measured class by class.
    """
    prefix = table.per_class
    if prefix is None:
        return None
    measured = [run for run in table.runs if run.state == "complete"]
    keys = sorted({key for run in measured for key in run.metrics if key.startswith(prefix)})
    if not keys:
        return None
    headline = table.metrics[0]
    metric = replace(headline, key=prefix, label=f"{headline.label}, by class", rows=None)
    columns = tuple(Setting(key, clean(key.removeprefix(prefix))) for key in keys)
    rows, cells = [], {}
    for row in table.rows:
        for column in table.columns:
            runs = [run for run in measured if (run.row, run.column) == (row.id, column.id)]
            if runs:
                label = row.label if len(table.columns) == 1 else f"{row.label}, {column.label}"
                rows.append(Setting(f"{row.id}/{column.id}", label))
                for key in keys:
                    cells[rows[-1].id, key] = _cell(rows[-1], key, runs, metric)
    return replace(
        table,
        rows=tuple(rows),
        columns=columns,
        metrics=(metric,),
        cells=cells,
        claims=(),
        notes=(),
        curve=None,
    )


def _cell(row: Setting, key: str, runs: Sequence[Run], metric: Metric) -> Cell:
    one = Measurement.of({run.repeat: metric.printed(run.metrics[key]) for run in runs if key in run.metrics})
    return Cell(row.id, key, "complete" if one.n else "reference", {}, {metric.key: one}, None)
