"""Views of an image: the crops a network is tested on (paper §3.1 and its footnote 1).

Axes: c channels, h w pixels.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def centre_crop(
    image: UInt8[Tensor, "c h w"] | Float[Tensor, "c h w"], size: int
) -> UInt8[Tensor, "c size size"] | Float[Tensor, "c size size"]:
    """Cut out the central square; an odd margin is larger at the bottom and at the right.

    Args:
        image: Image, at least `size` pixels each way.
        size: Side of the square, pixels.

    Raises:
        ValueError: The image is smaller than the square.
    """
    _require_size(image, size)
    height, width = image.shape[1:]
    return _crop(image, (height - size) // 2, (width - size) // 2, size)


def ten_crop(
    image: UInt8[Tensor, "c h w"] | Float[Tensor, "c h w"], size: int
) -> UInt8[Tensor, "10 c size size"] | Float[Tensor, "10 c size size"]:
    """Cut the four corners of the entire image and its centre, then mirror them.

    The order is top left, top right, centre, bottom left, bottom right (cuda-convnet2's), then the same
    five flipped left to right.

    Args:
        image: Image, at least `size` pixels each way.
        size: Side of the squares, pixels.

    Raises:
        ValueError: The image is smaller than a square.
    """
    _require_size(image, size)
    bottom, right = image.shape[1] - size, image.shape[2] - size
    corners = [(0, 0), (0, right), (bottom // 2, right // 2), (bottom, 0), (bottom, right)]
    crops = torch.stack([_crop(image, top, left, size) for top, left in corners])
    return torch.cat([crops, crops.flip(-1)])


def _crop(image: Tensor, top: int, left: int, size: int) -> Tensor:
    return image[:, top : top + size, left : left + size]


def _require_size(image: Tensor, size: int) -> None:
    height, width = image.shape[1:]
    if min(height, width) < size:
        raise ValueError(
            f"an image of {height} x {width} pixels (height x width) holds no {size} x {size} crop: "
            f"raise view.short_side to at least {size}"
        )
