"""Window pooling in stock operations: on accelerators, with gradients, and where numba is missing.

A table holds, for every cell of the map, the maximum of the 2**i x 2**j cells from there on, for all i and j
that fit into a bin. A bin of any size is then the union of four of its blocks, which may overlap.

Axes: n windows, c channels, h w cells of the feature map, i j powers of two.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from sppnet.ops.pyramid import num_bins

# Windows per step: on a processor the intermediate results stay in the cache.
_CHUNK = 64
_CHUNK_OF_ACCELERATOR = 2048
# A table of more numbers than this is made for some of the channels at a time.
_TABLE = 32 * 1024**2


class PlannedLevel(NamedTuple):
    """One level of a pyramid.

    Attributes:
        side: Bins per side.
        parent: Position in the plan of the finer level whose bins it is a union of, or -1.
        first_bin: Where the level begins in a vector, in bins.
    """

    side: int
    parent: int
    first_bin: int


def plan_levels(levels: Sequence[int]) -> list[PlannedLevel]:
    """Order levels from fine to coarse; one that divides a finer level is pooled from it."""
    plan: list[PlannedLevel] = []
    for index in sorted(range(len(levels)), key=lambda index: -levels[index]):
        side = levels[index]
        finer = [position for position, level in enumerate(plan) if level.side % side == 0]
        plan.append(PlannedLevel(side, finer[-1] if finer else -1, num_bins(levels[:index])))
    return plan


def chunks(cells: Int[Tensor, "n 4"]) -> Iterator[slice]:
    """Yield the windows to pool at a time."""
    step = _CHUNK if cells.is_cpu else _CHUNK_OF_ACCELERATOR
    return (slice(start, start + step) for start in range(0, len(cells), step))


def channel_groups(
    maps: Float[Tensor, "h w c"], cells: Int[Tensor, "n 4"], levels: Sequence[int]
) -> Iterator[slice]:
    """Yield the channels to make a table for at a time."""
    height, width, channels = maps.shape
    tall, wide = _largest_powers(cells, levels)
    step = max(1, _TABLE // ((tall + 1) * (wide + 1) * height * width))
    return (slice(start, start + step) for start in range(0, channels, step))


def maxima_table(
    maps: Float[Tensor, "h w c"], cells: Int[Tensor, "n 4"], levels: Sequence[int]
) -> Float[Tensor, "i j h w c"]:
    """Make the table that is large enough for all bins of all windows."""
    tall, wide = _largest_powers(cells, levels)
    in_rows = [maps]
    for power in range(wide):
        in_rows.append(_joined(in_rows[-1], 1, 2**power))
    table = [torch.stack(in_rows)]
    for power in range(tall):
        table.append(_joined(table[-1], 1, 2**power))
    return torch.stack(table)


def pool_from_table(
    table: Float[Tensor, "i j h w c"], cells: Int[Tensor, "n 4"], levels: Sequence[int]
) -> list[Float[Tensor, "n bins c"]]:
    """Pool some windows: one result per level, in the order of `levels`."""
    plan = plan_levels(levels)
    grids: list[Tensor] = []
    for side, parent, _ in plan:
        if parent < 0:
            grids.append(_pool_level(table, cells, side))
            continue
        finer = plan[parent].side
        maps = grids[parent].view(len(cells), finer, finer, -1).permute(0, 3, 1, 2)
        union = functional.max_pool2d(maps, finer // side)
        grids.append(union.permute(0, 2, 3, 1).reshape(len(cells), side**2, -1))
    return [grids[position] for position in sorted(range(len(plan)), key=lambda p: plan[p].first_bin)]


def _largest_powers(cells: Tensor, levels: Sequence[int]) -> tuple[int, int]:
    """Return the largest powers of two that fit into a bin's height and width."""
    coarsest = min(level.side for level in plan_levels(levels) if level.parent < 0)
    wide, tall = ((cells[:, 2:] - cells[:, :2]).amax(dim=0) + 1).tolist()
    # A bin of m over a cells has at most ceil(a/m) + 1 of them, and never more than a.
    wide, tall = (min(extent, -(-extent // coarsest) + 1) for extent in (wide, tall))
    return tall.bit_length() - 1, wide.bit_length() - 1


def _joined(blocks: Tensor, axis: int, shift: int) -> Tensor:
    """Join every block with the one `shift` further along the axis, where there is one."""
    length = blocks.shape[axis] - shift
    inner = torch.maximum(blocks.narrow(axis, 0, length), blocks.narrow(axis, shift, length))
    return torch.cat([inner, blocks.narrow(axis, length, shift)], dim=axis)


def _pool_level(table: Tensor, cells: Tensor, side: int) -> Tensor:
    _, wide, height, width, channels = table.shape
    tall_power, tops = _blocks(cells[:, 1], cells[:, 3], side)
    wide_power, lefts = _blocks(cells[:, 0], cells[:, 2], side)
    kind = (tall_power[:, :, None] * wide + wide_power[:, None, :]) * height
    flat = table.view(-1, channels)
    read = [
        flat.index_select(0, ((kind + top[:, :, None]) * width + left[:, None, :]).flatten())
        for top in tops
        for left in lefts
    ]
    pooled = torch.maximum(torch.maximum(read[0], read[1]), torch.maximum(read[2], read[3]))
    return pooled.view(len(cells), side**2, channels)


def _blocks(first: Tensor, last: Tensor, side: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return the power of two that fits into every bin, and where its first and last block begin."""
    index = torch.arange(side, device=first.device)
    extent = (last - first + 1)[:, None]
    begin = first[:, None] + index * extent // side
    end = first[:, None] - (-(index + 1) * extent // side)
    power = torch.frexp((end - begin).double()).exponent.long() - 1  # exact, which log2 is not
    return power, (begin, end - 2**power)
