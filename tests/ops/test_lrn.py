"""Response normalisation, against torch's module, Caffe's formula as a loop, and finite differences."""

import pytest
import torch
from torch.nn.functional import local_response_norm as stock_norm

from sppnet.ops.lrn import LocalResponseNorm, WithinChannelNorm, local_response_norm, within_channel_norm

FORMATS = [torch.contiguous_format, torch.channels_last]
ALEXNET = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0}
ZF5 = {"size": 3, "alpha": 5e-5, "beta": 0.75, "k": 1.0}


def activations(*shape, memory_format=torch.contiguous_format):
    return (50 * torch.randn(*shape)).relu().contiguous(memory_format=memory_format)


def caffe_within_channel(maps, size, alpha, beta, k):
    """One cell at a time, zero padding counted, as in lrn_layer.cpp."""
    result = maps.clone()
    reach = size // 2
    for n, c, y, x in torch.cartesian_prod(*map(torch.arange, maps.shape)).tolist():
        window = maps[n, c, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        mean = (window**2).sum() / size**2
        result[n, c, y, x] *= (k + alpha * mean) ** -beta
    return result


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("size", [1, 2, 4, 5])
def test_across_channels_gives_the_numbers_of_torch_and_keeps_the_layout(memory_format, size):
    maps = activations(2, 7, 9, 11, memory_format=memory_format)
    result = local_response_norm(maps, size=size, alpha=1e-2, beta=0.75, k=2.0)
    torch.testing.assert_close(result, stock_norm(maps, size, 1e-2, 0.75, 2.0))
    assert result.stride() == maps.stride()


@pytest.mark.parametrize("memory_format", FORMATS)
def test_strips_join_without_a_seam(memory_format):
    maps = activations(2, 16, 130, 150, memory_format=memory_format)  # several strips either way
    across = local_response_norm(maps, **ALEXNET)
    torch.testing.assert_close(across, stock_norm(maps, 5, 1e-4, 0.75, 2.0))
    mean = torch.nn.functional.avg_pool2d(maps**2, 3, 1, 1)
    torch.testing.assert_close(within_channel_norm(maps, **ZF5), maps / (1 + 5e-5 * mean) ** 0.75)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("size", [1, 3, 5])
def test_within_a_channel_gives_caffes_numbers(memory_format, size):
    maps = activations(2, 3, 5, 4, memory_format=memory_format)
    result = within_channel_norm(maps, size=size, alpha=1e-2, beta=0.75, k=1.0)
    torch.testing.assert_close(result, caffe_within_channel(maps, size, 1e-2, 0.75, 1.0))
    assert result.stride() == maps.stride()


def test_a_window_within_a_channel_must_have_a_centre():
    with pytest.raises(ValueError, match="size=4"):
        within_channel_norm(torch.rand(1, 1, 4, 4), size=4, alpha=1.0, beta=0.75, k=1.0)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("beta", [0.75, 0.5])
@pytest.mark.parametrize(
    ("normalise", "size"), [(local_response_norm, 5), (local_response_norm, 4), (within_channel_norm, 3)]
)
def test_gradients_agree_with_finite_differences(memory_format, beta, normalise, size):
    maps = torch.randn(2, 6, 4, 3, dtype=torch.double).contiguous(memory_format=memory_format)
    maps.requires_grad_()
    assert torch.autograd.gradcheck(lambda m: normalise(m, size=size, alpha=0.7, beta=beta, k=1.5), (maps,))


@pytest.mark.parametrize("memory_format", FORMATS)
def test_gradients_of_many_strips_equal_those_of_the_definition(memory_format):
    maps = activations(2, 16, 130, 150, memory_format=memory_format)
    upstream = torch.randn_like(maps)
    ours, theirs = (maps.clone(memory_format=torch.preserve_format).requires_grad_() for _ in range(2))
    within_channel_norm(ours, **ZF5).backward(upstream)
    mean = torch.nn.functional.avg_pool2d(theirs**2, 3, 1, 1)
    (theirs / (1 + 5e-5 * mean) ** 0.75).backward(upstream)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    assert ours.grad.stride() == maps.stride()


@pytest.mark.parametrize("module", [LocalResponseNorm(**ALEXNET), WithinChannelNorm(**ZF5)])
def test_bfloat16_is_computed_in_float32_and_rounded_once(module):
    maps = activations(2, 6, 5, 5).bfloat16()
    assert torch.equal(module(maps), module(maps.float()).bfloat16())


@pytest.mark.parametrize("module", [LocalResponseNorm(**ALEXNET), WithinChannelNorm(**ZF5)])
def test_meta_tensors_pass_for_the_sake_of_shapes(module):
    assert module(torch.empty(2, 6, 5, 5, device="meta")).shape == (2, 6, 5, 5)


@pytest.mark.parametrize("module", [LocalResponseNorm(**ALEXNET), WithinChannelNorm(**ZF5)])
def test_the_modules_export(module):
    maps = activations(2, 6, 5, 5)
    exported = torch.export.export(module, (maps,)).module()
    torch.testing.assert_close(exported(maps), module(maps))


def test_an_empty_batch_stays_empty():
    assert local_response_norm(torch.empty(0, 6, 5, 5), **ALEXNET).shape == (0, 6, 5, 5)
