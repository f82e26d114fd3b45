"""Dashboards are mirrors of the disk: one run per cell, in the cell's own directory."""

from pathlib import Path

import pytest
from pytorch_lightning.loggers import CSVLogger

from sppnet.experiment.trainer import cut_off_when_broken


def test_every_cell_is_an_offline_wandb_run_of_its_own(sppnet, tmp_path: Path, tiny):
    pytest.importorskip("wandb")
    overrides = [value for value in tiny if not value.startswith("logger")]
    assert sppnet("backbone=zf5,overfeat5", "jobs=1", "logger=wandb", "training.epochs=1", *overrides) == 0
    runs = sorted((tmp_path / "runs" / "single").glob("*/wandb/offline-run-*/run-*.wandb"))
    assert len(runs) == 2
    for file in runs:
        cell = file.parents[2]
        assert (cell / "COMPLETE").exists()
        # The id is the hash in the directory's name: stable however often the cell is resumed.
        assert file.stem == f"run-{cell.name.rpartition('-')[2]}"


def test_a_dashboard_that_is_not_installed_does_not_stop_training(sppnet, tmp_path: Path, tiny, monkeypatch):
    overrides = [value for value in tiny if not value.startswith("logger")]
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    assert sppnet("logger=wandb", "training.epochs=1", *overrides) == 0
    for log in (tmp_path / "runs").glob("*/*/run.log"):
        assert "dashboard left out" in log.read_text()


def test_a_dashboard_that_breaks_in_mid_run_costs_nothing_but_itself(tmp_path: Path, caplog):
    logger = CSVLogger(tmp_path, name="board", flush_logs_every_n_steps=1)
    cut_off_when_broken(logger)
    (tmp_path / "board").write_text("where its folder was to be")
    for step in range(3):
        logger.log_metrics({"loss": 1.0}, step=step)
    logger.finalize("success")
    assert caplog.text.count("the run goes on without") == 1
