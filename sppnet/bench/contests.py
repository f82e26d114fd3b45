"""What each benchmark row computes, ours and the peer's, on the same numbers.

Peers get maps in torch's default layout, ours what comes out of our trunk (channels last). Before timing,
both results are compared: a fast wrong answer does not count.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sppnet.bench.network_contests import convolutions, many_views, windows_to_fc7, zf5_layers
from sppnet.bench.rows import Contest
from sppnet.bench.svm_contests import hard_negatives, one_vs_rest
from sppnet.bench.window_contests import suppress, window_pooling
from sppnet.models.backbones import LayeredBackbone
from sppnet.ops.lrn import local_response_norm
from sppnet.ops.pyramid import pool_pyramid

_LEVELS = (6, 3, 2, 1)
_ONE_SCALE, _FIVE_SCALES = (688,), (480, 576, 688, 864, 1200)
# AlexNet's
_SIZE, _ALPHA, _BETA, _K = 5, 1e-4, 0.75, 2.0


def _pyramid(backward: bool) -> Contest:
    pools = [nn.AdaptiveMaxPool2d(level) for level in _LEVELS]

    def stock(maps: Tensor) -> Tensor:
        return torch.cat([pool(maps).flatten(1) for pool in pools], dim=1)

    return _contest(lambda maps: pool_pyramid(maps, _LEVELS), stock, _activations(64, 256, 13, 13), backward)


def _lrn(shape: tuple[int, int, int, int], backward: bool) -> Contest:
    def ours(maps: Tensor) -> Tensor:
        return local_response_norm(maps, size=_SIZE, alpha=_ALPHA, beta=_BETA, k=_K)

    stock = nn.LocalResponseNorm(_SIZE, _ALPHA, _BETA, _K)
    return _contest(ours, stock, _activations(*shape), backward)


def _trunk(shape: tuple[int, int, int, int], backward: bool) -> Contest:
    """ZF-5 with normalisation across channels, because stock modules know no other."""
    norm = {"lrn": "across", "size": _SIZE, "alpha": _ALPHA, "beta": _BETA, "k": _K}
    ours = LayeredBackbone(name="ZF-5", layers=zf5_layers(norm), width=1.0, weights=None)
    stock = nn.Sequential(*(_stock(layer) for layer in ours.trunk.children()))
    ours = ours.to(memory_format=torch.channels_last)
    return _contest(ours, stock, _activations(*shape), backward)


def _stock(layer: nn.Module) -> nn.Module:
    """Copy a layer of ours as a user would write it."""
    if isinstance(layer, nn.Conv2d):
        return copy.deepcopy(layer)
    if isinstance(layer, nn.MaxPool2d):
        return layer
    if isinstance(layer, nn.ReLU):
        return nn.ReLU()
    return nn.LocalResponseNorm(_SIZE, _ALPHA, _BETA, _K)


def _contest(
    ours: Callable[[Tensor], Tensor], stock: Callable[[Tensor], Tensor], maps: Tensor, backward: bool
) -> Contest:
    last = maps.contiguous(memory_format=torch.channels_last)
    run = _forward_and_backward if backward else _forward
    a, b = run(ours, last)(), run(stock, maps)()
    difference = ((a - b).abs().max() / b.abs().max()).item()
    return Contest(run(ours, last), run(stock, maps), difference)


def _forward(work: Callable[[Tensor], Tensor], maps: Tensor) -> Callable[[], Tensor]:
    @torch.no_grad()
    def run() -> Tensor:
        return work(maps)

    return run


def _forward_and_backward(work: Callable[[Tensor], Tensor], maps: Tensor) -> Callable[[], Tensor]:
    """Time both passes; the upstream gradient is one everywhere. Returns the gradient of the maps."""
    leaf = maps.clone(memory_format=torch.preserve_format).requires_grad_()

    def run() -> Tensor:
        leaf.grad = None
        torch.autograd.backward(work(leaf).sum())
        assert leaf.grad is not None
        return leaf.grad

    return run


def _activations(*shape: int) -> Tensor:
    """Positive numbers without ties, as large as those of a net whose images are on 0..255."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 100


CONTESTS: dict[str, Callable[[], Contest]] = {
    "pyramid": lambda: _pyramid(backward=False),
    "pyramid_backward": lambda: _pyramid(backward=True),
    "lrn": lambda: _lrn((1, 96, 342, 457), backward=False),
    "lrn_backward": lambda: _lrn((16, 96, 55, 55), backward=True),
    "window_pooling": window_pooling,
    "suppress": suppress,
    "many_views": many_views,
    "svm_primal": lambda: one_vs_rest(4096),
    "svm_dual": lambda: one_vs_rest(12800),
    "svm_hard_negatives": hard_negatives,
    "spp_vs_rcnn": lambda: windows_to_fc7(_ONE_SCALE),
    "spp_vs_rcnn_five": lambda: windows_to_fc7(_FIVE_SCALES),
    "spp_maps_vs_rcnn": lambda: convolutions(_ONE_SCALE),
    "spp_maps_vs_rcnn_five": lambda: convolutions(_FIVE_SCALES),
    "trunk": lambda: _trunk((1, 3, 688, 917), backward=False),
    "trunk_backward": lambda: _trunk((8, 3, 224, 224), backward=True),
}
