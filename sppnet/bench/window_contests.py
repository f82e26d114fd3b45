"""Contests of the detection path: windows pooled from one map, and greedy suppression."""

import numpy as np
import torch
import torchvision
from torch import Tensor

from sppnet.bench.rows import Contest
from sppnet.ops.suppression import suppress_per_class
from sppnet.ops.window_pooling import pool_windows

_LEVELS = (6, 3, 2, 1)
_WINDOWS = 2000
# An image of 500 x 375 at scale 688 gives ZF-5 this map.
_CHANNELS, _HEIGHT, _WIDTH = 256, 43, 58
_CLASSES = 20
# A limit that float32 and float64 hold alike: torchvision divides in float32.
_MAX_OVERLAP = float(np.float32(0.3))


def window_pooling() -> Contest:
    """Against torchvision's roi_pool, whose bins are the same at whole cells; both in their own order.

    Each side writes where it likes best: ours to a buffer that is used again, roi_pool cannot.
    """
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(1, _CHANNELS, _HEIGHT, _WIDTH, generator=generator)
    cells = _random_cells(generator)
    regions = torch.cat([torch.zeros(_WINDOWS, 1), cells.float()], dim=1)
    last = maps.contiguous(memory_format=torch.channels_last)
    buffer = torch.empty(_WINDOWS, _CHANNELS * sum(level**2 for level in _LEVELS))

    def ours() -> Tensor:
        return pool_windows(last, cells, _LEVELS, order="bins_first", out=buffer)

    def peer() -> Tensor:
        pooled = [torchvision.ops.roi_pool(maps, regions, level).flatten(1) for level in _LEVELS]
        return torch.cat(pooled, dim=1)

    difference = (pool_windows(last, cells, _LEVELS) - peer()).abs().max().item()
    return Contest(ours, peer, difference)


def suppress() -> Contest:
    """Against batched_nms, which measures boxes whose ends are outside: it gets x2 + 1 and y2 + 1."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(_WINDOWS, 2, generator=generator) * torch.tensor([500.0, 375.0])
    sizes = 20 + torch.rand(_WINDOWS, 2, generator=generator) * 150
    boxes = torch.cat([centres - sizes / 2, centres + sizes / 2], dim=1).round()
    scores = torch.randn(_WINDOWS, _CLASSES, generator=generator)
    repeated = (boxes + torch.tensor([0, 0, 1, 1])).repeat(_CLASSES, 1)
    in_turn = scores.T.reshape(-1)
    labels = torch.arange(_CLASSES).repeat_interleave(_WINDOWS)

    def ours() -> Tensor:
        kept = suppress_per_class(boxes, scores, score_above=-torch.inf, max_overlap=_MAX_OVERLAP)
        return torch.cat([rows + label * _WINDOWS for label, rows in enumerate(kept)])

    def peer() -> Tensor:
        kept: Tensor = torchvision.ops.batched_nms(repeated, in_turn, labels, _MAX_OVERLAP)
        return kept

    kept, expected = set(ours().tolist()), set(peer().tolist())
    return Contest(ours, peer, len(kept ^ expected) / len(expected))


def _random_cells(generator: torch.Generator) -> Tensor:
    """Draw windows whose sides are as often between 1 and 2 cells as between 20 and 40."""
    bounds = torch.tensor([_WIDTH, _HEIGHT])
    sides = torch.exp(torch.rand(_WINDOWS, 2, generator=generator) * bounds.log()).long()
    first = (torch.rand(_WINDOWS, 2, generator=generator) * (bounds - sides + 1)).long()
    return torch.cat([first, first + sides - 1], dim=1)
