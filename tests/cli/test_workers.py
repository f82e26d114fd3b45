"""Runs side by side: loaders may fork, others may print, and what a worker said last is not lost."""

import json
import os
from pathlib import Path

import pytest

from sppnet.experiment.workers import _error_of, _event_of

TWO = ("backbone=zf5,overfeat5", "jobs=2", "training.epochs=1")


@pytest.mark.slow
def test_loaders_with_processes_run_in_workers_and_their_logs_are_whole(
    start, tmp_path: Path, tiny, monkeypatch
):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("print('hello')")
    (tmp_path / "queue.py").write_text("raise RuntimeError('not mine')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=os.pathsep)
    process = start(*TWO, *tiny, "data_loading.workers=1")
    assert process.wait(timeout=300) == 0, process.said()
    assert len(list((tmp_path / "runs").glob("single/*/COMPLETE"))) == 2


@pytest.mark.slow
def test_a_run_log_has_the_same_lines_whatever_the_number_of_jobs(start, tmp_path: Path, tiny):
    process = start(*TWO, *tiny)
    assert process.wait(timeout=300) == 0, process.said()
    for log in (tmp_path / "runs" / "networks").glob("*/run.log"):
        assert "INFO sppnet.data" in log.read_text()


@pytest.mark.parametrize(
    "line", ["hello", "", "[]", "1", "{}", '{"event": "step"}', '{"event": [1]}', "null"]
)
def test_what_is_no_event_is_left_out(line: str):
    assert _event_of(line) is None


def test_a_process_that_ended_says_what_it_printed_last():
    event = {"event": "done"}
    assert _event_of(json.dumps(event)) == event
    error = _error_of({"event": "gone", "code": 1, "said": "ImportError: no torch"})
    assert error is not None
    assert str(error) == "the cell's process ended with exit code 1: ImportError: no torch"
