"""R-CNN's warp: a window and some context, made square (paper §4.2; rcnn_im_crop.m).

Axes: n windows, h w pixels of the image, s pixels of a warped side, 2 axes x y.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from sppnet.ops.boxes import require_boxes


def warp_windows(
    image: UInt8[Tensor, "3 h w"] | Float[Tensor, "3 h w"],
    windows: Float[Tensor, "n 4"],
    *,
    size: int,
    context: int,
    fill: Float[Tensor, "3 a b"],
) -> Float[Tensor, "n 3 {size} {size}"]:
    """Warp windows to squares with a margin of what surrounds them, bilinearly, without antialiasing.

    A window grows about its centre by size / (size - 2 context), is rounded to whole pixels and cut off at
    the image; each axis is scaled by size / (length before the cut). Scaled lengths and margins are rounded,
    so what is warped ends at whole pixels of the square, as if its edge were the image's.

    Args:
        image: RGB on 0..255.
        windows: x1 y1 x2 y2, 0-based inclusive pixels of the image; any real numbers.
        size: Side of the squares in pixels (227 in R-CNN).
        context: Margin in pixels of the square (16 in R-CNN); 0 takes the window itself.
        fill: What stands where the image ends: a colour (3 1 1) or a square (3 size size).

    Returns:
        float32 on 0..255. Making them takes three times their memory: give some windows at a time.

    Raises:
        ValueError: A window is inverted, not finite or beyond the image, or the context fills the square.
    """
    crops = _crops(windows, (image.shape[1], image.shape[2]), size, context)
    across, has_column = _sources(crops, 0, size)
    down, has_row = _sources(crops, 1, size)
    height, width = image.shape[1:]
    # What grid_sample calls -1 and 1 are the outer edges of the first and last pixel.
    grid = torch.empty(len(windows), size, size, 2, device=image.device)
    grid[..., 0] = ((2 * across + 1) / width - 1)[:, None, :]
    grid[..., 1] = ((2 * down + 1) / height - 1)[:, :, None]
    images = image.float().expand(len(windows), -1, -1, -1)
    warped = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    is_inside = has_row[:, None, :, None] & has_column[:, None, None, :]
    return torch.where(is_inside, warped, fill)


class _Crops(NamedTuple):
    """Parts of the image and where they go: whole numbers in float64, x and y of n windows."""

    first: Tensor  # pixel of the image
    length: Tensor  # pixels of the image
    margin: Tensor  # pixels of the square before the part
    extent: Tensor  # pixels of the square that the part takes


def _crops(windows: Tensor, image_size: tuple[int, int], size: int, context: int) -> _Crops:
    """Follow rcnn_im_crop.m, whose pixels are counted from 1."""
    require_boxes(windows, "window")
    if not 0 <= 2 * context < size:
        raise ValueError(f"context={context} leaves nothing of a square of {size}: expected 0 to {size // 2}")
    sides = windows.double()
    first, last = sides[:, :2], sides[:, 2:]
    if context:  # the last pixel moves by one more than the first: the code adds a width, not width - 1
        half = (last - first + 1) / 2
        centre, growth = first + half, size / (size - 2 * context)
        first, last = centre - half * growth, centre + half * growth
    first, last = torch.floor(first + 0.5), torch.floor(last + 0.5)
    height, width = image_size
    inside = first.clamp(min=0)
    length = last.minimum(last.new_tensor([width - 1, height - 1])) - inside + 1
    if not (length >= 1).all():
        index = int((length < 1).any(dim=1).nonzero()[0])
        raise ValueError(
            f"window {index} is {windows[index].tolist()}: no pixel of an image of {height} x {width} pixels "
            f"(height x width); clip windows to their image first"
        )
    scale = size / (last - first + 1)
    margin = torch.floor((inside - first) * scale + 0.5)
    extent = torch.floor(length * scale + 0.5).minimum(size - margin)
    return _Crops(inside, length, margin, extent)


def _sources(crops: _Crops, axis: int, size: int) -> tuple[Tensor, Tensor]:
    """Return where on the image every pixel of the square's side (n s) lies, and whether it lies there."""
    first, length, margin, extent = (values[:, axis, None] for values in crops)
    position = torch.arange(size, device=first.device) - margin
    offset = (position + 0.5) * (length / extent) - 0.5
    # Kept inside the part: what lies beside it in the image does not shine through.
    return first + offset.clamp(min=0).minimum(length - 1), (position >= 0) & (position < extent)
