"""The 96 + 2 views of Table 4: the whole evaluation of a picture against the conv passes it cannot save."""

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sppnet.bench import Contest
from sppnet.data.images import resize_short_side
from sppnet.models.backbones import LayeredBackbone
from sppnet.models.initialise import GaussianInit
from sppnet.models.map_views import ManyViews
from sppnet.models.normalise import InputNorm
from sppnet.models.sppnet import SppNet
from sppnet.models.views import maps_of_both

_SIZE, _SIDES, _FULL = 224, (224, 256, 300, 360, 448, 560), 256


def many_views() -> Contest:
    """From a JPEG file of 500 x 375 to its mean softmax, Overfeat-7; the peer computes twelve maps alone."""
    net = _overfeat7()
    view = ManyViews(test_sides=_SIDES, size=_SIZE, full_short_side=_FULL, mapping="centre_inside")
    file = _photograph()

    def images() -> list[Tensor]:
        image = Image.open(io.BytesIO(file)).convert("RGB")
        return [view.cut(resize_short_side(image, side))[None] for side in view.short_sides]

    stacks = images()

    @torch.inference_mode()
    def ours() -> Tensor:
        return view.softmax(net, images()).mean(dim=1)

    @torch.inference_mode()
    def peer() -> Tensor:
        return torch.stack([maps_of_both(net, stack[:, 0].float()).amax() for stack in stacks])

    return Contest(ours, peer, difference=0.0, repetitions=4)


def _overfeat7() -> SppNet:
    """The layers of conf/backbone/overfeat7.yaml, without its normalisation's constants."""
    last: list[dict[str, Any]] = [{"conv": 512, "kernel": 3, "stride": 1, "padding": 1}] * 5
    rows: list[dict[str, Any]] = [
        {"conv": 96, "kernel": 7, "stride": 2, "padding": 0},
        {"pool": 3, "stride": 3, "ceil": False},
        {"lrn": "across", "size": 5, "alpha": 5e-4, "beta": 0.75, "k": 2.0},
        {"conv": 256, "kernel": 5, "stride": 1, "padding": 2},
        {"pool": 2, "stride": 2, "ceil": True},
        *last,
    ]
    return SppNet(
        backbone=LayeredBackbone(name="Overfeat-7", layers=rows, width=1.0),
        input_norm=InputNorm.constant(mean=[128.0] * 3, std=[1.0] * 3),
        levels=[6, 3, 2, 1],
        pooling="bins",
        head_width=4096,
        dropout=0.5,
        num_classes=1000,
        init=GaussianInit(std=0.01, conv_biases=[0.0], fc_biases=[0.0]),
    ).eval()


def _photograph() -> bytes:
    """A JPEG that is as hard to decode as a photograph: smooth noise."""
    random = np.random.default_rng(0)
    small = Image.fromarray(random.integers(0, 256, (47, 63, 3), dtype=np.uint8))
    stream = io.BytesIO()
    small.resize((500, 375), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()
