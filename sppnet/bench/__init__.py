"""Side-by-side timings against what a user would write with stock modules.

Why CPU time on one thread, interleaved: wall time on a shared machine measured the neighbours.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Contest(NamedTuple):
    """What a benchmark row compares.

    Attributes:
        ours: Our way.
        peer: The other.
        difference: By how much the results differ, relative to the largest number.
        peer_scale: How many times its work the peer would have to do, where it is given a part of ours.
        repetitions: Of each side; with three or fewer none is for warming up.
    """

    ours: "Callable[[], Tensor]"
    peer: "Callable[[], Tensor]"
    difference: float
    peer_scale: float = 1.0
    repetitions: int = 7
