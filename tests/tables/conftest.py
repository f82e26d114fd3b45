"""A sweep's directory as the sweeper leaves it, in tmp_path."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from sppnet.artifacts import read_json, write_json
from sppnet.run.directory import RunDirectory

TOP1 = {
    "key": "test/top1_error",
    "id": "top1",
    "label": "top-1 error (%)",
    "unit": "percent",
    "lower_is_better": True,
}
TAKE = {
    "commit": "abc1234",
    "is_dirty": False,
    "software": {"python": "3.11.7", "torch": "2.11.0"},
    "machine": "a processor, 2 cores",
    "device": "cpu",
    "precision": "32-true",
}
TOP5 = {**TOP1, "key": "test/top5_error", "id": "top5", "label": "top-5 error (%)"}


class Sweep:
    """Writes the files of one table; numbers are fractions."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def describe(self, *, group: str = "ab12cd34", **changes: Any) -> Path:
        rows = changes.pop("rows", {"no_spp": "(a) no SPP", "spp_single": "(b) SPP"})
        columns = changes.pop("columns", {"zf5": "ZF-5", "overfeat7": "Overfeat-7"})
        description = {
            "format": 2,
            "table": "table2",
            "title": "Table 2: error rates",
            "group": group,
            "preset": "mini",
            "data": "shapes (generated)",
            "reduced": ["width 1/8 of the paper's filters"],
            "command": "sppnet experiment=table2 preset=mini",
            "rows": [{"id": name, "label": label} for name, label in rows.items()],
            "columns": [{"id": name, "label": label} for name, label in columns.items()],
            "seeds": [0],
            "metrics": [TOP1],
            "paper": {"test/top1_error": {"no_spp": {"zf5": 35.99}, "spp_single": {"zf5": 34.98}}},
            "claims": [],
            **changes,
        }
        file = self.directory / f"table-{group}.json"
        known = read_json(file)["cells"] if file.exists() else []
        write_json(file, {"cells": known, **description})
        return file

    def run(
        self,
        row: str,
        column: str,
        metrics: dict[str, float] | float,
        *,
        seed: int = 0,
        group: str = "ab12cd34",
        num_images: int | None = 400,
        images: dict[str, Any] | None = None,
    ) -> Path:
        """Leave a complete run; a bare number is its top-1 error."""
        values = dict(metrics) if isinstance(metrics, dict) else {"test/top1_error": metrics}
        values |= {} if num_images is None else {"test/num_images": num_images}
        directory = self.stopped(row, column, "complete", seed=seed, group=group)
        if images is not None:
            write_json(directory / "images.json", images)
        RunDirectory(directory).write_complete(values, files=("images.json",) if images else ())
        return directory

    def stopped(
        self, row: str, column: str, state: str, *, seed: int = 0, group: str = "ab12cd34", **status: Any
    ) -> Path:
        """Leave a run without its marker."""
        directory = self.directory / f"{row}-{column}-{seed}-{group}"
        said = {"state": state, "seconds": 10.5, "error": None, "pid": 1, "host": socket.gethostname()}
        write_json(directory / "status.json", said | status)
        write_json(directory / "provenance.json", {"takes": [TAKE], "code": {}, "below": {}})
        self.list(row, column, seed, directory.name, group=group)
        return directory

    def list(self, row: str, column: str, repeat: int, run: str, *, group: str = "ab12cd34") -> None:
        """Say in the table's file which run is a cell, if there is such a table."""
        file = self.directory / f"table-{group}.json"
        if file.exists():
            table = read_json(file)
            cell = {"row": row, "column": column, "repeat": repeat, "run": run}
            write_json(file, {**table, "cells": [*table["cells"], cell]})


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.setattr(os, "fsync", lambda file: None)  # hundreds of small files, none of them precious
    return Sweep(tmp_path / "runs" / "table2")
