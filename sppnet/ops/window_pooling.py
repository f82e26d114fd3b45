"""Spatial pyramid pooling of windows of one map (paper §4.1; bins as in Appendix A).

Axes: n windows, c channels, h w cells of the feature map.

A window of a x b cells is pooled as if it were a map of its own, down to a single cell: bin i of m over a
cells covers floor(i*a/m) to ceil((i+1)*a/m), so where a < m bins repeat cells. As in `sppnet.ops.pyramid`, a
level that divides a finer one is pooled from it.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from sppnet.ops.compiled import load_kernels, run_in_shares
from sppnet.ops.pyramid import num_bins

Order = Literal["pyramid", "bins_first"]

# Windows per step of the path in stock operations: on a processor its results stay in the cache.
_CHUNK = 64
_CHUNK_OF_ACCELERATOR = 2048
# A table of maxima of more numbers than this is made for some of the channels at a time.
_TABLE = 32 * 1024**2
# The compiled loop reads blocks of up to 4 x 4 cells; larger ones were no faster.
_POWERS = 3


class _Level(NamedTuple):
    """One level of a pyramid, and the level before it in the plan that it is a union of, or -1."""

    side: int
    parent: int
    first_bin: int


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
            level bins row by row and channels last: faster, for weights permuted by `bins_first`.
        out: Buffer to write to. Fresh memory costs more than the pooling itself.

    Returns:
        One row per window; `out` if given.

    Raises:
        ValueError: A window is inverted or reaches beyond the map, there is more than one map, or `out` does
            not fit, or would have to hold a gradient.
    """
    one = maps[0] if maps.dim() == 4 and len(maps) == 1 else maps
    _require_pyramid(one, levels, order)
    _require_cells(cells, *one.shape[1:])
    shape = (len(cells), len(one) * num_bins(levels))
    if out is not None:
        _require_buffer(out, one, shape)
    rows = one.permute(1, 2, 0).contiguous()
    if rows.requires_grad and torch.is_grad_enabled():
        result: Tensor = _PoolWindows.apply(rows, cells.long(), tuple(levels), order)
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
    bins = num_bins(levels)
    if weight.shape[1] % bins:
        raise ValueError(
            f"{weight.shape[1]} features are not a multiple of {bins}, the bins of {list(levels)}"
        )
    parts = weight.split([weight.shape[1] // bins * level**2 for level in levels], dim=1)
    return torch.cat(
        [
            part.unflatten(1, (-1, level**2)).transpose(1, 2).flatten(1)
            for part, level in zip(parts, levels, strict=True)
        ],
        dim=1,
    )


def unique_cells(cells: Int[Tensor, "n 4"]) -> tuple[Int[Tensor, "k 4"], Int[Tensor, " n"]]:
    """Find the different windows: of 2,000 proposals a tenth falls on the same cells as another.

    Returns:
        The windows without repetitions, and for every window which of them it is: pooled[inverse].
    """
    unique, inverse = torch.unique(cells, dim=0, return_inverse=True)
    return unique, inverse


class _PoolWindows(torch.autograd.Function):
    """Keeps the map only; the backward pass finds the maxima again, chunk by chunk."""

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
        views = _views(grad.contiguous(), rows.shape[2], ctx.levels, ctx.order)
        for group in _groups(rows, cells, ctx.levels):
            leaf = rows[..., group].detach().requires_grad_()
            with torch.enable_grad():
                table = _table(leaf, cells, ctx.levels)
            known = table.detach().requires_grad_()
            for chunk in _chunks(cells):
                with torch.enable_grad():
                    grids = _grids(known, cells[chunk], ctx.levels)
                torch.autograd.backward(grids, [view[chunk, :, group] for view in views])
            torch.autograd.backward(table, known.grad)
            result[..., group] = leaf.grad
        return result, None, None, None


def _pooled(rows: Tensor, cells: Tensor, levels: Sequence[int], order: Order, out: Tensor) -> Tensor:
    """Pool without gradients into `out`."""
    if len(cells) == 0:
        return out
    kernels, numbers = load_kernels(), _comparable(rows)
    if kernels is None or numbers is None:
        views = _views(out, rows.shape[2], levels, order)
        for group in _groups(rows, cells, levels):
            table = _table(rows[..., group], cells, levels)
            for chunk in _chunks(cells):
                for view, grid in zip(views, _grids(table, cells[chunk], levels), strict=True):
                    view[chunk, :, group] = grid
        return out
    shape = (_POWERS, *rows.shape)
    table = numbers.new_empty(shape)
    table[0] = numbers
    flat = table.view(-1).numpy()
    kernels.fill_blocks(flat, *shape)
    results = out.detach().view(numbers.dtype).view(-1).numpy()
    transposed = order == "pyramid"
    run_in_shares(
        kernels.pool_share,
        len(cells),
        flat,
        *shape,
        cells.numpy(),
        np.array(_plan(levels)),
        results,
        transposed,
    )
    return out


def _comparable(rows: Tensor) -> Tensor | None:
    """Return the map as numbers whose maxima are those of torch in a plain loop, or None."""
    rows = rows.detach()
    if rows.is_cpu and rows.dtype == torch.float32:
        # A comparison loses a NaN that stock maxima keep.
        return None if rows.amax().isnan() else rows
    if rows.is_cpu and rows.dtype in (torch.bfloat16, torch.float16):
        # The bits of positive numbers are in order, NaN last. Adding 0 turns -0 into 0.
        bits = (rows + 0).view(torch.int16)
        return bits if (bits >= 0).all() else None
    return None


def _views(out: Tensor, channels: int, levels: Sequence[int], order: Order) -> list[Tensor]:
    """View the part of every level as n, bins, channels."""
    parts = out.split([channels * level**2 for level in levels], dim=1)
    if order == "bins_first":
        return [part.unflatten(1, (-1, channels)) for part in parts]
    return [part.unflatten(1, (channels, -1)).transpose(1, 2) for part in parts]


def _plan(levels: Sequence[int]) -> list[_Level]:
    """Order the levels from fine to coarse and find what each is a union of."""
    plan: list[_Level] = []
    for index in sorted(range(len(levels)), key=lambda index: -levels[index]):
        side = levels[index]
        finer = [i for i, level in enumerate(plan) if level.side % side == 0]
        plan.append(_Level(side, finer[-1] if finer else -1, num_bins(levels[:index])))
    return plan


def _chunks(cells: Tensor) -> Iterator[slice]:
    step = _CHUNK if cells.is_cpu else _CHUNK_OF_ACCELERATOR
    return (slice(start, start + step) for start in range(0, len(cells), step))


def _groups(rows: Tensor, cells: Tensor, levels: Sequence[int]) -> Iterator[slice]:
    """Yield channels whose table of maxima is not too large."""
    height, width, channels = rows.shape
    powers = [power + 1 for power in _largest_powers(cells, levels)]
    step = max(1, _TABLE // (powers[0] * powers[1] * height * width))
    return (slice(start, start + step) for start in range(0, channels, step))


def _largest_powers(cells: Tensor, levels: Sequence[int]) -> list[int]:
    """Return floor(log2) of the largest bin's height and width, over the levels pooled from the map."""
    coarsest = min(level.side for level in _plan(levels) if level.parent < 0)
    extents = (cells[:, 2:] - cells[:, :2]).amax(0) + 1
    # A bin of m over a cells has at most ceil(a/m) + 1 of them, and never more than a.
    return [min(extent, -(-extent // coarsest) + 1).bit_length() - 1 for extent in extents.flip(0).tolist()]


def _table(rows: Tensor, cells: Tensor, levels: Sequence[int]) -> Tensor:
    """Maxima of 2**i x 2**j cells from every cell on (blocks end at the map's edge): i j h w c."""
    tall, wide = _largest_powers(cells, levels)
    columns = [rows]
    for power in range(wide):
        columns.append(_maxima(columns[-1], 1, 2**power))
    table = [torch.stack(columns)]
    for power in range(tall):
        table.append(_maxima(table[-1], 1, 2**power))
    return torch.stack(table)


def _maxima(blocks: Tensor, axis: int, shift: int) -> Tensor:
    """Return the maximum of every block and the block `shift` further along the axis, where there is one."""
    length = blocks.shape[axis] - shift
    inner = torch.maximum(blocks.narrow(axis, 0, length), blocks.narrow(axis, shift, length))
    return torch.cat([inner, blocks.narrow(axis, length, shift)], dim=axis)


def _grids(table: Tensor, cells: Tensor, levels: Sequence[int]) -> list[Tensor]:
    """Pool every level, in the order given: n, bins, channels."""
    grids: list[Tensor] = []
    for side, parent, _ in (plan := _plan(levels)):
        if parent < 0:
            grids.append(_base_grid(table, cells, side))
        else:
            finer = plan[parent].side
            maps = grids[parent].unflatten(1, (finer, finer)).permute(0, 3, 1, 2)
            union = functional.max_pool2d(maps, finer // side)
            grids.append(union.permute(0, 2, 3, 1).flatten(1, 2))
    return [grids[i] for i in sorted(range(len(plan)), key=lambda i: plan[i].first_bin)]


def _base_grid(table: Tensor, cells: Tensor, side: int) -> Tensor:
    """Pool one level from the map: a bin is the union of four blocks of the table, as they may overlap."""
    _, wide, height, width, _ = table.shape
    tall_power, tops = _blocks(cells[:, 1], cells[:, 3], side)
    wide_power, lefts = _blocks(cells[:, 0], cells[:, 2], side)
    kind = (tall_power[:, :, None] * wide + wide_power[:, None, :]) * height
    flat = table.flatten(0, 3)
    pooled: Tensor | None = None
    for top in tops:
        for left in lefts:
            index = (kind + top[:, :, None]) * width + left[:, None, :]
            block = flat.index_select(0, index.flatten()).unflatten(0, (len(cells), -1))
            pooled = block if pooled is None else torch.maximum(pooled, block)
    assert pooled is not None
    return pooled


def _blocks(first: Tensor, last: Tensor, side: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return the power of two that fits into every bin, and where blocks of that length must begin."""
    index = torch.arange(side, device=first.device)
    extent = (last - first + 1)[:, None]
    begin = first[:, None] + index * extent // side
    end = first[:, None] - (-(index + 1) * extent // side)
    power = torch.frexp((end - begin).double()).exponent.long() - 1
    return power, (begin, end - 2**power)


def _require_pyramid(maps: Tensor, levels: Sequence[int], order: str) -> None:
    if maps.dim() != 3:
        raise ValueError(f"maps of shape {tuple(maps.shape)}: expected c h w or 1 c h w, one image's map")
    if not levels or min(levels) < 1:
        raise ValueError(f"levels {list(levels)}: expected one or more numbers of bins, each 1 or more")
    if order not in ("pyramid", "bins_first"):
        raise ValueError(f"order={order}: expected pyramid or bins_first")


def _require_cells(cells: Tensor, height: int, width: int) -> None:
    if cells.is_floating_point():
        raise ValueError(f"cells of type {cells.dtype}: expected whole numbers, as map_cells returns")
    good = (
        (cells[:, :2] >= 0).all(1)
        & (cells[:, :2] <= cells[:, 2:]).all(1)
        & (cells[:, 2] < width)
        & (cells[:, 3] < height)
    )
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
