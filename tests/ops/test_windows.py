"""Appendix A's mapping, against its own formula, the authors' constants, and centres counted one by one."""

import math
import random

import pytest
import torch

from sppnet.ops.receptive_field import ReceptiveField
from sppnet.ops.windows import choose_scale, map_cells, scale_windows

PAPER = ReceptiveField(stride=16, size=139, padding=48)
RELEASED = ReceptiveField(stride=16, size=139, padding=49)
FIELDS = [
    *(PAPER, RELEASED, ReceptiveField(16, 131, 50), ReceptiveField(12, 113, 48), ReceptiveField(12, 161, 66)),
    *(ReceptiveField(16, 196, 90), ReceptiveField(8, 64, 31), ReceptiveField(1, 1, 0)),
]
HUGE = (10**6, 10**6)


def spans(first, last):
    """Windows from `first` to `last` in both directions."""
    return torch.stack([first, first, last, last], dim=1)


def every_span(low, high, reach):
    first = torch.arange(low, high).repeat_interleave(reach)
    return spans(first, first + torch.arange(reach).repeat(high - low))


def oracle(window, field, map_size):
    """One window in plain Python, with exact whole numbers: pixels and centres are counted in halves."""
    height, width = map_size
    twice_centre, twice_stride = field.size - 1 - 2 * field.padding, 2 * field.stride
    cells = []
    for axis, cells_there in ((0, width), (1, height)):
        first = -((twice_centre - round(2 * window[axis])) // twice_stride)
        last = (round(2 * window[axis + 2]) - twice_centre) // twice_stride
        if first > last:
            first = last = (first + last) // 2
        cells.append([min(max(cell, 0), cells_there - 1) for cell in (first, last)])
    return [cells[0][0], cells[1][0], cells[0][1], cells[1][1]]


def random_window(generator):
    kind = generator.choice(["inside", "outside", "border", "tiny", "huge"])
    low, high = {"inside": (0, 900), "outside": (-3000, 3000), "huge": (-(10**6), 10**6)}.get(kind, (0, 900))
    (x1, x2), (y1, y2) = (
        sorted(generator.randint(2 * low, 2 * high) / 2 for _ in range(2)) for _ in range(2)
    )
    if kind == "tiny":
        x2, y2 = x1 + generator.randint(0, 6) / 2, y1 + generator.randint(0, 6) / 2
    if kind == "border":
        x1 = y1 = 0
    return [x1, y1, x2, y2]


def test_ten_thousand_windows_on_maps_of_all_sizes_agree_with_plain_python():
    generator = random.Random(7)
    for _ in range(200):
        map_size = generator.randint(1, 120), generator.randint(1, 120)
        field = generator.choice(FIELDS)
        windows = [random_window(generator) for _ in range(50)]
        cells = map_cells(torch.tensor(windows), field, map_size, "centre_inside")
        assert cells.tolist() == [oracle(window, field, map_size) for window in windows]


@pytest.mark.parametrize("field", FIELDS[:6])
def test_a_cell_belongs_to_a_window_when_its_centre_lies_inside(field):
    windows = every_span(0, 2 * field.stride, 60)
    cells = map_cells(windows.double(), field, HUGE, "centre_inside")
    centres = field.first_centre + field.stride * torch.arange(-20, 20)
    first, last = windows[:, :1], windows[:, 2:3]
    inside = (centres >= first) & (centres <= last) & (centres >= field.first_centre)
    several = inside.any(dim=1)
    assert several.sum() > 100
    counted = cells[:, 2] - cells[:, 0] + 1
    assert torch.equal(counted[several], inside.sum(dim=1)[several])


@pytest.mark.parametrize("field", FIELDS)
def test_the_papers_formula_is_centre_inside_at_whole_pixels(field):
    windows = every_span(-100, 500, 70).float()
    assert torch.equal(
        map_cells(windows, field, HUGE, "paper"), map_cells(windows, field, HUGE, "centre_inside")
    )


def test_sixty_three_and_seventy_five_are_the_offsets_of_the_papers_net():
    windows = every_span(100, 400, 70)  # 0-based; the paper counts pixels and cells from 1
    first = [math.floor((x + 1 - 139 / 2 + 63) / 16) + 1 for x in windows[:, 0].tolist()]
    last = [math.ceil((x + 1 + 139 / 2 - 75) / 16) - 1 for x in windows[:, 2].tolist()]
    cells = map_cells(windows.float(), PAPER, HUGE, "centre_inside") + 1
    kept = torch.tensor(first) <= torch.tensor(last)
    assert cells[kept, 0].tolist() == torch.tensor(first)[kept].tolist()
    assert cells[kept, 2].tolist() == torch.tensor(last)[kept].tolist()


def test_the_release_rounds_from_its_own_offsets():
    windows = every_span(100, 400, 70)
    first = torch.tensor([math.floor((x + 1 - 21 + 6.5) / 16 + 0.5) for x in windows[:, 0].tolist()])
    last = torch.tensor([math.ceil((x + 1 - 21 - 6.5) / 16 - 0.5) for x in windows[:, 2].tolist()])
    cells = map_cells(windows.float(), RELEASED, HUGE, "release")
    kept = first <= last
    assert torch.equal(cells[kept, 0], first[kept])
    assert torch.equal(cells[kept, 2], last[kept])


def test_the_release_shares_the_papers_first_cell_and_uses_73_for_75():
    pixels = torch.arange(100, 100 + 16 * 20)
    windows = spans(pixels, pixels + 160).float()
    released = map_cells(windows, RELEASED, HUGE, "release")
    paper = map_cells(windows, PAPER, HUGE, "paper")
    assert torch.equal(released[:, :2], paper[:, :2])
    assert released[:, 2].tolist() == [math.ceil((x + 161 + 139 / 2 - 73) / 16) - 2 for x in pixels.tolist()]
    assert (released[:, 2] != paper[:, 2]).double().mean() == 0.125


@pytest.mark.parametrize(
    ("window", "cells"),
    [
        # Centres lie at 21, 37, 53 ...: none between 24 and 33, the ends cross at cells 1 and 0.
        ([24.0, 24.0, 33.0, 33.0], [0, 0, 0, 0]),
        ([-500.0, -500.0, -400.0, -400.0], [0, 0, 0, 0]),
        ([5000.0, 5000.0, 5001.0, 5001.0], [12, 9, 12, 9]),
        ([-1e6, -1e6, 1e6, 1e6], [0, 0, 12, 9]),
        ([0.0, 0.0, 20.0, 20.0], [0, 0, 0, 0]),
        ([21.0, 21.0, 21.0, 21.0], [0, 0, 0, 0]),
    ],
)
@pytest.mark.parametrize("mapping", ["centre_inside", "paper", "release"])
def test_windows_without_a_centre_or_outside_get_a_cell(window, cells, mapping):
    assert map_cells(torch.tensor([window]), PAPER, (10, 13), mapping).tolist() == [cells]


def test_no_windows_have_no_cells():
    assert map_cells(torch.empty(0, 4), PAPER, (10, 13), "centre_inside").shape == (0, 4)


@pytest.mark.parametrize("bad", [[5.0, 0.0, 4.0, 9.0], [0.0, 0.0, math.nan, 9.0], [0.0, 0.0, math.inf, 9.0]])
def test_a_window_that_is_none_is_named(bad):
    with pytest.raises(ValueError, match=r"window 1 is .*expected finite x1 y1 x2 y2 with x1 <= x2"):
        map_cells(torch.tensor([[0.0, 0.0, 9.0, 9.0], bad]), PAPER, (10, 13), "paper")


SCALES = [480, 576, 688, 864, 1200]


def test_a_window_of_224_pixels_on_the_resized_image_decides_its_scale():
    # On an image of 344 pixels, scale 688 doubles: 112 pixels become 224.
    assert choose_scale(torch.tensor([[10.0, 10.0, 121.0, 121.0]]), 344, SCALES, "paper").tolist() == [688]


def test_small_windows_are_looked_at_large_and_large_ones_small():
    windows = torch.tensor([[0.0, 0.0, 19.0, 19.0], [0.0, 0.0, 499.0, 374.0]])
    assert choose_scale(windows, 375, SCALES, "paper").tolist() == [1200, 480]


def test_the_scale_is_the_argument_of_the_least_difference_of_areas():
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(500, 2, generator=generator) * 100
    windows = torch.cat([corner, corner + torch.rand(500, 2, generator=generator) * 400], dim=1).round()
    chosen = choose_scale(windows, 375, SCALES, "paper")
    for (x1, y1, x2, y2), scale in zip(windows.tolist(), chosen.tolist(), strict=True):
        pixels = (x2 - x1 + 1) * (y2 - y1 + 1)
        assert scale == min(SCALES, key=lambda s: abs(pixels * (s / 375) ** 2 - 224**2))
    assert chosen.unique().tolist() == SCALES


def test_the_release_aims_at_208_pixels_a_side():
    # 104 pixels on an image of 300: 208 at scale 600, nearer 576 than 688; 224 x 224 would be at 646.
    window = torch.tensor([[0.0, 0.0, 103.0, 103.0]])
    assert choose_scale(window, 300, SCALES, "release").tolist() == [576]
    assert choose_scale(window, 300, SCALES, "paper").tolist() == [688]


def test_one_scale_leaves_no_choice():
    assert choose_scale(torch.tensor([[0.0, 0.0, 9.0, 9.0]]), 375, [688], "paper").tolist() == [688]


def test_no_scale_is_refused():
    with pytest.raises(ValueError, match="one or more, such as"):
        choose_scale(torch.tensor([[0.0, 0.0, 9.0, 9.0]]), 375, [], "paper")


def test_the_first_and_the_last_pixel_stay_where_they_are():
    assert scale_windows(torch.tensor([[0.0, 0.0, 374.0, 374.0]]), 375, 688).tolist() == [[0, 0, 687, 687]]


def test_scaling_is_the_authors_formula():
    x, m, s = 123.0, 375, 688
    scaled = scale_windows(torch.full((1, 4), x), m, s)[0, 0].item()
    assert scaled + 1 == pytest.approx(((x + 1) - 1) * (s - 1) / (m - 1) + 1, abs=1e-12)


def test_an_image_of_one_pixel_has_no_scale():
    with pytest.raises(ValueError, match="short_side=1"):
        scale_windows(torch.zeros(1, 4), 1, 688)


def test_a_map_without_cells_and_sides_that_are_none_are_refused():
    window, field = torch.tensor([[0.0, 0.0, 9.0, 9.0]]), ReceptiveField(stride=16, size=11, padding=5)
    with pytest.raises(ValueError, match="at least one cell"):
        map_cells(window, field, (0, 4), "centre_inside")
    for short_side, scales in ((0, [480]), (300, [-480]), (300, [])):
        with pytest.raises(ValueError, match="in pixels"):
            choose_scale(window, short_side, scales, "paper")
