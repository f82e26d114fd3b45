"""Features of windows as R-CNN computes them: every window is an image of its own (paper §4.2, Tables 9-11).

Axes: n windows, d numbers a vector, s pixels of a warped side.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from sppnet.data.images import read_image
from sppnet.errors import ConfigError, NonFiniteError
from sppnet.features.compute import frozen
from sppnet.models.sppnet import SppNet
from sppnet.ops.linear import linear_relu
from sppnet.ops.pyramid import num_bins
from sppnet.ops.warp import warp_windows


@final
class WarpedWindows:
    """Warps windows to squares and takes each through the whole net.

    May be asked by several threads at once.

    Args:
        net: Frozen: it is put into evaluation mode and left there.
        paths: Image files.
        layer: "pool", "fc6" or "fc7", dropout off.
        size: Side of the squares, pixels (227 in R-CNN).
        context: Margin around the window in pixels of the square (16 in R-CNN).
        batch_size: Squares that pass the convolutions together.
        upright: Whether EXIF orientation is applied, for pictures without annotations.
        max_pixels: Larger files are refused.

    Attributes:
        dim: Length of a vector.

    Raises:
        ConfigError: No such layer, squares too small for the net, or a context that fills them.
    """

    def __init__(
        self,
        *,
        net: SppNet,
        paths: Sequence[Path],
        layer: str,
        size: int,
        context: int,
        batch_size: int,
        max_pixels: int,
        upright: bool = False,
    ) -> None:
        if layer not in ("pool", "fc6", "fc7"):
            raise ConfigError(f"layer {layer!r} of windows: expected pool, fc6 or fc7")
        if size < net.min_short_side:
            raise ConfigError(
                f"windows warped to {size} pixels: {net.backbone.name} with the pyramid {list(net.levels)} "
                f"needs {net.min_short_side} or more"
            )
        if not 0 <= 2 * context < size:
            raise ConfigError(f"a context of {context} pixels on each side leaves nothing of {size}")
        self.net = net.eval()
        self.paths = paths
        self.layer = layer
        self.size = size
        self.context = context
        self.batch_size = batch_size
        self.max_pixels = max_pixels
        self.upright = upright
        self._num_pooled = net.backbone.out_channels * num_bins(net.levels)
        self.dim = self._num_pooled if layer == "pool" else net.fc6.out_features

    def rows(
        self,
        index: int,
        windows: Float[Tensor, "n 4"],
        *,
        scales: Int[Tensor, " n"] | None = None,
        out: Float[Tensor, "n d"] | None = None,
    ) -> Float[Tensor, "n d"]:
        """Compute the vectors of windows (see `WindowSource`); `scales` and `out` have no effect.

        Raises:
            BadImageError: The file cannot be used.
            NonFiniteError: A vector is NaN or infinite.
            ValueError: A window is inverted, not finite or beyond the image.
        """
        image, fill = self._read(index), mean_square(self.net, self.size)
        pooled = torch.empty(len(windows), self._num_pooled, device=image.device)
        with frozen(self.net):
            for start in range(0, len(windows), self.batch_size):
                part = slice(start, start + self.batch_size)
                squares = warp_windows(
                    image, windows[part].to(image.device), size=self.size, context=self.context, fill=fill
                )
                pooled[part] = self.net.pool(self.net.maps(squares))
            features = self._fc(pooled).cpu()
        if not bool(features.isfinite().all()):
            raise NonFiniteError(
                f"{self.paths[index]}: {self.layer} of {self.net.backbone.name} is NaN or infinite for a "
                f"warped window; check the weights, the input mean and this image"
            )
        return features.clone()  # one that autograd may keep, unlike those of inference mode

    def images_of(self, index: int, windows: Float[Tensor, "n 4"]) -> Float[Tensor, "n 3 s s"]:
        """Warp windows of one image, to fine-tune all layers on.

        Returns:
            RGB on 0..255, on the net's device; the net's mean stands where the image ends.

        Raises:
            BadImageError: The file cannot be used.
            ValueError: A window is inverted, not finite or beyond the image.
        """
        image, fill = self._read(index), mean_square(self.net, self.size)
        windows = windows.to(image.device)
        return warp_windows(image, windows, size=self.size, context=self.context, fill=fill)

    def _read(self, index: int) -> UInt8[Tensor, "3 h w"]:
        image = read_image(self.paths[index], upright=self.upright, max_pixels=self.max_pixels)
        return image_tensor(image).to(next(self.net.parameters()).device)

    def _fc(self, pooled: Tensor) -> Float[Tensor, "n d"]:
        """Take all windows through the fc layers together: their weights are read once."""
        if self.layer == "pool":
            return pooled
        net = self.net
        features = linear_relu(pooled, net.fc6.weight, net.fc6.bias)
        return features if self.layer == "fc6" else linear_relu(features, net.fc7.weight, net.fc7.bias)


def mean_square(net: SppNet, size: int) -> Float[Tensor, "3 size size"]:
    """What a net subtracts from an image of `size` x `size` pixels, so that it sees zeros there."""
    with torch.no_grad():
        black = torch.zeros(1, 3, size, size, device=net.input_norm.mean.device)
        square: Tensor = -net.input_norm(black)[0] * net.input_norm.std
    return square


def image_tensor(image: Image.Image) -> UInt8[Tensor, "3 h w"]:
    """Pixels of an RGB image."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
