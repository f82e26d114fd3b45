"""Where the features of windows come from (paper §4.1).

Axes: n windows, d numbers a vector.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable  # the tests check argument types
class WindowSource(Protocol):
    """Makes the feature vectors of windows of a list of images."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    def rows(
        self,
        index: int,
        windows: Float[Tensor, "n 4"],
        *,
        scales: Int[Tensor, " n"] | None = None,
        out: Float[Tensor, "n d"] | None = None,
    ) -> Float[Tensor, "n d"]:
        """Compute the vectors of windows of one image.

        Args:
            index: Which image of the list.
            windows: x1 y1 x2 y2, 0-based inclusive pixels of the image as stored.
            scales: Short side at which each window is looked at; None chooses as §4.1 does.
            out: A buffer that may be written to: fresh memory costs more than pooling.

        Returns:
            float32; `out`, or a fresh tensor.
        """
