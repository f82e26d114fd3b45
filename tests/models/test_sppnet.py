"""The whole net: parameters, sizes, layers, first weights."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from sppnet.errors import ConfigError
from sppnet.models.initialise import DataDependentInit, GaussianInit
from sppnet.models.normalise import InputNorm
from sppnet.models.sppnet import SppNet

CONF = Path(__file__).parents[2] / "conf"
TORCHVISION = ["squeezenet1_1", "alexnet", "vgg16", "resnet18", "convnext_tiny"]


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("zf5", (62.4, 77.0, 56.1)),
        ("convnet5", (62.4, 77.1, 56.1)),
        ("overfeat5", (102.9, 132.3, 90.3)),
        ("overfeat7", (107.6, 137.0, 95.0)),
    ],
)
def test_parameters_of_the_three_pyramids(backbone, name, millions):
    for pyramid, expected in zip(("none", "bins50", "bins30"), millions, strict=True):
        chosen = OmegaConf.load(CONF / "pyramid" / f"{pyramid}.yaml")
        with torch.device("meta"):
            net = SppNet(
                backbone=backbone(name),
                input_norm=InputNorm.constant(mean=[128.0] * 3, std=[1.0] * 3),
                levels=chosen.levels,
                pooling=chosen.pooling,
                head_width=4096,
                dropout=0.5,
                num_classes=1000,
                init=DataDependentInit(score_deviation=0.3),
            )
        assert round(sum(p.numel() for p in net.parameters()) / 1e6, 1) == expected


def test_thirty_bins_need_fewer_parameters_than_no_pyramid(small_net):
    counts = [sum(p.numel() for p in small_net(levels=levels).parameters()) for levels in ([6], [4, 3, 2, 1])]
    assert counts[1] < counts[0]


def test_images_of_any_size_make_vectors_of_one_length(small_net):
    net = small_net().eval()
    for height, width in ((224, 224), (180, 180), (192, 300)):
        images = torch.randint(0, 256, (1, 3, height, width)).float()
        assert net(images).shape == (1, 7)
        assert net.features(images, "pool").shape == (1, 24 * 50)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_trunks_make_vectors_of_one_length(small_net, backbone, name):
    with torch.device("meta"):
        net = small_net(name).eval()
        lengths = {net.features(torch.empty(1, 3, *size), "pool").shape for size in ((224, 224), (200, 320))}
    assert lengths == {(1, net.backbone.out_channels * 50)}


def test_an_image_too_small_is_told_the_smallest_size(small_net):
    net = small_net().eval()
    with pytest.raises(ValueError, match=r"110 x 300 pixels .*ZF-5.* needs >= 111 px"):
        net(torch.zeros(1, 3, 110, 300))
    assert net(torch.zeros(1, 3, 111, 300)).isfinite().all()


def test_features_of_every_layer(small_net):
    net = small_net().eval()
    images = torch.randint(0, 256, (1, 3, 128, 128)).float()
    shapes = {layer: tuple(net.features(images, layer).shape) for layer in (*net.feature_layers, "pool2")}
    assert shapes == {
        "conv4": (1, 40, 7, 7),
        "conv5": (1, 24, 7, 7),
        "pool": (1, 1200),
        "fc6": (1, 16),
        "fc7": (1, 16),
        "pool2": (1, 24, 7, 7),
    }
    assert all(net.features(images, layer).min() >= 0 for layer in net.feature_layers)


def test_features_are_what_the_forward_pass_computes(small_net):
    net = small_net().eval()
    images = torch.randint(0, 256, (1, 3, 128, 128)).float()
    assert torch.equal(net.fc8(net.features(images, "fc7")), net(images))
    assert torch.equal(net.pool(net.features(images, "conv5")), net.features(images, "pool"))


@pytest.mark.parametrize(
    ("name", "inner"),
    [
        ("zf5", ("conv1", "relu1", "pool2")),
        ("squeezenet1_1", ("features.0", "features.3.squeeze", "features.6")),
    ],
)
def test_several_layers_of_one_pass_are_those_of_a_pass_each(small_net, name, inner):
    net = small_net(name).eval()
    images = torch.randint(0, 256, (2, 3, 128, 150)).float()
    # An in-place ReLU runs behind the first of them.
    layers = ["fc7", *inner, "conv4", "pool"]
    with torch.inference_mode():
        together = net.layer_features(images, layers)
        assert list(together) == layers
        assert all(torch.equal(together[layer], net.features(images, layer)) for layer in layers)


@pytest.mark.parametrize(("name", "deeper"), [("zf5", "conv3"), ("squeezenet1_1", "features.7.squeeze")])
def test_a_pass_for_several_layers_ends_at_the_deepest(small_net, name, deeper):
    net = small_net(name).eval()
    calls = []
    net.backbone.trunk.get_submodule(deeper).register_forward_hook(lambda *_: calls.append(deeper))
    first = {"zf5": ["conv1", "relu2"], "squeezenet1_1": ["features.0", "features.6"]}[name]
    net.layer_features(torch.zeros(1, 3, 128, 128), first)
    assert not calls
    net.layer_features(torch.zeros(1, 3, 128, 128), [*first, "conv5"])
    assert calls == [deeper]


def test_a_misspelt_layer_gets_a_hint(small_net):
    with pytest.raises(ConfigError, match=r"no layer 'conv55' in ZF-5; did you mean conv5"):
        small_net().features(torch.zeros(1, 3, 224, 224), "conv55")


def test_sliding_pooling_gives_the_same_scores_at_224_and_refuses_180(small_net):
    net = small_net().eval()
    images = torch.randint(0, 256, (1, 3, 224, 224)).float()
    bins = net(images)
    net.pooling = "sliding"
    assert torch.equal(net(images), bins)
    with pytest.raises(ValueError, match="a = 10"):
        net(images[:, :, :180, :180])


def test_maps_stay_channels_last_through_the_trunk(small_net):
    net = small_net().eval()
    with torch.no_grad():
        maps = net.maps(torch.zeros(1, 3, 128, 128))
    assert maps.is_contiguous(memory_format=torch.channels_last)


def test_one_step_of_sgd_lowers_the_loss_in_bfloat16_too(small_net):
    torch.manual_seed(0)
    net = small_net(input_norm=InputNorm.constant(mean=[128.0] * 3, std=[64.0] * 3), dropout=0.0)
    images, labels = torch.randint(0, 256, (4, 3, 111, 111)).float(), torch.arange(4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    losses = []
    for _ in range(4):
        with torch.autocast("cpu", torch.bfloat16):
            scores = net(images)
        loss = torch.nn.functional.cross_entropy(scores.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_the_releases_first_weights(small_net):
    init = instantiate(OmegaConf.load(CONF / "init" / "gaussian.yaml"))
    net = small_net(init=init, head_width=512)
    convs = [net.backbone.trunk.get_submodule(f"conv{i}") for i in range(1, 6)]
    assert [conv.bias.unique().tolist() for conv in convs] == [[0], [1], [0], [1], [1]]
    assert [fc.bias.unique().tolist() for fc in (net.fc6, net.fc7, net.fc8)] == [[1], [1], [1]]
    assert net.fc6.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert convs[4].weight.std().item() == pytest.approx(0.01, rel=0.05)


def test_a_seven_convolution_net_repeats_the_last_bias():
    convs = [torch.nn.Conv2d(1, 1, 1) for _ in range(7)]
    GaussianInit(std=0.01, conv_biases=[0.0, 1.0, 0.0], fc_biases=[1.0])(convs, [])
    assert [conv.bias.item() for conv in convs] == [0, 1, 0, 0, 0, 0, 0]


def test_data_dependent_weights_give_every_channel_a_mean_of_0_and_falling_deviations(small_net):
    init = DataDependentInit(score_deviation=0.5)
    net = small_net(init=init)
    images = torch.randint(0, 256, (32, 3, 128, 128)).float()
    init.adapt(net, images)
    seen = []
    layers = [module for module in net.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)]
    for layer in layers:
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output.detach().clone()))
    with torch.no_grad():
        net.eval()(images)
    start = net.input_norm(images).std().item()
    for position, responses in enumerate(seen, start=1):
        channels = responses.transpose(0, 1).flatten(1)
        share = position / len(layers)
        assert channels.mean(dim=1).abs().max() < 1e-2 * channels.std()
        expected = torch.full((len(channels),), start ** (1 - share) * 0.5**share)
        torch.testing.assert_close(channels.std(dim=1), expected, rtol=1e-2, atol=0.0)


def test_a_torchvision_trunk_keeps_its_own_first_weights(small_net, backbone):
    trunk = backbone("squeezenet1_1")
    before = {key: value.clone() for key, value in trunk.state_dict().items()}
    net = small_net(backbone=trunk)
    assert all(torch.equal(value, before[key]) for key, value in net.backbone.state_dict().items())
    assert net.fc6.bias.abs().sum() == 0
