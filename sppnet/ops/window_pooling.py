"""Spatial pyramid pooling of windows of one map (paper §4.1; bins as in Appendix A).

Axes: n windows, c channels, h w cells of the feature map.

A window of a x b cells is pooled as if it were a map of its own, down to a single cell: bin i of m over a
cells covers floor(i*a/m) to ceil((i+1)*a/m), so where a < m bins repeat cells. As in `sppnet.ops.pyramid`, a
level that divides a finer one is pooled from it.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from sppnet.ops.boxes import require_tensors
from sppnet.ops.compiled import load_kernels, run_in_shares
from sppnet.ops.pyramid import num_bins, require_levels, require_real_maps
from sppnet.ops.window_tables import channel_groups, chunks, maxima_table, plan_levels, pool_from_table

Order = Literal["pyramid", "bins_first"]

# The compiled loop reads blocks of up to 4 x 4 cells; larger ones were no faster.
_BLOCK_SIZES = 3


def pool_windows(
    maps: Float[Tensor, "*one c h w"],
    cells: Int[Tensor, "n 4"],
    levels: Sequence[int],
    *,
    order: Order = "pyramid",
    out: Float[Tensor, "n features"] | None = None,
) -> Float[Tensor, "n features"]:
    """Max-pool every window's pyramid, equal to `adaptive_max_pool2d` of its slice, bit for bit.

    Args:
        maps: Activations of the last convolution for one image, `c h w` or `1 c h w`; fastest when channels
            come last in memory.
        cells: First column, first row, last column, last row of every window, inclusive (`map_cells`).
        levels: Bins per side of each level, in the order they are concatenated.
        order: `pyramid`, inside a level channel-major as `pool_pyramid` does; or `bins_first`, inside a
            level bins row by row and channels last: 2.5 times as fast, for weights permuted by `bins_first`.
        out: Buffer to write to. Fresh memory costs more than the pooling itself.

    Returns:
        One row per window; `out` if given.

    Raises:
        TypeError: The map or the cells are no tensor.
        ValueError: A window is inverted or reaches beyond the map, there is more than one map, or `out` does
            not fit, or would have to hold a gradient.
    """
    require_tensors(maps, cells)
    one = maps[0] if maps.dim() == 4 and len(maps) == 1 else maps
    levels = _require_pyramid(one, levels, order)
    _require_cells(cells, *one.shape[1:])
    shape = (len(cells), len(one) * num_bins(levels))
    if out is not None:
        _require_buffer(out, one, shape)
    rows = one.permute(1, 2, 0).contiguous()
    if rows.requires_grad and torch.is_grad_enabled():
        result: Tensor = _PoolWindows.apply(rows, cells.long(), levels, order)
        return result
    return _pooled(rows, cells.long(), levels, order, one.new_empty(shape) if out is None else out)


def bins_first(
    weight: Float[Tensor, "outputs features"], levels: Sequence[int]
) -> Float[Tensor, "outputs features"]:
    """Permute the weights of the layer after the pyramid for vectors pooled with `order="bins_first"`.

    Args:
        weight: Weights for the order of `pool_pyramid`.
        levels: Bins per side of each level of that pyramid.

    Raises:
        ValueError: The features are no multiple of the pyramid's bins.
    """
    require_tensors(weight)
    levels = require_levels(levels)
    channels, rest = divmod(weight.shape[1], num_bins(levels))
    if rest:
        raise ValueError(
            f"{weight.shape[1]} features are not a multiple of {num_bins(levels)}, the bins of {list(levels)}"
        )
    return torch.cat([view.flatten(1) for view in _views(weight, channels, levels, "pyramid")], dim=1)


def unique_cells(cells: Int[Tensor, "n 4"]) -> tuple[Int[Tensor, "k 4"], Int[Tensor, " n"]]:
    """Find the different windows: of 2,000 proposals a tenth falls on the same cells as another.

    Returns:
        The windows without repetitions, and for every window which of them it is: `pooled[inverse]`.
    """
    unique, inverse = torch.unique(cells, dim=0, return_inverse=True)
    return unique, inverse


class _PoolWindows(torch.autograd.Function):
    """Keeps the map only; the backward pass finds the maxima again, some windows at a time."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, cells: Tensor, levels: tuple[int, ...], order: Order) -> Tensor:
        ctx.save_for_backward(rows, cells)
        ctx.levels, ctx.order = levels, order
        out = rows.new_empty(len(cells), rows.shape[2] * num_bins(levels))
        return _pooled(rows, cells, levels, order, out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        rows, cells = ctx.saved_tensors
        result = torch.zeros_like(rows)
        if len(cells) == 0:
            return result, None, None, None
        views = _views(grad.contiguous(), rows.shape[2], ctx.levels, ctx.order)
        for group in channel_groups(rows, cells, ctx.levels):
            some = rows[..., group].detach().requires_grad_()
            with torch.enable_grad():
                table = maxima_table(some, cells, ctx.levels)
            read = table.detach().requires_grad_()
            for chunk in chunks(cells):
                with torch.enable_grad():
                    grids = pool_from_table(read, cells[chunk], ctx.levels)
                torch.autograd.backward(grids, [view[chunk, :, group] for view in views])
            torch.autograd.backward(table, read.grad)
            result[..., group] = some.grad
        return result, None, None, None


def _pooled(rows: Tensor, cells: Tensor, levels: Sequence[int], order: Order, out: Tensor) -> Tensor:
    """Pool a map (h w c) into `out`, without gradients."""
    if len(cells) == 0:
        return out
    numbers = _comparable(rows)
    if numbers is not None and (kernels := load_kernels()) is not None:
        _pool_compiled(kernels, numbers, cells, levels, order, out.detach().view(numbers.dtype))
        return out
    views = _views(out, rows.shape[2], levels, order)
    for group in channel_groups(rows, cells, levels):
        table = maxima_table(rows[..., group], cells, levels)
        for chunk in chunks(cells):
            for view, grid in zip(views, pool_from_table(table, cells[chunk], levels), strict=True):
                view[chunk, :, group] = grid
    return out


def _comparable(rows: Tensor) -> Tensor | None:
    """Return the map as numbers whose maxima a plain loop finds as torch does, or None."""
    rows = rows.detach()
    if rows.is_cpu and rows.dtype == torch.float32:
        # A comparison loses a NaN that stock maxima keep.
        return None if rows.amax().isnan() else rows
    if rows.is_cpu and rows.dtype in (torch.bfloat16, torch.float16):
        # The bits of positive numbers are in order, NaN last. Adding 0 turns -0 into 0.
        bits = (rows + 0).view(torch.int16)
        return bits if (bits >= 0).all() else None
    return None


def _pool_compiled(
    kernels: ModuleType, rows: Tensor, cells: Tensor, levels: Sequence[int], order: Order, out: Tensor
) -> None:
    shape = (_BLOCK_SIZES, *rows.shape)
    blocks = rows.new_empty(shape)
    blocks[0] = rows
    flat = blocks.view(-1).numpy()
    kernels.fill_blocks(flat, shape)
    plan = np.array(plan_levels(levels), dtype=np.int64)
    arrays = (flat, shape, cells.contiguous().numpy(), plan, out.view(-1).numpy())
    run_in_shares(kernels.pool_share, len(cells), *arrays, order == "pyramid")


def _views(rows: Tensor, channels: int, levels: Sequence[int], order: Order) -> list[Tensor]:
    """View the part of every level as n, bins, channels."""
    parts = rows.split_with_sizes([channels * level**2 for level in levels], dim=1)
    if order == "bins_first":
        return [part.view(len(rows), -1, channels) for part in parts]
    return [part.view(len(rows), channels, -1).transpose(1, 2) for part in parts]


def _require_pyramid(maps: Tensor, levels: Sequence[int], order: str) -> tuple[int, ...]:
    if maps.dim() != 3:
        raise ValueError(f"maps of shape {tuple(maps.shape)}: expected c h w or 1 c h w, one image's map")
    require_real_maps(maps)
    if order not in ("pyramid", "bins_first"):
        raise ValueError(f"order={order}: expected pyramid or bins_first")
    return require_levels(levels)


def _require_cells(cells: Tensor, height: int, width: int) -> None:
    if cells.is_floating_point() or cells.dtype == torch.bool or cells.dim() != 2 or cells.shape[1] != 4:
        raise ValueError(
            f"cells {tuple(cells.shape)} of type {cells.dtype}: expected n x 4 whole numbers, as "
            f"map_cells returns"
        )
    ordered = (cells[:, :2] >= 0).all(dim=1) & (cells[:, :2] <= cells[:, 2:]).all(dim=1)
    good = ordered & (cells[:, 2] < width) & (cells[:, 3] < height)
    if not good.all():
        index = int((~good).nonzero()[0])
        raise ValueError(
            f"window {index} has the cells {cells[index].tolist()}: expected x1 y1 x2 y2, 0-based and "
            f"inclusive, x1 <= x2 and y1 <= y2, inside a map of {height} x {width} cells"
        )


def _require_buffer(out: Tensor, maps: Tensor, shape: tuple[int, int]) -> None:
    if out.shape != shape or out.dtype != maps.dtype or out.device != maps.device or not out.is_contiguous():
        raise ValueError(
            f"out is {tuple(out.shape)} {out.dtype} on {out.device}: expected {shape} {maps.dtype} on "
            f"{maps.device}, contiguous"
        )
    if maps.requires_grad and torch.is_grad_enabled():
        raise ValueError("out= holds no gradient: call under torch.no_grad(), or leave it out")
