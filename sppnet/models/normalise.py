"""Subtracting the mean (paper Appendix A), on the net's device and for any image size.

Axes: n images, h w pixels. Images are RGB on 0..255: response normalisation with alpha near 1e-4 and weights
of deviation 0.01 presume that scale.
"""

import math
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sppnet.errors import ConfigError
from sppnet.models.trunk import Backbone


@final
class InputNorm(nn.Module):
    """(images - mean) / std; a mean image is warped to the images' size (Appendix A).

    Args:
        mean: Mean per channel (3 1 1), or a mean image (3 h w), on 0..255.
        std: Deviation per channel, on 0..255; ones keep the images on 0..255 as the paper's nets have them.

    Attributes:
        constant_mean: Subtracted in place of the mean, on 0..255: the images are not of the kind that the net
            was trained on (Appendix A, VOC 2007 and Caltech-101). No part of the weights. None: the mean.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, mean: Float[Tensor, "3 h w"], std: Float[Tensor, "3 1 1"]) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.constant_mean: float | None = None

    @classmethod
    def constant(cls, *, mean: Sequence[float], std: Sequence[float]) -> "InputNorm":
        """Use three constants, such as the paper's 128 for VOC2007 and Caltech101 (Appendix A).

        Raises:
            ConfigError: They are not three finite numbers, or a deviation is not positive.
        """
        if not len(mean) == len(std) == 3 or not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
            raise ConfigError(f"mean={mean}, std={std}: expected three finite numbers each, std above 0")
        return cls(mean=_per_channel(mean), std=_per_channel(std))

    @classmethod
    def mean_image(cls, *, size: int, std: Sequence[float]) -> "InputNorm":
        """Leave room for a mean image of `size` x `size` pixels, to be set before the first batch.

        Until then it holds NaN: a forgotten one is noticed at once, and `needs_mean_image` is true.
        """
        return cls(mean=torch.full((3, size, size), math.nan), std=_per_channel(std))

    @classmethod
    def of_trunk(cls, backbone: Backbone) -> "InputNorm":
        """Use the mean and deviation that the backbone's own weights were trained with."""
        return cls(mean=_per_channel(backbone.mean), std=_per_channel(backbone.std))

    @property
    def needs_mean_image(self) -> bool:
        """Whether a mean image is yet to be set (or loaded with the weights)."""
        return bool(self.mean.isnan().any())

    def set_mean_image(self, image: Float[Tensor, "3 h w"]) -> None:
        """Fill in the mean image, on 0..255.

        Raises:
            ValueError: Its size is not the one announced at construction.
        """
        if image.shape != self.mean.shape:
            raise ValueError(
                f"a mean image of {tuple(image.shape)} does not fit this net, which was built for "
                f"{tuple(self.mean.shape)}: average images of that size"
            )
        self.mean.copy_(image)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Normalise images on 0..255."""
        if self.constant_mean is not None:
            return (images - self.constant_mean) / self.std
        mean = self.mean
        if mean.shape[1:] not in (images.shape[2:], (1, 1)):
            mean = functional.interpolate(
                mean[None], images.shape[2:], mode="bilinear", align_corners=False, antialias=True
            )[0]
        return (images - mean) / self.std


def _per_channel(values: Sequence[float]) -> Tensor:
    red, green, blue = values
    return torch.tensor([red, green, blue], dtype=torch.float32)[:, None, None]
