"""From a window on the image to cells of the feature map (paper §4.1 and Appendix A).

Windows are x1 y1 x2 y2, 0-based pixels, both ends inside. A cell belongs to a window when the centre of
its receptive field lies inside it: with the first centre at c0 and a stride of S pixels these are the
cells ceil((x1 - c0)/S) to floor((x2 - c0)/S). That is what the offsets 63 and 75 of Appendix A compute at
whole pixels, though its text speaks of the centre "closest" to a corner, which is another function.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sppnet.ops.boxes import clip_boxes, require_boxes, require_tensors
from sppnet.ops.receptive_field import ReceptiveField

CellMapping = Literal["centre_inside", "paper", "release"]
ScaleTarget = Literal["paper", "release"]

# Both nets of the authors' code shrink windows by 6.5 pixels and then round cells to the nearest.
_RELEASE_SHRINKAGE = 6.5
# The authors' code aims at 13 cells of 16 pixels a side where the paper has 224 pixels (§4.1).
_PAPER_SIDE = 224
_RELEASE_SHARE = 13 * 16 / _PAPER_SIDE


def map_cells(
    windows: Float[Tensor, "n 4"], field: ReceptiveField, map_size: tuple[int, int], mapping: CellMapping
) -> Int[Tensor, "n 4"]:
    """Find the cells of every window, at least one each.

    A window that holds no centre gets the cell at the middle of its crossed ends; what reaches beyond the
    map is clipped, in this order, as the authors' code does it.

    Args:
        windows: x1 y1 x2 y2 on the *resized* image, 0-based inclusive pixels; any real numbers.
        field: Geometry of the trunk that made the map.
        map_size: Height and width of the map, in cells.
        mapping: `centre_inside`; `paper`, the formula with 63 and 75 for this trunk's padding (at whole
            pixels the same cells, between them windows half a pixel wider); or `release`, the authors'
            code, which takes centres up to 1.5 pixels outside.

    Returns:
        First column, first row, last column, last row, 0-based and inclusive.

    Raises:
        ValueError: A window is inverted or not finite, the map has no cells, or the mapping is unknown.
    """
    require_boxes(windows, "window")
    if min(map_size) < 1:
        raise ValueError(f"map_size={tuple(map_size)}: a map has at least one cell each way")
    first, last = _ends(windows.double(), field, mapping)
    crossed = first > last
    middle = torch.floor((first + last) / 2)
    ends = torch.cat([torch.where(crossed, middle, first), torch.where(crossed, middle, last)], dim=1)
    return clip_boxes(ends, map_size).long()


def _ends(windows: Tensor, field: ReceptiveField, mapping: CellMapping) -> tuple[Tensor, Tensor]:
    """Return first and last cells (n 2, x and y), neither merged nor clipped."""
    top_left, bottom_right = windows[:, :2], windows[:, 2:]
    stride, size, padding = field
    if mapping == "centre_inside":
        centre = field.first_centre
        return torch.ceil((top_left - centre) / stride), torch.floor((bottom_right - centre) / stride)
    if mapping == "paper":
        # Appendix A counts pixels and cells from 1: x + 1 goes in, and 1 is taken off what comes out.
        lead, trail = padding + stride - 1, size - padding - stride  # 63 and 75
        return (
            torch.floor((top_left + 1 - size / 2 + lead) / stride),
            torch.ceil((bottom_right + 1 + size / 2 - trail) / stride) - 2,
        )
    if mapping == "release":
        centre = field.first_centre
        return (
            torch.floor((top_left - centre + _RELEASE_SHRINKAGE) / stride + 0.5),
            torch.ceil((bottom_right - centre - _RELEASE_SHRINKAGE) / stride - 0.5),
        )
    raise ValueError(f"mapping={mapping}: expected centre_inside, paper or release")


def choose_scale(
    windows: Float[Tensor, "n 4"],
    short_side: int,
    scales: Sequence[int],
    target: ScaleTarget,
    *,
    side: int = _PAPER_SIDE,
) -> Int[Tensor, " n"]:
    """Choose for every window the scale at which it is nearest the size the net was trained on (§4.1).

    Args:
        windows: x1 y1 x2 y2 on the *original* image, 0-based inclusive pixels.
        short_side: min(width, height) of the original image, in pixels.
        scales: Short sides the image can be resized to.
        target: `paper`, an area of 224 x 224 pixels; or `release`, a side of 208, whose ideal scale is
            rounded and then compared linearly (spm_expected_scale.m).
        side: Of the regions that the net was trained on, pixels, in place of the paper's 224.

    Returns:
        An element of `scales` for every window; of two as near, the one that stands first.

    Raises:
        ValueError: A window is inverted or not finite, there is no scale, or the target is unknown.
    """
    require_boxes(windows, "window")
    if not isinstance(scales, Sequence) or not scales or not all(scale > 0 for scale in scales):
        raise ValueError(f"scales={scales}: expected short sides in pixels, one or more, such as [688]")
    if not short_side > 0:
        raise ValueError(f"short_side={short_side}: expected the image's, in pixels")
    sides = windows.double()
    pixels = (sides[:, 2] - sides[:, 0] + 1) * (sides[:, 3] - sides[:, 1] + 1)
    choices = sides.new_tensor(scales)
    if target == "paper":
        distance = (pixels[:, None] * (choices / short_side) ** 2 - side**2).abs()
    elif target == "release":
        ideal = torch.floor(_RELEASE_SHARE * side * short_side / pixels.sqrt() + 0.5)
        distance = (ideal[:, None] - choices).abs()
    else:
        raise ValueError(f"target={target}: expected paper or release")
    return torch.tensor(scales, device=windows.device)[distance.argmin(dim=1)]


def scale_windows(windows: Float[Tensor, "n 4"], short_side: int, scale: int) -> Float[Tensor, "n 4"]:
    """Carry windows over to the resized image, so that its first and last pixels stay where they are.

    Pixel x becomes x (scale - 1)/(short_side - 1), on both axes (spp_features_convX_to_poolX.m).

    Args:
        windows: x1 y1 x2 y2 on the original image, 0-based inclusive pixels.
        short_side: min(width, height) of the original image, in pixels, 2 or more.
        scale: The same of the resized image.

    Returns:
        Windows on the resized image, in float64.

    Raises:
        TypeError: The windows are no tensor.
        ValueError: The image is one pixel wide or high, or would be none.
    """
    require_tensors(windows)
    if scale < 1:
        raise ValueError(f"scale={scale}: expected the short side of the resized image, 1 or more")
    if short_side < 2:
        raise ValueError(f"short_side={short_side}: an image this narrow has no scale; expected 2 or more")
    return windows.double() * (scale - 1) / (short_side - 1)
