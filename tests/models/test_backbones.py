"""Table 1, the torchvision trunks beside it, and how both are built from YAML."""

import pytest
import safetensors.torch
import torch
from torch import nn
from torchvision.models import get_model

from sppnet.errors import ArtifactError, ConfigError, ResourceError
from sppnet.models.backbones import LayeredBackbone, TorchvisionBackbone

PAPER = ["zf5", "convnet5", "overfeat5", "overfeat7"]


def map_side(backbone, size):
    shape = backbone.to("meta")(torch.empty(1, 3, size, size, device="meta")).shape
    assert shape[2] == shape[3]
    return shape[2]


@pytest.mark.parametrize(
    ("name", "at_224", "at_180"), [*zip(PAPER, (13, 13, 18, 18), (10, 10, 15, 15), strict=True)]
)
def test_map_sizes_are_the_papers_at_both_training_sizes(backbone, name, at_224, at_180):
    assert map_side(backbone(name), 224) == at_224
    assert map_side(backbone(name), 180) == at_180


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("zf5", [110, 55, 26, 13, 13, 13, 13]),
        ("convnet5", [55, 55, 27, 27, 13, 13, 13]),
        ("overfeat5", [109, 36, 36, 18, 18, 18, 18]),
    ],
)
def test_every_layer_has_its_size_of_table_1(backbone, name, sizes):
    net = backbone(name).to("meta")
    image = torch.empty(1, 3, 224, 224, device="meta")
    steps = [layer for layer in net.layers if layer.startswith(("conv", "pool"))]
    assert [net.activations(image, [step])[step].shape[2] for step in steps] == sizes


@pytest.mark.parametrize(
    ("name", "filters"),
    [
        ("zf5", [96, 256, 384, 384, 256]),
        ("convnet5", [96, 256, 384, 384, 256]),
        ("overfeat5", [96, 256, 512, 512, 512]),
        ("overfeat7", [96, 256, 512, 512, 512, 512, 512]),
    ],
)
def test_filter_numbers_are_table_1s(backbone, name, filters):
    convs = [m for m in backbone(name).modules() if isinstance(m, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == filters


def test_width_scales_every_layer_to_a_multiple_of_four_and_at_least_eight(backbone):
    convs = [m for m in backbone("zf5", width=0.05).modules() if isinstance(m, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == [8, 12, 20, 20, 12]


@pytest.mark.parametrize(("name", "geometry"), [("zf5", (16, 139, 49)), ("overfeat7", (12, 161, 72))])
def test_a_backbone_knows_its_receptive_field(backbone, name, geometry):
    assert backbone(name).receptive_field[:3] == geometry


@pytest.mark.parametrize("name", [*PAPER, "squeezenet1_1"])
@pytest.mark.parametrize("cells", [1, 6, 13])
def test_the_smallest_size_has_the_cells_and_one_pixel_less_has_not(backbone, name, cells):
    net = backbone(name)
    size = net.min_size(cells)
    assert map_side(net, size) >= cells
    try:
        assert map_side(net, size - 1) < cells
    except RuntimeError:  # a kernel larger than its input: no cells at all
        assert cells == 1


def test_roles_name_the_last_two_convolutions_after_their_relu(backbone):
    net = backbone("overfeat7", width=0.05)
    image = torch.randn(1, 3, 80, 80)
    assert net.roles == {"conv4": "relu6", "conv5": "relu7"}
    assert torch.equal(net.activations(image, ["conv5"])["conv5"], net(image))
    assert net.activations(image, ["conv4"])["conv4"].min() == 0


def test_a_misspelt_layer_gets_a_hint(backbone):
    with pytest.raises(ConfigError, match=r"no layer 'rellu3'; did you mean relu3"):
        backbone("zf5", width=0.05).activations(torch.randn(1, 3, 80, 80), ["rellu3"])


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"conv": 8, "kernal": 3, "stride": 1, "padding": 1}, "layer 1: kernal, kernel missing or unknown"),
        ({"pooling": 3}, "expected exactly one of conv, pool, lrn"),
        ({"lrn": "along", "size": 3, "alpha": 1.0, "beta": 1.0, "k": 1.0}, "expected across or within"),
    ],
)
def test_a_row_that_builds_nothing_says_what_is_wrong_with_it(row, complaint):
    with pytest.raises(ConfigError, match=complaint):
        LayeredBackbone(name="mine", layers=[row], width=1.0, weights=None)


@pytest.mark.parametrize(("name", "conv4"), [
    ("squeezenet1_1", "features.11"), ("alexnet", "features.9"),
    ("vgg16", "features.27"), ("resnet18", "layer3"),
])  # fmt: skip
def test_the_step_before_the_last_convolution_is_found_in_torchvision_nets(backbone, name, conv4):
    with torch.device("meta"):
        assert backbone(name).roles["conv4"] == conv4


def test_a_torchvision_trunk_computes_what_the_model_computes_up_to_the_layer(backbone):
    net = backbone("resnet18").eval()
    whole = get_model("resnet18", weights=None).eval()
    whole.load_state_dict(net.trunk.state_dict(), strict=False)
    image = torch.randn(1, 3, 64, 80)
    seen = {}
    for layer in ("layer3", "layer4", "layer4.1"):
        whole.get_submodule(layer).register_forward_hook(
            lambda _m, _i, out, key=layer: seen.update({key: out})
        )
    with torch.no_grad():
        whole(image)
        assert torch.equal(net(image), seen["layer4"])
        for layer, maps in seen.items():
            assert torch.equal(net.activations(image, [layer])[layer], maps)
        assert torch.equal(net.activations(image, ["conv4"])["conv4"], seen["layer3"])


def test_a_torchvision_trunk_trains_with_its_batch_norm(backbone):
    net = backbone("resnet18").train()
    before = net.trunk.get_submodule("bn1").running_mean.clone()
    net(torch.randn(2, 3, 64, 64)).sum().backward()
    assert not torch.equal(net.trunk.get_submodule("bn1").running_mean, before)
    assert all(parameter.grad is not None for parameter in net.parameters())
    net.eval()
    after = net.trunk.get_submodule("bn1").running_mean.clone()
    net(torch.randn(2, 3, 64, 64))
    assert torch.equal(net.trunk.get_submodule("bn1").running_mean, after)


def squeezenet(weights, layer="features.12"):
    return TorchvisionBackbone(name="SqueezeNet", model="squeezenet1_1", layer=layer, weights=weights)


def test_weights_come_from_a_half_precision_file_and_its_head_is_ignored(tmp_path):
    whole = get_model("squeezenet1_1", weights=None)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({k: v.half() for k, v in whole.state_dict().items()}, path)
    net = squeezenet(str(path))
    loaded = net.trunk.state_dict()
    assert loaded and all(v.dtype == torch.float32 for v in loaded.values())
    assert all(torch.equal(v, whole.state_dict()[k].half().float()) for k, v in loaded.items())
    assert net.mean == (123.675, 116.28, 103.53)


def test_weights_of_another_net_are_refused_with_the_keys_that_differ(tmp_path):
    state = get_model("squeezenet1_1", weights=None).state_dict()
    del state["features.0.bias"]
    state["features.99.weight"] = torch.zeros(1)
    state["features.3.squeeze.weight"] = torch.zeros(2, 2)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(state, path)
    with pytest.raises(ArtifactError) as error:
        squeezenet(str(path))
    table = str(error.value)
    for piece in (
        "missing (1)",
        "features.0.bias",
        "unexpected (1)",
        "features.99.weight",
        "(2, 2) for (16, 64, 1, 1)",
    ):
        assert piece in table


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"model": "resnet81"}, "no model 'resnet81' in torchvision; did you mean resnet18"),
        ({"layer": "features.21"}, "squeezenet1_1 has no layer 'features.21'; did you mean features.2"),
        ({"weights": "DEFAUT"}, "neither a .safetensors file nor weights of squeezenet1_1.*DEFAULT"),
    ],
)
def test_a_misspelt_torchvision_setting_gets_a_hint(settings, complaint):
    right = {"name": "mine", "model": "squeezenet1_1", "layer": "features.12", "weights": None}
    with pytest.raises(ConfigError, match=complaint):
        TorchvisionBackbone(**right | settings)


def test_weights_that_cannot_be_downloaded_end_in_one_message(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody there
    with pytest.raises(ResourceError, match="cannot be downloaded from https://"):
        TorchvisionBackbone(name="S", model="squeezenet1_1", layer="features.12", weights="DEFAULT")
