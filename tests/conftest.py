"""What several test folders share: command lines small enough for a test, nothing left behind."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("WANDB_MODE", "offline")

from sppnet.cli.main import run

Sppnet = Callable[..., int]

TINY = (
    "preset=mini",
    "logger=none",
    "trainer=cpu",
    "trainer.threads=1",
    "progress=false",
    "image.short_side=124",
    "image.size=120",
    "image.small_size=112",
    "image.test_sides=[120,124,140]",
    "image.curve_sides=[112,124]",
    "width=0.05",
    "head.width=16",
    "training.epochs=2",
    "training.batch_size=8",
    "data.per_class=3",
    "data.test_per_class=2",
    "data.reader.detection_images=2",
)


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shapes")


@pytest.fixture
def tiny(tmp_path: Path, shapes_root: Path) -> tuple[str, ...]:
    """Overrides that make any experiment a matter of a second; runs go to tmp_path/runs."""
    return (*TINY, f"data.root={shapes_root}", f"paths.runs={tmp_path / 'runs'}")


@pytest.fixture
def sppnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sppnet:
    """The command line in this process, started in an empty folder; returns the exit code."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run(list(arguments))
