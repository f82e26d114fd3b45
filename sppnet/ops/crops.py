"""Views of an image: the crops a network is tested on (paper §3.1 and its footnote 1).

Axes: c channels, h w pixels.
"""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from sppnet.ops.boxes import require_tensors


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
    corners = ten_windows(image.shape[1], image.shape[2], size)[:, :2].tolist()
    crops = torch.stack([_crop(image, top, left, size) for left, top in corners])
    return torch.cat([crops, crops.flip(-1)])


def ten_windows(height: int, width: int, size: int) -> Int[Tensor, "5 4"]:
    """Where the crops of `ten_crop` stand in an image; their mirror images stand there as well.

    Args:
        height: Of the image, pixels.
        width: Of the image, pixels.
        size: Side of the squares, pixels.

    Returns:
        Inclusive x1 y1 x2 y2: top left, top right, centre, bottom left, bottom right.
    """
    bottom, right = height - size, width - size
    corners = [(0, 0), (0, right), (bottom // 2, right // 2), (bottom, 0), (bottom, right)]
    return torch.tensor([[left, top, left + size - 1, top + size - 1] for top, left in corners])


def _crop(image: Tensor, top: int, left: int, size: int) -> Tensor:
    return image[:, top : top + size, left : left + size]


def _require_size(image: Tensor, size: int) -> None:
    require_tensors(image)
    if image.dim() != 3 or size < 1:
        raise ValueError(f"a crop of {size} pixels of an image of shape {tuple(image.shape)}: expected c h w")
    height, width = image.shape[1:]
    if min(height, width) < size:
        raise ValueError(
            f"an image of {height} x {width} pixels (height x width) holds no {size} x {size} crop: "
            f"raise view.short_side to at least {size}"
        )
