"""Loops compiled by numba at their first call; import them through `sppnet.ops.compiled`.

They take arrays and whole numbers, check nothing and know nothing of torch. `no_type_check` keeps the shape
checks of the tests out of what numba compiles.

Blocks are the maxima of 1, 2 x 2, 4 x 4, ... cells, made once per map: any bin is the union of a few of
them, mostly of four. Their `shape` is (sizes of blocks, height, width, channels), all of them flat.
"""

from typing import Any, no_type_check

from numba import njit

_compile = njit(nogil=True, error_model="numpy")
# A call per stretch of channels would double the time.
_inline = njit(nogil=True, error_model="numpy", forceinline=True)
# Boxes compared before looking whether one of them was too close.
_STRETCH = 32


@_inline
@no_type_check
def take_maxima(source: Any, starts: Any, target: Any, at: Any, length: Any, fresh: Any) -> None:
    """Write (or, unless fresh, join to) `target` the maxima of four stretches of `source`."""
    a, b, c, d = starts
    into = target[at : at + length]
    first, second = source[a : a + length], source[b : b + length]
    third, fourth = source[c : c + length], source[d : d + length]
    if fresh:
        for i in range(length):
            into[i] = max(first[i], second[i], third[i], fourth[i])
    else:
        for i in range(length):
            into[i] = max(into[i], first[i], second[i], third[i], fourth[i])


@_compile
@no_type_check
def fill_blocks(blocks: Any, shape: Any) -> None:
    """Make all larger blocks from those of one cell, which is the map.

    Blocks that would reach over the map's edge end there; nothing reads them.
    """
    sizes, height, width, channels = shape
    for size in range(1, sizes):
        step = 1 << (size - 1)
        for y in range(height):
            upper, lower = (size - 1) * height + y, (size - 1) * height + min(y + step, height - 1)
            for x in range(width):
                right = min(x + step, width - 1)
                starts = (
                    (upper * width + x) * channels,
                    (upper * width + right) * channels,
                    (lower * width + x) * channels,
                    (lower * width + right) * channels,
                )
                at = ((size * height + y) * width + x) * channels
                take_maxima(blocks, starts, blocks, at, channels, True)


@_inline
@no_type_check
def pool_bin(blocks: Any, shape: Any, rows: Any, columns: Any, target: Any, at: Any) -> None:
    """Write the maxima of the cells of `rows` x `columns` (first, one behind the last) to `target`."""
    sizes, height, width, channels = shape
    (top, bottom), (left, right) = rows, columns
    short = min(bottom - top, right - left)
    size = 0
    while size + 1 < sizes and (2 << size) <= short:
        size += 1
    step = 1 << size
    for y in range(top, bottom, 2 * step):
        # The last blocks are moved back inside: a maximum may count a cell twice.
        upper = size * height + min(y, bottom - step)
        lower = size * height + min(y + step, bottom - step)
        for x in range(left, right, 2 * step):
            one, other = min(x, right - step), min(x + step, right - step)
            starts = (
                (upper * width + one) * channels,
                (upper * width + other) * channels,
                (lower * width + one) * channels,
                (lower * width + other) * channels,
            )
            take_maxima(blocks, starts, target, at, channels, y == top and x == left)


@_compile
@no_type_check
def pool_window(blocks: Any, shape: Any, cell: Any, plan: Any, target: Any, base: Any) -> None:
    """Pool one window into `target` from `base` on, bins before channels."""
    sizes, height, width, channels = shape
    x, y = cell[0], cell[1]
    wide, tall = cell[2] - x + 1, cell[3] - y + 1
    for level in range(plan.shape[0]):
        side, parent, first_bin = plan[level]
        at = base + first_bin * channels
        for i in range(side):
            for j in range(side):
                if parent < 0:
                    source, source_shape = blocks, (sizes, height, width, channels)
                    rows = (y + i * tall // side, y + ((i + 1) * tall + side - 1) // side)
                    columns = (x + j * wide // side, x + ((j + 1) * wide + side - 1) // side)
                else:
                    finer = plan[parent, 0]
                    source = target[base + plan[parent, 2] * channels :]
                    source_shape = (1, finer, finer, channels)
                    union = finer // side
                    rows, columns = (i * union, (i + 1) * union), (j * union, (j + 1) * union)
                pool_bin(source, source_shape, rows, columns, target, at)
                at += channels


@_compile
@no_type_check
def pool_share(
    blocks: Any, shape: Any, cells: Any, plan: Any, out: Any, transposed: Any, start: Any, stop: Any
) -> None:
    """Pool windows `start` to `stop`.

    Args:
        blocks: What `fill_blocks` made.
        shape: Theirs.
        cells: n 4: first column, first row, last column, last row.
        plan: Per level, fine to coarse: bins per side, row of the level it is a union of or -1, first bin.
        out: All results, one behind the other.
        transposed: Whether channels come before bins inside a level.
        start: First window.
        stop: One behind the last window.
    """
    channels = shape[3]
    features = channels * (plan[:, 0] * plan[:, 0]).sum()
    row = out[:features].copy() if transposed else out
    for n in range(start, stop):
        base = n * features
        pool_window(blocks, shape, cells[n], plan, row, 0 if transposed else base)
        if not transposed:
            continue
        for level in range(plan.shape[0]):
            bins = plan[level, 0] ** 2
            first = plan[level, 2] * channels
            for c in range(channels):
                begin = base + first + c * bins
                into = out[begin : begin + bins]
                for k in range(bins):
                    into[k] = row[first + k * channels + c]


@_compile
@no_type_check
def keep_greedily(sides: Any, max_overlap: Any, kept: Any) -> Any:
    """Greedy suppression of boxes that come with the best first.

    Args:
        sides: 4 n: x1, y1, x2, y2; overwritten: those of kept boxes move to the front.
        max_overlap: Boxes that overlap a better one by more are dropped.
        kept: Receives the positions of the boxes kept.

    Returns:
        How many those are.
    """
    x1, y1, x2, y2 = sides[0], sides[1], sides[2], sides[3]
    areas = (x2 - x1 + 1) * (y2 - y1 + 1)
    count = 0
    for i in range(len(x1)):
        left, top, right, bottom, area = x1[i], y1[i], x2[i], y2[i], areas[i]
        close = 0
        for begin in range(0, count, _STRETCH):
            # No leaving within a stretch: that keeps it one vector operation.
            for k in range(begin, min(begin + _STRETCH, count)):
                width = max(0.0, min(right, x2[k]) - max(left, x1[k]) + 1)
                height = max(0.0, min(bottom, y2[k]) - max(top, y1[k]) + 1)
                shared = width * height
                close += shared / (area + areas[k] - shared) > max_overlap
            if close:
                break
        if close == 0:
            x1[count], y1[count], x2[count], y2[count], areas[count] = left, top, right, bottom, area
            kept[count] = i
            count += 1
    return count
