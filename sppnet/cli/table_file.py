"""What a sweep writes down of its table, for `sppnet report` to find."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sppnet.artifacts import read_json, write_json
from sppnet.cli.plan import Layout, column_ids, row_ids, skipped_places
from sppnet.cli.planner import PlannedRun, built_on
from sppnet.cli.provenance import command_line, commit


def table_file(
    base: dict[str, Any], layout: Layout, group: str, cells: Sequence[PlannedRun]
) -> dict[str, Any]:
    """What `sppnet report` needs to know of a table beside its runs."""
    table = base["table"]
    labels = table["labels"]
    return {
        "format": 1,
        "table": table["name"],
        "title": table["title"],
        "group": group,
        "preset": base["preset"],
        "reduced": base["reduced"] + (base["reduced_detection"] if base["detection"] else []),
        "data": _data(base),
        "created": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "commit": commit(),
        "rows": [{"id": row, "label": labels.get(row, row)} for row in row_ids(layout)],
        "columns": [{"id": column, "label": labels.get(column, column)} for column in column_ids(layout)],
        "repeats": layout.repeats,
        "skipped": skipped_places(layout),
        "seeds": sorted({cell.cell.seed for cell in cells if cell.cell}),
        "built_on": sorted({_below_runs(run) for run in built_on(cells)}),
        "metrics": table["metrics"],
        "paper": table["paper"],
        "claims": table["claims"],
        "curve": table["curve"],
        "per_class": table["per_class"],
        "others": table["others"],
    }


def _below_runs(run: PlannedRun) -> str:
    """Name a run's directory from `runs` on: networks/<name>."""
    return f"{run.directory.path.parent.name}/{run.directory.path.name}"


def _data(base: dict[str, Any]) -> str:
    """Name the images behind the numbers: those that test and, if others, those that trained."""
    target = base["target"]
    if target is None:
        return str(base["data"]["name"])
    return (
        f"{target['name']} (networks trained on {base['data']['name']})"
        if base["trained"]
        else target["name"]
    )


def write_table_file(file: Path, new: dict[str, Any], *, is_done: bool) -> None:
    """Write the table's description; of an earlier one keep the rows, columns and seeds it had more.

    The command and the commit are those of the last sweep that ran anything.
    """
    if file.exists():
        old = read_json(file)
        for part in ("rows", "columns", "seeds", "built_on"):
            new[part] = old[part] + [value for value in new[part] if value not in old[part]]
        if is_done:
            new |= {key: old[key] for key in ("created", "command", "commit")}
    write_json(file, new)
