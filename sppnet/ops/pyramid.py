"""Spatial pyramid pooling of whole maps (paper §2.2; bins as in Appendix A).

Axes: n images, c channels, h w cells of the feature map.

Bin i of m over a side of a cells covers floor(i*a/m) to ceil((i+1)*a/m). Where m divides a finer level
km, a coarse bin is exactly the union of its k fine bins: the first of them starts at
floor(ik*a/(km)) = floor(i*a/m), the last ends at ceil((i+1)*a/m), neighbours leave no gap. A maximum over
a union is the maximum of the maxima, so {6,3,2,1} reads the map once.
"""

import math
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sppnet.ops.boxes import require_tensors

Levels = Iterable[int] | Int[Tensor, " levels"] | Int[np.ndarray, " levels"]


def num_bins(levels: Sequence[int]) -> int:
    """Cells of a pyramid per channel: 50 for [6, 3, 2, 1]."""
    return sum(level**2 for level in levels)


def pool_pyramid(maps: Float[Tensor, "n c h w"], levels: Sequence[int]) -> Float[Tensor, "n features"]:
    """Max-pool every level's grid and concatenate (§2.2), bins for any map size (Appendix A).

    Equal to `adaptive_max_pool2d` bit for bit, level by level.

    Args:
        maps: Activations of the last convolution, after its ReLU.
        levels: Bins per side of each level, in the order they are concatenated.

    Returns:
        Levels in the order given; inside a level channel-major (c, then bins row by row).

    Raises:
        TypeError: The maps are no tensor.
        ValueError: They are not `n c h w` real numbers, or a level asks for more bins than they have cells.
    """
    levels = _require_cells(maps, levels)
    # Pooling whole channel vectors (channels last) is vectorised, one channel at a time is not.
    maps = maps.contiguous(memory_format=torch.channels_last)
    grids: dict[int, Tensor] = {}
    for level in sorted(set(levels), reverse=True):
        coarsest = min((finer for finer in grids if finer % level == 0), default=None)
        if coarsest is None:
            grids[level] = functional.adaptive_max_pool2d(maps, level)
        else:
            grids[level] = functional.max_pool2d(grids[coarsest], coarsest // level)
    return torch.cat([grids[level].flatten(1) for level in levels], dim=1)


def pool_pyramid_sliding(
    maps: Float[Tensor, "n c h w"], levels: Sequence[int]
) -> Float[Tensor, "n features"]:
    """Pool by sliding windows of ceil(a/n) cells at steps of floor(a/n), as §2.3.1 writes it.

    With a = q*n + r that yields the bins of Appendix A if and only if r is 0 or 1; otherwise it yields too
    many outputs, or leaves the last rows out (a = 10 makes 9 x 9 outputs of the 6 x 6 level).

    Args:
        maps: Activations of the last convolution, after its ReLU.
        levels: Bins per side of each level, in the order they are concatenated.

    Returns:
        As `pool_pyramid`, bit for bit.

    Raises:
        TypeError: The maps are no tensor.
        ValueError: A level has more bins than the map has cells, or r is neither 0 nor 1.
    """
    levels = _require_cells(maps, levels)
    for side in maps.shape[2:]:
        for level in levels:
            _require_same_as_bins(side, level)
    pooled = [
        functional.max_pool2d(
            maps,
            kernel_size=[math.ceil(side / level) for side in maps.shape[2:]],
            stride=[side // level for side in maps.shape[2:]],
        )
        for level in levels
    ]
    return torch.cat([grid.flatten(1) for grid in pooled], dim=1)


@final
class SpatialPyramidPool(nn.Module):
    """Pools maps of any size to vectors of one length: `pool_pyramid` as a module.

    Args:
        levels: Bins per side of each level, in the order they are concatenated.

    Raises:
        ValueError: Levels that are not whole numbers, 1 or more.
    """

    def __init__(self, levels: Levels) -> None:
        super().__init__()
        self.levels = require_levels(levels)

    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n features"]:
        """Pool the maps."""
        return pool_pyramid(maps, self.levels)

    def extra_repr(self) -> str:
        """Show the levels in print(net)."""
        return f"levels={list(self.levels)}"


def require_levels(levels: Levels) -> tuple[int, ...]:
    """The levels, of an array too, if they are a pyramid.

    Raises:
        ValueError: There is no level, or one is not a whole number, 1 or more.
    """
    listed = levels.tolist() if isinstance(levels, Tensor | np.ndarray) else levels
    found = tuple(listed) if isinstance(listed, Iterable) else ()
    if not found or any(not isinstance(one, Integral) or isinstance(one, bool) or one < 1 for one in found):
        raise ValueError(
            f"levels {list(found) or listed!r}: expected whole numbers of bins a side, each 1 or more"
        )
    return tuple(int(level) for level in found)


def require_real_maps(maps: Tensor) -> None:
    """Refuse maps that cannot be pooled.

    Raises:
        TypeError: They are no tensor.
        ValueError: They are no floating-point numbers, or have no channels.
    """
    require_tensors(maps)
    if not maps.is_floating_point() or not maps.shape[-3]:
        raise ValueError(
            f"maps {tuple(maps.shape)} of {maps.dtype}: expected channels of real numbers: .float()"
        )


def _require_cells(maps: Tensor, levels: Sequence[int]) -> tuple[int, ...]:
    require_tensors(maps)
    levels = require_levels(levels)
    if maps.dim() != 4:
        raise ValueError(f"maps of shape {tuple(maps.shape)}: expected n c h w; of a single map, maps[None]")
    require_real_maps(maps)
    height, width = maps.shape[2:]
    for level in levels:
        if level > height or level > width:
            raise ValueError(
                f"a feature map of {height} x {width} cells is smaller than the level of {level} x {level} "
                f"bins of the pyramid {list(levels)}: take a larger image, or a coarser pyramid"
            )
    return levels


def _require_same_as_bins(side: int, level: int) -> None:
    window, step = math.ceil(side / level), side // level
    outputs = (side - window) // step + 1
    if side % level > 1:
        raise ValueError(
            f"sliding windows cannot pool a = {side} cells into n = {level} bins: windows of {window} at "
            f"steps of {step} give {outputs} outputs and reach {(outputs - 1) * step + window} cells; "
            f"use pyramid.pooling=bins, or an image size whose a leaves 0 or 1 when divided by {level}"
        )
