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
        Classes in alphabetical order, with the paper's numbers of those that were measured, and the rows of
        other methods; None where nothing was measured class by class.
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
    names = {key.removeprefix(prefix) for key in keys}
    others = {place for place, known in table.paper_per_class.items() if names & known.keys()}
    rows, cells = [], {}
    for row in table.rows:
        for column in table.columns:
            runs = [run for run in measured if (run.row, run.column) == (row.id, column.id)]
            if runs:
                label = row.label if len(table.columns) == 1 else f"{row.label}, {column.label}"
                rows.append(Setting(f"{row.id}/{column.id}", label))
                known = table.paper_per_class.get((row.id, column.id), {})
                is_comparable = table.cells[row.id, column.id].measured[headline.key].is_comparable
                for key in keys:
                    paper = known.get(key.removeprefix(prefix))
                    cells[rows[-1].id, key] = _cell(rows[-1], key, runs, metric, paper, is_comparable)
            elif (row.id, column.id) in others:
                label = row.label if len(table.columns) == 1 else f"{row.label}, {column.label}"
                rows.append(Setting(f"{row.id}/{column.id}", label))
                known = table.paper_per_class[row.id, column.id]
                for key in keys:
                    paper = known.get(key.removeprefix(prefix))
                    cells[rows[-1].id, key] = _cell(rows[-1], key, [], metric, paper, True)
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


def _cell(
    row: Setting, key: str, runs: Sequence[Run], metric: Metric, paper: float | None, is_comparable: bool
) -> Cell:
    values = {run.repeat: metric.printed(run.metrics[key]) for run in runs if key in run.metrics}
    one = Measurement.of(values, paper=paper, is_comparable=is_comparable)
    return Cell(row.id, key, "complete" if one.n else "reference", {}, {metric.key: one}, None)
