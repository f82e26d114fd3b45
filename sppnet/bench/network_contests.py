"""Contests of whole nets on one picture: 2,000 windows to fc7 (Table 10), and the 96 + 2 views of Table 4.

Windows, by SPP-net and by R-CNN with the same net, like for like: float32, one thread, the same kernels and
reused buffers on both sides, from the decoded image to fc7. R-CNN gets the batch that suits it best, and a
part of the windows whose time is multiplied; the part is large enough for its fc layers to run at nearly
full speed. What SPP-net saves on proposals that cover the same cells, a tenth to a fifth of them in
photographs, is not in it: of random windows hardly any do.
"""

import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from sppnet.bench.rows import Contest
from sppnet.data.images import resize_short_side
from sppnet.models.backbones import LayeredBackbone
from sppnet.models.initialise import GaussianInit
from sppnet.models.map_views import ManyViews, maps_of_both
from sppnet.models.normalise import InputNorm
from sppnet.models.sppnet import SppNet
from sppnet.ops.warp import warp_windows
from sppnet.ops.window_pooling import pool_windows
from sppnet.ops.windows import choose_scale, map_cells, scale_windows
from sppnet.windows.conv_maps import ConvMaps
from sppnet.windows.spp import SppWindows
from sppnet.windows.stopwatch import Stopwatch
from sppnet.windows.warped import WarpedWindows, image_tensor, mean_square

_WINDOWS, _PART = 2000, 125
# Windows convolved together: with 16, activations outgrow what the C library keeps of freed memory.
_TOGETHER = 4
_SIZE, _CONTEXT = 227, 16


def windows_to_fc7(scales: Sequence[int]) -> Contest:
    """Everything to fc7; the difference is that of SPP-net's features from those of the plain modules."""
    net, image, windows = _zf5(), _picture(), _proposals()
    maps = ConvMaps(net, is_mirrored=False, cache=None, max_pixels=image.width * image.height)
    spp = SppWindows(
        maps,
        net=net,
        layer="fc7",
        scales=scales,
        mapping="centre_inside",
        scale_target="paper",
        side=224,
        order="bins_first",
    )
    rcnn = WarpedWindows(
        net=net,
        layer="fc7",
        size=_SIZE,
        context=_CONTEXT,
        batch_size=_TOGETHER,
        max_pixels=maps.max_pixels,
    )
    some = windows[:: _WINDOWS // _PART]
    folder = tempfile.TemporaryDirectory()  # removed with the contest that asks for the picture in it
    path = Path(folder.name) / "picture.bmp"  # read at once: decoding is in neither side's way
    image.save(path)
    room = torch.empty(_WINDOWS, net.fc7.out_features)

    def ours() -> Tensor:
        # A watch asks for everything to be computed, whatever is remembered of the image.
        return spp.rows(path, windows, out=room, watch=Stopwatch(net.device))

    def peer(folder: object = folder) -> Tensor:
        return rcnn.rows(path, some, out=room[: len(some)])

    expected = _plain_features(net, image, some, scales)
    difference = (ours()[:: _WINDOWS // _PART] - expected).abs().max() / expected.abs().max()
    return Contest(ours, peer, difference.item(), _WINDOWS / _PART, repetitions=3)


def convolutions(scales: Sequence[int]) -> Contest:
    """Those alone, of images that are already resized, and of windows that are already warped."""
    net, image = _zf5(), _picture()
    resized = [resize_short_side(image, scale)[None].float() for scale in scales]
    squares = warp_windows(
        image_tensor(image),
        _proposals()[: 4 * _TOGETHER],
        size=_SIZE,
        context=_CONTEXT,
        fill=mean_square(net, _SIZE),
    )

    def convolve(batches: Sequence[Tensor]) -> Callable[[], Tensor]:
        @torch.inference_mode()
        def run() -> Tensor:
            return torch.stack([net.maps(images).amax() for images in batches])

        return run

    peer = convolve(torch.split(squares, _TOGETHER))
    return Contest(convolve(resized), peer, 0.0, _WINDOWS / len(squares), repetitions=5)


def many_views() -> Contest:
    """From a JPEG file of 500 x 375 to its mean softmax, Overfeat-7; the peer computes twelve maps alone."""
    net = _overfeat7()
    sides = (224, 256, 300, 360, 448, 560)
    view = ManyViews(test_sides=sides, size=224, full_short_side=256, mapping="centre_inside")
    file = io.BytesIO()
    _picture().save(file, "JPEG", quality=90)

    def images() -> list[Tensor]:
        image = Image.open(file).convert("RGB")
        return [view.cut(resize_short_side(image, side))[None] for side in view.short_sides]

    stacks = images()

    @torch.inference_mode()
    def ours() -> Tensor:
        return view.softmax(net, images()).mean(dim=1)

    @torch.inference_mode()
    def peer() -> Tensor:
        return torch.stack([maps_of_both(net, stack[:, 0].float()).amax() for stack in stacks])

    return Contest(ours, peer, difference=0.0, repetitions=4)


@torch.inference_mode()
def _plain_features(net: SppNet, image: Image.Image, windows: Tensor, scales: Sequence[int]) -> Tensor:
    """Features window by window, as a user would compute them."""
    short_side = min(image.size)
    chosen = choose_scale(windows, short_side, scales, "paper").tolist()
    maps = {scale: net.maps(resize_short_side(image, scale)[None].float()) for scale in scales}
    rows = []
    for window, scale in zip(windows, chosen, strict=True):
        height, width = maps[scale].shape[2:]
        cells = map_cells(
            scale_windows(window[None], short_side, scale),
            net.backbone.receptive_field,
            (height, width),
            "centre_inside",
        )
        rows.append(pool_windows(maps[scale], cells, net.levels))
    features = functional.linear(torch.cat(rows), net.fc6.weight, net.fc6.bias).relu()
    return functional.linear(features, net.fc7.weight, net.fc7.bias).relu()


def _zf5() -> SppNet:
    norm = {"lrn": "within", "size": 3, "alpha": 5e-5, "beta": 0.75, "k": 1.0}
    return _net(
        LayeredBackbone(name="ZF-5", layers=zf5_layers(norm), width=1.0, weights=None), num_classes=21
    )


def zf5_layers(norm: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The layers of conf/backbone/zf5.yaml, with any normalisation."""
    pool = {"pool": 3, "stride": 2, "ceil": True}
    return [
        *({"conv": 96, "kernel": 7, "stride": 2, "padding": 1}, norm, pool),
        *({"conv": 256, "kernel": 5, "stride": 2, "padding": 0}, norm, pool),
        *({"conv": width, "kernel": 3, "stride": 1, "padding": 1} for width in (384, 384, 256)),
    ]


def _overfeat7() -> SppNet:
    """The layers of conf/backbone/overfeat7.yaml, without its normalisation's constants."""
    last = [{"conv": 512, "kernel": 3, "stride": 1, "padding": 1}] * 5
    rows: list[dict[str, Any]] = [
        {"conv": 96, "kernel": 7, "stride": 2, "padding": 0},
        {"pool": 3, "stride": 3, "ceil": False},
        {"lrn": "across", "size": 5, "alpha": 5e-4, "beta": 0.75, "k": 2.0},
        {"conv": 256, "kernel": 5, "stride": 1, "padding": 2},
        {"pool": 2, "stride": 2, "ceil": True},
        *last,
    ]
    return _net(LayeredBackbone(name="Overfeat-7", layers=rows, width=1.0, weights=None), num_classes=1000)


def _net(backbone: LayeredBackbone, num_classes: int) -> SppNet:
    """With the paper's head."""
    return SppNet(
        backbone=backbone,
        input_norm=InputNorm.constant(mean=[128.0] * 3, std=[1.0] * 3),
        levels=[6, 3, 2, 1],
        pooling="bins",
        head_width=4096,
        dropout=0.5,
        num_classes=num_classes,
        init=GaussianInit(std=0.01, conv_biases=[0.0], fc_biases=[0.0]),
    ).eval()


def _picture() -> Image.Image:
    """Smooth noise of 500 x 375 pixels: as a JPEG, as hard to decode as a photograph."""
    random = np.random.default_rng(0)
    small = Image.fromarray(random.integers(0, 256, (47, 63, 3), dtype=np.uint8))
    return small.resize((500, 375), Image.Resampling.BICUBIC)


def _proposals() -> Tensor:
    """2,000 windows, both sides as often between 20 and 40 pixels as between 160 and 320."""
    draw = torch.Generator().manual_seed(0)
    bounds = torch.tensor([500.0, 375.0])
    sides = (20 * (bounds / 20) ** torch.rand(_WINDOWS, 2, generator=draw)).floor()
    first = (torch.rand(_WINDOWS, 2, generator=draw) * (bounds - sides + 1)).floor()
    return torch.cat([first, first + sides - 1], dim=1)
