"""A table out of its file and of its runs: what each cell measured, and what is said of it."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sppnet.tables.escape import clean
from sppnet.tables.judgement import Learned
from sppnet.tables.table import (
    MARK_OF_STALE,
    Cell,
    CellStatus,
    Measurement,
    Metric,
    Run,
    Setting,
    Table,
)

_LEARNED = {"error": 25.0, "fall": 5.0}  # of table files that do not say
# A cell none of whose seeds is complete is called by the first of these that a seed is.
_PRECEDENCE: tuple[CellStatus, ...] = ("running", "damaged", "failed", "interrupted", "missing")


def build(
    raw: Mapping[str, Any],
    group: str,
    runs: Sequence[Run],
    built_on: Sequence[Run],
    notes: Sequence[str],
) -> Table:
    """Join a table file, the runs of its cells and those below them; claims are judged later.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: It is no table file.
    """
    rows, columns = _settings(raw["rows"]), _settings(raw["columns"])
    seeds = tuple(int(seed) for seed in raw["seeds"])
    is_demonstration = bool(raw.get("is_demonstration", False))
    metrics = tuple(
        _metric(metric)
        for metric in raw["metrics"]
        if not (metric["key"].endswith("top5_error") and (is_demonstration or _all_are_among_five(runs)))
    )
    by_place = {(run.row, run.column, run.repeat): run for run in runs}
    counts = {run.metrics["test/num_images"] for run in runs if "test/num_images" in run.metrics}
    is_whole = raw.get("num_test") is None or counts == {raw["num_test"]}
    of_paper = {
        (cell["row"], cell["column"])
        for cell in raw["cells"]
        if is_whole and cell.get("data") in (raw.get("paper_data") or [cell.get("data")])
    }
    notes = [*notes, *_lacking_classes(runs), *_stale(runs)]
    if not (rows and columns and seeds and metrics):
        raise ValueError("rows, columns, seeds and metrics must each have an entry")
    lacking = {tuple(place) for place in raw.get("skipped_repeats", [])}
    cells = {
        (row.id, column.id): _cell(
            row.id,
            column.id,
            {
                seed: by_place.get((row.id, column.id, seed))
                for seed in seeds
                if (row.id, column.id, seed) not in lacking
            },
            metrics,
            raw["paper"],
            is_comparable=(row.id, column.id) in of_paper,
        )
        for row in rows
        for column in columns
    }
    for metric in metrics:
        if metric.of is not None:
            cells = {(one.row, one.column): one for one in _compared(cells, runs, metric)}
    for row_id, column_id in raw.get("skipped", []):
        cells[row_id, column_id] = replace(cells[row_id, column_id], status="reference")
    for other in raw.get("others", []):
        row = Setting(clean(other["label"]), clean(other["label"]))
        rows = (*rows, row)
        cells |= {(row.id, column.id): _reference(row, column, metrics, other) for column in columns}
    return Table(
        name=clean(raw["table"]),
        title=clean(raw["title"] if is_whole else raw["title"].replace(raw["tested"], _layout(raw))),
        group=group,
        preset=clean(raw["preset"]),
        data=clean(raw["data"] if is_whole else _part(raw, counts)),
        reduced=tuple(clean(line) for line in raw["reduced"]),
        command=clean(raw["command"]),
        created=clean(raw["created"]) if raw.get("created") else None,
        rows=rows,
        columns=columns,
        seeds=seeds,
        metrics=metrics,
        cells=cells,
        claims=(),
        runs=tuple(runs),
        built_on=tuple(built_on),
        per_class=clean(raw["per_class"]) if raw.get("per_class") else None,
        paper_per_class=_by_class(raw.get("paper_per_class") or {"classes": [], "cells": {}}),
        repeats=clean(raw.get("repeats", "seed")),
        curve=clean(raw["curve"]) if raw.get("curve") else None,
        paper_data=tuple(clean(name) for name in raw.get("paper_data") or []),
        notes=tuple(notes),
        is_demonstration=is_demonstration,
        learned=Learned(**raw.get("learned", _LEARNED)),
        plans=tuple(raw.get("plans", [])),
    )


def _settings(entries: Sequence[Mapping[str, str]]) -> tuple[Setting, ...]:
    return tuple(Setting(clean(entry["id"]), clean(entry["label"])) for entry in entries)


def _metric(entry: Mapping[str, Any]) -> Metric:
    return Metric(
        key=entry["key"],
        id=clean(entry["id"]),
        label=clean(entry["label"]),
        unit=entry["unit"],
        lower_is_better=bool(entry["lower_is_better"]),
        rows=tuple(clean(row) for row in entry["rows"]) if entry.get("rows") else None,
        of=entry.get("of"),
        over=entry.get("over"),
    )


def _compared(cells: Mapping[tuple[str, str], Cell], runs: Sequence[Run], metric: Metric) -> Iterator[Cell]:
    """How many times as much of a number the runs of one column have as the others of their rows."""
    of, over = metric.of, metric.over
    assert of is not None and over is not None
    known = {(run.row, run.column, run.repeat): run.metrics[of] for run in runs if of in run.metrics}
    for (row, column), cell in cells.items():
        ratios = {
            repeat: known[row, over, repeat] / known[row, column, repeat]
            for repeat in cell.seeds
            if known.get((row, column, repeat)) and (row, over, repeat) in known
        }
        told = cell.measured[metric.key]
        one = Measurement.of(ratios, paper=told.paper, is_comparable=told.is_comparable)
        yield replace(cell, measured={**cell.measured, metric.key: one})


def _by_class(raw: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, float]]:
    """The paper's numbers class by class: row (or other method) -> column -> a number for every class."""
    return {
        (clean(row), clean(column)): dict(zip(raw["classes"], map(float, numbers), strict=True))
        for row, columns in raw["cells"].items()
        for column, numbers in columns.items()
    }


def _lacking_classes(runs: Iterable[Run]) -> list[str]:
    """Say which cells' means are not over all classes."""
    return [
        f"{run.directory.name}: mean over {run.metrics['test/num_classes']:.0f} of "
        f"{run.metrics['test/all_classes']:.0f} classes (the others have no positive image)"
        for run in runs
        if run.metrics.get("test/num_classes", 0.0) < run.metrics.get("test/all_classes", 0.0)
    ]


def _layout(raw: Mapping[str, Any]) -> str:
    """Name images that are not all of a data set, or may be others in its layout, by their folder."""
    return f"{raw.get('tested_in') or 'images'} in {raw['tested']}'s layout"


def _part(raw: Mapping[str, Any], counts: Iterable[float]) -> str:
    """What was tested on, if it is not all of what its name says, or something else in that layout."""
    tested = " or ".join(f"{count:.0f}" for count in sorted(counts))
    than = f", {tested} test images where {raw['tested']} has {raw['num_test']}" if tested else ""
    return str(raw["data"]).replace(raw["tested"], _layout(raw) + than, 1)


def _stale(runs: Iterable[Run]) -> list[str]:
    """Say which numbers were made by other code than there is now."""
    stale = [run for run in runs if run.changes]
    if not stale:
        return []
    return [
        f"{MARK_OF_STALE} {len(stale)} of the runs are of code that has changed since "
        f"({stale[0].directory.name}: {stale[0].first_change}); sppnet why RUN says all of it, and "
        f"the command with stale=rerun makes them again"
    ]


def _cell(
    row: str,
    column: str,
    runs: Mapping[int, Run | None],
    metrics: Sequence[Metric],
    paper: Mapping[str, Any],
    *,
    is_comparable: bool,
) -> Cell:
    """Join the runs of one cell, one per seed and None where a seed has not run.

    `paper` is the table file's: metric key -> row -> column -> number, each of which may be lacking.
    """
    states: dict[int, CellStatus] = {seed: run.state if run else "missing" for seed, run in runs.items()}
    complete = {seed: run for seed, run in runs.items() if run and run.state == "complete"}
    status: CellStatus = next((name for name in _PRECEDENCE if name in states.values()), "complete")
    if complete and status != "complete":
        status = "partial"
    counts = [run.metrics["test/num_images"] for run in complete.values() if "test/num_images" in run.metrics]
    return Cell(
        row=row,
        column=column,
        status=status,
        seeds=states,
        measured={
            metric.key: _measure(
                metric, complete, paper.get(metric.key, {}).get(row, {}).get(column), is_comparable
            )
            for metric in metrics
        },
        num_images=int(min(counts)) if counts else None,
        is_stale=any(run.changes for run in complete.values()),
    )


def _reference(row: Setting, column: Setting, metrics: Sequence[Metric], other: Mapping[str, Any]) -> Cell:
    """Make a cell of another method: metric key -> column -> number, each of which may be lacking."""
    measured = {
        metric.key: _measure(metric, {}, other.get(metric.key, {}).get(column.id), True) for metric in metrics
    }
    return Cell(row.id, column.id, "reference", {}, measured, None)


def _measure(
    metric: Metric, complete: Mapping[int, Run], paper: float | Sequence[float] | None, is_comparable: bool
) -> Measurement:
    paper, deviation = paper if isinstance(paper, Sequence) else (paper, None)
    if paper is not None and not math.isfinite(paper):
        raise ValueError(f"the paper's {metric.key} is {paper}")
    values = {
        repeat: metric.printed(run.metrics[metric.key])
        for repeat, run in complete.items()
        if metric.key in run.metrics
    }
    known = None if paper is None else float(paper)
    return replace(Measurement.of(values, paper=known, is_comparable=is_comparable), paper_std=deviation)


def _all_are_among_five(runs: Sequence[Run]) -> bool:
    """Whether no run has so many classes that the right one could be missing among the five best."""
    tested = [run.metrics for run in runs if "test/top5_error" in run.metrics]
    return bool(tested) and all(metrics.get("test/num_classes", 6) <= 5 for metrics in tested)
