"""What a claim compares, cell with cell and pair by pair, and how sure the difference is."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sppnet.tables.judgement import Contrast
from sppnet.tables.statistics import ALPHA, MIN_PAIRS, Estimate, estimate, sign_flip
from sppnet.tables.table import Metric, Run, Setting, Table

Place = tuple[str, str]  # row and column


class _Series(NamedTuple):
    """What a cell measured, or what follows from several: a number a repeat, and over images drawn anew."""

    values: Mapping[int, float]
    replicates: Mapping[int, NDArray[np.float64]]
    paper: float | None


class Bounds(NamedTuple):
    """Where a claim puts a contrast: above `floor` and below `ceiling`; under `least` it is refuted."""

    floor: float
    ceiling: float
    least: float


@dataclass(frozen=True)
class Wanted:
    """A contrast of a claim before it is measured: the cells it is made of and how."""

    label: str
    cells: tuple[Place, ...]
    gain: Callable[[Sequence[Any]], Any]  # of numbers, or of arrays, one a cell


class Slip(Exception):
    """A claim names what the table does not have."""


def contrasts_of(table: Table, claim: Mapping[str, Any]) -> list[Wanted]:
    """List what has to hold."""
    kind, places = claim["kind"], _places(table, claim)
    sides = [] if "than" in claim else _sides(claim)
    named = [claim["better"]] if "than" in claim else list(dict.fromkeys(itertools.chain(*sides)))
    for cell in (_cell(claim, side, place) for side in named for place in places):
        if cell not in table.cells:
            raise KeyError(next(part for part in cell if not any(part in place for place in table.cells)))
    if "than" in claim:
        metric = metric_of(table, claim)
        number = float(claim["than"]) * (-1.0 if metric.lower_is_better else 1.0)
        return [
            Wanted(place.label, (_cell(claim, claim["better"], place),), lambda one: one[0] - number)
            for place in places
        ]
    if kind in ("better", "similar", "not_worse", "chain", "fewer"):
        return [
            Wanted(
                _label(table, claim, place, pair, len(sides)),
                (_cell(claim, pair[0], place), _cell(claim, pair[1], place)),
                lambda two: two[0] - two[1],
            )
            for pair in sides
            for place in places
        ]
    ((better, worse),) = sides[:1]
    pairs = [(_cell(claim, better, place), _cell(claim, worse, place)) for place in places]
    if kind == "flatter":
        cells = tuple(cell for pair in pairs for cell in pair)
        return [Wanted("over all", cells, lambda all_: _range(all_[1::2]) - _range(all_[0::2]))]
    if kind == "largest_gain":
        at = {place.id: position for position, place in enumerate(places)}[claim["at"]]
        own = Wanted(places[at].label, pairs[at], lambda two: two[0] - two[1])
        more = lambda four: four[0] - four[1] - four[2] + four[3]  # noqa: E731
        return [own] + [
            Wanted(f"more than {place.label}", (*pairs[at], *pair), more)
            for place, pair in zip(places, pairs, strict=True)
            if place != places[at]
        ]
    if kind == "classes":
        all_sides = [pair[1] for pair in sides]
        return [
            Wanted(place.label, tuple(_cell(claim, side, place) for side in (better, *all_sides)), _range)
            for place in places
        ]
    raise Slip(f"unknown kind {kind!r}")


def _sides(claim: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List the pairs of ids that a claim compares, the better one first."""
    if claim["kind"] == "chain":
        return [(better, worse) for worse, better in zip(claim["order"], claim["order"][1:], strict=False)]
    better, worse = (
        claim[side] if isinstance(claim[side], list) else [claim[side]] for side in ("better", "worse")
    )
    return [(one, other) for one in better for other in worse]


def _range(values: Sequence[Any]) -> Any:
    stacked = np.stack([np.asarray(value, dtype=np.float64) for value in values])
    return stacked.max(axis=0) - stacked.min(axis=0)


def _places(table: Table, claim: Mapping[str, Any]) -> list[Setting]:
    """List the columns (or rows) in which two rows (or columns) are compared."""
    places = {"rows": table.columns, "columns": table.rows}[claim["along"]]
    by_id = {place.id: place for place in places}
    return [by_id[identity] for identity in claim.get("only") or by_id]


def _cell(claim: Mapping[str, Any], side: str, place: Setting) -> Place:
    return (side, place.id) if claim["along"] == "rows" else (place.id, side)


def _label(
    table: Table, claim: Mapping[str, Any], place: Setting, pair: tuple[str, str], num_sides: int
) -> str:
    settings = table.rows if claim["along"] == "rows" else table.columns
    names = {setting.id: setting.label for setting in settings}
    beside = f"{names[pair[0]]} against {names[pair[1]]}" if num_sides > 1 else ""
    is_only = place.id == "result" and beside
    return beside if is_only else ", ".join(text for text in (place.label, beside) if text)


def metric_of(table: Table, claim: Mapping[str, Any]) -> Metric:
    """Find the metric of a claim; one that the table does not show, the claim gives the unit of."""
    key = claim["metric"]
    known = {metric.key: metric for metric in table.metrics}
    if key not in known and ("unit" in claim or claim["kind"] == "fewer"):
        return Metric(key, key, key, claim.get("unit", "count"), True, None)
    return known[key]


def bounds_of(claim: Mapping[str, Any], metric: Metric) -> Bounds:
    """Where the claim puts a contrast, on the scale that it is compared on."""
    smallest = float(claim.get("smallest", 0.0))
    if metric.unit == "seconds":
        smallest = math.log(smallest) if smallest else 0.0
    if claim["kind"] == "similar":
        return Bounds(-float(claim["within"]), float(claim["within"]), -float(claim["within"]))
    if claim["kind"] == "not_worse":
        return Bounds(-float(claim["by"]), math.inf, -float(claim["by"]))
    if claim["kind"] == "classes":
        return Bounds(float(claim["more_than"]), math.inf, float(claim["more_than"]))
    return Bounds(0.0, math.inf, smallest)


def runs_of(table: Table, cell: Place) -> list[Run]:
    """List the runs of a cell, complete or not."""
    return [run for run in table.runs if (run.row, run.column) == cell]


def measure(
    table: Table, claim: Mapping[str, Any], metric: Metric, wanted: Wanted, bounds: Bounds
) -> Contrast | None:
    """Measure a contrast; None unless all its cells are complete."""
    if not all(table.cells[cell].status == "complete" for cell in wanted.cells):
        return None
    if claim["kind"] == "classes":
        joined = _classes_won(table, metric, wanted)
        joined = joined and joined._replace(paper=claim.get("paper"))
    else:
        joined = _joined(wanted.gain, [_series(table, cell, metric) for cell in wanted.cells])
    if joined is None:
        return None
    complete = [run for cell in wanted.cells for run in runs_of(table, cell)]
    num_images = int(min((run.metrics.get("test/num_images", 0.0) for run in complete), default=0))
    num_images = int(min((run.metrics.get("timing/num_images", num_images) for run in complete), default=0))
    values = [round(joined.values[repeat], 10) for repeat in sorted(joined.values)]
    rows = [joined.replicates[repeat] for repeat in sorted(joined.values) if repeat in joined.replicates]
    replicates = np.stack(rows) if len(rows) == len(values) else None
    found = estimate(values, replicates, num_images)
    if claim["kind"] == "fewer":
        is_so = found.mean > 0
        text = f"{found.mean:.0f} fewer" if is_so else f"{-found.mean:.0f} more"
        return Contrast(wanted.label, found, None, text, 0.0 if is_so else 1.0, 1.0 if is_so else 0.0, 0.0)
    has_signs = len(values) > 1
    inside = max(
        sign_flip([value - bounds.floor for value in values]),
        0.0 if math.isinf(bounds.ceiling) else sign_flip([bounds.ceiling - value for value in values]),
    )
    outside = min(
        sign_flip([bounds.least - value for value in values]),
        1.0 if math.isinf(bounds.ceiling) else sign_flip([value - bounds.ceiling for value in values]),
    )
    confirmed = max(
        found.above(bounds.floor), 0.0 if math.isinf(bounds.ceiling) else found.below(bounds.ceiling)
    )
    refuted = min(
        found.below(bounds.least), 1.0 if math.isinf(bounds.ceiling) else found.above(bounds.ceiling)
    )
    if (found.error == 0 and claim["kind"] != "fewer") or not _can_decide(table, metric, found, complete):
        confirmed = refuted = 1.0  # nothing varied, so nothing is known of chance; or too few pairs
    if has_signs and found.error**2 > found.of_images:  # repeats that never differ have no signs to agree
        confirmed = confirmed if inside <= ALPHA else max(confirmed, 2 * inside)
        refuted = refuted if outside <= ALPHA else max(refuted, 2 * outside)
    signs = min(inside, outside) if has_signs else None
    text = _text(found, joined.paper, metric if claim["kind"] != "classes" else None)
    return Contrast(wanted.label, found, joined.paper, text, min(confirmed, 1.0), min(refuted, 1.0), signs)


def _can_decide(table: Table, metric: Metric, found: Estimate, runs: Iterable[Run]) -> bool:
    """Whether there are pairs enough: of repeats, where they make a difference, otherwise of images."""
    return len(found.differences) >= MIN_PAIRS or (
        not _must_repeat(table, metric, runs) and found.of_images > 0 and found.freedom >= MIN_PAIRS - 1
    )


def _must_repeat(table: Table, metric: Metric, runs: Iterable[Run]) -> bool:
    """Whether another seed or split would measure something else."""
    is_trained = any({"train/steps", "finetuning/steps"} & run.metrics.keys() for run in runs)
    return metric.unit != "seconds" and (table.repeats == "split" or is_trained)


def _series(table: Table, cell: Place, metric: Metric) -> _Series | None:
    """What a cell measured, higher being better; seconds as logarithms. None unless all repeats did."""
    is_ratio, sign = metric.unit == "seconds", -1.0 if metric.lower_is_better else 1.0

    def turned(value: Any) -> Any:
        return sign * (np.log(np.maximum(value, 1e-12)) if is_ratio else metric.printed(1.0) * value)

    values, replicates = {}, {}
    for run in runs_of(table, cell):
        if run.state == "complete" and metric.key in run.metrics:
            values[run.repeat] = round(float(turned(run.metrics[metric.key])), 10)
            if metric.key in run.replicates:
                replicates[run.repeat] = turned(np.asarray(run.replicates[metric.key], dtype=np.float64))
    measured = table.cells[cell].measured.get(metric.key)
    paper = None if measured is None or measured.paper is None else measured.paper
    if paper is not None:
        paper = float(sign * (math.log(paper) if is_ratio else paper))
    return _Series(values, replicates, paper) if set(values) >= set(table.seeds) else None


def _joined(gain: Callable[[Sequence[Any]], Any], series: Sequence[_Series | None]) -> _Series | None:
    """Apply a contrast to the cells' numbers, repeat by repeat."""
    known = [one for one in series if one is not None]
    if len(known) < len(series):
        return None
    repeats = set.intersection(*(set(one.values) for one in known))
    drawn = set.intersection(*(set(one.replicates) for one in known))
    papers = [one.paper for one in known if one.paper is not None]
    return _Series(
        {repeat: float(gain([one.values[repeat] for one in known])) for repeat in repeats},
        {repeat: gain([one.replicates[repeat] for one in known]) for repeat in drawn & repeats},
        round(float(gain(papers)), 10) if len(papers) == len(known) else None,
    )


def _classes_won(table: Table, metric: Metric, wanted: Wanted) -> _Series | None:
    """In how many classes the first cell is strictly better than all others, repeat by repeat."""
    prefix = table.per_class
    if prefix is None:
        raise Slip("the table has nothing class by class")
    by_repeat: dict[int, list[Mapping[str, float]]] = {}
    for cell in wanted.cells:
        for run in runs_of(table, cell):
            if run.state == "complete":
                of_class = {key: value for key, value in run.metrics.items() if key.startswith(prefix)}
                by_repeat.setdefault(run.repeat, []).append(of_class)
    won = {}
    for repeat, (first, *others) in by_repeat.items():
        if len(others) + 1 < len(wanted.cells) or not first:
            return None
        won[repeat] = float(sum(all(first[key] > one.get(key, 0.0) for one in others) for key in first))
    return _Series(won, {}, None) if won else None


def _text(found: Estimate, paper: float | None, metric: Metric | None) -> str:
    """A contrast with its interval and the paper's: in points, so many times as fast, or a count."""
    low, high = found.interval
    if metric is None:
        beside = f" (paper {paper:.0f})" if paper is not None else ""
        return f"{found.mean:.1f} classes [{low:.1f}, {high:.1f}]{beside}"
    if metric.unit == "seconds":
        beside = f" (paper {math.exp(paper):.1f})" if paper is not None else ""
        shown = f" [{math.exp(low):.1f}, {math.exp(high):.1f}]" if found.error else ""
        return f"{math.exp(found.mean):.1f} times as fast{shown}{beside}"
    beside = f" (paper {metric.signed_text(paper)})" if paper is not None else ""
    shown = f" [{metric.signed_text(low)}, {metric.signed_text(high)}]" if found.error else ""
    return f"{metric.signed_text(found.mean)}{shown}{beside}"
