"""How an image is shown to a network at test time, and what the network then says (paper §3.1.3-3.1.5).

Axes: n images of one size, v views, c channels, h w pixels or cells.

A view asks for an image at one or more short sides (`short_sides`), cuts what travels to the network's
device out of each (`cut`, in the loader's process), and turns a batch of that into softmax scores, one
vector a view (`softmax`). The score of an image is their plain mean.

Views on feature maps are in map_views.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from sppnet.errors import ConfigError
from sppnet.models.sppnet import SppNet
from sppnet.ops.crops import centre_crop, ten_crop


@runtime_checkable  # the tests check argument types
class View(Protocol):
    """One way to test a network on an image.

    Attributes:
        short_sides: Short sides at which it wants the image, pixels.
        num_views: Score vectors an image.
        is_square: Whether `cut` makes the same shape of every image, so that all of them stack.
    """

    @property
    def short_sides(self) -> tuple[int, ...]: ...  # noqa: D102 - an attribute
    @property
    def num_views(self) -> int: ...  # noqa: D102
    @property
    def is_square(self) -> bool: ...  # noqa: D102

    def cut(self, image: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "v 3 h2 w2"]:
        """Cut out of an image, resized to one of the short sides, what the network gets."""
        ...

    def softmax(self, net: SppNet, images: Sequence[Tensor]) -> Float[Tensor, "n views classes"]:
        """Softmax scores of every view of n images.

        Args:
            net: In evaluation mode.
            images: For each short side the stacked cuts, `n v 3 h w` on 0..255.
        """
        ...


@dataclass(frozen=True)
class OneSideView:
    """Views of one size, taken of an image at one short side.

    Args:
        short_side: Of the resized image, pixels.
        size: Side of the square views, pixels.
    """

    short_side: int
    size: int

    name: ClassVar[str]

    def __post_init__(self) -> None:
        require_room(self.name, self.size, self.short_side)

    @property
    def short_sides(self) -> tuple[int, ...]:
        """The one short side."""
        return (self.short_side,)


@final
class CropView(OneSideView):
    """The central square (Table 3, "1 crop")."""

    name, num_views, is_square = "crop", 1, True

    def cut(self, image: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "1 3 size size"]:
        """The square."""
        return centre_crop(image, self.size)[None]

    def softmax(self, net: SppNet, images: Sequence[Tensor]) -> Float[Tensor, "n 1 classes"]:
        """Scores of the squares."""
        return _of_stacks(net, images[0])


@final
class TenCropView(OneSideView):
    """Centre and four corners of the entire resized image, and their mirror images (§3.1, footnote 1)."""

    name, num_views, is_square = "ten_crop", 10, True

    def cut(self, image: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "10 3 size size"]:
        """The ten squares."""
        return ten_crop(image, self.size)

    def softmax(self, net: SppNet, images: Sequence[Tensor]) -> Float[Tensor, "n 10 classes"]:
        """Scores of the squares."""
        return _of_stacks(net, images[0])


@final
@dataclass(frozen=True)
class FullView:
    """The whole image, its aspect ratio kept (§3.1.4).

    Args:
        short_side: Of the resized image, pixels.
        flip: Whether the mirror image is a second view.
    """

    short_side: int
    flip: bool

    is_square = False

    @property
    def num_views(self) -> int:
        """One, or two with the mirror image."""
        return 2 if self.flip else 1

    @property
    def short_sides(self) -> tuple[int, ...]:
        """The one short side."""
        return (self.short_side,)

    def cut(self, image: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "1 3 h w"]:
        """All of it."""
        return image[None]

    def softmax(self, net: SppNet, images: Sequence[Tensor]) -> Float[Tensor, "n views classes"]:
        """Scores of the images (and their mirror images)."""
        stacks = images[0]
        return _of_stacks(net, torch.cat([stacks, stacks.flip(-1)], dim=1) if self.flip else stacks)


def _of_stacks(net: SppNet, stacks: Tensor) -> Float[Tensor, "n v classes"]:
    """Softmax of images that are all of one size, `n v 3 h w`."""
    scores: Tensor = net(stacks.flatten(0, 1).float()).softmax(dim=1)
    return scores.reshape(*stacks.shape[:2], -1)


def require_room(name: str, size: int, short_side: int) -> None:
    """Refuse a view that is larger than its image.

    Raises:
        ConfigError: It is.
    """
    if size < 1:
        raise ConfigError(f"view={name}: image.size={size} must be 1 or more pixels")
    if size > short_side:
        raise ConfigError(
            f"view={name}: a view of image.size={size} pixels does not fit into a short side of "
            f"{short_side}; "
            f"raise view.short_side (view.test_sides), or lower image.size"
        )
