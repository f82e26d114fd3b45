"""A table as JSON, CSV, GitHub Markdown and LaTeX: ours beside the paper's, every gap in words."""

import csv
import io
import itertools
import math
import re
from dataclasses import fields
from typing import Any

from sppnet.tables import escape
from sppnet.tables.judgement import Claim
from sppnet.tables.per_class import per_class_table
from sppnet.tables.table import Cell, Metric, Run, Table
from sppnet.tables.wording import MARK, legend, one_line, planned, rows_of, tested, untested

_MAX_HITS = 10_000  # test images of a run that are published one by one


def to_json(table: Table) -> dict[str, Any]:
    """Return the table as plain containers; numbers in the printed unit, missing ones None."""
    headline = table.metrics[0]
    return {
        "table": table.name,
        "title": table.heading,
        "preset": table.preset,
        "reduced": list(table.reduced),
        "data": table.data,
        "group": table.group,
        "seeds": list(table.seeds),
        "command": table.command,
        "made_by": table.made_by,
        "created": table.created,
        "seconds": round(table.seconds, 1),
        "metric": headline.key,
        "unit": headline.unit,
        "rows": [row.id for row in table.rows],
        "columns": [column.id for column in table.columns],
        "row_labels": {row.id: row.label for row in table.rows},
        "column_labels": {column.id: column.label for column in table.columns},
        "cells": [_json_cell(cell, headline) for cell in table.cells.values()],
        "per_class": _json_per_class(table),
        "is_demonstration": table.is_demonstration,
        "plans": [dict(plan) for plan in table.plans],
        "learned": table.learned._asdict(),
        "claims": [_json_claim(claim) for claim in table.claims],
        "runs": [_json_run(run) for run in table.runs if run.state == "complete"],
        "notes": list(table.notes),
    }


def _json_claim(claim: Claim) -> dict[str, Any]:
    """A claim with the numbers behind its verdict."""
    contrasts = [
        {
            "label": one.label,
            "ours": one.estimate.mean,
            "interval": list(one.estimate.interval),
            "values": list(one.estimate.differences),
            "error": one.estimate.error,
            "visible": one.estimate.visible,
            "paper": one.paper,
            "p_confirmed": one.p_confirmed,
            "p_refuted": one.p_refuted,
            "p_signs": one.p_signs,
        }
        for one in claim.contrasts
    ]
    named = {field.name: getattr(claim, field.name) for field in fields(claim)}
    return {**named, "contrasts": contrasts}


def _json_run(run: Run) -> dict[str, Any]:
    """A run with every number it left, its test images one by one where they are few, and what made it."""
    made = run.provenance
    return {
        "run": run.directory.name,
        "row": run.row,
        "column": run.column,
        "repeat": run.repeat,
        "metrics": dict(run.metrics),
        "hits": {key: hits for key, hits in run.hits.items() if len(hits) <= _MAX_HITS},
        "commit": made.commit if made else None,
        "made_by": [
            {
                key: take.get(key)
                for key in ("version", "software", "machine", "device", "threads", "precision")
            }
            for take in (made.takes if made else ())
        ],
        "is_stale": bool(run.changes),
    }


def _json_per_class(table: Table) -> list[dict[str, Any]]:
    by_class = per_class_table(table)
    if by_class is None:
        return []
    metric = by_class.metrics[0]
    return [
        {
            "cell": row.id,
            "label": row.label,
            **{
                name: {
                    column.label: getattr(by_class.cells[row.id, column.id].measured[metric.key], whose)
                    for column in by_class.columns
                }
                for name, whose in (("classes", "ours"), ("paper", "paper"))
            },
        }
        for row in by_class.rows
    ]


def _json_cell(cell: Cell, headline: Metric) -> dict[str, Any]:
    measured = cell.measured[headline.key]
    return {
        "row": cell.row,
        "column": cell.column,
        "ours": measured.ours,
        "std": measured.std,
        "n": measured.n,
        "paper": measured.paper,
        "status": cell.status,
        "is_stale": cell.is_stale,
        "seeds": {str(seed): state for seed, state in cell.seeds.items()},
        "metrics": {
            key: {
                "ours": one.ours,
                "std": one.std,
                "paper": one.paper,
                "paper_std": one.paper_std,
                "values": {str(repeat): value for repeat, value in one.values.items()},
            }
            for key, one in cell.measured.items()
        },
    }


def to_csv(table: Table) -> str:
    """Return one line per cell and repeat, a column for every metric, ours and the paper's."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    named = [*(metric.label for metric in table.metrics), *(f"paper: {one.label}" for one in table.metrics)]
    head = ["row", "column", table.repeats, "status", "stale", "preset", "data", *named]
    writer.writerow([escape.csv_text(text) for text in head])
    for row, column in itertools.product(table.rows, table.columns):
        cell = table.cells[row.id, column.id]
        measured = [cell.measured[metric.key] for metric in table.metrics]
        paper = [one.paper for one in measured]
        texts = (row.label, column.label, table.scale, table.data)
        *labels, scale, data = (escape.csv_text(text) for text in texts)
        for repeat, status in (cell.seeds or {0: cell.status}).items():
            ours = [round(value, 6) for one in measured for value in [one.values.get(repeat, math.nan)]]
            shown = ["" if math.isnan(value) else value for value in ours]
            writer.writerow([*labels, repeat, status, cell.is_stale, scale, data, *shown, *paper])
    return stream.getvalue()


def _legend(table: Table) -> str:
    is_compared = any(table.has_paper(one) and table.is_compared(one) for one in table.metrics)
    return legend(table) + (" Each cell: ours (paper, difference)." if is_compared else "")


def to_markdown(table: Table) -> str:
    """Return a GitHub Markdown document: heading, one table per metric, claims, notes."""
    lines = [f"# {escape.markdown(table.heading)}", ""]
    lines += [f"- {escape.markdown(line)}" for line in table.reduced]
    lines += [""] * bool(table.reduced)
    lines += [escape.markdown(_legend(table)), ""]
    for metric in table.metrics:
        lines += _markdown_grid(table, metric)
    lines += [f"- {MARK[claim.verdict]} {escape.markdown(_claim_text(claim))}" for claim in tested(table)]
    sentences = [text for text in (untested(table), planned(table)) if text]
    sentences += [f"note: {note}" for note in table.notes]
    lines += [f"- {escape.markdown(sentence)}" for sentence in sentences]
    # Indented code shows a command as it is, backticks included.
    if (by_class := per_class_table(table)) is not None:
        lines += ["", *_markdown_grid(by_class, by_class.metrics[0])]
    lines += [""] * bool(table.claims or table.notes)
    lines += ["Run it again:", "", f"    {table.command}", ""]
    return "\n".join(lines)


def _claim_text(claim: Claim) -> str:
    return f"{claim.verdict}: {claim.sentence} - {claim.detail}"


def _markdown_grid(table: Table, metric: Metric) -> list[str]:
    labels = [metric.label, *(column.label for column in table.columns)]
    lines = [_markdown_row(labels), "|---" + "|---:" * len(table.columns) + "|"]
    for row in rows_of(table, metric):
        cells = [one_line(table, table.cells[row.id, column.id], metric) for column in table.columns]
        lines.append(_markdown_row([row.label, *cells]))
    return [*lines, ""]


def _markdown_row(texts: list[str]) -> str:
    return "| " + " | ".join(escape.markdown(text) for text in texts) + " |"


def to_latex(table: Table) -> str:
    """Return a LaTeX table (packages booktabs, and textcomp's quotes with T1 fonts)."""
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{escape.latex(table.heading)}}}"]
    for metric in table.metrics:
        labels = [metric.label, *(column.label for column in table.columns)]
        lines += [rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}", r"\toprule"]
        lines += [_latex_row(labels), r"\midrule"]
        for row in rows_of(table, metric):
            cells = [one_line(table, table.cells[row.id, column.id], metric) for column in table.columns]
            lines.append(_latex_row([row.label]).removesuffix(r" \\") + " & " + _latex_numbers(cells))
        lines += [r"\bottomrule", r"\end{tabular}", ""]
    sentences = [*table.reduced, _legend(table)]
    sentences += [_claim_text(claim) for claim in tested(table)]
    sentences += [text for text in (untested(table), planned(table)) if text]
    sentences += [f"note: {note}" for note in table.notes]
    lines += [rf"\par\footnotesize {escape.latex(sentence)}" for sentence in sentences]
    return "\n".join([*lines, r"\end{table}", ""])


def _latex_row(texts: list[str]) -> str:
    return " & ".join(escape.latex(text) for text in texts) + r" \\"


def _latex_numbers(texts: list[str]) -> str:
    # A hyphen is not a minus sign.
    return re.sub(r"(?<=[( ])[+-][\d.]+", lambda match: f"${match[0]}$", _latex_row(texts))
