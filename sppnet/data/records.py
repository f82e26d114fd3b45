"""What travels between files, loaders and tasks: frozen, named, and known to Lightning's transfer.

Axes: n images, v cuts per image, 3 colours (red, green, blue), h w pixels.
"""

from typing import NamedTuple

from jaxtyping import Float, Int, UInt8
from torch import Tensor


class Draw(NamedTuple):
    """One use of one training image; everything random about it follows from these numbers and a seed."""

    index: int  # type: ignore[assignment]  # into the training set; hides tuple.index, which nobody needs
    epoch: int
    height: int  # at which the network is to see the image, pixels
    width: int


class ImageBatch(NamedTuple):
    """Training images, all of one shape, before they are resized to `height` x `width`."""

    images: UInt8[Tensor, "n 3 h w"]
    colour_shift: Float[Tensor, "n 3"]  # to be added to every pixel, on the 0..255 scale
    labels: Int[Tensor, " n"]
    height: int  # that the network is to see (§2.3.2: 224 or 180); the task resizes on its device
    width: int
    ids: Int[Tensor, " n"]  # index of each image in its set

    @property
    def size(self) -> int:
        """Short side that the network is to see, pixels."""
        return min(self.height, self.width)


class ViewBatch(NamedTuple):
    """Validation or test images: what a view cuts out of each, for every short side it asks for."""

    images: tuple[UInt8[Tensor, "n v 3 h w"], ...]
    labels: Int[Tensor, " n"]
    ids: Int[Tensor, " n"]  # index of each image in its set
