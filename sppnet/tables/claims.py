"""What the paper says of its table, decided by ours: confirmed, refuted, undecided, or not tested.

A claim is of contrasts, all of which have to hold: differences between cells, pair by pair (the same seed or
split, the same images), turned so that positive speaks for the claim; seconds as logarithms, so that a
difference is a ratio. It is confirmed if every contrast lies where the claim puts it, refuted if one lies
elsewhere or is smaller than the smallest effect of interest, and undecided otherwise, with what would decide
it. p values are adjusted for the number of claims of the table (Holm); signs alone have to say the same.
Nothing is decided from networks that have not learned to the end, nor from fewer than five pairs where seeds
or splits make a difference.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sppnet.tables.escape import clean
from sppnet.tables.statistics import ALPHA, MIN_PAIRS, Estimate, estimate, holm, sign_flip
from sppnet.tables.table import Claim, Contrast, Metric, Run, Setting, Table

Place = tuple[str, str]  # row and column


class _Series(NamedTuple):
    """What a cell measured, or what follows from several: a number a repeat, and over images drawn anew."""

    values: Mapping[int, float]
    replicates: Mapping[int, NDArray[np.float64]]
    paper: float | None


class _Bounds(NamedTuple):
    """Where a claim puts a contrast: above `floor` and below `ceiling`; under `least` it is refuted."""

    floor: float
    ceiling: float
    least: float


@dataclass(frozen=True)
class _Wanted:
    """A contrast of a claim before it is measured: the cells it is made of and how."""

    label: str
    cells: tuple[Place, ...]
    gain: Callable[[Sequence[Any]], Any]  # of numbers, or of arrays, one a cell


class _Judged(NamedTuple):
    """A claim with its evidence."""

    contrasts: list[Contrast]
    unfinished: list[str]
    p_confirmed: float
    p_refuted: float


class _Slip(Exception):
    """A claim names what the table does not have."""


def judge(table: Table, claims: Sequence[Mapping[str, Any]]) -> tuple[Claim, ...]:
    """Judge the claims of a table file.

    Args:
        table: With its cells read.
        claims: Records: `id`, `section`, `quote` (the paper's words), `text` (what is compared), `kind`, and:

            better: `better` and `worse` (ids, or lists of them: each beats each) `along` "rows" in every
                column, or "columns" in every row, or in those that `only` names; or `than`, a number of
                the paper's; `metric` (with `unit` if the table does not show it); `smallest`, the smallest
                effect of interest (points; of seconds: so many times).
            similar: the same, with `within` (points) instead: no further apart.
            not_worse: the same, with `by`: no more than so much worse.
            chain: `order`, worst first, in place of better and worse.
            largest_gain: gains, and more than in any other place, `at` one.
            flatter: the largest number minus the smallest over the places is smaller.
            classes: `better` beats all of `worse` in `more_than` so many classes; in `paper` so many there.
            fewer: a count that no seed changes, such as num_parameters, is smaller.
            complexity: R-CNN's pixels (`windows` of `warped` squared) over SPP-net's (`aspect` times the
                squares of `scales`) are `paper`, `within` a share.
            untested: `reason` says why not.

    Returns:
        In their order. A claim that names what the table does not have is not tested, and says so: hours of
        runs are not lost to a slip in one line.
    """
    known: list[_Judged | str] = []
    for claim in claims:
        try:
            known.append(_assess(table, claim))
        except _Slip as slip:
            known.append(clean(f"cannot be judged: {slip}"))
        except KeyError as error:
            known.append(clean(f"cannot be judged: no {error.args[0]!r} in the table or claim"))
    family = [one for one in known if isinstance(one, _Judged) and one.contrasts]
    adjusted = iter(holm([min(one.p_confirmed, one.p_refuted) for one in family]))
    return tuple(
        _decide(table, claim, one, next(adjusted) if one.contrasts else 1.0, len(family))
        if isinstance(one, _Judged)
        else _claim(table, claim, "not tested", one)
        for claim, one in zip(claims, known, strict=True)
    )


def _assess(table: Table, claim: Mapping[str, Any]) -> _Judged | str:
    """Gather the evidence of a claim; a sentence where there can be none."""
    kind = claim["kind"]
    if kind == "untested":
        return clean(str(claim["reason"]))
    if kind == "complexity":
        return _complexity(claim)
    wanted = _contrasts(table, claim)
    if table.is_demonstration and kind != "fewer":
        return "the images are generated: a demonstration, no evidence"
    metric = _metric(table, claim)
    if "than" in claim and not _is_of_the_papers_kind(table, metric, wanted):
        return "the number is of other data, or of another scale"
    finished, unfinished = [], []
    bounds = _bounds(claim, metric)
    for one in wanted:
        contrast = _measure(table, claim, metric, one, bounds)
        if contrast is None:
            unfinished.append(one.label)
        else:
            finished.append(contrast)
    if not finished and not any(_runs(table, cell) for one in wanted for cell in one.cells):
        return "not run"
    return _Judged(
        finished,
        unfinished,
        max((one.p_confirmed for one in finished), default=1.0) if not unfinished else 1.0,
        min(1.0, len(finished) * min((one.p_refuted for one in finished), default=1.0)),
    )


def _is_of_the_papers_kind(table: Table, metric: Metric, wanted: Iterable[_Wanted]) -> bool:
    measured = [table.cells[cell].measured[metric.key] for one in wanted for cell in one.cells]
    return table.preset == "paper" and all(one.is_comparable for one in measured)


def _complexity(claim: Mapping[str, Any]) -> _Judged:
    """Compare the pixels that convolutions see (§4.3)."""
    ours = claim["windows"] * claim["warped"] ** 2 / (claim["aspect"] * sum(s**2 for s in claim["scales"]))
    is_so = abs(ours / claim["paper"] - 1) <= claim["within"]
    text = f"1/{ours:.1f} (paper 1/{claim['paper']})"
    contrast = Contrast(
        "computed", Estimate(ours, 0, math.inf, 0, ()), float(claim["paper"]), text, 0.0, 0.0, 0.0
    )
    return _Judged([contrast], [], 0.0 if is_so else 1.0, 1.0 if is_so else 0.0)


def _contrasts(table: Table, claim: Mapping[str, Any]) -> list[_Wanted]:
    """List what has to hold."""
    kind, places = claim["kind"], _places(table, claim)
    sides = [] if "than" in claim else _sides(claim)
    named = [claim["better"]] if "than" in claim else list(dict.fromkeys(itertools.chain(*sides)))
    for cell in (_cell(claim, side, place) for side in named for place in places):
        if cell not in table.cells:
            raise KeyError(next(part for part in cell if not any(part in place for place in table.cells)))
    if "than" in claim:
        metric = _metric(table, claim)
        number = float(claim["than"]) * (-1.0 if metric.lower_is_better else 1.0)
        return [
            _Wanted(place.label, (_cell(claim, claim["better"], place),), lambda one: one[0] - number)
            for place in places
        ]
    if kind in ("better", "similar", "not_worse", "chain", "fewer"):
        return [
            _Wanted(
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
        return [_Wanted("over all", cells, lambda all_: _range(all_[1::2]) - _range(all_[0::2]))]
    if kind == "largest_gain":
        at = {place.id: position for position, place in enumerate(places)}[claim["at"]]
        own = _Wanted(places[at].label, pairs[at], lambda two: two[0] - two[1])
        more = lambda four: four[0] - four[1] - four[2] + four[3]  # noqa: E731
        return [own] + [
            _Wanted(f"more than {place.label}", (*pairs[at], *pair), more)
            for place, pair in zip(places, pairs, strict=True)
            if place != places[at]
        ]
    if kind == "classes":
        all_sides = [pair[1] for pair in sides]
        return [
            _Wanted(place.label, tuple(_cell(claim, side, place) for side in (better, *all_sides)), _range)
            for place in places
        ]
    raise _Slip(f"unknown kind {kind!r}")


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


def _metric(table: Table, claim: Mapping[str, Any]) -> Metric:
    key = claim["metric"]
    known = {metric.key: metric for metric in table.metrics}
    if key not in known and ("unit" in claim or claim["kind"] == "fewer"):
        return Metric(key, key, key, claim.get("unit", "count"), True, None)
    return known[key]


def _bounds(claim: Mapping[str, Any], metric: Metric) -> _Bounds:
    """Where the claim puts a contrast, on the scale that it is compared on."""
    smallest = float(claim.get("smallest", 0.0))
    if metric.unit == "seconds":
        smallest = math.log(smallest) if smallest else 0.0
    if claim["kind"] == "similar":
        return _Bounds(-float(claim["within"]), float(claim["within"]), -float(claim["within"]))
    if claim["kind"] == "not_worse":
        return _Bounds(-float(claim["by"]), math.inf, -float(claim["by"]))
    if claim["kind"] == "classes":
        return _Bounds(float(claim["more_than"]), math.inf, float(claim["more_than"]))
    return _Bounds(0.0, math.inf, smallest)


def _runs(table: Table, cell: Place) -> list[Run]:
    return [run for run in table.runs if (run.row, run.column) == cell]


def _measure(
    table: Table, claim: Mapping[str, Any], metric: Metric, wanted: _Wanted, bounds: _Bounds
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
    complete = [run for cell in wanted.cells for run in _runs(table, cell)]
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
    for run in _runs(table, cell):
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


def _classes_won(table: Table, metric: Metric, wanted: _Wanted) -> _Series | None:
    """In how many classes the first cell is strictly better than all others, repeat by repeat."""
    prefix = table.per_class
    if prefix is None:
        raise _Slip("the table has nothing class by class")
    by_repeat: dict[int, list[Mapping[str, float]]] = {}
    for cell in wanted.cells:
        for run in _runs(table, cell):
            if run.state == "complete":
                of_class = {key: value for key, value in run.metrics.items() if key.startswith(prefix)}
                by_repeat.setdefault(run.repeat, []).append(of_class)
    won = {}
    for repeat, (first, *others) in by_repeat.items():
        if len(others) + 1 < len(wanted.cells) or not first:
            return None
        won[repeat] = float(sum(all(first[key] > one.get(key, 0.0) for one in others) for key in first))
    return _Series(won, {}, None) if won else None


def _decide(
    table: Table, claim: Mapping[str, Any], judged: _Judged, adjusted: float, num_family: int
) -> Claim:
    """Say what the evidence comes to."""
    cells = [] if claim["kind"] == "complexity" else _contrasts(table, claim)
    unlearned = [
        text
        for cell in dict.fromkeys(cell for one in cells for cell in one.cells)
        if (text := table.unlearned(*cell)) is not None
    ]
    parts = [f"{one.label} {one.text}" for one in judged.contrasts]
    if judged.unfinished:
        parts.append(f"not finished: {', '.join(judged.unfinished)}")
    if not judged.contrasts:
        return _claim(table, claim, "undecided", parts[0])
    is_confirmed = judged.p_confirmed < judged.p_refuted
    is_decided = adjusted <= ALPHA
    verdict = ("confirmed" if is_confirmed else "refuted") if is_decided else "undecided"
    if unlearned and claim["kind"] != "fewer":
        verdict = "undecided"
    order = sorted(judged.contrasts, key=lambda one: one.estimate.mean)
    deciding = order[0] if verdict != "confirmed" else max(order, key=lambda one: one.p_confirmed)
    evidence = ", ".join(parts)
    if claim["kind"] not in ("complexity", "fewer"):
        evidence += f"; {_chance(table, claim, deciding, adjusted, num_family)}"
    if unlearned and claim["kind"] != "fewer":
        evidence = f"not trained to the end: {'; '.join(unlearned)} ({evidence})"
    elif verdict == "undecided":
        evidence += f"; {_what_would(table, claim, deciding, num_family)}"
    return _claim(table, claim, verdict, evidence, judged.contrasts, adjusted)


def _claim(
    table: Table,
    claim: Mapping[str, Any],
    verdict: Any,
    detail: str,
    contrasts: Sequence[Contrast] = (),
    p: float | None = None,
) -> Claim:
    return Claim(
        id=clean(claim["id"]),
        section=clean(str(claim.get("section", ""))),
        quote=clean(claim.get("quote", "")),
        text=clean(claim["text"]),
        kind=clean(claim["kind"]),
        verdict=verdict,
        detail=detail,
        contrasts=tuple(contrasts),
        p=p,
    )


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


def _chance(
    table: Table, claim: Mapping[str, Any], deciding: Contrast, adjusted: float, num_family: int
) -> str:
    """What is known of chance."""
    count = len(deciding.estimate.differences)
    pairs = f"{count} {table.repeats}{'s' if count > 1 else ''}"
    signs = f", signs {_p(deciding.p_signs)}" if deciding.p_signs is not None else ""
    over = f" (Holm over {num_family})" if num_family > 1 else ""
    return f"n {pairs}, p {_p(adjusted)}{over}{signs}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _what_would(table: Table, claim: Mapping[str, Any], deciding: Contrast, num_family: int) -> str:
    """Say of an undecided claim what it could have seen, and what would decide it."""
    found = deciding.estimate
    count = len(found.differences)
    metric = _metric(table, claim)
    is_ratio = metric.unit == "seconds" and claim["kind"] != "classes"
    seen = f"{math.exp(found.visible):.1f} times" if is_ratio else metric.text(found.visible)
    could = f"could have seen {seen}; " if found.error and count > 1 else ""
    bounds = _bounds(claim, metric)
    effect = max(bounds.least - bounds.floor, -bounds.floor if claim["kind"] != "classes" else 1.0)
    effect = effect or abs(deciding.paper or 0.0)
    needed = found.pairs_to_see(effect)
    if count < MIN_PAIRS:
        needed = max(needed or 0, MIN_PAIRS)
    if needed is None:
        return f"{could}no number of {table.repeats}s would decide it on these test images"
    needed = max(needed, count + 1)
    named = f"{table.repeats}={','.join(map(str, range(needed)))}"
    if needed > 12:
        named = f"{table.repeats}=$(seq -s, 0 {needed - 1})"
    command = " ".join(word for word in table.command.split() if not word.startswith(f"{table.repeats}="))
    return f"{could}{needed - count} {table.repeats}s more are needed: {command} {named}"
