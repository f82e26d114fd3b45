"""Detectors small enough for a test: trained once, and copied for every test that builds on them."""

import shutil
from pathlib import Path

import pytest

DETECTION = (
    "target.num_images=12",
    "proposals.max_proposals=60",
    "protocol.scales=[144,180]",
    "protocol.one_scale=[160]",
    "protocol.warped_size=120",
    "finetuning.num_steps=6",
    "finetuning.batch_size=16",
    "finetuning.images_per_chunk=4",
    "mining.max_gb=0.1",
    "timing.num_images=2",
    "timing.max_windows=8",
    "jobs=1",
)


@pytest.fixture
def tiny_detection(
    tiny: tuple[str, ...], shapes_root: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, ...]:
    """Overrides that make an experiment of detection a matter of seconds: 6 images to train on, 6 to test."""
    monkeypatch.setenv("SPPNET_DATA", str(shapes_root))
    return (*tiny, *DETECTION)


@pytest.fixture
def table9(tiny_detection: tuple[str, ...]) -> tuple[str, ...]:
    """Two cells of Table 9: with all stages, and with as few as there can be."""
    return ("experiment=table9", "detection=pool,ftfc7_bb", "windows=spp_one", *tiny_detection)


@pytest.fixture
def detectors(
    sppnet, tmp_path: Path, table9: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """tmp_path/runs with `table9`; computed once, never disturbed, then copied."""
    kept = tmp_path_factory.getbasetemp() / "kept-table9"
    if not kept.exists():
        assert sppnet(*table9) == 0
        shutil.copytree(tmp_path / "runs", kept)
    else:
        shutil.copytree(kept, tmp_path / "runs")
    return tmp_path / "runs"
