"""What every backbone can say about itself: its maps, its layers, its geometry.

Axes: n images, c channels, h w pixels or cells.
"""

import abc
import copy
import difflib
import functools
from collections.abc import Iterable, Mapping, Sequence, Set

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sppnet.errors import ConfigError
from sppnet.ops.receptive_field import ReceptiveField, receptive_field

_LARGEST_SIDE = 1 << 16


class Backbone(nn.Module, abc.ABC):
    """Maps normalised images to the last convolution's activations.

    Attributes:
        name: What reports call it, such as "ZF-5".
        trunk: The modules that do the work.
        roles: From the glossary's names, "conv4" for the last but one convolution and "conv5" for the last,
            to the submodules whose output is meant (after the activation).
        mean: Per-channel mean of the images it was made for, 0..255; only a TorchvisionBackbone has its own.
        std: Per-channel deviation to divide by, 0..255.
        own_init: Whether `trunk` comes with weights, or with an initialisation, of its own.
    """

    def __init__(
        self,
        *,
        name: str,
        trunk: nn.Module,
        roles: Mapping[str, str],
        mean: Sequence[float],
        std: Sequence[float],
        own_init: bool,
    ) -> None:
        super().__init__()
        self.name = name
        self.trunk = trunk
        self.roles = dict(roles)
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.own_init = own_init

    @abc.abstractmethod
    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c h2 w2"]:
        """Compute the maps of normalised images."""

    @abc.abstractmethod
    def _outputs(self, images: Tensor, modules: Set[str]) -> dict[str, Tensor]:
        """Outputs of these submodules, and nothing behind the deepest."""

    @property
    @abc.abstractmethod
    def layers(self) -> tuple[str, ...]:
        """Names of the submodules whose output `activations` can return, in no particular order."""

    def activations(
        self, images: Float[Tensor, "n 3 h w"], layers: Sequence[str]
    ) -> dict[str, Float[Tensor, "n _ _ _"]]:
        """Compute the outputs of layers in one pass, and nothing behind the deepest.

        Args:
            images: Normalised images.
            layers: Roles ("conv4", "conv5") or names of submodules.

        Raises:
            ConfigError: There is no such layer.
        """
        modules = {layer: self.roles.get(layer, layer) for layer in layers}
        for layer, module in modules.items():
            if module not in self.layers:
                raise ConfigError(
                    f"{self.name} has no layer {layer!r}{close_matches(layer, self.layers)}; "
                    f"roles are {', '.join(self.roles)}"
                )
        outputs = self._outputs(images, set(modules.values()))
        return {layer: outputs[module] for layer, module in modules.items()}

    @functools.cached_property
    def receptive_field(self) -> ReceptiveField:
        """Stride, size and offset of a cell, derived from the modules (Appendix A)."""
        return receptive_field(self.trunk)

    @functools.cached_property
    def stride(self) -> int:
        """Pixels from one cell to the next, also of trunks whose receptive field cannot be derived."""
        return self.min_size(9) - self.min_size(8)

    @functools.cached_property
    def out_channels(self) -> int:
        """Channels of the maps."""
        size = self.min_size(1)
        return self._probe(size)[1]

    def min_size(self, cells: int) -> int:
        """Smallest image side, in pixels, whose map has at least `cells` cells per side.

        Raises:
            ConfigError: No image of a sensible size has so many.
        """
        # Every layer's output grows with its input, so the answer can be halved for.
        low, high = 0, 32
        while self._cells(high) < cells:
            low, high = high, 2 * high
            if high > _LARGEST_SIDE:
                raise ConfigError(f"{self.name}: no image of {_LARGEST_SIDE} pixels makes {cells} cells")
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._cells(middle) >= cells else (middle, high)
        return high

    def _cells(self, size: int) -> int:
        try:
            return self._probe(size)[2]
        except RuntimeError:  # torch refuses a kernel larger than its input
            return 0

    def _probe(self, size: int) -> torch.Size:
        with torch.no_grad():
            shape: torch.Size = self._skeleton(torch.empty(1, 3, size, size, device="meta")).shape
        return shape

    @functools.cached_property
    def _skeleton(self) -> nn.Module:
        """The trunk without numbers: it computes shapes at no cost."""
        tensors = (*self.parameters(), *self.buffers())
        return copy.deepcopy(self, {id(t): torch.empty_like(t, device="meta") for t in tensors}).eval()


def close_matches(name: str, names: Iterable[str]) -> str:
    """Word a hint at the names nearest to a mistyped one: "; did you mean a, b?", or nothing."""
    near = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    return f"; did you mean {', '.join(near)}?" if near else ""
