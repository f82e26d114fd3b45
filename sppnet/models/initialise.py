"""First weights of a net, chosen in conf/init.

The paper is silent; the authors' release draws every weight from one Gaussian (Zeiler_conv5.prototxt). Both
draw from torch's global generator, which a run seeds.
"""

from collections.abc import Callable, Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

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
class DataDependentInit:
    """Weights scaled so that real images start with the same spread in every channel of a layer.

    Random weights of a deep net answer all images nearly alike, the more so the narrower its layers, and
    a net of a few thousand images does not get over that. Here every channel's response to a sample of
    training images gets mean 0 and a chosen deviation (Krahenbuhl et al., "Data-dependent
    initializations of convolutional neural networks", ICLR 2016). The deviations fall in equal ratios
    from that of the images (about 60 on 0..255) to `score_deviation`, so that all layers learn at like rates.

    Args:
        score_deviation: Deviation of fc8's outputs at the start.
    """

    def __init__(self, *, score_deviation: float) -> None:
        self.score_deviation = score_deviation
        self._layers: list[nn.Conv2d | nn.Linear] = []

    def __call__(self, convs: Sequence[nn.Conv2d], linears: Sequence[nn.Linear]) -> None:
        """Fill the layers with numbers of the right signs and ratios; `adapt` scales them."""
        self._layers = [*convs, *linears]
        for layer in self._layers:
            _fill(layer, layer.weight[0].numel() ** -0.5, 0.0)

    @torch.no_grad()
    def adapt(self, net: nn.Module, images: Float[Tensor, "n 3 h w"]) -> None:
        """Scale the filled layers of `net`, first to last, by their responses to images on 0..255."""
        seen: list[Tensor] = []

        def measure(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # At once: the ReLU that follows works in place.
            responses = output.transpose(0, 1).flatten(1)
            seen[:] = [inputs[0].std(), responses.mean(dim=1), responses.std(dim=1)]

        was_training = net.training
        net.eval()
        start = 0.0
        for position, layer in enumerate(self._layers):
            hook = layer.register_forward_hook(measure)
            net(images)
            hook.remove()
            spread, means, deviations = seen
            start = start or float(spread)
            share = (position + 1) / len(self._layers)
            scale = start ** (1 - share) * self.score_deviation**share / deviations.clamp_min(1e-6)
            layer.weight.mul_(scale.reshape(-1, *[1] * (layer.weight.dim() - 1)))
            if layer.bias is not None:
                layer.bias.copy_(-means * scale)
        net.train(was_training)


def _at(values: tuple[float, ...], position: int) -> float:
    return values[min(position, len(values) - 1)]


def _fill(layer: nn.Conv2d | nn.Linear, std: float, bias: float) -> None:
    nn.init.normal_(layer.weight, 0.0, std)
    if layer.bias is not None:
        nn.init.constant_(layer.bias, bias)
