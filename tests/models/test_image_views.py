"""Views of whole images: counted, against an oracle that takes one window at a time, and averaged right."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sppnet.errors import ConfigError
from sppnet.models.backbones import LayeredBackbone
from sppnet.models.initialise import GaussianInit
from sppnet.models.map_views import ManyViews, TenMapView, grid_windows
from sppnet.models.normalise import InputNorm
from sppnet.models.sppnet import SppNet
from sppnet.models.views import CropView, FullView, TenCropView

PAPERS_SIDES = (224, 256, 300, 360, 448, 560)


@pytest.fixture
def net() -> SppNet:
    """Stride 4, fields of 11 pixels that begin 3 to the left of the image."""
    torch.manual_seed(0)
    convolution = {"conv": 8, "kernel": 3, "stride": 2, "padding": 1}
    return SppNet(
        backbone=LayeredBackbone(
            name="small",
            layers=[convolution, {**convolution, "conv": 6, "kernel": 5}],
            width=1.0,
            weights=None,
        ),
        input_norm=InputNorm.constant(mean=[128.0] * 3, std=[64.0] * 3),
        levels=[3, 1],
        pooling="bins",
        head_width=8,
        dropout=0.5,
        num_classes=5,
        init=GaussianInit(std=0.1, conv_biases=[0.0], fc_biases=[0.0]),
    ).eval()


def image(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height * width)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def shown(view, *images: Tensor) -> list[Tensor]:
    """Stacks of cuts as a loader makes them, every image at every short side."""
    return [torch.stack([view.cut(resized(one, side)) for one in images]) for side in view.short_sides]


def resized(one: Tensor, short_side: int) -> Tensor:
    scale = short_side / min(one.shape[1:])
    size = [round(side * scale) for side in one.shape[1:]]
    return functional.interpolate(one[None].float(), size, mode="bilinear").to(torch.uint8)[0]


def pooled_by_hand(net: SppNet, one: Tensor, window: list[int]) -> Tensor:
    """Pool the cells whose fields are centred in a window, found by asking every cell."""
    maps = net.maps(one[None].float())[0]
    field = net.backbone.receptive_field
    columns, rows = (
        [j for j in range(cells) if low <= j * field.stride + field.first_centre <= high]
        for cells, low, high in ((maps.shape[2], window[0], window[2]), (maps.shape[1], window[1], window[3]))
    )
    part = maps[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return torch.cat([functional.adaptive_max_pool2d(part, level).flatten() for level in net.levels])


def scores_by_hand(net: SppNet, one: Tensor, window: list[int]) -> Tensor:
    return net.head(pooled_by_hand(net, one, window)[None]).softmax(dim=1)[0]


def mirrored(window: list[int], width: int) -> list[int]:
    return [width - 1 - window[2], window[1], width - 1 - window[0], window[3]]


@pytest.mark.parametrize("mapping", ["centre_inside", "paper"])
def test_ten_views_on_maps_are_ten_windows_taken_one_at_a_time(net, mapping):
    view = TenMapView(short_side=40, size=32, mapping=mapping)
    one = image(40, 53)
    corners = [(0, 0), (21, 0), (10, 4), (0, 8), (21, 8)]
    windows = [[x, y, x + 31, y + 31] for x, y in corners]
    with torch.no_grad():
        ours = view.softmax(net, shown(view, one))[0]
        straight = [scores_by_hand(net, one, window) for window in windows]
        flipped = [scores_by_hand(net, one.flip(-1), mirrored(window, 53)) for window in windows]
    assert torch.allclose(ours, torch.stack([*straight, *flipped]), atol=1e-6)


def test_many_views_are_the_grids_of_all_scales_and_the_full_images(net):
    view = ManyViews(test_sides=[32, 40, 56], size=32, full_short_side=40, mapping="centre_inside")
    one = image(40, 50)
    expected = []
    with torch.no_grad():
        ours = view.softmax(net, shown(view, one))[0]
        for side in (32, 40, 56):
            whole = resized(one, side)
            for picture, turn in ((whole, False), (whole.flip(-1), True)):
                for window in grid_windows(*whole.shape[1:], 32).tolist():
                    place = mirrored(window, whole.shape[2]) if turn else window
                    expected.append(scores_by_hand(net, picture, place))
        for picture in (resized(one, 40), resized(one, 40).flip(-1)):
            expected.append(net(picture[None].float()).softmax(dim=1)[0])
    assert view.num_views == len(ours) == 6 + 18 + 18 + 2
    assert torch.allclose(ours, torch.stack(expected), atol=1e-6)


def test_restricted_windows_are_as_large_as_the_map_of_a_window_at_every_scale(net):
    """Overfeat's, §3.1.5: the same number of views, each pooled from cells and not from pixels."""
    view = ManyViews(test_sides=[32, 40], size=32, full_short_side=None, mapping="restricted")
    one = image(40, 50)
    expected = []
    with torch.no_grad():
        side = net.maps(torch.zeros(1, 3, 32, 32)).shape[-1]
        ours = view.softmax(net, shown(view, one))[0]
        for short_side in (32, 40):
            whole = resized(one, short_side)
            for picture, turns in ((whole, False), (whole.flip(-1), True)):
                maps = net.maps(picture[None].float())
                height, width = maps.shape[2:]
                tops = [0] if short_side == 32 else [0, (height - side + 1) // 2, height - side]
                lefts = [0, (width - side + 1) // 2, width - side]
                lefts = [width - side - x for x in lefts] if turns else lefts
                parts = [maps[:, :, y : y + side, x : x + side] for y in tops for x in lefts]
                expected += [net.head(net.pool(part)).softmax(dim=1)[0] for part in parts]
    assert view.num_views == len(ours) == 6 + 18
    torch.testing.assert_close(ours, torch.stack(expected))


def test_the_papers_six_scales_make_96_views_and_98_with_the_full_images(net):
    only = ManyViews(test_sides=PAPERS_SIDES, size=224, full_short_side=None, mapping="centre_inside")
    both = ManyViews(test_sides=PAPERS_SIDES, size=224, full_short_side=256, mapping="centre_inside")
    assert (only.num_views, both.num_views) == (96, 98)
    assert both.short_sides == only.short_sides == PAPERS_SIDES  # the full images cost no further maps
    with torch.no_grad():
        assert both.softmax(net, shown(both, image(224, 280))).shape == (1, 98, 5)


@pytest.mark.parametrize(("height", "width"), [(224, 299), (299, 224), (224, 224)])
def test_an_image_as_short_as_the_window_has_three_positions_along_its_long_side(height, width):
    windows = grid_windows(height, width, 224)
    assert len(windows) == 3
    assert windows[:, :2].amin() == 0
    assert windows[:, 2].amax() == width - 1
    assert windows[:, 3].amax() == height - 1


def test_the_grid_has_the_corners_the_middles_of_the_sides_and_the_centre():
    corners = {(x, y) for x, y, _, _ in grid_windows(10, 15, 4).tolist()}
    assert corners == {(x, y) for x in (0, 5, 11) for y in (0, 3, 6)}


def test_crops_are_scored_one_by_one_and_full_images_whole(net):
    one = image(36, 44)
    crop, full = CropView(short_side=36, size=32), FullView(short_side=36, flip=True)
    with torch.no_grad():
        assert torch.allclose(
            crop.softmax(net, shown(crop, one))[0, 0],
            net(one[None, :, 2:34, 6:38].float()).softmax(dim=1)[0],
            atol=1e-6,
        )
        both = torch.cat([net(one[None].float()), net(one.flip(-1)[None].float())]).softmax(dim=1)
        assert torch.allclose(full.softmax(net, shown(full, one))[0], both, atol=1e-6)


def test_images_of_one_shape_go_through_the_network_together_and_keep_their_order(net):
    view = ManyViews(test_sides=[32, 40], size=32, full_short_side=32, mapping="centre_inside")
    images = [image(40, 50), image(40, 50).flip(1)]
    with torch.no_grad():
        together = view.softmax(net, shown(view, *images))
        alone = torch.cat([view.softmax(net, shown(view, one)) for one in images])
    assert torch.allclose(together, alone, atol=1e-6)
    assert not torch.equal(together[0], together[1])


def test_ten_crops_of_an_image_without_a_border_are_nearly_its_ten_map_views(net):
    """The convolutions of a crop see zeros around it, those of the image its surroundings."""
    one = torch.full((3, 40, 53), 128, dtype=torch.uint8)  # the mean: zeros inside and outside
    crops, maps = (
        TenCropView(short_side=40, size=32),
        TenMapView(short_side=40, size=32, mapping="centre_inside"),
    )
    with torch.no_grad():
        assert torch.allclose(
            crops.softmax(net, shown(crops, one)), maps.softmax(net, shown(maps, one)), atol=1e-6
        )


@pytest.mark.parametrize(
    "make",
    [
        lambda: CropView(short_side=30, size=32),
        lambda: TenCropView(short_side=30, size=32),
        lambda: TenMapView(short_side=30, size=32, mapping="centre_inside"),
        lambda: ManyViews(test_sides=[32, 30], size=32, full_short_side=None, mapping="centre_inside"),
    ],
)
def test_a_window_that_does_not_fit_is_refused(make):
    with pytest.raises(ConfigError, match=r"image.size=32 pixels does not fit"):
        make()


def test_an_image_too_small_for_the_pyramid_names_the_smallest(net):
    view = FullView(short_side=6, flip=False)
    with pytest.raises(ValueError, match=f"needs >= {net.min_short_side} px per side; raise view.short_side"):
        view.softmax(net, [torch.zeros(1, 1, 3, 6, 9, dtype=torch.uint8)])
