"""Heads on a trunk that stays as it is, from the command line."""

import shutil
from pathlib import Path

import pytest
import torch

from sppnet.models.weights import read_tensors
from sppnet.run.checkpoints import RunCheckpoint

HEAD = ("training.trains=head", "data.val_fraction=0.34", "trainer.every_steps=1")


@pytest.fixture
def weights(sppnet, tiny, tmp_path: Path) -> Path:
    """A trained network of ours, of which the trunk is taken."""
    assert sppnet(*tiny, "training.epochs=1", f"paths.runs={tmp_path / 'before'}") == 0
    return next((tmp_path / "before" / "networks").glob("*/model.safetensors"))


def run_of(tmp_path: Path) -> Path:
    (run,) = (tmp_path / "runs" / "networks").iterdir()
    return run


@pytest.mark.slow
def test_a_head_learns_on_a_trunk_that_stays_and_a_killed_one_ends_with_the_same_weights(
    sppnet, tiny, weights: Path, tmp_path: Path, monkeypatch
):
    given = (*tiny, *HEAD, f"backbone.weights={weights}", "train_sizes=multi", "trainer.checkpoint_minutes=0")
    assert sppnet(*given, "view=crop") == 0
    trunk, trained = read_tensors(weights), read_tensors(run_of(tmp_path) / "model.safetensors")
    kept = {name for name in trunk if torch.equal(trunk[name], trained[name])}
    assert {name.partition(".")[0] for name in kept} == {"backbone", "input_norm"}
    assert {name.partition(".")[0] for name in trunk.keys() - kept} == {"fc6", "fc7", "fc8"}
    lines = (run_of(tmp_path) / "metrics.jsonl").read_text()
    for folder in ("networks", "single"):
        shutil.rmtree(tmp_path / "runs" / folder)

    class Killed(Exception):
        """As a kill does, between two batches."""

    maps = {file: file.stat().st_ino for file in (tmp_path / "runs" / ".cache").glob("*/*.safetensors")}
    assert len(maps) == 20 * 2 * 2 + 10 + 20  # both sizes and both sides; held-out and test images once
    saved = RunCheckpoint.on_train_batch_end

    def falls(self, trainer, *arguments):
        saved(self, trainer, *arguments)
        if trainer.global_step == 4:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(RunCheckpoint, "on_train_batch_end", falls)
        assert sppnet(*given, "view=crop") != 0
    assert sppnet(*given, "view=crop,full,ten_map,many_views") == 0
    again = read_tensors(run_of(tmp_path) / "model.safetensors")
    assert "going on from checkpoint-" in (run_of(tmp_path) / "run.log").read_text()
    assert all(torch.equal(trained[name], again[name]) for name in trained)
    assert (run_of(tmp_path) / "metrics.jsonl").read_text() == lines
    assert maps == {file: file.stat().st_ino for file in maps}


@pytest.mark.slow
@pytest.mark.parametrize(
    "choice", [("pyramid=none",), ("pyramid=bins30",), ("train_sizes=buckets",), ("data.train_crop=five",)]
)
def test_heads_of_all_kinds_are_trained(sppnet, tiny, weights: Path, choice: tuple[str, ...]):
    assert sppnet(*tiny, *HEAD, f"backbone.weights={weights}", "view=crop", *choice) == 0


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (("training.trains=head",), "would stay as it begins, at random"),
        (("training.trains=head", "train_sizes=random"), "choose train_sizes=multi"),
        (("training.trains=head", "pyramid.pooling=sliding"), "use pyramid.pooling=bins"),
        (("training.trains=none",), "training.trains=none: must be head or all"),
    ],
)
def test_what_a_head_cannot_be_trained_with_is_said(
    sppnet, capfd, tiny, tmp_path: Path, choice, message: str
):
    file = tmp_path / "file.safetensors"
    file.touch()
    given = () if "at random" in message else (f"backbone.weights={file}",)
    assert sppnet(*tiny, *choice, *given) == 2
    assert message in capfd.readouterr().err
