"""Windows as R-CNN sees them: every one is an image of its own, warped to a square (paper §4.2, Tables 9-11).

Axes: n windows, d numbers a vector, p numbers of the pooled vector, s pixels of a warped side.
"""

from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from sppnet.data.images import read_image
from sppnet.errors import ConfigError, NonFiniteError
from sppnet.features.compute import frozen
from sppnet.models.sppnet import SppNet
from sppnet.ops.warp import warp_windows
from sppnet.windows.source import FcLayers, Rows, Scales, Windows, WindowSource
from sppnet.windows.stopwatch import Stopwatch, timed

_ONE_SIZE = "windows that are warped have one size: no scales can be chosen; set random_scale=false"


@final
class WarpedWindows(WindowSource):
    """Warps windows to squares and takes each through the whole net.

    May be asked by several threads at once.

    Args:
        net: Frozen: it is put into evaluation mode and left there.
        layer: "pool", "fc6" or "fc7", dropout off.
        size: Side of the squares, pixels (227 in R-CNN).
        context: Margin around the window in pixels of the square (16 in R-CNN).
        batch_size: Squares that pass the convolutions together.
        max_pixels: Larger files are refused.
        upright: Whether EXIF orientation is applied, for pictures without annotations.
        max_windows: For clocks: evenly spaced windows of an image that are warped, convolved and pooled, and
            their time multiplied; the fc layers see as many vectors as there are windows, these over and
            over. None: all.

    Attributes:
        dim: Length of a vector.

    Raises:
        ConfigError: No such layer, squares too small for the net, or a context that fills them.
    """

    def __init__(
        self,
        *,
        net: SppNet,
        layer: str,
        size: int,
        context: int,
        batch_size: int,
        max_pixels: int,
        upright: bool = False,
        max_windows: int | None = None,
    ) -> None:
        if size < net.min_short_side:
            raise ConfigError(
                f"windows warped to {size} pixels: {net.backbone.name} with the pyramid {list(net.levels)} "
                f"needs {net.min_short_side} or more"
            )
        if not 0 <= 2 * context < size:
            raise ConfigError(f"a context of {context} pixels on each side leaves nothing of {size}")
        self.net = net.eval()
        self.layer = layer
        self.size = size
        self.context = context
        self.batch_size = batch_size
        self.max_pixels = max_pixels
        self.upright = upright
        self.max_windows = max_windows
        self._fc = FcLayers(net, layer, "pyramid")
        self.dim = self._fc.dim

    def compute(
        self, out: Rows, image: Path, windows: Windows, scales: Scales | None, watch: Stopwatch | None
    ) -> None:
        """Warp windows and take them through the net (see `WindowSource`)."""
        if scales is not None:
            raise ConfigError(_ONE_SIZE)
        with timed(watch, "decode"):
            picture = read_image(image, upright=self.upright, max_pixels=self.max_pixels)
        with timed(watch, "prepare"):
            pixels, fill = image_tensor(picture).to(self.net.device), mean_square(self.net, self.size)
            pooled = torch.empty(len(windows), self._fc.num_pooled, device=pixels.device)
        num = min(len(windows), self.max_windows or len(windows))
        some = windows[torch.arange(num) * len(windows) // max(1, num)]
        with frozen(self.net):
            self._pool(pixels, some, fill, pooled[:num], len(windows) / max(1, num), watch)
            for start in range(num, len(windows), max(1, num)):
                pooled[start : start + num] = pooled[: len(windows) - start][:num]
            with timed(watch, "fc"):
                features = self._fc(pooled).cpu()
        if watch is not None:
            watch.num_computed += num
        if not bool(features.isfinite().all()):
            raise NonFiniteError(
                f"{image}: {self.layer} of {self.net.backbone.name} is NaN or infinite for a "
                f"warped window; check the weights, the input mean and this image"
            )
        out.copy_(features)

    def _pool(
        self,
        pixels: Tensor,
        windows: Tensor,
        fill: Tensor,
        out: Float[Tensor, "n p"],
        times: float,
        watch: Stopwatch | None,
    ) -> None:
        """Warp, convolve and pool, so many windows at a time; each stage's time counts `times` over."""
        for start in range(0, len(windows), self.batch_size):
            part = slice(start, start + self.batch_size)
            with timed(watch, "prepare", times):
                given = windows[part].to(pixels.device)
                squares = warp_windows(pixels, given, size=self.size, context=self.context, fill=fill)
            with timed(watch, "conv", times):
                maps = self.net.maps(squares)
            with timed(watch, "pooling", times):
                out[part] = self.net.pool(maps)


@final
class WarpedSquares(WindowSource):
    """Warped windows themselves, to fine-tune all layers on: a vector is three colour planes on 0..255.

    Args:
        net: Whose mean stands where the image ends.
        size: Side of the squares, pixels.
        context: Margin around the window in pixels of the square.
        is_mirrored: Whether images are mirrored, left to right, first.
        max_pixels: Larger files are refused.
    """

    def __init__(self, *, net: SppNet, size: int, context: int, is_mirrored: bool, max_pixels: int) -> None:
        self.size = size
        self.context = context
        self.is_mirrored = is_mirrored
        self.max_pixels = max_pixels
        self._fill = mean_square(net, size).cpu()
        self.dim = 3 * size**2

    def compute(
        self, out: Rows, image: Path, windows: Windows, scales: Scales | None, watch: Stopwatch | None
    ) -> None:
        """Warp windows of one image, read as stored (see `WindowSource`)."""
        if scales is not None:
            raise ConfigError(_ONE_SIZE)
        with timed(watch, "decode"):
            pixels = image_tensor(read_image(image, upright=False, max_pixels=self.max_pixels))
        with timed(watch, "prepare"), torch.no_grad():
            pixels = pixels.flip(2) if self.is_mirrored else pixels
            squares = warp_windows(pixels, windows, size=self.size, context=self.context, fill=self._fill)
            out.copy_(squares.flatten(1))


def mean_square(net: SppNet, size: int) -> Float[Tensor, "3 size size"]:
    """What a net subtracts from an image of `size` x `size` pixels, so that it sees zeros there."""
    with torch.no_grad():
        black = torch.zeros(1, 3, size, size, device=net.device)
        square: Tensor = -net.input_norm(black)[0] * net.input_norm.std
    return square


def image_tensor(image: Image.Image) -> UInt8[Tensor, "3 h w"]:
    """Pixels of an RGB image."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
