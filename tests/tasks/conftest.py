"""A network of a few weights."""

import pytest
import torch

from sppnet.models.backbones import LayeredBackbone
from sppnet.models.initialise import GaussianInit
from sppnet.models.normalise import InputNorm
from sppnet.models.sppnet import SppNet


@pytest.fixture
def small_net() -> SppNet:
    torch.manual_seed(0)
    layers = [{"conv": 8, "kernel": 3, "stride": 2, "padding": 1}] * 2
    return SppNet(
        backbone=LayeredBackbone(name="small", layers=layers, width=1.0),
        input_norm=InputNorm.constant(mean=[128.0] * 3, std=[1.0] * 3),
        levels=[2, 1],
        pooling="bins",
        head_width=8,
        dropout=0.5,
        num_classes=3,
        init=GaussianInit(std=0.2, conv_biases=[0.0], fc_biases=[0.0]),
    ).eval()
