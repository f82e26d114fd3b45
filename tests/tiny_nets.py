"""A net of two convolutions and images of a few pixels, so that a whole extraction takes milliseconds."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sppnet.features.extract_view import ExtractView
from sppnet.models.backbones import LayeredBackbone
from sppnet.models.initialise import DataDependentInit
from sppnet.models.normalise import InputNorm
from sppnet.models.sppnet import SppNet
from sppnet.store.feature_cache import FeatureCache

SIZES = ((24, 18), (18, 24), (30, 18), (18, 18))
LAYERS = (
    {"conv": 8, "kernel": 3, "stride": 1, "padding": 1},
    {"pool": 2, "stride": 2, "ceil": False},
    {"conv": 8, "kernel": 3, "stride": 1, "padding": 1},
)


@pytest.fixture
def make_net() -> Callable[..., SppNet]:
    """The same net every time; keywords replace what is written here."""

    def make(*, seed: int = 0, layers: Any = LAYERS, **replaced: Any) -> SppNet:
        torch.manual_seed(seed)
        arguments = {
            "backbone": LayeredBackbone(name="tiny", layers=layers, width=1.0, weights=None),
            "input_norm": InputNorm.constant(mean=[128.0] * 3, std=[64.0] * 3),
            "levels": [3, 1],
            "pooling": "bins",
            "head_width": 6,
            "dropout": 0.5,
            "num_classes": 2,
            "init": DataDependentInit(score_deviation=0.3),
        }
        return SppNet(**{**arguments, **replaced})

    return make


@pytest.fixture
def make_view() -> Callable[..., ExtractView]:
    def make(kind: str = "crop", **replaced: Any) -> ExtractView:
        arguments = {"short_side": 16, "crop": 14, "upright": True, "max_pixels": 10_000}
        return ExtractView(kind=kind, **{**arguments, **replaced})

    return make


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Ten images of four sizes, all different."""
    return write_images(tmp_path / "images", 10)


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "cache", shard_images=4)


def write_images(folder: Path, number: int) -> list[Path]:
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    paths = [folder / f"{i}.png" for i in range(number)]
    for i, path in enumerate(paths):
        width, height = SIZES[i % 4]
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of OpenMP do not survive the forks of these tests, and their number decides the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
