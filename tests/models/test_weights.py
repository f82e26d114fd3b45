"""Weights on disk: what is written comes back, and nothing else is accepted."""

import pytest
import torch
from torch import nn

from sppnet.errors import ArtifactError
from sppnet.models.weights import load_weights, save_tensors


def test_a_net_loads_what_another_saved_bit_for_bit_and_keeps_its_layout(tmp_path, small_net):
    one, two = small_net(), small_net()
    save_tensors(one.state_dict(), tmp_path / "net.safetensors")
    load_weights(two, tmp_path / "net.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert two.backbone.trunk.get_submodule("conv2").weight.is_contiguous(memory_format=torch.channels_last)


def test_weights_of_another_net_leave_the_net_as_it_was(tmp_path):
    save_tensors(nn.Linear(2, 3).state_dict(), tmp_path / "other.safetensors")
    net = nn.Sequential(nn.Linear(2, 3))
    before = net[0].weight.clone()
    with pytest.raises(
        ArtifactError, match=r"other.safetensors: these weights belong to another net"
    ) as error:
        load_weights(net, tmp_path / "other.safetensors")
    title, first, second = str(error.value).splitlines()[1:]
    assert title.split("  ")[1:] == ["missing (2)", "unexpected (2)", "of another shape (0)"]
    assert first.split() == ["0.bias", "bias"]
    assert second.split() == ["0.weight", "weight"]
    assert torch.equal(net[0].weight, before)


def test_another_shape_is_named(tmp_path):
    save_tensors(nn.Linear(2, 3).state_dict(), tmp_path / "narrow.safetensors")
    with pytest.raises(ArtifactError, match=r"weight \(3, 2\) for \(3, 4\)"):
        load_weights(nn.Linear(4, 3), tmp_path / "narrow.safetensors")


def test_a_file_cut_short_is_refused_by_name(tmp_path):
    path = tmp_path / "net.safetensors"
    save_tensors(nn.Linear(2, 3).state_dict(), path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ArtifactError, match="net.safetensors: not a readable"):
        load_weights(nn.Linear(2, 3), path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"none.safetensors: no such file"):
        load_weights(nn.Linear(2, 3), tmp_path / "none.safetensors")


@pytest.mark.parametrize("prefix", ["module.", "model.", "model.module."])
def test_a_prefix_that_all_keys_share_is_dropped(tmp_path, prefix):
    net = nn.Linear(2, 3)
    save_tensors({prefix + key: value for key, value in net.state_dict().items()}, tmp_path / "w.safetensors")
    other = nn.Linear(2, 3)
    load_weights(other, tmp_path / "w.safetensors")
    assert torch.equal(other.weight, net.weight)


def test_keys_behind_a_prefix_among_others_are_pointed_at(tmp_path):
    state = {f"backbone.{key}": value for key, value in nn.Linear(2, 3).state_dict().items()}
    save_tensors({**state, "loss.weight": torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ArtifactError, match="some keys fit behind 'backbone.'"):
        load_weights(nn.Linear(2, 3), tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        (torch.ones(3, 2, dtype=torch.complex64), "torch.complex64"),
        (torch.ones(3, 2, dtype=torch.int8), "torch.int8"),
        (torch.full((3, 2), float("nan")), "NaN"),
        (torch.full((3, 2), float("inf")), "infinite"),
    ],
)
def test_weights_are_sound_real_numbers(tmp_path, weight, said):
    save_tensors({"weight": weight, "bias": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(ArtifactError, match=f"weight holds .*{said}"):
        load_weights(nn.Linear(2, 3), tmp_path / "w.safetensors")
