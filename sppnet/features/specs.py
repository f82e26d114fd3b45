"""Which features of a net are wanted: a layer, as it is or pooled.

Axes: n images, c channels, h w cells.
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from sppnet.errors import ConfigError
from sppnet.models.sppnet import SppNet
from sppnet.ops.pyramid import pool_pyramid

VECTOR_LAYERS = ("pool", "fc6", "fc7")


class FeatureSpec(NamedTuple):
    """One kind of feature vector.

    Attributes:
        layer: As for `SppNet.features`: conv4, conv5, pool, fc6, fc7 or a submodule of the backbone.
        levels: Bins per side of the levels that maps are max-pooled over; None leaves a vector as it is
            and flattens maps, channel by channel, row by row.
    """

    layer: str
    levels: tuple[int, ...] | None

    @classmethod
    def parse(cls, text: str) -> "FeatureSpec":
        """Read "fc7", "conv5@6" or "features.12@6,3,2,1": a layer and the levels it is pooled over.

        Raises:
            ConfigError: What follows the @ is not a list of numbers, 1 or more.
        """
        layer, at, levels = text.partition("@")
        try:
            spec = cls(layer, tuple(int(level) for level in levels.split(",")) if at else None)
        except ValueError as error:
            raise ConfigError(f"feature {text!r}: expected LAYER or LAYER@6,3,2,1") from error
        if not layer or (spec.levels is not None and min(spec.levels) < 1):
            raise ConfigError(f"feature {text!r}: expected LAYER or LAYER@6,3,2,1, every level 1 or more")
        return spec

    @property
    def name(self) -> str:
        """The text that `parse` reads."""
        return self.layer if self.levels is None else f"{self.layer}@{','.join(map(str, self.levels))}"

    def vectors(
        self, outputs: Float[Tensor, "n features"] | Float[Tensor, "n c h w"]
    ) -> Float[Tensor, "n dim"]:
        """Make vectors of the layer's outputs.

        Raises:
            ValueError: A map has fewer cells than a level has bins.
        """
        return outputs.flatten(1) if self.levels is None else pool_pyramid(outputs, self.levels)

    def require_sense(self, net: SppNet, *, is_square: bool) -> None:
        """Refuse what cannot become vectors of one length.

        Args:
            net: The net the layer belongs to.
            is_square: Whether all images have one shape.

        Raises:
            ConfigError: Levels for a layer of vectors, or none for maps of varying size.
        """
        if self.layer in VECTOR_LAYERS and self.levels is not None:
            raise ConfigError(
                f"feature {self.name}: {self.layer} is a vector and cannot be pooled; "
                f"write {self.layer}, or a layer of maps such as conv5@{self.name.partition('@')[2]}"
            )
        if self.layer not in VECTOR_LAYERS and self.levels is None and not is_square:
            levels = ",".join(map(str, net.levels))
            raise ConfigError(
                f"feature {self.name}: the maps of full images differ in size and cannot be flattened; "
                f"use the view crop or warp, or pool them: {self.layer}@{levels}"
            )


def level_columns(channels: int, levels: tuple[int, ...], level: int) -> slice:
    """Columns of one level in what `pool_pyramid` returns: the first 36 c of [6, 3, 2, 1] for 6.

    Raises:
        ConfigError: The pyramid has no such level.
    """
    if level not in levels:
        raise ConfigError(f"no level {level} in the pyramid {list(levels)}")
    start = channels * sum(side**2 for side in levels[: levels.index(level)])
    return slice(start, start + channels * level**2)
