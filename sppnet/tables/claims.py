"""Does what the paper says of its table hold in ours, by how much, and is that more than chance?

A tie is not a win. Only complete cells count: a cell with half its seeds could still change sides.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sppnet.tables.escape import clean
from sppnet.tables.table import Cell, Claim, Measurement, Metric, Setting, Table


@dataclass(frozen=True)
class Comparison:
    """Two complete cells that a claim compares, in the metric's printed unit.

    Attributes:
        place: The column (or row) both stand in.
        difference: The better cell minus the worse, as the claim calls them.
        gain: The same with its sign turned so that positive agrees with the claim.
        paper: The paper's own difference, where it has both numbers.
        num_seeds: Seeds behind each of the two.
        standard_error: Of the difference, over seeds; 0 with one seed.
        num_images: Test images behind each of the two; None where not recorded.
        sampling_error: The larger of the two numbers' binomial standard errors, if they are shares of
            those images.
        times: Of seconds, the worse cell over the better one, ours and the paper's: so many times as fast.
    """

    place: Setting
    difference: float
    gain: float
    paper: float | None
    num_seeds: int
    standard_error: float
    num_images: int | None
    sampling_error: float
    times: tuple[float, float | None] | None


def judge(table: Table, claim: Mapping[str, Any]) -> Claim:
    """Judge one claim of a table file.

    Args:
        table: With its cells read.
        claim: `id`, `text`, `kind` ("better": in every place; "largest_gain": largest at `at`; "flatter":
            a smaller difference between the largest and the smallest place), `along` ("rows" compares two
            rows in every column, "columns" two columns in every row), `better`, `worse`, `metric`, and
            optionally `only` (ids of the places).

    Returns:
        The judgement. A claim that names what the table does not have is not judged, and says so:
        hours of runs are not lost to a slip in one line.
    """
    identity, text = clean(claim["id"]), clean(claim["text"])
    if claim["kind"] not in ("better", "largest_gain", "flatter"):
        return Claim(identity, text, None, clean(f"cannot be judged: unknown kind {claim['kind']!r}"))
    try:
        metric = {metric.key: metric for metric in table.metrics}[claim["metric"]]
        places = _places(table, claim)
        pairs = {place: _compare(metric, place, *_two_cells(table, claim, place)) for place in places}
        is_largest = claim["kind"] == "largest_gain"
        at = {place.id: place for place in places}[claim["at"]] if is_largest else None
    except KeyError as error:
        return Claim(
            identity, text, None, clean(f"cannot be judged: no {error.args[0]!r} in the table or claim")
        )
    finished = [pair for pair in pairs.values() if pair]
    unfinished = [place for place, pair in pairs.items() if not pair]
    if not finished:
        return Claim(identity, text, None, f"none of {len(places)} comparisons is finished")
    holds: bool | None
    if is_flatter := claim["kind"] == "flatter":
        holds, parts = _flatter(table, claim, metric, [pair.place for pair in finished])
    else:
        holds, verdict = _largest_gain(finished, at) if at else _better(finished)
        parts = [f"{verdict}: {', '.join(_by_how_much(pair, metric) for pair in finished)}"]
    if unfinished:
        parts.append(f"not finished: {', '.join(place.label for place in unfinished)}")
        # One finished place refutes a claim, unless it is of a range; only all of them confirm it.
        holds = None if holds or is_flatter else holds
    if not is_flatter:
        parts.append(_chance(finished, metric, table.repeats))
    return Claim(identity, text, holds, "; ".join(parts))


def _places(table: Table, claim: Mapping[str, Any]) -> list[Setting]:
    """List the columns (or rows) in which two rows (or columns) are compared."""
    places = {"rows": table.columns, "columns": table.rows}[claim["along"]]
    only = claim.get("only") or [place.id for place in places]
    by_id = {place.id: place for place in places}
    return [by_id[identity] for identity in only]


def _two_cells(table: Table, claim: Mapping[str, Any], place: Setting) -> tuple[Cell, Cell]:
    if claim["along"] == "rows":
        return table.cells[claim["better"], place.id], table.cells[claim["worse"], place.id]
    return table.cells[place.id, claim["better"]], table.cells[place.id, claim["worse"]]


def _compare(metric: Metric, place: Setting, better: Cell, worse: Cell) -> Comparison | None:
    """Compare two cells; None unless both are complete and measured the metric."""
    ours, other = better.measured[metric.key], worse.measured[metric.key]
    if not better.status == worse.status == "complete" or ours.ours is None or other.ours is None:
        return None
    difference = round(ours.ours - other.ours, 10)
    counts = [cell.num_images for cell in (better, worse) if cell.num_images]
    num_images = min(counts) if counts else None
    shares = [min(max(value / 100, 0.0), 1.0) for value in (ours.ours, other.ours)]
    return Comparison(
        place=place,
        difference=difference,
        gain=-difference if metric.lower_is_better else difference,
        paper=None if ours.paper is None or other.paper is None else round(ours.paper - other.paper, 10),
        num_seeds=min(ours.n, other.n),
        standard_error=math.sqrt(sum((one.std or 0.0) ** 2 / one.n for one in (ours, other))),
        num_images=num_images,
        sampling_error=max(100 * math.sqrt(share * (1 - share) / (num_images or 1)) for share in shares),
        times=_times(ours, other) if metric.unit == "seconds" else None,
    )


def _times(ours: Measurement, other: Measurement) -> tuple[float, float | None] | None:
    """How many times as fast, ours and the paper's."""
    if not ours.ours or other.ours is None:
        return None
    paper = other.paper / ours.paper if ours.paper and other.paper is not None else None
    return other.ours / ours.ours, paper


def _better(finished: Sequence[Comparison]) -> tuple[bool | None, str]:
    """Judge "wins in every place": a loss refutes it, a tie leaves it open."""
    wins, ties = sum(pair.gain > 0 for pair in finished), sum(pair.gain == 0 for pair in finished)
    holds = wins == len(finished) if wins + ties < len(finished) or not ties else None
    tied = f", {ties} tied" if ties else ""
    return holds, f"holds in {wins} of {len(finished)}{tied}"


def _largest_gain(finished: Sequence[Comparison], at: Setting) -> tuple[bool | None, str]:
    """Judge "gains most at `at`": it gains, and strictly more than in any other place."""
    most = max(pair.gain for pair in finished)
    leaders = [pair.place for pair in finished if pair.gain == most]
    verdict = f"largest gain at {' and '.join(place.label for place in leaders)}"
    if most <= 0:
        leaders, verdict = [], "no gain"
    if at not in [pair.place for pair in finished]:
        return None, verdict
    return leaders == [at], verdict


def _flatter(
    table: Table, claim: Mapping[str, Any], metric: Metric, places: Sequence[Setting]
) -> tuple[bool, list[str]]:
    """Judge "varies less over the places": largest minus smallest number of either row (or column)."""
    spreads, texts = {}, []
    for side, position in (("better", 0), ("worse", 1)):
        values = {}
        for place in places:
            one = _two_cells(table, claim, place)[position].measured[metric.key].ours
            assert one is not None, "only finished places are compared"
            values[place] = one
        low, high = min(values, key=lambda p: values[p]), max(values, key=lambda p: values[p])
        spreads[side] = round(values[high] - values[low], 10)
        texts.append(
            f"{clean(claim[side])} varies by {metric.text(spreads[side])} ({metric.text(values[low])} at "
            f"{low.label} to {metric.text(values[high])} at {high.label})"
        )
    return spreads["better"] < spreads["worse"], texts


def _by_how_much(pair: Comparison, metric: Metric) -> str:
    if pair.times is not None:
        ours, theirs = pair.times
        paper = f" (paper {theirs:.1f})" if theirs is not None else ""
        return f"{pair.place.label} {ours:.1f} times as fast{paper}"
    paper = f" (paper {metric.signed_text(pair.paper)})" if pair.paper is not None else ""
    return f"{pair.place.label} {metric.signed_text(pair.difference)}{paper}"


def _chance(finished: Sequence[Comparison], metric: Metric, repeats: str) -> str:
    """Set the differences against the spread over seeds (or splits) or, with one, of the test images."""
    num_seeds = min(pair.num_seeds for pair in finished)
    if num_seeds > 1:
        clear = [pair for pair in finished if abs(pair.difference) > 2 * pair.standard_error]
        against = sum(pair.gain < 0 for pair in clear)
        largest = metric.text(max(pair.standard_error for pair in finished))
        return (
            f"{repeats} spread ±{largest} (largest standard error of a difference, {num_seeds} {repeats}s); "
            f"{len(clear)} of {len(finished)} differences exceed twice their own"
        ) + (f", {against} of them against the claim" if against else "")
    most = max(finished, key=lambda pair: pair.sampling_error if pair.num_images else -1.0)
    # Only a share of images is binomial; a mean AP or a time is not.
    if metric.unit == "percent" and metric.key.endswith(("error", "accuracy")) and most.num_images:
        return (
            f"one {repeats}: spread unknown; sampling error of {most.num_images} test images "
            f"about ±{metric.text(most.sampling_error)} points"
        )
    return f"one {repeats}: spread unknown"
