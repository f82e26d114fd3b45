"""How an image is shown to a net whose features are kept (paper §3.2, §3.3).

Axes: h w pixels. Images are never mirrored: a feature vector stands for one image.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from sppnet.data.images import read_image, resize_short_side
from sppnet.errors import ConfigError
from sppnet.ops.crops import centre_crop


@final
@dataclass(frozen=True, kw_only=True)
class ExtractView:
    """Reads an image file as a net is to see it.

    Args:
        kind: "crop", the central square of an image whose short side is `short_side`; "full", that
            whole image (§3.2: "resize the image so that min(w, h) = s"); "warp", the whole image made
            square, its aspect ratio lost (§3.3, Table 8).
        short_side: Pixels; unused when warping.
        crop: Side of the square, pixels; unused for full images.
        upright: Whether EXIF orientation is applied.
        max_pixels: A larger file is refused.

    Raises:
        ConfigError: No such kind, or the image is smaller than the crop.
    """

    kind: str
    short_side: int
    crop: int
    upright: bool
    max_pixels: int

    def __post_init__(self) -> None:
        if self.kind not in ("crop", "full", "warp"):
            raise ConfigError(f"view of kind {self.kind!r}: expected crop, full or warp")
        if self.kind == "crop" and self.crop > self.short_side:
            raise ConfigError(
                f"a crop of {self.crop} pixels does not fit a short side of {self.short_side}: "
                f"raise the short side, or use full or warp"
            )

    @property
    def is_square(self) -> bool:
        """Whether all images get one shape."""
        return self.kind != "full"

    @property
    def smallest_side(self) -> int:
        """Side of the smallest image that the net gets to see, pixels."""
        return self.crop if self.is_square else self.short_side

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the pixels: nothing that this kind does not use."""
        sides = {"crop": ("short_side", "crop"), "full": ("short_side",), "warp": ("crop",)}[self.kind]
        return {name: getattr(self, name) for name in ("kind", *sides, "upright")}

    def read(self, path: Path) -> UInt8[Tensor, "3 h w"]:
        """Decode and resize one image.

        Raises:
            BadImageError: The file cannot be used; path and reason.
        """
        image = read_image(path, upright=self.upright, max_pixels=self.max_pixels)
        if self.kind == "warp":
            return _warp(image, self.crop)
        whole = resize_short_side(image, self.short_side)
        return whole if self.kind == "full" else centre_crop(whole, self.crop)


def _warp(image: Image.Image, side: int) -> UInt8[Tensor, "3 side side"]:
    """Resize each axis on its own, by the filter that `resize_short_side` uses in that direction."""
    for size in ((side, image.height), (side, side)):
        if size != image.size:
            enlarges = size > image.size
            image = image.resize(size, Image.Resampling.BICUBIC if enlarges else Image.Resampling.BOX)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
