"""First weights of fc layers for a trunk that comes without, made of the vectors they will see.

The paper fine-tunes pre-trained ones (§4.1). Here fc6 begins with the directions in which pooled windows
differ most (as Krahenbuhl et al., "Data-dependent initializations of convolutional neural networks", ICLR
2016, begin layers), each once as it is and once with its sign turned, so that the two ReLUs lose nothing of
it; fc7 begins by handing on what it gets.

Axes: n windows, d numbers a pooled vector.
"""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sppnet.artifacts import stable_seed
from sppnet.data.window_labels import DetectionImage, windows_of_image
from sppnet.windows.source import WindowSource

_NUM_IMAGES: Final = 150
_NUM_WINDOWS: Final = 20  # of every image


def sample_windows(
    images: Sequence[DetectionImage], source: WindowSource, *, seed: int
) -> Float[Tensor, "n d"]:
    """Compute the vectors of some random windows of some random images."""
    generator = torch.Generator().manual_seed(stable_seed(seed, "first weights"))
    rows = [torch.empty(0, source.dim)]
    for index in torch.randperm(len(images), generator=generator)[:_NUM_IMAGES].tolist():
        windows = windows_of_image(images[index].proposals, images[index].truth)
        some = torch.randperm(len(windows), generator=generator)[:_NUM_WINDOWS]
        rows.append(source.rows(images[index].image.path, windows[some]))
    return torch.cat(rows)


@torch.no_grad()
def begin_with_directions(
    fc6: nn.Linear, fc7: nn.Linear, rows: Float[Tensor, "n d"], *, scale: float
) -> None:
    """Fill fc6 and fc7; outputs of fc6 without a direction of their own begin at 0.

    Args:
        fc6: From pooled vectors.
        fc7: From fc6.
        rows: Pooled vectors, more than half as many as fc6 has outputs.
        scale: What fc6 multiplies centred vectors by.
    """
    mean = rows.mean(dim=0)
    centred = rows - mean
    values, vectors = torch.linalg.eigh((centred @ centred.T).double())
    num = min(fc6.out_features // 2, len(rows) - 1)
    longest = (vectors[:, -num:] / values[-num:].clamp(min=values[-1] * 1e-9).sqrt()).float()
    directions = scale * (centred.T @ longest).T
    fc6.weight.zero_()
    fc6.weight[:num], fc6.weight[num : 2 * num] = directions, -directions
    fc6.bias.copy_(-(fc6.weight @ mean))
    nn.init.eye_(fc7.weight)
    fc7.bias.zero_()
