"""A network of a few weights, and scenes of a few rectangles to detect."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sppnet.data.voc2007 import AnnotatedImage
from sppnet.data.window_labels import DetectionImage
from sppnet.models.backbones import LayeredBackbone
from sppnet.models.initialise import GaussianInit
from sppnet.models.normalise import InputNorm
from sppnet.models.sppnet import SppNet
from sppnet.windows.conv_maps import ConvMaps
from sppnet.windows.spp import SppWindows

COLOURS = ((230, 40, 40), (40, 200, 60), (50, 60, 230))
SIZES = ((60, 45), (45, 60), (52, 52))


@pytest.fixture
def small_net() -> SppNet:
    torch.manual_seed(0)
    layers = [{"conv": 8, "kernel": 3, "stride": 2, "padding": 1}] * 2
    return SppNet(
        backbone=LayeredBackbone(name="small", layers=layers, width=1.0, weights=None),
        input_norm=InputNorm.constant(mean=[128.0] * 3, std=[1.0] * 3),
        levels=[2, 1],
        pooling="bins",
        head_width=8,
        dropout=0.5,
        num_classes=3,
        init=GaussianInit(std=0.2, conv_biases=[0.0], fc_biases=[0.0]),
    ).eval()


def paint_scene(path: Path, number: int) -> DetectionImage:
    """Rectangles, whose colours are their classes, on noise; proposals near them and anywhere.

    The third scene has no objects, the fifth no proposals; every third object is difficult.
    """
    random = np.random.default_rng(number)
    width, height = SIZES[number % 3]
    pixels = random.normal(120, 25, (height, width, 3))
    boxes, labels = [], random.integers(3, size=0 if number == 2 else 1 + number % 3)
    for label in labels:
        x, y = random.integers(0, width - 24), random.integers(0, height - 24)
        box = [x, y, x + random.integers(10, 23), y + random.integers(10, 23)]
        pixels[box[1] : box[3] + 1, box[0] : box[2] + 1] = COLOURS[label]
        boxes.append(box)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    limits = [width - 1, height - 1]
    corners = random.integers(0, [[limits]], (40, 2, 2))
    anywhere = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    truth = np.array(boxes, dtype=np.int64).reshape(-1, 4)
    near = np.clip(np.repeat(truth, 8, axis=0) + random.integers(-4, 5, (8 * len(truth), 4)), 0, limits * 2)
    proposals = np.concatenate([near, anywhere])[: 0 if number == 4 else None]
    image = AnnotatedImage(
        str(number),
        path,
        width,
        height,
        torch.from_numpy(truth).float(),
        torch.from_numpy(labels),
        torch.arange(len(labels)) % 3 == 2,
    )
    return DetectionImage(image, torch.from_numpy(proposals).float())


@pytest.fixture
def scenes(tmp_path: Path) -> list[DetectionImage]:
    return [paint_scene(tmp_path / f"scene{number}.png", number) for number in range(8)]


@pytest.fixture
def make_windows(small_net: SppNet, scenes: list[DetectionImage]) -> Callable[..., SppWindows]:
    """The vectors of the scenes' windows."""

    def make(layer: str = "pool", net: SppNet = small_net) -> SppWindows:
        return SppWindows(
            ConvMaps(net, is_mirrored=False, cache=None, max_pixels=10_000),
            net=net,
            layer=layer,
            scales=[40, 64],
            mapping="centre_inside",
            scale_target="paper",
            side=24,
            order="bins_first",
        )

    return make
