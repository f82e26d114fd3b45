"""Words that every form of a table uses."""

from sppnet.tables.judgement import Claim, Verdict
from sppnet.tables.table import MARK_OF_STALE, Cell, Measurement, Metric, Setting, Table

MARK: dict[Verdict, str] = {"confirmed": "✓", "refuted": "✗", "undecided": "?", "not tested": "-"}


def ours_text(table: Table, cell: Cell, metric: Metric) -> str:
    """Print our number, or in words why there is none (or not yet all of it)."""
    one = cell.measured[metric.key]
    if cell.status == "reference":
        return "-"
    if one.ours is None:
        return "not measured" if cell.status in ("complete", "partial") else cell.status
    text = metric.text(one.ours) + (f" ± {metric.text(one.std)}" if one.std is not None else "")
    text += f" {MARK_OF_STALE}" if cell.is_stale else ""
    return text if cell.status == "complete" else f"{text} ({one.n} of {len(cell.seeds)} {table.repeats}s)"


def paper_text(one: Measurement, metric: Metric) -> str:
    """Print the paper's number with its deviation, where it gives one; a dash where it gives no number."""
    if one.paper is None:
        return "-"
    return metric.text(one.paper) + (f" ± {metric.text(one.paper_std)}" if one.paper_std is not None else "")


def rows_of(table: Table, metric: Metric) -> list[Setting]:
    """List the rows that have something to say of a metric; others' may lack it."""

    def says(row: Setting) -> bool:
        cells = [table.cells[row.id, column.id] for column in table.columns]
        return any(
            cell.status != "reference" or cell.measured[metric.key].paper is not None for cell in cells
        )

    return [row for row in table.rows if metric.is_of(row.id) and says(row)]


def legend(table: Table) -> str:
    """Say what the numbers are and where they come from."""
    number = len(table.seeds)
    seeds = f"one {table.repeats}"
    if number > 1:
        seeds = f"mean ± standard deviation of {number} {table.repeats}s"
    said = " A demonstration: none of the paper's claims is tested on generated images."
    end = said if table.is_demonstration else ""
    known = [metric for metric in table.metrics if table.has_paper(metric)]
    if not known:
        return f"{seeds[0].upper()}{seeds[1:]}. Data: {table.data}.{end}"
    text = f"Ours: {seeds}. Data: {table.data}.{end}"
    if any(table.is_compared(metric) for metric in known):
        return text
    return f"{text} The paper's, in brackets: {' and '.join(table.paper_data) or 'other data'}."


def one_line(table: Table, cell: Cell, metric: Metric) -> str:
    """Print ours (paper, difference) as one string."""
    one = cell.measured[metric.key]
    beside = [paper_text(one, metric)] if one.paper is not None else []
    beside += [metric.signed_text(one.difference)] if one.difference is not None else []
    text = ours_text(table, cell, metric)
    return f"{text} ({', '.join(beside)})" if beside else text


def tested(table: Table) -> list[Claim]:
    """List the claims that there is something to say of."""
    return [claim for claim in table.claims if claim.verdict != "not tested"]


def untested(table: Table) -> str | None:
    """Name those of which there is nothing, in one line; a demonstration tests none."""
    others = [claim for claim in table.claims if claim.verdict == "not tested"]
    if not others or table.is_demonstration:
        return None
    return f"not tested: {len(others)} ({', '.join(f'{claim.id}: {claim.detail}' for claim in others)})"


def planned(table: Table) -> str | None:
    """Say when it was written down what would be compared, and whether that has changed."""
    if not table.plans or not table.claims or table.is_demonstration:
        return None
    first, last = table.plans[0], table.plans[-1]
    text = f"plan {last['hash'][:8]} of {last['fixed']}, {last['num_complete']} cells being complete"
    if len(table.plans) == 1:
        return text
    return f"{text}; it was {first['hash'][:8]} of {first['fixed']}, and changed {len(table.plans) - 1} times"
