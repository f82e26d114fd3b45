"""What the paper says of its table, decided by ours: confirmed, refuted, undecided, or not tested.

A claim is of contrasts, all of which have to hold: differences between cells, pair by pair (the same seed or
split, the same images), turned so that positive speaks for the claim; seconds as logarithms, so that a
difference is a ratio. It is confirmed if every contrast lies where the claim puts it, refuted if one lies
elsewhere or is smaller than the smallest effect of interest, and undecided otherwise, with what would decide
it. p values are adjusted for the number of claims of the table (Holm); signs alone have to say the same.
Nothing is decided from networks that have not learned to the end, nor from fewer than five pairs where seeds
or splits make a difference.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sppnet.tables.contrasts import Slip, Wanted, bounds_of, contrasts_of, measure, metric_of, runs_of
from sppnet.tables.escape import clean
from sppnet.tables.judgement import Claim, Contrast
from sppnet.tables.statistics import ALPHA, MIN_PAIRS, Estimate, holm
from sppnet.tables.table import Metric, Table


class _Judged(NamedTuple):
    """A claim with its evidence."""

    contrasts: list[Contrast]
    unfinished: list[str]
    p_confirmed: float
    p_refuted: float


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
        except Slip as slip:
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
    wanted = contrasts_of(table, claim)
    if table.is_demonstration and kind != "fewer":
        return "the images are generated: a demonstration, no evidence"
    metric = metric_of(table, claim)
    if "than" in claim and not _is_of_the_papers_kind(table, metric, wanted):
        return "the number is of other data, or of another scale"
    finished, unfinished = [], []
    bounds = bounds_of(claim, metric)
    for one in wanted:
        contrast = measure(table, claim, metric, one, bounds)
        if contrast is None:
            unfinished.append(one.label)
        else:
            finished.append(contrast)
    if not finished and not any(runs_of(table, cell) for one in wanted for cell in one.cells):
        return "not run"
    return _Judged(
        finished,
        unfinished,
        max((one.p_confirmed for one in finished), default=1.0) if not unfinished else 1.0,
        min(1.0, len(finished) * min((one.p_refuted for one in finished), default=1.0)),
    )


def _is_of_the_papers_kind(table: Table, metric: Metric, wanted: Iterable[Wanted]) -> bool:
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


def _decide(
    table: Table, claim: Mapping[str, Any], judged: _Judged, adjusted: float, num_family: int
) -> Claim:
    """Say what the evidence comes to."""
    cells = [] if claim["kind"] == "complexity" else contrasts_of(table, claim)
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
    elif verdict == "undecided" and not judged.unfinished:  # otherwise what is not finished would
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
    metric = metric_of(table, claim)
    is_ratio = metric.unit == "seconds" and claim["kind"] != "classes"
    seen = f"{math.exp(found.visible):.1f} times" if is_ratio else metric.text(found.visible)
    could = f"could have seen {seen}; " if found.error and count > 1 else ""
    bounds = bounds_of(claim, metric)
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
