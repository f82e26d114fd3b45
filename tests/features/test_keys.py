"""When a feature on disk is one that was asked for: never if anything that computes it differs."""

import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sppnet
from sppnet.features.compute import compute_rows
from sppnet.features.extract import extract
from sppnet.features.specs import FeatureSpec
from sppnet.models.normalise import InputNorm
from sppnet.sources import code_of
from sppnet.store.feature_cache import FeatureCache

POOL, FC6, FC7 = map(FeatureSpec.parse, ("pool", "fc6", "fc7"))
LAYERS = (
    {"conv": 8, "kernel": 3, "stride": 1, "padding": 1},
    {"pool": 2, "stride": 2, "ceil": True},
    {"conv": 8, "kernel": 3, "stride": 1, "padding": 1},
)


@pytest.fixture
def computed(cache: FeatureCache, paths):
    """Shards that an extraction had to compute."""

    def count(net, view, specs=(POOL,), images=None):
        before = cache.counts.computed
        extract(net, paths if images is None else images, list(specs), view, cache=cache)
        return cache.counts.computed - before

    return count


def nudged(net, name):
    with torch.no_grad():
        parameter = net.get_parameter(name)
        parameter[(0,) * parameter.ndim] += 1e-6
    return net


def normalised(mean, std):
    return InputNorm.constant(mean=[mean] * 3, std=[std] * 3)


OTHER_NETS = {
    "weights": lambda make: nudged(make(), "backbone.trunk.conv1.weight"),
    "a bias": lambda make: nudged(make(), "backbone.trunk.conv2.bias"),
    "rounding of a map's size": lambda make: make(layers=LAYERS),
    "mean": lambda make: make(input_norm=normalised(127.0, 64.0)),
    "deviation": lambda make: make(input_norm=normalised(128.0, 63.0)),
    "levels": lambda make: make(levels=[2, 1]),
    "order of levels": lambda make: make(levels=[1, 3]),
    "precision": lambda make: make().double().float().to(torch.bfloat16).float(),
}


@pytest.mark.parametrize("what", OTHER_NETS)
def test_another_net_finds_nothing(make_net, make_view, computed, what):
    assert computed(make_net(), make_view()) == 3
    assert computed(OTHER_NETS[what](make_net), make_view()) == 3
    assert computed(make_net(), make_view()) == 0


@pytest.mark.parametrize(
    "change", [{"short_side": 17}, {"crop": 13}, {"upright": False}, {"kind": "full"}, {"kind": "warp"}]
)
def test_another_view_finds_nothing(make_net, make_view, computed, change):
    assert computed(make_net(), make_view()) == 3
    assert computed(make_net(), make_view(**change)) == 3


@pytest.mark.parametrize("spec", ["conv5", "conv4@3,1", "conv5@3", "conv5@1,3", "fc6"])
def test_another_layer_or_pyramid_finds_nothing(make_net, make_view, computed, spec):
    assert computed(make_net(), make_view()) == 3
    assert computed(make_net(), make_view(), specs=[FeatureSpec.parse(spec)]) == 3


def test_one_grey_level_of_one_pixel_is_another_image(make_net, make_view, computed, paths):
    assert computed(make_net(), make_view()) == 3
    pixels = np.array(Image.open(paths[5]))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(paths[5])
    assert computed(make_net(), make_view()) == 1


def test_images_in_another_order_are_other_rows(make_net, make_view, computed, paths):
    assert computed(make_net(), make_view()) == 3
    assert computed(make_net(), make_view(), images=[*paths[:3], paths[4], paths[3], *paths[5:]]) == 2


def test_what_does_not_run_below_the_layer_does_not_count(make_net, make_view, computed, tmp_path, paths):
    assert computed(make_net(), make_view(), [POOL, FC6]) == 6
    # Another number of classes, another head width, dropout, mode, limit, folder, order of features.
    wide = make_net(head_width=9, num_classes=5, dropout=0.1)
    wide.backbone.load_state_dict(make_net().backbone.state_dict())
    assert computed(wide.train(), make_view(max_pixels=5_000)) == 0
    assert computed(nudged(make_net(), "fc7.weight"), make_view(), [FC6, POOL]) == 0
    assert computed(nudged(make_net(), "fc6.weight"), make_view(), [POOL, FC6]) == 3
    shutil.copytree(paths[0].parent, tmp_path / "moved")
    assert computed(make_net(), make_view(), images=[tmp_path / "moved" / path.name for path in paths]) == 0
    # The roles of the glossary and the modules they stand for are one layer.
    assert computed(make_net(), make_view(), [FeatureSpec("conv5", (2,))]) == 3
    assert computed(make_net(), make_view(), [FeatureSpec("relu2", (2,))]) == 0


def test_using_a_net_does_not_change_what_it_is(make_net, make_view, computed):
    net = make_net()
    assert computed(net, make_view()) == 3
    assert net.backbone.receptive_field.stride == 2  # computed once and kept on the module
    net(torch.rand(2, 3, 20, 20)).sum().backward()
    assert computed(net, make_view()) == 0


def test_any_edit_of_the_code_that_computes_features_counts_and_no_other(tmp_path: Path):
    package = tmp_path / "sppnet"
    shutil.copytree(sppnet.__path__[0], package, ignore=shutil.ignore_patterns("__pycache__"))

    def code() -> dict[str, str]:
        return code_of([compute_rows.__module__], package=package)

    before = code()
    for name in ("ops/pyramid.py", "models/sppnet.py", "data/images.py", "features/compute.py"):
        source = (package / name).read_text()
        (package / name).write_text(source + "\n# edited\n")
        assert code() != before
        (package / name).write_text(source)
    for name in ("tasks/classification.py", "cli/main.py", "store/entry.py"):
        (package / name).write_text("# edited\n")
        assert code() == before


def test_a_layer_of_the_users_own_counts_with_its_source_and_settings(
    make_net, make_view, computed, tmp_path, monkeypatch
):
    source = "from torch import nn\nclass Scale(nn.Module):\n    factor = {}\n\n" \
        "    def __init__(self, power):\n        super().__init__()\n        self.power = power\n\n" \
        "    def forward(self, x):\n        return self.factor * x ** self.power\n"  # fmt: skip

    def net(factor, power):
        (tmp_path / "mine.py").write_text(source.format(factor))
        spec = importlib.util.spec_from_file_location("mine", tmp_path / "mine.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "mine", module)
        exec_module(spec, module)
        made = make_net()
        made.backbone.trunk.relu2 = module.Scale(power)
        return made

    assert computed(net(2.0, 1), make_view()) == 3
    assert computed(net(2.0, 1), make_view()) == 0
    assert computed(net(2.0, 2), make_view()) == 3
    assert computed(net(3.0, 1), make_view()) == 3


def exec_module(spec, module):
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
