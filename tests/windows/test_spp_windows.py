"""Vectors of windows against the definition: resize, convolve, round, cut the cells out, pool each level."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from by_number import ByNumber
from PIL import Image
from torch.nn import functional

from sppnet.data.images import resize_short_side
from sppnet.errors import ConfigError
from sppnet.windows.conv_maps import ConvMaps
from sppnet.windows.spp import SppWindows

SCALES = (12, 20, 32)
SIDE = 13
LEVELS = (3, 1)


@pytest.fixture
def make_source(make_net, paths, cache):
    def make(net=None, **replaced):
        net = net or make_net()
        arguments = {
            "net": net,
            "layer": "pool",
            "scales": SCALES,
            "mapping": "centre_inside",
            "scale_target": "paper",
            "side": SIDE,
            "order": "pyramid",
        }
        maps = ConvMaps(net, is_mirrored=False, cache=cache, max_pixels=10_000)
        return ByNumber(SppWindows(maps, **arguments | replaced), paths)

    return make


def windows_in(width, height, number=40, seed=0):
    """Of all sizes, whole pixels and halves, down to one pixel and up to the image."""
    random = torch.Generator().manual_seed(seed)
    ends = torch.rand(number, 2, 2, generator=random) * torch.tensor([width - 1, height - 1])
    ends = ((ends * 2).round() / 2).sort(dim=1).values.flatten(1)
    whole = torch.tensor([[0.0, 0, width - 1, height - 1]])
    pixel = torch.tensor([[3.0, 4, 3, 4], [width - 1, height - 1, width - 1, height - 1]])
    return torch.cat([whole, pixel, ends])


def nearest_scale(window, short_side):
    """The scale at which the window has nearest to SIDE x SIDE pixels (§4.1)."""
    x1, y1, x2, y2 = window
    pixels = (x2 - x1 + 1) * (y2 - y1 + 1)
    return min(SCALES, key=lambda scale: abs(pixels * (scale / short_side) ** 2 - SIDE**2))


def cells_between(first, last, number):
    """Cells whose centres lie there; the net pools pairs of pixels, so cell j's is at 0.5 + 2 j."""
    centres = [0.5 + 2 * cell for cell in range(number)]
    inside = [cell for cell, centre in enumerate(centres) if first <= centre <= last]
    # Between two centres, the one before.
    return inside or [max((cell for cell, centre in enumerate(centres) if centre < first), default=0)]


def place_of(shape, window, short_side, scale):
    """First column, first row, last column, last row."""
    x1, y1, x2, y2 = (end * (scale - 1) / (short_side - 1) for end in window)
    columns, rows = cells_between(x1, x2, shape[2]), cells_between(y1, y2, shape[1])
    return columns[0], rows[0], columns[-1], rows[-1]


def by_definition(net, path, windows, order="pyramid", scales=None):
    """Vectors of the pooled layer, and the places, one window after the other."""
    image = Image.open(path)
    short_side = min(image.size)
    found, places = [], []
    for number, window in enumerate(windows.tolist()):
        scale = nearest_scale(window, short_side) if scales is None else int(scales[number])
        with torch.no_grad():
            maps = net.eval().maps(resize_short_side(image, scale)[None].float())[0].half().float()
        left, top, right, bottom = place = place_of(maps.shape, window, short_side, scale)
        part = maps[:, top : bottom + 1, left : right + 1]
        grids = [functional.adaptive_max_pool2d(part, level) for level in LEVELS]
        if order == "bins_first":
            grids = [grid.permute(1, 2, 0) for grid in grids]
        found.append(torch.cat([grid.flatten() for grid in grids]))
        places.append([scale, *place])
    return torch.stack(found), places


@pytest.mark.parametrize("order", ["pyramid", "bins_first"])
@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_pooled_vectors_are_the_definitions_bit_for_bit(make_source, make_net, paths, order, index):
    source = make_source(order=order)
    windows = windows_in(*source.maps.size(paths[index]), seed=index)
    expected, places = by_definition(make_net(), paths[index], windows, order)
    assert {place[0] for place in places} == set(SCALES)
    assert source.rows(index, windows).shape == (len(windows), source.dim) == (len(windows), 80)
    assert torch.equal(source.rows(index, windows), expected)


@pytest.mark.parametrize("layer", ["fc6", "fc7"])
def test_fc_vectors_are_those_of_the_pooled_ones_without_dropout(make_source, make_net, paths, layer):
    net = make_net().train()
    source = make_source(net, layer=layer)
    windows = windows_in(*source.maps.size(paths[2]))
    pooled, _ = by_definition(make_net(), paths[2], windows)
    with torch.no_grad():
        expected = make_net().eval().fc_features(pooled, layer)
    assert (expected > 0).any()
    assert source.dim == 6
    torch.testing.assert_close(source.rows(2, windows), expected, rtol=1e-5, atol=1e-6)


def test_the_order_of_pooled_numbers_is_of_no_matter_to_the_fc_layers(make_source):
    windows = windows_in(24, 18)
    assert torch.equal(
        make_source(layer="fc7", order="pyramid").rows(0, windows),
        make_source(layer="fc7", order="bins_first").rows(0, windows),
    )


def test_scales_that_are_given_are_used(make_source, make_net, paths):
    windows = windows_in(18, 24)
    scales = torch.tensor(SCALES)[torch.arange(len(windows)) % 3]
    expected, places = by_definition(make_net(), paths[1], windows, scales=scales)
    assert [place[0] for place in places] != [nearest_scale(window, 18) for window in windows.tolist()]
    assert torch.equal(make_source().rows(1, windows, scales=scales), expected)
    # Also one that is not among those to choose from.
    other = torch.full((len(windows),), 17)
    expected, _ = by_definition(make_net(), paths[1], windows, scales=other)
    assert torch.equal(make_source().rows(1, windows, scales=other), expected)


def test_places_are_the_scale_and_the_cells(make_source, make_net, paths):
    windows = windows_in(30, 18)
    _, places = by_definition(make_net(), paths[2], windows)
    assert make_source().places(2, windows).tolist() == places
    assert make_source(layer="fc7").places(2, windows).tolist() == places


@pytest.mark.parametrize("layer", ["pool", "fc6", "fc7"])
def test_windows_of_one_place_have_one_vector(make_source, layer):
    source = make_source(layer=layer, scales=[20])
    windows = torch.tensor([[2.0, 3, 14, 12], [9, 1, 17, 16], [2.1, 3.1, 14, 12], [2, 3, 14, 12]])
    places, rows = source.places(0, windows), source.rows(0, windows)
    assert places[0].tolist() == places[2].tolist() == places[3].tolist() != places[1].tolist()
    assert torch.equal(rows[0], rows[2]) and torch.equal(rows[0], rows[3])
    assert not torch.equal(rows[0], rows[1])


@pytest.mark.parametrize("layer", ["pool", "fc7"])
def test_an_image_without_windows_has_no_vectors(make_source, layer):
    source = make_source(layer=layer)
    assert source.rows(0, torch.zeros(0, 4)).shape == (0, source.dim)
    assert source.places(0, torch.zeros(0, 4)).shape == (0, 5)


@pytest.mark.parametrize("layer", ["pool", "fc7"])
def test_several_threads_get_what_one_gets(make_source, paths, layer):
    windows = windows_in(18, 18)
    alone = [make_source(layer=layer).rows(index, windows) for index in range(len(paths))]
    source = make_source(layer=layer)
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda index: source.rows(index, windows), range(len(paths))))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("layer", ["pool", "fc7"])
def test_rows_can_be_written_to_and_go_into_a_layer_that_learns(make_source, layer):
    source = make_source(layer=layer)
    before = source.rows(0, windows_in(24, 18))
    source.rows(0, windows_in(24, 18)).mul_(0)
    rows = source.rows(0, windows_in(24, 18))
    assert torch.equal(rows, before)
    learner = torch.nn.Linear(source.dim, 1)
    learner(rows).sum().backward()
    assert learner.weight.grad.abs().sum() > 0


def test_an_inverted_window_is_refused(make_source):
    with pytest.raises(ValueError, match="window 1 is"):
        make_source().rows(0, torch.tensor([[0.0, 0, 5, 5], [5, 0, 4, 5]]))


@pytest.mark.parametrize("layer", ["pool", "fc6"])
def test_scales_may_be_pooled_channel_by_channel(make_source, make_net, paths, layer):
    """The other strategy of §4.1: the largest response of all scales, in each channel and bin."""
    net = make_net()
    windows = windows_in(*Image.open(paths[0]).size)
    found = make_source(net, layer=layer, scale_target="all").rows(0, windows)
    each = [by_definition(net, paths[0], windows, scales=[scale] * len(windows))[0] for scale in SCALES]
    pooled = torch.stack(each).amax(dim=0)
    with torch.no_grad():
        expected = pooled if layer == "pool" else net.fc6(pooled).relu()
    torch.testing.assert_close(found, expected)


def test_windows_pooled_at_all_scales_are_in_no_one_place(make_source, paths):
    source = make_source(scale_target="all")
    with pytest.raises(ConfigError, match="mining.duplicate_cells=false"):
        source.places(0, windows_in(*Image.open(paths[0]).size))
