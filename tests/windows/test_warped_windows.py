"""R-CNN's features: a net of two convolutions on warped windows of images of a few pixels."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from by_number import ByNumber
from PIL import Image

from sppnet.data.images import BadImageError
from sppnet.errors import ConfigError, NonFiniteError
from sppnet.models.normalise import InputNorm
from sppnet.ops.warp import warp_windows
from sppnet.windows.warped import WarpedSquares, WarpedWindows

WINDOWS = torch.tensor([[2.0, 3, 9, 12], [0, 0, 17, 17], [5, 5, 5, 5], [0, 4, 11, 8], [1, 1, 16, 2]])
SIZE, CONTEXT = 20, 2


@pytest.fixture
def make_source(make_net, paths):
    def make(net=None, **replaced):
        arguments = {
            "net": net or make_net(),
            "layer": "fc7",
            "size": SIZE,
            "context": CONTEXT,
            "batch_size": 2,
            "max_pixels": 10_000,
        }
        of = replaced.pop("paths", paths)
        return ByNumber(WarpedWindows(**arguments | replaced), of)

    return make


@pytest.mark.parametrize("layer", ["pool", "fc6", "fc7"])
def test_a_windows_features_are_those_of_its_warped_image(make_source, make_net, paths, layer):
    source, net = make_source(layer=layer), make_net().eval()
    image = torch.from_numpy(np.array(Image.open(paths[1]))).permute(2, 0, 1)
    fill = torch.full((3, 1, 1), 128.0)
    squares = warp_windows(image, WINDOWS, size=SIZE, context=CONTEXT, fill=fill)
    rows = source.rows(1, WINDOWS)
    assert rows.shape == (5, source.dim)
    torch.testing.assert_close(rows, net.features(squares, layer).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 5, 256])
def test_the_batch_does_not_decide_the_features(make_source, batch_size):
    rows = make_source(batch_size=batch_size).rows(0, WINDOWS)
    torch.testing.assert_close(rows, make_source().rows(0, WINDOWS), rtol=1e-5, atol=1e-5)


def test_several_threads_get_what_one_gets(make_source, paths):
    source = make_source()
    alone = [source.rows(index, WINDOWS) for index in range(len(paths))]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda index: source.rows(index, WINDOWS), range(len(paths))))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_an_image_without_windows_has_no_rows(make_source):
    source = make_source()
    assert source.rows(0, torch.empty(0, 4)).shape == (0, source.dim)


@pytest.mark.parametrize(
    "norm",
    [
        InputNorm.constant(mean=[124.0, 116.0, 104.0], std=[58.0, 57.0, 57.0]),
        InputNorm(mean=torch.rand(3, 30, 30) * 255, std=torch.ones(3, 1, 1)),
    ],
    ids=["three constants", "a mean image"],
)
def test_beyond_the_image_the_net_sees_zeros(make_net, paths, norm):
    # A third of the square lies left of the image: 2 of 20 pixels are context.
    squares = WarpedSquares(
        net=make_net(input_norm=norm), size=SIZE, context=CONTEXT, is_mirrored=False, max_pixels=10_000
    )
    seen = norm(squares.rows(paths[0], torch.tensor([[0.0, 6, 7, 11]])).view(-1, 3, SIZE, SIZE))
    assert (seen[:, :, :, :2].abs() < 1e-4).all()
    assert (seen[:, :, 5:15, 2:].abs() > 1e-4).float().mean() > 0.9


def test_dropout_is_off_also_for_a_net_that_was_being_trained(make_source, make_net):
    source = make_source(make_net().train())
    assert torch.equal(source.rows(0, WINDOWS), source.rows(0, WINDOWS))


def test_rows_can_go_into_a_layer_that_learns(make_source):
    layer = torch.nn.Linear(make_source().dim, 1)
    layer(make_source().rows(0, WINDOWS)).sum().backward()
    assert layer.weight.grad.abs().sum() > 0


def test_nan_weights_are_found_and_the_image_is_named(make_source, make_net, paths):
    net = make_net()
    net.fc7.bias.data[0] = torch.nan
    with pytest.raises(NonFiniteError, match=f"{paths[2].name}: fc7 of tiny is NaN"):
        make_source(net).rows(2, WINDOWS)


def test_a_file_that_is_no_image_is_named(make_source, tmp_path):
    (tmp_path / "page.jpg").write_text("<html>")
    with pytest.raises(BadImageError, match="page.jpg"):
        make_source(paths=[tmp_path / "page.jpg"]).rows(0, WINDOWS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layer": "fc8"}, "layer 'fc8' of windows: expected pool, fc6 or fc7"),
        ({"size": 5, "context": 1}, "windows warped to 5 pixels: tiny .* needs 6 or more"),
        ({"context": 10}, "a context of 10 pixels on each side leaves nothing of 20"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make_source, wrong, message):
    with pytest.raises(ConfigError, match=message):
        make_source(**wrong)
