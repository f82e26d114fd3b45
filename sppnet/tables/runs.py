"""Run directories as they are on disk: a marker and a matching `metrics.json`, or an excuse."""

import contextlib
import math
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sppnet.artifacts import read_json, reading
from sppnet.damage import damage_behind
from sppnet.errors import ArtifactError
from sppnet.tables.escape import clean
from sppnet.tables.provenance import changes_since, read_provenance
from sppnet.tables.table import Run, RunState

IMAGES: Final = "images.json"  # what a run that tested left of its images (metrics/replicates.py)
_MOST = sys.float_info.max  # what a float holds


def read_cells(directory: Path, cells: Sequence[Mapping[str, Any]]) -> tuple[list[Run], list[str]]:
    """Read the runs that are a table's cells.

    Args:
        directory: `runs/<table>`.
        cells: Of the table file: row, column, repeat, and the run's directory.

    Returns:
        Those that have begun, and a note on each that could not be read or is damaged. One bad directory
        never hides the others.
    """
    runs, notes = [], []
    for cell in cells:
        path = directory / str(cell["run"])
        if not path.is_dir():
            continue
        try:
            run = read_run(path, clean(str(cell["row"])), clean(str(cell["column"])), int(cell["repeat"]))
        except ArtifactError as error:
            notes.append(clean(str(error)))
            continue
        runs.append(run)
        if run.state == "damaged":
            notes.append(f"{run.directory}: {run.error}")
    return runs, notes


def read_named(directory: Path, names: Sequence[str]) -> list[Run]:
    """Read those of the named runs that there are, complete or not.

    Args:
        directory: `runs`.
        names: Of run directories below it, such as "networks/<name>".
    """
    runs = []
    for name in names:
        # One that is there, but cannot be read, says so when its table is run again.
        with contextlib.suppress(ArtifactError):
            runs.append(read_run(directory / name))
    return runs


def read_run(directory: Path, row: str = "", column: str = "", repeat: int = 0) -> Run:
    """Read one run directory.

    Args:
        directory: Where it is.
        row: Its row, of a table's cell.
        column: Its column.
        repeat: Its seed, or split.

    Raises:
        ArtifactError: What it says of itself is damaged.
    """
    with reading(directory):
        return _read_run(directory, row, column, repeat)


def _read_run(directory: Path, row: str, column: str, repeat: int) -> Run:
    has_marker = (directory / "COMPLETE").exists()
    try:
        status = read_json(directory / "status.json")
        if not isinstance(status, dict) or "state" not in status:
            raise ArtifactError(
                f"{directory}/status.json: does not say how far the run is (no key state); remove the "
                f"directory and run the table's command again"
            )
    except ArtifactError:
        if not has_marker:
            raise
        status = {}
    state, error_line = _state_without_marker(status)
    metrics: dict[str, float] = {}
    images: dict[str, Any] = {}
    if has_marker:
        damage = damage_behind(directory / "COMPLETE")
        if damage is None:
            state, error_line, metrics = "complete", None, _finite(read_json(directory / "metrics.json"))
            images = read_json(directory / IMAGES) if (directory / IMAGES).exists() else {}
        elif state != "running":  # it is being made again
            state, error_line = "damaged", f"{clean(damage)}; the table's command makes the run again"
    return Run(
        directory=directory,
        row=row,
        column=column,
        repeat=repeat,
        stage=clean(str(status.get("stage", ""))),
        state=state,
        seconds=_number(status.get("seconds")),
        error=error_line,
        host=status.get("host") if isinstance(status.get("host"), str) else None,
        started=_time(status.get("started")),
        metrics=metrics,
        replicates=images.get("replicates", {}),
        hits=images.get("hits", {}),
        provenance=read_provenance(directory),
        changes=tuple(changes_since(directory)) if state == "complete" else (),
    )


def _time(text: object) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None


def _state_without_marker(status: dict[str, Any]) -> tuple[RunState, str | None]:
    """Say what a run without its marker is; "complete" is only the marker's to say."""
    state, host = status.get("state"), status.get("host")
    error = clean(str(status["error"])) if status.get("error") else None
    if state == "failed":
        return "failed", error
    if state == "complete":
        return "interrupted", "its COMPLETE marker is gone; the table's command makes the run again"
    if state != "running":
        return "interrupted", error
    if host != socket.gethostname():
        return (
            "interrupted",
            error or f"last seen on {clean(str(host))}; only that machine can tell if it runs",
        )
    return ("running" if _is_alive(status.get("pid")) else "interrupted"), error


def _is_alive(pid: Any) -> bool:
    """Ask whether a process exists here; a reused pid counts, until the next sweep looks again."""
    # Not on Windows: signal 0 is a console event there.
    if not isinstance(pid, int) or pid <= 0 or os.name != "posix":
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among a run's metrics."""
    numbers = {key: _number(value) for key, value in metrics.items()}
    return {key: number for key, number in numbers.items() if number is not None}


def _number(value: object) -> float | None:
    """A finite number; None of anything else."""
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > _MOST:
        return None
    return None if math.isnan(value) else float(value)
