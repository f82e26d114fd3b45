"""Geometry of trunks, against the pixels that a gradient reaches."""

import copy

import pytest
import torch
from torch import nn
from torchvision.models import get_model
from torchvision.models.feature_extraction import create_feature_extractor

from sppnet.errors import ConfigError
from sppnet.ops.lrn import LocalResponseNorm, WithinChannelNorm
from sppnet.ops.receptive_field import receptive_field


def conv(kernel, stride, padding, **more):
    return nn.Conv2d(3, 3, kernel, stride, padding, **more)


def zf5(first_padding, second_padding):
    return nn.Sequential(
        *(conv(7, 2, first_padding), nn.ReLU(), WithinChannelNorm(size=3, alpha=5e-5, beta=0.75, k=1.0)),
        *(nn.MaxPool2d(3, 2, ceil_mode=True), conv(5, 2, second_padding), nn.ReLU()),
        *(nn.MaxPool2d(3, 2, ceil_mode=True), conv(3, 1, 1), conv(3, 1, 1), conv(3, 1, 1), nn.ReLU()),
    )


def convnet5():
    return nn.Sequential(
        *(conv(11, 4, 2), nn.ReLU(), LocalResponseNorm(size=5, alpha=1e-4, beta=0.75, k=2.0), conv(5, 1, 2)),
        *(nn.MaxPool2d(3, 2), conv(3, 1, 1), nn.MaxPool2d(3, 2), conv(3, 1, 1), conv(3, 1, 1)),
    )


def overfeat(second_padding, num_convs):
    return nn.Sequential(
        *(conv(7, 2, 0), nn.MaxPool2d(3, 3), conv(5, 1, second_padding), nn.MaxPool2d(2, 2)),
        *(conv(3, 1, 1) for _ in range(num_convs - 2)),
    )


def pixels_reached(trunk, cell, width):
    """First and last column in a cell's gradient; every max is made an average, all weights positive."""
    probe = copy.deepcopy(trunk).double().eval()
    for module in list(probe.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):
                same = (child.kernel_size, child.stride, child.padding, child.ceil_mode)
                assert child.dilation == 1
                setattr(module, name, nn.AvgPool2d(*same))
            elif isinstance(child, (LocalResponseNorm, WithinChannelNorm)):
                setattr(module, name, nn.Identity())
    for parameter in probe.parameters():
        nn.init.constant_(parameter, 1 / max(1, parameter[0].numel()))
    image = torch.ones(1, 3, 64, width, dtype=torch.double, requires_grad=True)
    maps = probe(image)
    maps = maps["maps"] if isinstance(maps, dict) else maps
    maps[0, :, 0, cell].sum().backward()
    columns = image.grad.abs().sum(dim=(0, 1, 2)).nonzero().flatten()
    return columns.min().item(), columns.max().item()


# recipe, table A4: stride, size, padding, 0-based centre of the first cell, and the constants of Appendix A
TABLE = [
    (zf5(0, 0), 16, 139, 48, 21, 63, 75),
    (zf5(1, 0), 16, 139, 49, 20, 64, 74),
    (zf5(1, 1), 16, 139, 53, 16, 68, 70),
    (convnet5(), 16, 131, 50, 15, 65, 65),
    (overfeat(2, 5), 12, 113, 48, 8, 59, 53),
    (overfeat(2, 7), 12, 161, 72, 8, 83, 77),
    (overfeat(1, 5), 12, 113, 42, 14, 53, 59),
    (overfeat(1, 7), 12, 161, 66, 14, 77, 83),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[1:4]}")
def test_the_papers_nets_have_the_geometry_appendix_a_implies(row):
    trunk, stride, size, padding, centre, top_left, bottom_right = row
    field = receptive_field(trunk)
    assert field[:3] == (stride, size, padding)
    assert field.first_centre == centre
    assert padding + stride - 1 == top_left
    assert size - padding - stride == bottom_right


@pytest.mark.parametrize(
    "trunk",
    [
        *(row[0] for row in TABLE[::3]),
        nn.Sequential(conv(3, 1, 2, dilation=2), nn.AvgPool2d(2, 2), nn.ELU(), conv(4, 3, 1)),
        nn.Sequential(
            conv(3, 1, "same", dilation=2), nn.BatchNorm2d(3), nn.MaxPool2d(3, 2, 1), conv(5, 2, 2)
        ),
    ],
)
def test_a_cell_reaches_exactly_the_pixels_of_its_field(trunk):
    field = receptive_field(trunk)
    cell = -(-field.padding // field.stride)  # the first whose field is inside the image
    first = field.stride * cell - field.padding
    reached = pixels_reached(trunk, cell, width=first + field.size + field.stride)
    assert reached == (first, first + field.size - 1)


CUTS = {"resnet18": "layer4", "squeezenet1_1": "features.12", "alexnet": "features.11"}


@pytest.mark.parametrize("model", CUTS)
def test_torchvision_trunks_reach_exactly_the_pixels_of_their_field(model):
    trunk = create_feature_extractor(get_model(model, weights=None), {CUTS[model]: "maps"})
    field = receptive_field(trunk)
    cell = -(-field.padding // field.stride)
    first = field.stride * cell - field.padding
    reached = pixels_reached(trunk, cell, width=first + field.size + field.stride)
    assert reached == (first, first + field.size - 1)


@pytest.mark.parametrize(("model", "layer"), [("vgg16", "features.29"), ("convnext_tiny", "features.7")])
def test_other_topologies_are_traced(model, layer):
    with torch.device("meta"):
        trunk = create_feature_extractor(get_model(model, weights=None), [layer])
    expected = {"vgg16": (16, 196, 90), "convnext_tiny": (32, 1688, 828)}
    assert receptive_field(trunk)[:3] == expected[model]


def test_gates_of_squeeze_and_excitation_do_not_widen_the_field():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = conv(3, 2, 1)
            self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 3, 1), nn.Sigmoid())

        def forward(self, maps):
            maps = self.body(maps)
            return maps * self.gate(maps)

    assert receptive_field(Gated())[:3] == (2, 3, 1)


def test_branches_meet_at_their_union():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.narrow, self.wide = conv(1, 2, 0), conv(5, 2, 2)

        def forward(self, maps):
            return torch.cat([self.narrow(maps), self.wide(maps)], dim=1)

    assert receptive_field(Branches())[:3] == (2, 5, 2)


def test_branches_of_different_strides_are_refused():
    class Uneven(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = conv(1, 1, 0), conv(1, 2, 0)

        def forward(self, maps):
            return self.one(maps) + self.two(maps)

    with pytest.raises(ConfigError, match="strides 1 and 2"):
        receptive_field(Uneven())


def test_an_unknown_module_is_named():
    with pytest.raises(ConfigError, match=r"1: the reach of Fold is not known"):
        receptive_field(nn.Sequential(conv(3, 1, 1), nn.Fold(4, 2)))


def test_a_kernel_that_is_not_square_is_refused():
    with pytest.raises(ConfigError, match="rows and columns differently"):
        receptive_field(nn.Sequential(conv((3, 5), 1, 0)))


def test_global_pooling_leaves_no_position():
    with pytest.raises(ConfigError, match="no position"):
        receptive_field(nn.Sequential(conv(3, 1, 1), nn.AdaptiveAvgPool2d(1)))
