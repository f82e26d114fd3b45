"""Words that every form of a table uses."""

from sppnet.tables.records import Cell, Metric, Table

MARK = {True: "✓", False: "✗", None: "?"}


def ours_text(table: Table, cell: Cell, metric: Metric) -> str:
    """Print our number, or in words why there is none (or not yet all of it)."""
    one = cell.measured[metric.key]
    if cell.status == "reference":
        return "-"
    if one.ours is None:
        return "not measured" if cell.status in ("complete", "partial") else cell.status
    text = metric.text(one.ours) + (f" ± {metric.text(one.std)}" if one.std is not None else "")
    return text if cell.status == "complete" else f"{text} ({one.n} of {len(table.seeds)} {table.repeats}s)"


def legend(table: Table) -> str:
    """Say what the numbers are and where they come from."""
    number = len(table.seeds)
    seeds = f"one {table.repeats}"
    if number > 1:
        seeds = f"mean ± standard deviation of {number} {table.repeats}s"
    return f"Ours: {seeds}. Data: {table.data}."
