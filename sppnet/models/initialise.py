"""First weights of a net, chosen in conf/init.

The paper is silent; the authors' release draws every weight from one Gaussian (Zeiler_conv5.prototxt). Both
draw from torch's global generator, which a run seeds.
"""

from collections.abc import Callable, Sequence
from typing import final

from torch import nn

# Fills the convolutions and the fully connected layers, each in the order of the net.
Init = Callable[[Sequence[nn.Conv2d], Sequence[nn.Linear]], None]


@final
class GaussianInit:
    """Weights ~ N(0, std**2) whatever a layer's size; biases by position.

    Args:
        std: Deviation of every weight (0.01 presumes images on 0..255).
        conv_biases: Bias of conv1, conv2 and so on; further convolutions take the last.
        fc_biases: Bias of fc6, fc7, fc8.
    """

    def __init__(self, *, std: float, conv_biases: Sequence[float], fc_biases: Sequence[float]) -> None:
        self.std = std
        self.conv_biases = tuple(conv_biases)
        self.fc_biases = tuple(fc_biases)

    def __call__(self, convs: Sequence[nn.Conv2d], linears: Sequence[nn.Linear]) -> None:
        """Fill the layers."""
        for position, conv in enumerate(convs):
            _fill(conv, self.std, _at(self.conv_biases, position))
        for position, linear in enumerate(linears):
            _fill(linear, self.std, _at(self.fc_biases, position))


@final
class ScaledInit:
    """Weights ~ N(0, gain**2 / fan_in), biases 0: the same activations at any width.

    Args:
        gain: Square root of the variance one layer hands on; sqrt(2) keeps that of ReLU nets.
    """

    def __init__(self, *, gain: float) -> None:
        self.gain = gain

    def __call__(self, convs: Sequence[nn.Conv2d], linears: Sequence[nn.Linear]) -> None:
        """Fill the layers."""
        layers: list[nn.Conv2d | nn.Linear] = [*convs, *linears]
        for layer in layers:
            fan_in = layer.weight[0].numel()
            _fill(layer, self.gain * fan_in**-0.5, 0.0)


def _at(values: tuple[float, ...], position: int) -> float:
    return values[min(position, len(values) - 1)]


def _fill(layer: nn.Conv2d | nn.Linear, std: float, bias: float) -> None:
    nn.init.normal_(layer.weight, 0.0, std)
    if layer.bias is not None:
        nn.init.constant_(layer.bias, bias)
