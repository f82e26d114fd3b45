"""Pooled windows, against adaptive pooling of the slice and loops in plain Python."""

import random

import pytest
import torch
from torch.nn.functional import adaptive_max_pool2d

from sppnet.ops import window_pooling, window_tables
from sppnet.ops.pyramid import num_bins, pool_pyramid
from sppnet.ops.window_pooling import bins_first, pool_windows, unique_cells

PYRAMIDS = [[6, 3, 2, 1], [4, 3, 2, 1], [5], [1, 2, 3, 6], [2, 7, 2]]
COMPILED = window_pooling.load_kernels() is not None


def random_cells(generator, count, height, width):
    rows = []
    for _ in range(count):
        x1, y1 = generator.randrange(width), generator.randrange(height)
        reach = generator.choice([1, 4, 1000])
        x2 = generator.randrange(x1, min(width, x1 + reach))
        y2 = generator.randrange(y1, min(height, y1 + reach))
        rows.append([x1, y1, x2, y2])
    return torch.tensor(rows)


def one_slice_at_a_time(maps, cells, levels):
    return torch.stack(
        [
            torch.cat([adaptive_max_pool2d(maps[:, y1 : y2 + 1, x1 : x2 + 1], n).flatten() for n in levels])
            for x1, y1, x2, y2 in cells.tolist()
        ]
    )


def plain_python(rows, cell, levels):
    """Appendix A, cell by cell: floor((i-1)w/n) to ceil(iw/n), on one channel as nested lists."""
    x1, y1, x2, y2 = cell
    width, height = x2 - x1 + 1, y2 - y1 + 1
    pooled = []
    for n in levels:
        for i in range(n):
            for j in range(n):
                ys = range(y1 + i * height // n, y1 - (-(i + 1) * height // n))
                xs = range(x1 + j * width // n, x1 - (-(j + 1) * width // n))
                pooled.append(max(rows[y][x] for y in ys for x in xs))
    return pooled


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # compiled, and in stock operations
@pytest.mark.parametrize("levels", [[6, 3, 2, 1], [4, 3, 2, 1], [5]])
def test_ten_thousand_windows_agree_with_plain_python(levels, dtype):
    generator = random.Random(len(levels))
    for side in range(1, 34):
        height, width = side, generator.randint(1, 40)
        maps = torch.randn(1, height, width, dtype=dtype)
        cells = random_cells(generator, 52, height, width)
        rows = maps[0].tolist()
        expected = [plain_python(rows, cell, levels) for cell in cells.tolist()]
        assert pool_windows(maps, cells, levels).tolist() == expected


@pytest.mark.parametrize("levels", PYRAMIDS)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:]
)
@pytest.mark.parametrize("after_relu", [True, False])
def test_a_window_is_pooled_like_a_map_of_its_own(levels, dtype, after_relu):
    generator = random.Random(0)
    for height, width in [(1, 1), (1, 9), (7, 2), (13, 13), (31, 18)]:
        maps = torch.randn(6, height, width).to(dtype)
        maps = maps.relu() if after_relu else maps
        cells = random_cells(generator, 40, height, width)
        assert torch.equal(pool_windows(maps, cells, levels), one_slice_at_a_time(maps, cells, levels))


def test_a_window_of_one_cell_fills_every_bin_with_it():
    maps = torch.arange(12.0).view(1, 3, 4)
    assert pool_windows(maps, torch.tensor([[2, 1, 2, 1]]), [6, 3, 2, 1]).tolist() == [[6.0] * 50]


def test_a_window_as_large_as_the_map_gives_the_vector_of_the_map():
    maps = torch.rand(1, 8, 13, 17)
    whole = torch.tensor([[0, 0, 16, 12]])
    for levels in PYRAMIDS:
        assert torch.equal(pool_windows(maps, whole, levels), pool_pyramid(maps, levels))


def test_both_ways_agree_where_the_table_is_made_for_a_few_channels_at_a_time(monkeypatch):
    monkeypatch.setattr(window_tables, "_TABLE", 30 * 40 * 50)
    maps = torch.randn(10, 30, 40, dtype=torch.double)
    cells = random_cells(random.Random(2), 100, 30, 40)
    assert torch.equal(pool_windows(maps, cells, [3, 1]), one_slice_at_a_time(maps, cells, [3, 1]))


def test_memory_layout_and_threads_do_not_matter():
    maps = torch.rand(1, 16, 20, 30)
    cells = random_cells(random.Random(3), 400, 20, 30)  # enough for three threads
    expected = pool_windows(maps, cells, [6, 3])
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        parallel = pool_windows(maps.contiguous(memory_format=torch.channels_last), cells, [6, 3])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(parallel, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_nan_is_passed_on_and_not_outvoted(dtype):
    maps = torch.rand(2, 8, 8).to(dtype)
    maps[1, 3, 3] = torch.nan
    pooled = pool_windows(maps, torch.tensor([[0, 0, 7, 7], [4, 4, 7, 7]]), [1])
    assert pooled.isnan().tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize("levels", PYRAMIDS)
@pytest.mark.parametrize("order", ["pyramid", "bins_first"])
def test_gradients_equal_those_of_adaptive_pooling(levels, order, monkeypatch):
    monkeypatch.setattr(window_tables, "_TABLE", 11 * 13 * 20)
    values = torch.randperm(5 * 11 * 13).double().view(5, 11, 13)  # no ties
    cells = random_cells(random.Random(4), 150, 11, 13)
    upstream = torch.randn(150, 5 * num_bins(levels), dtype=torch.double)
    ours, theirs = (values.clone().requires_grad_() for _ in range(2))
    there = bins_first(upstream, levels) if order == "bins_first" else upstream
    (pool_windows(ours, cells, levels, order=order) * there).sum().backward()
    (one_slice_at_a_time(theirs, cells, levels) * upstream).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-11)


@pytest.mark.parametrize("levels", PYRAMIDS)
def test_a_layer_with_permuted_weights_gives_the_same_from_bins_first(levels):
    maps = torch.rand(7, 12, 15)
    cells = random_cells(random.Random(5), 40, 12, 15)
    weight = torch.randn(3, 7 * num_bins(levels), dtype=torch.double)
    pooled = pool_windows(maps, cells, levels, order="bins_first")
    assert torch.equal(bins_first(pool_windows(maps, cells, levels), levels), pooled)
    torch.testing.assert_close(
        pooled.double() @ bins_first(weight, levels).T, pool_windows(maps, cells, levels).double() @ weight.T
    )


def test_weights_of_another_pyramid_are_refused():
    with pytest.raises(ValueError, match="101 features are not a multiple of 50"):
        bins_first(torch.rand(2, 101), [6, 3, 2, 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("order", ["pyramid", "bins_first"])
def test_a_buffer_is_filled_and_returned(dtype, order):
    maps = torch.rand(4, 9, 9).to(dtype)
    cells = random_cells(random.Random(6), 30, 9, 9)
    buffer = torch.full((40, 4 * 50), -1.0, dtype=dtype)
    result = pool_windows(maps, cells, [6, 3, 2, 1], order=order, out=buffer[:30])
    assert result.data_ptr() == buffer.data_ptr()
    assert torch.equal(result, pool_windows(maps, cells, [6, 3, 2, 1], order=order))
    assert (buffer[30:] == -1).all()


def test_no_windows_give_no_rows():
    assert pool_windows(torch.rand(4, 9, 9), torch.empty(0, 4, dtype=torch.long), [2]).shape == (0, 16)


@pytest.mark.parametrize(
    "bad", [[3, 0, 2, 5], [0, 5, 5, 4], [-1, 0, 2, 2], [0, -1, 2, 2], [0, 0, 7, 2], [0, 0, 2, 6]]
)
def test_the_first_window_beyond_the_map_is_named(bad):
    with pytest.raises(ValueError, match=rf"window 1 has the cells \{bad}.* inside a map of 6 x 7 cells"):
        pool_windows(torch.rand(2, 6, 7), torch.tensor([[0, 0, 6, 5], bad, bad]), [2])


@pytest.mark.parametrize(
    "buffer", [torch.zeros(2, 15), torch.zeros(2, 16, dtype=torch.double), torch.zeros(2, 32)[:, ::2]]
)
def test_a_buffer_that_does_not_fit_is_refused(buffer):
    with pytest.raises(ValueError, match=r"expected \(2, 16\) torch.float32 on cpu, contiguous"):
        pool_windows(torch.rand(4, 9, 9), torch.zeros(2, 4, dtype=torch.long), [2], out=buffer)


def test_a_buffer_cannot_carry_a_gradient():
    maps = torch.rand(4, 9, 9, requires_grad=True)
    cells = torch.zeros(2, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="no_grad"):
        pool_windows(maps, cells, [2], out=torch.zeros(2, 16))
    with torch.no_grad():
        assert pool_windows(maps, cells, [2], out=torch.zeros(2, 16)).shape == (2, 16)


def test_two_maps_are_refused():
    with pytest.raises(ValueError, match="one image's map"):
        pool_windows(torch.rand(2, 4, 9, 9), torch.zeros(1, 4, dtype=torch.long), [2])


def test_equal_windows_need_pooling_once():
    cells = torch.tensor([[1, 2, 3, 4], [0, 0, 5, 5], [1, 2, 3, 4]])
    unique, inverse = unique_cells(cells)
    maps = torch.rand(3, 6, 6)
    assert len(unique) == 2
    assert torch.equal(unique[inverse], cells)
    assert torch.equal(pool_windows(maps, unique, [2, 1])[inverse], pool_windows(maps, cells, [2, 1]))


@pytest.mark.skipif(not COMPILED, reason="numba is not installed")
def test_the_stock_operations_are_what_runs_without_numba(monkeypatch):
    maps = torch.rand(16, 20, 30)
    cells = random_cells(random.Random(8), 200, 20, 30)
    compiled = pool_windows(maps, cells, [6, 3, 2, 1])
    monkeypatch.setattr(window_pooling, "load_kernels", lambda: None)
    assert torch.equal(pool_windows(maps, cells, [6, 3, 2, 1]), compiled)
