"""Warped windows themselves, as R-CNN's fine-tuning sees them: all its layers learn (paper §4.2).

Axes: n windows, s pixels of a warped side.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sppnet.data.images import read_image
from sppnet.windows.warped import image_tensor, mean_square
from sppnet.models.sppnet import SppNet
from sppnet.ops.warp import warp_windows


@final
class WarpedSquares:
    """Warps windows to squares: a vector is three colour planes, one after the other, on 0..255.

    Args:
        net: Whose mean stands where the image ends.
        paths: Image files, read as stored.
        size: Side of the squares, pixels.
        context: Margin around the window in pixels of the square.
        is_mirrored: Whether images are mirrored, left to right, first.
        max_pixels: Larger files are refused.
    """

    def __init__(
        self,
        *,
        net: SppNet,
        paths: Sequence[Path],
        size: int,
        context: int,
        is_mirrored: bool,
        max_pixels: int,
    ) -> None:
        self.paths = paths
        self.size = size
        self.context = context
        self.is_mirrored = is_mirrored
        self.max_pixels = max_pixels
        self._fill = mean_square(net, size).cpu()
        self.dim = 3 * size**2

    def rows(
        self,
        index: int,
        windows: Float[Tensor, "n 4"],
        *,
        scales: Int[Tensor, " n"] | None = None,
        out: Float[Tensor, "n d"] | None = None,
    ) -> Float[Tensor, "n d"]:
        """Warp windows of one image (see `WindowSource`); `scales` and `out` have no effect.

        Raises:
            BadImageError: The file cannot be used.
            ValueError: A window is inverted, not finite or beyond the image.
        """
        image = image_tensor(read_image(self.paths[index], upright=False, max_pixels=self.max_pixels))
        if self.is_mirrored:
            image = image.flip(2)
        with torch.no_grad():
            squares = warp_windows(image, windows, size=self.size, context=self.context, fill=self._fill)
        return squares.flatten(1).contiguous()
