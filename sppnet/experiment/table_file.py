"""What a sweep writes down of its table for `sppnet report`: its layout, and which run is which cell."""

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sppnet.artifacts import content_key, lock_file, read_json, remove_temporaries, write_sealed_json
from sppnet.errors import ArtifactError
from sppnet.experiment.installation import command_line
from sppnet.experiment.layout import Layout, column_ids, row_ids, skipped_places, skipped_repeats
from sppnet.experiment.plan import PlannedRun, built_on
from sppnet.experiment.schema import Conf
from sppnet.tables.results import FORMAT

# What is fixed before the first run: what is compared with what, over which repeats, and what counts.
_PLANNED: Final = ("claims", "rows", "columns", "skipped", "seeds", "repeats", "metrics", "paper", "learned")


def table_file(conf: Conf, layout: Layout, group: str, cells: Sequence[PlannedRun]) -> dict[str, Any]:
    """What `sppnet report` needs to know of a table beside its runs."""
    table = conf.table
    labels = table.labels
    tested = conf.target or conf.data
    called = _called(tested)
    return {
        "format": FORMAT,
        "table": table.name,
        "title": table.title.replace("{tested}", called),
        "group": group,
        "preset": conf.preset,
        "reduced": _reduced([*built_on(cells), *cells]),
        "data": _data(conf),
        "created": _now(),
        "command": command_line(),
        "rows": [{"id": row, "label": labels.get(row, row)} for row in row_ids(layout)],
        "columns": [{"id": column, "label": labels.get(column, column)} for column in column_ids(layout)],
        "repeats": layout.repeats,
        "skipped": skipped_places(layout),
        "skipped_repeats": skipped_repeats(layout),
        "seeds": sorted({run.cell.repeat for run in cells if run.cell}),
        "cells": [
            {
                "row": run.cell.row,
                "column": run.cell.column,
                "repeat": run.cell.repeat,
                "run": run.directory.path.name,
                "data": ((run.given.get("target") or run.given.get("data") or tested)["name"]),
            }
            for run in cells
            if run.cell
        ],
        "built_on": sorted(run.place for run in built_on(cells)),
        "metrics": table.metrics or _measured(table.measures, cells),
        "paper": table.paper,
        "paper_data": table.paper_data,
        "tested": called,
        "tested_in": Path(tested["root"]).expanduser().resolve().name if tested.get("root") else None,
        "num_test": tested.get("facts", {}).get("num_test"),
        "claims": table.claims,
        "learned": vars(table.learned),
        "is_demonstration": _is_generated(tested)
        or bool(conf.target and conf.trained and _is_generated(conf.data)),
        "plans": [{"fixed": _now(), "num_complete": sum(run.directory.is_complete for run in cells)}],
        "curve": table.curve,
        "per_class": table.per_class,
        "paper_per_class": table.paper_per_class,
        "others": table.others,
    }


def _now() -> str:
    return datetime.now(tz=UTC).isoformat(timespec="seconds")


def _is_generated(images: Mapping[str, Any]) -> bool:
    return bool(images.get("facts", {}).get("is_generated"))


def _measured(measures: Mapping[str, list[Any]], cells: Sequence[PlannedRun]) -> list[Any]:
    """What cells measure, by what they do."""
    stages = dict.fromkeys(run.plan.stage for run in cells)
    return [metric for stage in stages for metric in measures.get(stage, []) if metric]


def _data(conf: Conf) -> str:
    """Name the images behind the numbers: those that test, others that trained, weights."""
    name = _called(conf.target or conf.data)
    how = [f"networks trained on {_called(conf.data)}"] if conf.target and conf.trained else []
    if weights := conf.backbone.get("weights"):
        how.append(f"networks with weights {Path(weights).name}")
    return f"{name} ({', '.join(how)})" if how else name


def _called(part: Mapping[str, Any]) -> str:
    """Name a data set: one that is anybody's by its folder."""
    facts = part.get("facts", {})
    if facts.get("is_generated"):
        return f"generated {part['name']}"
    if facts.get("is_anybodys") and part.get("root"):
        return f"{part['name']} {Path(part['root']).expanduser().resolve().name}"
    return str(part["name"])


def _reduced(runs: Sequence[PlannedRun]) -> list[str]:
    """What is smaller than the paper's, each sentence if it is true of a run; the user's own always are."""
    said: dict[str, None] = {}
    for run in runs:
        conf, backbone = run.conf, run.conf.backbone
        is_network = run.plan.stage == "network" and conf.trained
        is_detector = conf.detection is not None
        is_true = {
            "weights": backbone.get("weights") is not None,
            "filters": is_network and backbone.get("width", 1.0) != 1.0,
            "no_spp": is_network and not conf.pyramid.any_size,
            "schedule": is_network and not conf.schedule.get("facts", {}).get("watches_held_out"),
            "first_weights": is_network and backbone.get("weights") is None,
            **dict.fromkeys(("head", "images", "training"), is_network),
            "scales": is_detector,
            "finetuning": conf.detection is not None and conf.detection.finetuned,
            "seconds": conf.detection is not None and conf.detection.layer == "time",
        }
        said |= {text: None for name, text in conf.reduced.items() if is_true.get(name, True)}
    return [re.sub(r"\b1 epochs\b", "1 epoch", text) for text in said]


def write_table_file(file: Path, new: dict[str, Any], *, is_done: bool) -> None:
    """Write the table's description; of an earlier one keep the rows, columns and cells it had more.

    One that is damaged or of another version is written anew. The command is that of the last sweep that ran
    anything. Of a complete table that says it all nothing is written: its folder may be read-only.
    """
    if is_done and _merged(old := _read(file), new, is_done=True) == old:
        return
    lock = lock_file(file.parent / ".lock", wait=True)
    assert lock is not None, "it was waited for"
    with lock:
        remove_temporaries(file.parent)
        write_sealed_json(file, _merged(_read(file), new, is_done=is_done))


def _read(file: Path) -> Any:
    with contextlib.suppress(ArtifactError):
        return read_json(file)
    return None


def _merged(old: Any, new: dict[str, Any], *, is_done: bool) -> dict[str, Any]:
    new = json.loads(json.dumps(new))  # a copy, as it is read again
    if isinstance(old, dict) and old.get("format") == FORMAT:
        for part in ("rows", "columns", "seeds", "built_on", "reduced"):
            new[part] = old[part] + [value for value in new[part] if value not in old[part]]
        places = {_place(cell) for cell in new["cells"]}
        new["cells"] = [cell for cell in old["cells"] if _place(cell) not in places] + new["cells"]
        if is_done:
            new |= {key: old[key] for key in ("created", "command")}
    plans = old.get("plans", []) if isinstance(old, dict) else []
    new["plans"][0]["hash"] = content_key({key: new[key] for key in _PLANNED})
    if plans and plans[-1]["hash"] == new["plans"][0]["hash"]:
        new["plans"] = []
    new["plans"] = plans + new["plans"]
    return new


def _place(cell: dict[str, Any]) -> tuple[str, str, int]:
    return cell["row"], cell["column"], cell["repeat"]
