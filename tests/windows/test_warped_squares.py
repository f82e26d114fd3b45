import numpy as np
import pytest
import torch
from PIL import Image

from sppnet.errors import ConfigError
from sppnet.windows.warped import WarpedSquares, WarpedWindows

SIZE = 24
WINDOWS = torch.tensor([[3.0, 4.0, 30.0, 20.0], [0.0, 0.0, 39.0, 29.0]])


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def squares(net, path, *, is_mirrored=False):
    options = {"size": SIZE, "context": 4, "max_pixels": 10_000}
    return WarpedSquares(net=net, is_mirrored=is_mirrored, **options)


def test_a_row_is_the_warped_window_that_the_features_are_made_of(make_net, picture):
    net = make_net()
    source = squares(net, picture)
    options = {"size": SIZE, "context": 4, "max_pixels": 10_000}
    warped = WarpedWindows(net=net, layer="pool", batch_size=2, **options)
    rows = source.rows(picture, WINDOWS)
    assert rows.shape == (2, source.dim) == (2, 3 * SIZE**2)
    features = net.eval().features(rows.view(-1, 3, SIZE, SIZE), "pool")
    torch.testing.assert_close(warped.rows(picture, WINDOWS), features.detach())


@pytest.mark.parametrize("kind", ["squares", "windows"])
def test_warped_windows_are_looked_at_in_one_size(make_net, picture, kind):
    net = make_net()
    options = {"size": SIZE, "context": 4, "max_pixels": 10_000}
    warped = WarpedWindows(net=net, layer="pool", batch_size=2, **options)
    source = squares(net, picture) if kind == "squares" else warped
    assert source.places is None
    with pytest.raises(ConfigError, match="random_scale=false"):
        source.rows(picture, WINDOWS, scales=torch.tensor([24, 24]))
    out = torch.empty(2, source.dim)
    assert source.rows(picture, WINDOWS, out=out) is out
    assert torch.equal(out, source.rows(picture, WINDOWS))


def test_windows_of_the_mirrored_picture_are_those_of_a_picture_that_was_mirrored(make_net, picture):
    net = make_net()
    flipped = picture.with_name("b.png")
    Image.open(picture).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(flipped)
    mirrored = squares(net, picture, is_mirrored=True).rows(picture, WINDOWS)
    assert torch.equal(mirrored, squares(net, flipped).rows(flipped, WINDOWS))
    assert not torch.equal(mirrored, squares(net, picture).rows(picture, WINDOWS))
