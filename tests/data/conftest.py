"""Tiny images and data sets, made where a test runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sppnet.data.datamodule import ImageDataModule
from sppnet.data.folder import FolderReader
from sppnet.data.sizes import CyclicSizes
from sppnet.data.transforms import ColourNoise

PALE_SIZES = ((24, 18), (18, 24), (30, 18), (18, 18))


def write_image(path: Path, value: int, size: tuple[int, int] = (24, 18)) -> None:
    """A uniformly grey PNG, so that a pixel says which image it comes from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), value, dtype=np.uint8)).save(path)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """train: 3 classes of 7 images; test: 3 of 4. Image i of class k has grey 40 k + i (+ 20 in test)."""
    for part, number, more in (("train", 7, 0), ("test", 4, 20)):
        for k, name in enumerate(("ant", "bee", "cat")):
            for i in range(number):
                write_image(tmp_path / part / name / f"{i}.png", 40 * k + i + more, PALE_SIZES[i % 4])
    return tmp_path


@pytest.fixture
def make_data(image_folder: Path) -> Callable[..., ImageDataModule]:
    """A data module of `image_folder`; keywords replace what is written here."""

    def make(**replaced: Any) -> ImageDataModule:
        arguments = {
            "name": "tiny",
            "reader": FolderReader(),
            "root": image_folder,
            "per_class": None,
            "test_per_class": None,
            "val_fraction": 0.0,
            "split_seed": 0,
            "upright": True,
            "short_side": 18,
            "crop": 16,
            "train_crop": "random",
            "mean_images": None,
            "colour": ColourNoise(scale=0.1, std=[100.0, 10.0, 1.0], axes=np.eye(3).tolist()),
            "sizes": CyclicSizes([16, 12]),
            "batch_size": 4,
            "seed": 0,
            "workers": 0,
            "cache_gb": 1.0,
            "max_pixels": 10_000,
        }
        return ImageDataModule(**{**arguments, **replaced})

    return make
