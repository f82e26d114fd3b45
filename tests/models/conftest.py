"""Backbones as conf/backbone writes them, and small nets on top."""

from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from sppnet.models.initialise import DataDependentInit
from sppnet.models.normalise import InputNorm
from sppnet.models.sppnet import SppNet

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def backbone():
    def build(name, width=1.0):
        file = OmegaConf.load(CONF / "backbone" / f"{name}.yaml")
        return instantiate(OmegaConf.merge({"width": width}, file).backbone)

    return build


@pytest.fixture
def small_net(backbone):
    def build(name="zf5", **changes):
        settings = {
            "backbone": backbone(name, width=0.1),
            "input_norm": InputNorm.constant(mean=[128.0] * 3, std=[1.0] * 3),
            "levels": [6, 3, 2, 1],
            "pooling": "bins",
            "head_width": 16,
            "dropout": 0.5,
            "num_classes": 7,
            "init": DataDependentInit(score_deviation=0.3),
        }
        return SppNet(**settings | changes)

    return build
