"""Bins of Appendix A, against torch's adaptive pooling and numbers small enough to read."""

import numpy as np
import pytest
import torch
from torch.nn.functional import adaptive_max_pool2d

from sppnet.ops.pyramid import SpatialPyramidPool, num_bins, pool_pyramid, pool_pyramid_sliding

PYRAMIDS = [[6, 3, 2, 1], [4, 3, 2, 1], [1, 2, 3, 6], [6], [5, 2]]


def one_level_at_a_time(maps, levels):
    return torch.cat([adaptive_max_pool2d(maps, level).flatten(1) for level in levels], dim=1)


def test_four_levels_make_the_papers_fifty_bins():
    assert num_bins([6, 3, 2, 1]) == 50


def test_the_lighter_pyramid_has_thirty():
    assert num_bins([4, 3, 2, 1]) == 30


def test_overlapping_bins_on_a_map_small_enough_to_read():
    row = torch.tensor([[9.0, 1.0, 2.0, 1.0, 8.0]]).expand(5, 5)[None, None]
    # 2 bins over 5 cells: cells 0-2 and 2-4, the middle cell is in both.
    assert pool_pyramid(row, [2]).tolist() == [[9, 8, 9, 8]]


def test_levels_stand_in_the_order_given_and_channels_before_bins():
    maps = torch.arange(8.0).view(1, 2, 2, 2)
    assert pool_pyramid(maps, [1, 2]).tolist() == [[3, 7, 0, 1, 2, 3, 4, 5, 6, 7]]


@pytest.mark.parametrize("levels", PYRAMIDS)
@pytest.mark.parametrize("size", [(13, 13), (10, 10), (18, 15), (6, 31), (42, 56)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_every_bin_equals_adaptive_pooling_bit_for_bit(levels, size, memory_format):
    maps = torch.randn(2, 5, *size).contiguous(memory_format=memory_format)
    assert torch.equal(pool_pyramid(maps, levels), one_level_at_a_time(maps, levels))


@pytest.mark.parametrize("levels", PYRAMIDS)
def test_gradients_equal_those_of_adaptive_pooling(levels):
    maps = torch.randperm(2 * 3 * 13 * 10).double().view(2, 3, 13, 10)  # no ties
    weights = torch.randn(2, 3 * num_bins(levels), dtype=torch.double)
    ours, theirs = (maps.clone().requires_grad_() for _ in range(2))
    (pool_pyramid(ours, levels) * weights).sum().backward()
    (one_level_at_a_time(theirs, levels) * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-12)


def test_a_map_smaller_than_the_pyramid_says_what_to_take_instead():
    with pytest.raises(ValueError, match=r"4 x 9 cells.*6 x 6.*a coarser pyramid"):
        pool_pyramid(torch.rand(1, 1, 4, 9), [6])


@pytest.mark.parametrize("side", [12, 13, 18])
def test_sliding_windows_equal_the_bins_at_the_papers_map_sizes(side):
    maps = torch.randn(2, 3, side, side)
    levels = [6, 3, 2, 1]
    assert torch.equal(pool_pyramid_sliding(maps, levels), pool_pyramid(maps, levels))


def test_sliding_windows_refuse_exactly_the_maps_where_they_differ_from_the_bins():
    for side in range(1, 40):
        rising = torch.arange(side * side).float().view(1, 1, side, side)
        maps = torch.cat([rising, -rising], dim=1)  # maxima tell where a bin ends, and where it begins
        for level in range(1, min(side, 7) + 1):
            window, step = -(-side // level), side // level
            slid = torch.nn.functional.max_pool2d(maps, window, step).flatten(1)
            if torch.equal(slid, pool_pyramid(maps, [level])):
                assert torch.equal(pool_pyramid_sliding(maps, [level]), slid)
            else:
                with pytest.raises(ValueError, match=f"a = {side} cells into n = {level} bins"):
                    pool_pyramid_sliding(maps, [level])


def test_sliding_windows_on_the_180_networks_map_say_how_many_outputs_they_would_give():
    with pytest.raises(ValueError, match=r"a = 10 .* n = 6 .* give 9 outputs .* pyramid.pooling=bins"):
        pool_pyramid_sliding(torch.rand(1, 1, 10, 10), [6])


def test_the_module_exports_for_any_map_size():
    height, width = torch.export.Dim("height", min=6), torch.export.Dim("width", min=6)
    exported = torch.export.export(
        SpatialPyramidPool([6, 3, 2, 1]), (torch.randn(1, 4, 13, 17),), dynamic_shapes=[{2: height, 3: width}]
    )
    maps = torch.randn(1, 4, 29, 10)
    assert torch.equal(exported.module()(maps), pool_pyramid(maps, [6, 3, 2, 1]))


@pytest.mark.parametrize("levels", [np.array([3, 1]), torch.tensor([3, 1]), (3, 1)])
def test_levels_come_as_any_array(levels):
    maps = torch.rand(2, 4, 5, 6)
    assert torch.equal(SpatialPyramidPool(levels)(maps), pool_pyramid(maps, [3, 1]))


def test_maps_without_channels_are_refused():
    with pytest.raises(ValueError, match="channels of real numbers"):
        pool_pyramid(torch.ones(1, 0, 5, 5), [2])
