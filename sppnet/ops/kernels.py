"""Loops compiled by numba at their first call; import them through `sppnet.ops.compiled`.

They take flat arrays and whole numbers, check nothing and know nothing of torch. `no_type_check` keeps the
shape checks of the tests out of what numba compiles.
"""

from typing import Any, no_type_check

from numba import njit

_compile = njit(nogil=True, error_model="numpy")
# A call per stretch of channels would double the time.
_inline = njit(nogil=True, error_model="numpy", forceinline=True)
# Bins fewer than this are not worth an inner loop of their own.
_FEW = 16


@_inline
@no_type_check
def take_maxima(
    source: Any, target: Any, at: Any, a: Any, b: Any, c: Any, d: Any, length: Any, fresh: Any
) -> None:
    """Write (or, unless fresh, join to) the maxima of four stretches of `source` that begin at a, b, c, d."""
    into = target[at : at + length]
    first, second = source[a : a + length], source[b : b + length]
    third, fourth = source[c : c + length], source[d : d + length]
    if fresh:
        for i in range(length):
            into[i] = max(max(first[i], second[i]), max(third[i], fourth[i]))
    else:
        for i in range(length):
            into[i] = max(into[i], max(max(first[i], second[i]), max(third[i], fourth[i])))


@_compile
@no_type_check
def fill_blocks(table: Any, powers: Any, height: Any, width: Any, channels: Any) -> None:
    """Complete a table whose first part is the map: part k has the maxima of 2**k x 2**k cells.

    Blocks that would reach over the edge end there; nothing reads them.
    """
    size = height * width * channels
    for power in range(1, powers):
        step = 1 << (power - 1)
        finer, coarser = (power - 1) * size, power * size
        for y in range(height):
            below = min(y + step, height - 1)
            for x in range(width):
                right = min(x + step, width - 1)
                take_maxima(
                    table,
                    table,
                    coarser + (y * width + x) * channels,
                    finer + (y * width + x) * channels,
                    finer + (y * width + right) * channels,
                    finer + (below * width + x) * channels,
                    finer + (below * width + right) * channels,
                    channels,
                    True,
                )


@_inline
@no_type_check
def pool_bin(
    table: Any, powers: Any, height: Any, width: Any, channels: Any,
    top: Any, bottom: Any, left: Any, right: Any, target: Any, at: Any,
) -> None:  # fmt: skip
    """Write the maxima of the cells [top, bottom) x [left, right), read in the largest blocks that fit."""
    short = min(bottom - top, right - left)
    power = 0
    while power + 1 < powers and (2 << power) <= short:
        power += 1
    block = 1 << power
    part = power * height
    for y in range(top, bottom, 2 * block):
        # The last blocks are moved back inside; a maximum may count a cell twice.
        upper, lower = min(y, bottom - block), min(y + block, bottom - block)
        for x in range(left, right, 2 * block):
            one, other = min(x, right - block), min(x + block, right - block)
            take_maxima(
                table,
                target,
                at,
                ((part + upper) * width + one) * channels,
                ((part + upper) * width + other) * channels,
                ((part + lower) * width + one) * channels,
                ((part + lower) * width + other) * channels,
                channels,
                y == top and x == left,
            )


@_compile
@no_type_check
def pool_window(
    table: Any,
    powers: Any,
    height: Any,
    width: Any,
    channels: Any,
    cell: Any,
    plan: Any,
    target: Any,
    base: Any,
) -> None:
    """Pool one window from `base` on, bins before channels."""
    x, y = cell[0], cell[1]
    columns, rows = cell[2] - x + 1, cell[3] - y + 1
    for level in range(plan.shape[0]):
        side, parent, first_bin = plan[level]
        at = base + first_bin * channels
        for i in range(side):
            for j in range(side):
                if parent < 0:
                    source, parts, tall, wide = table, powers, height, width
                    top, bottom = y + i * rows // side, y + ((i + 1) * rows + side - 1) // side
                    left, right = x + j * columns // side, x + ((j + 1) * columns + side - 1) // side
                else:
                    parts, tall, wide = 1, plan[parent, 0], plan[parent, 0]
                    union = tall // side
                    source = target[base + plan[parent, 2] * channels :]
                    top, bottom, left, right = i * union, (i + 1) * union, j * union, (j + 1) * union
                pool_bin(source, parts, tall, wide, channels, top, bottom, left, right, target, at)
                at += channels


@_compile
@no_type_check
def pool_share(
    table: Any, powers: Any, height: Any, width: Any, channels: Any,
    cells: Any, plan: Any, out: Any, transposed: Any, start: Any, stop: Any,
) -> None:  # fmt: skip
    """Pool windows `start` to `stop`.

    Args:
        table: The map, channels last, and behind it the parts `fill_blocks` made.
        powers: Parts of the table.
        height: Cells per column of the map.
        width: Cells per row of the map.
        channels: Numbers per cell.
        cells: n 4: first column, first row, last column, last row.
        plan: Per level, fine to coarse: bins per side, row of the level it is a union of or -1, first bin.
        out: All results, one behind the other.
        transposed: Whether channels come before bins inside a level.
        start: First window.
        stop: One behind the last window.
    """
    features = channels * (plan[:, 0] * plan[:, 0]).sum()
    row = out[:features].copy() if transposed else out
    for n in range(start, stop):
        base = n * features
        pool_window(table, powers, height, width, channels, cells[n], plan, row, 0 if transposed else base)
        if not transposed:
            continue
        for level in range(plan.shape[0]):
            bins = plan[level, 0] ** 2
            first = plan[level, 2] * channels
            place = base + first
            if bins < _FEW:
                for k in range(bins):
                    for c in range(channels):
                        out[place + c * bins + k] = row[first + k * channels + c]
            else:
                for c in range(channels):
                    into = out[place + c * bins : place + (c + 1) * bins]
                    for k in range(bins):
                        into[k] = row[first + k * channels + c]
