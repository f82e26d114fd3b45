"""Vectors of images: what the net computes, for every layer and view."""

import pytest
import torch
from PIL import Image

from sppnet.errors import ConfigError, DataError, NonFiniteError
from sppnet.features.extract import extract
from sppnet.features.specs import FeatureSpec, level_columns
from sppnet.ops.pyramid import pool_pyramid

CONV4, POOLED, POOL, FC6, FC7 = map(FeatureSpec.parse, ("conv4", "conv4@3,1", "pool", "fc6", "fc7"))


@pytest.mark.parametrize("kind", ["crop", "full", "warp"])
def test_rows_are_the_nets_own_features_of_each_image(make_net, make_view, cache, paths, kind):
    net, view = make_net(), make_view(kind)
    found = extract(net, paths, [POOLED, POOL, FC6, FC7], view, cache=cache)
    net.eval()
    for index, path in enumerate(paths):
        image = view.read(path)[None].float()
        with torch.no_grad():
            expected = {layer: net.features(image, layer) for layer in ("pool", "fc6", "fc7")}
            expected["conv4@3,1"] = pool_pyramid(net.features(image, "conv4"), [3, 1])
        for name, rows in expected.items():
            torch.testing.assert_close(found[name].rows([index]), rows)


def test_maps_are_flattened_channel_by_channel(make_net, make_view, cache, paths):
    net, view = make_net().eval(), make_view("warp")
    row = extract(net, paths, [CONV4], view, cache=cache)["conv4"].rows([3])
    with torch.no_grad():
        maps = net.features(view.read(paths[3])[None].float(), "conv4")
    torch.testing.assert_close(row, maps.reshape(1, -1))
    assert row.shape == (1, 8 * 14 * 14)


def test_rows_in_any_order_all_of_them_and_shard_by_shard(make_net, make_view, cache, paths):
    features = extract(make_net(), paths, [POOL], make_view(), cache=cache)["pool"]
    matrix = features.matrix()
    assert matrix.shape == (len(features), features.dim) == (10, 80)
    assert torch.equal(features.rows([9, 0, 5, 0]), matrix[[9, 0, 5, 0]])
    assert [len(shard) for shard in features.shards()] == [4, 4, 2]
    assert torch.equal(torch.cat(list(features.shards())), matrix)
    with pytest.raises(IndexError, match="row 10 of the features of 10 images"):
        features.rows([10])


def test_the_columns_of_a_level_are_that_level_alone(make_net, make_view, cache, paths):
    pool = extract(make_net(), paths, [POOL], make_view(), cache=cache)["pool"]
    levels = [FeatureSpec("conv5", (3,)), FeatureSpec("conv5", (1,))]
    alone = extract(make_net(), paths, levels, make_view(), cache=cache)
    finest, coarsest = (pool.only(level_columns(8, (3, 1), level)) for level in (3, 1))
    assert finest.dim == 72
    assert torch.equal(finest.matrix(), alone["conv5@3"].matrix())
    assert torch.equal(coarsest.rows([7, 2]), alone["conv5@1"].rows([7, 2]))
    assert torch.equal(pool.only(slice(0, 72)).only(slice(8, 16)).matrix(), pool.matrix()[:, 8:16])


def test_the_papers_finest_level_is_the_first_36_columns_of_each_channel():
    assert level_columns(256, (6, 3, 2, 1), 6) == slice(0, 36 * 256)
    assert level_columns(256, (6, 3, 2, 1), 1) == slice(49 * 256, 50 * 256)
    with pytest.raises(ConfigError, match=r"no level 4 in the pyramid \[6, 3, 2, 1\]"):
        level_columns(256, (6, 3, 2, 1), 4)


def test_a_warped_image_is_square_and_a_square_one_is_only_resized(make_view, tmp_path, paths):
    warp = make_view("warp", crop=14)
    assert all(warp.read(path).shape == (3, 14, 14) for path in paths)
    assert torch.equal(warp.read(paths[3]), make_view("full", short_side=14).read(paths[3]))
    # Left half black, right half white, twice as wide as high: 8 + 8 columns become 4 + 4.
    Image.new("RGB", (16, 8)).save(tmp_path / "halves.png")
    image = Image.open(tmp_path / "halves.png").copy()
    image.paste((255, 255, 255), (8, 0, 16, 8))
    image.save(tmp_path / "halves.png")
    assert make_view("warp", crop=8).read(tmp_path / "halves.png")[0, 5].tolist() == [0] * 4 + [255] * 4


def test_a_view_keeps_its_promise_about_the_short_side(make_view, paths):
    sizes = {tuple(make_view("full", short_side=36).read(path).shape[1:]) for path in paths}
    assert sizes == {(36, 48), (48, 36), (36, 60), (36, 36)}
    assert make_view("crop").read(paths[0]).shape == (3, 14, 14)


def test_extraction_leaves_the_net_as_it_was(make_net, make_view, cache, paths):
    net = make_net().train()
    net.backbone.eval()
    extract(net, paths, [FC7], make_view(), cache=cache)
    assert net.training
    assert net.dropout.training
    assert not net.backbone.trunk.training
    assert all(parameter.grad is None for parameter in net.parameters())


def test_autocast_around_it_changes_nothing(make_net, make_view, cache, paths, tmp_path):
    with torch.autocast("cpu", torch.bfloat16):
        inside = extract(make_net(), paths, [FC7], make_view(), cache=cache)["fc7"].matrix()
    other = type(cache)(tmp_path / "other", shard_images=4)
    assert torch.equal(inside, extract(make_net(), paths, [FC7], make_view(), cache=other)["fc7"].matrix())


@pytest.mark.parametrize(
    ("specs", "kind", "complaint"),
    [
        (["conv4"], "full", r"feature conv4: .*crop or warp, or pool them: conv4@3,1"),
        (["fc7@2"], "crop", "fc7 is a vector and cannot be pooled"),
        (["conv44"], "crop", "no layer 'conv44' in tiny; did you mean conv4"),
        (["conv5@9"], "crop", "level of 9 x 9"),
        (["pool", "pool"], "crop", "two are alike"),
    ],
)
def test_a_feature_that_cannot_be_is_refused_before_anything_is_written(
    make_net, make_view, cache, paths, specs, kind, complaint
):
    with pytest.raises(ConfigError, match=complaint):
        extract(make_net(), paths, [FeatureSpec.parse(spec) for spec in specs], make_view(kind), cache=cache)
    assert not cache.root.exists()


@pytest.mark.parametrize("text", ["conv5@", "conv5@0", "conv5@6,x", "@6", ""])
def test_a_misspelt_feature_says_how_one_is_written(text):
    with pytest.raises(ConfigError, match="expected LAYER or LAYER@6,3,2,1"):
        FeatureSpec.parse(text)


def test_a_feature_is_called_what_it_was_parsed_from():
    texts = ["fc7", "features.12@6,3,2,1", "conv5@6"]
    assert [FeatureSpec.parse(text).name for text in texts] == texts


def test_images_too_small_for_the_net_are_a_mistake_of_the_configuration(make_net, make_view, cache, paths):
    with pytest.raises(ConfigError, match="side of 4 pixels.*needs >= 6 px"):
        extract(make_net(), paths, [POOL], make_view("full", short_side=4), cache=cache)
    with pytest.raises(ConfigError, match="a crop of 14 pixels does not fit a short side of 12"):
        make_view(short_side=12)
    with pytest.raises(ConfigError, match="expected crop, full or warp"):
        make_view("ten_crop")


def test_a_feature_that_is_no_number_names_image_and_layer(make_net, make_view, cache, paths):
    net = make_net()
    with torch.no_grad():
        net.fc6.bias[2] = torch.nan
    with pytest.raises(NonFiniteError, match=rf"{paths[0].name}: feature fc6 of tiny is NaN or infinite"):
        extract(net, paths, [POOL, FC6], make_view(), cache=cache)
    # An unset mean image is NaN, too. Nothing of it was kept.
    assert cache.counts.computed == 0


def test_features_that_are_all_zero_are_features(make_net, make_view, cache, paths):
    net = make_net()
    with torch.no_grad():
        for parameter in net.backbone.parameters():
            parameter.zero_()
    assert extract(net, paths, [POOL], make_view(), cache=cache)["pool"].matrix().abs().sum() == 0


def test_a_bad_image_is_named(make_net, make_view, cache, paths):
    paths[6].write_bytes(paths[6].read_bytes()[:100])
    with pytest.raises(DataError, match=r"6\.png: not readable as an image"):
        extract(make_net(), paths, [POOL], make_view(), cache=cache)
    paths[6].unlink()
    with pytest.raises(DataError, match=r"6\.png: cannot read"):
        extract(make_net(), paths, [POOL], make_view(), cache=cache)


def test_no_images_make_no_rows(make_net, make_view, cache):
    features = extract(make_net(), [], [POOL], make_view(), cache=cache)["pool"]
    assert features.matrix().shape == (0, 80)
