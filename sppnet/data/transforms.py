"""What training sees of an image: a region or all of it, perhaps mirrored, with altered colours (paper §3.1).

All randomness of one use of one image comes from one generator, seeded by (seed, epoch, index): it does
not matter which worker reads the image, nor when.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, final, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from sppnet.data.records import Draw
from sppnet.data.splits import DrawRegion
from sppnet.errors import ConfigError


class TrainView(NamedTuple):
    """One use of one training image."""

    region: UInt8[Tensor, "3 h w"]
    colour_shift: Float[Tensor, " 3"]
    label: int | None = None  # where the region decides it; otherwise the image's


class Place(NamedTuple):
    """Where one use of a training image lies in the resized image."""

    top: int
    left: int
    height: int
    width: int
    is_mirrored: bool
    label: int | None = None  # where the region decides it; otherwise the image's

    def cut(self, image: UInt8[Tensor, "3 _h _w"]) -> UInt8[Tensor, "3 h w"]:
        """Its pixels."""
        region = image[:, self.top : self.top + self.height, self.left : self.left + self.width]
        return region.flip(2) if self.is_mirrored else region


@runtime_checkable  # the tests check argument types
class Transform(Protocol):
    """Makes one use of an image out of its resized pixels."""

    def __call__(self, image: UInt8[Tensor, "3 h w"], draw: Draw, generator: torch.Generator) -> TrainView:
        """One use."""
        ...

    def place(self, draw: Draw, height: int, width: int, generator: torch.Generator) -> Place:
        """The same use's place in an image of `height` x `width` pixels."""
        ...


@final
class ColourNoise:
    """AlexNet's colour altering: one random shift along the principal axes of RGB values.

    The shift is scale * sum_i N(0, 1) * std_i * axis_i, on the 0..255 scale, the same for all pixels of
    an image. Units trap: `std` are standard deviations; AlexNet's text says eigenvalues, which would be
    over a thousand grey levels (cuda-convnet2, convdata.py, multiplies by deviations).

    Args:
        scale: Standard deviation of the random factors; 0 switches the altering off.
        std: Standard deviation of RGB values along each axis, in grey levels.
        axes: The axes, unit vectors (R, G, B), in the order of `std`.
    """

    def __init__(self, *, scale: float, std: Sequence[float], axes: Sequence[Sequence[float]]) -> None:
        if len(std) != 3 or [len(axis) for axis in axes] != [3, 3, 3]:
            raise ConfigError("data.colour needs three numbers in std and three axes of three numbers")
        self.weighted_axes = (
            scale * torch.tensor(list(std))[:, None] * torch.tensor([list(axis) for axis in axes])
        )

    def draw(self, generator: torch.Generator) -> Float[Tensor, " 3"]:
        """A shift for one use of one image, grey levels of R, G, B."""
        return torch.randn(3, generator=generator) @ self.weighted_axes


@final
@dataclass(frozen=True)
class WholeTransform:
    """The whole image at the draw's height and width, mirror image, colour shift."""

    colour: ColourNoise

    def __call__(self, image: UInt8[Tensor, "3 h w"], draw: Draw, generator: torch.Generator) -> TrainView:
        """Stretch a whole image, by less than a bucket's step, to the shape that its batch has."""
        whole = F.interpolate(image[None], (draw.height, draw.width), mode="bilinear", antialias=True)[0]
        place = self.place(draw, draw.height, draw.width, generator)
        return TrainView(place.cut(whole), self.colour.draw(generator))

    def place(self, draw: Draw, height: int, width: int, generator: torch.Generator) -> Place:
        """All of an image of `height` x `width` pixels."""
        return Place(0, 0, height, width, _is_mirrored(generator))


@final
@dataclass(frozen=True)
class RegionTransform:
    """Square region, mirror image, colour shift.

    Args:
        crop: Side of the region in pixels.
        train_crop: "random", anywhere in the resized image, or "five", its centre or a corner.
        colour: How colours are altered.
        regions: Of every image, where its content and not `train_crop` decides region and label (§4.5).
    """

    crop: int
    train_crop: str
    colour: ColourNoise
    regions: tuple[DrawRegion, ...] = ()

    def __post_init__(self) -> None:
        if self.train_crop not in _CORNERS:
            raise ConfigError(f"data.train_crop={self.train_crop!r} must be one of {', '.join(_CORNERS)}")

    def __call__(self, image: UInt8[Tensor, "3 h w"], draw: Draw, generator: torch.Generator) -> TrainView:
        """Cut a square region out of a whole resized image; the task resizes it to the draw's size."""
        height, width = image.shape[1:]
        place = self.place(draw, height, width, generator)
        return TrainView(place.cut(image), self.colour.draw(generator), place.label)

    def place(self, draw: Draw, height: int, width: int, generator: torch.Generator) -> Place:
        """A region of an image of `height` x `width` pixels."""
        label = None
        if self.regions:
            top, left, label = self.regions[draw.index](height, width, generator)
        else:
            top, left = _CORNERS[self.train_crop](height - self.crop, width - self.crop, generator)
        return Place(top, left, self.crop, self.crop, _is_mirrored(generator), label)


def _is_mirrored(generator: torch.Generator) -> bool:
    return bool(torch.rand((), generator=generator) < 0.5)


def random_corner(max_top: int, max_left: int, generator: torch.Generator) -> tuple[int, int]:
    """Top and left of a region anywhere in the entire image (cuda-convnet2; §4.5 "randomly crop")."""
    top = torch.randint(max_top + 1, (), generator=generator)
    left = torch.randint(max_left + 1, (), generator=generator)
    return int(top), int(left)


def one_of_five_corners(max_top: int, max_left: int, generator: torch.Generator) -> tuple[int, int]:
    """Top and left of "the center or the four corners from the entire image" (§3.1, read literally)."""
    positions = [
        (max_top // 2, max_left // 2),
        (0, 0),
        (0, max_left),
        (max_top, 0),
        (max_top, max_left),
    ]
    return positions[int(torch.randint(5, (), generator=generator))]


_CORNERS: dict[str, Callable[[int, int, torch.Generator], tuple[int, int]]] = {
    "random": random_corner,
    "five": one_of_five_corners,
}
