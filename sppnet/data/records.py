"""What travels between files, loaders and tasks: frozen, named, and known to Lightning's transfer.

Axes: n images, views per image, 3 colours (red, green, blue), h w pixels.
"""

from typing import NamedTuple

from jaxtyping import Float, Int, UInt8
from torch import Tensor


class Draw(NamedTuple):
    """One use of one training image; everything random about it follows from these numbers and a seed."""

    index: int  # type: ignore[assignment]  # into the training set; hides tuple.index, which nobody needs
    epoch: int
    size: int  # side at which the network is to see the image, pixels


class ImageBatch(NamedTuple):
    """Training images: square regions, all of one size, before they are resized to `size`."""

    images: UInt8[Tensor, "n 3 h w"]
    colour_shift: Float[Tensor, "n 3"]  # to be added to every pixel, on the 0..255 scale
    labels: Int[Tensor, " n"]
    size: int  # side the network is to see (§2.3.2: 224 or 180); the task resizes on its device
    ids: Int[Tensor, " n"]  # index of each image in its set


class ViewBatch(NamedTuple):
    """Validation or test images: every view of every image."""

    images: UInt8[Tensor, "n views 3 h w"]
    labels: Int[Tensor, " n"]
    ids: Int[Tensor, " n"]  # index of each image in its set
