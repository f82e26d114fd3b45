"""The rows of `sppnet bench`. Importing this costs nothing: torch comes with the first row that runs."""

import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from sppnet.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

# name -> what is compared; the work itself is in contests.py, under the same names
ROWS = {
    "pyramid": "pool_pyramid, 64 maps 256x13x13, against four AdaptiveMaxPool2d",
    "pyramid_backward": "the same, forward and backward",
    "lrn": "local_response_norm, one map 96x342x457, against nn.LocalResponseNorm",
    "lrn_backward": "the same on 16 maps 96x55x55, forward and backward",
    "window_pooling": "pool_windows, 2000 windows of a map 256x43x58, bins first, against four roi_pool",
    "suppress": "suppress_per_class, 20 classes of 2000 boxes, against batched_nms",
    "many_views": "96 + 2 views of a JPEG, Overfeat-7, against its conv passes alone (0.77: 1.3 times)",
    "svm_primal": "20 one-vs-rest SVMs, 5011x4096, C=1, against LinearSVC (4 classes timed, x5); differ: gap",
    "svm_dual": "20 one-vs-rest SVMs, 5011x12800, C=1, against LinearSVC (4 classes timed, x5); differ: gap",
    "svm_hard_negatives": "20 SVMs, 10000 windows x 12800, hinge, against LinearSVC (4 timed, x5)",
    "spp_vs_rcnn": "2000 windows of 500x375 to fc7, ZF-5 at 688, against R-CNN alike (125 timed, x16)",
    "spp_vs_rcnn_five": "the same at five scales",
    "spp_maps_vs_rcnn": "its convolutions alone at 688, against R-CNN's (16 windows timed, x125)",
    "spp_maps_vs_rcnn_five": "the same at five scales",
    "trunk": "the five convolutions of ZF-5 on an image of 688x917, against the stock modules",
    "trunk_backward": "the same on 8 images of 224x224, forward and backward",
}
_FEW = 3  # repetitions of work that is its own warm-up


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


class BenchRow(NamedTuple):
    """One comparison: medians of CPU time on one thread, in milliseconds.

    Attributes:
        name: Key of `ROWS`.
        ours_ms: Time of sppnet.
        peer_ms: Time of the stock modules, in their default memory layout.
        ratio: peer_ms / ours_ms.
        note: What was compared, the ratio of the minima, and the largest difference of the results.
    """

    name: str
    ours_ms: float
    peer_ms: float
    ratio: float
    note: str


def available_rows() -> list[str]:
    """Rows whose peers are installed."""
    has_sklearn = importlib.util.find_spec("sklearn") is not None
    return [name for name in ROWS if has_sklearn or not name.startswith("svm")]


def run_bench(rows: Sequence[str]) -> list[BenchRow]:
    """Time the named rows, one after the other.

    Args:
        rows: Keys of `ROWS`.

    Raises:
        ConfigError: There is no such row.
    """
    if unknown := [name for name in rows if name not in ROWS]:
        raise ConfigError(f"no benchmark {', '.join(unknown)}; there are {', '.join(ROWS)}")
    if lacking := [name for name in rows if name not in available_rows()]:
        raise ConfigError(f"{', '.join(lacking)}: the peer is not installed; pip install scikit-learn")
    import torch

    from sppnet.bench.contests import CONTESTS

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [_timed(name, CONTESTS[name]()) for name in rows]
    finally:
        torch.set_num_threads(threads)


def _timed(name: str, contest: Contest) -> BenchRow:
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    warms_up = contest.repetitions > _FEW
    for repetition in range(contest.repetitions + warms_up):
        for side, work, scale in (("ours", contest.ours, 1.0), ("peer", contest.peer, contest.peer_scale)):
            start = time.process_time()
            work()
            if repetition or not warms_up:  # the first warms caches and allocators up
                times[side].append(1000 * scale * (time.process_time() - start))
    ours_ms, peer_ms = (statistics.median(times[side]) for side in ("ours", "peer"))
    of_minima = min(times["peer"]) / min(times["ours"])
    note = f"{ROWS[name]}; ratio of the minima {of_minima:.1f}; results differ by {contest.difference:.0e}"
    return BenchRow(name, ours_ms, peer_ms, peer_ms / ours_ms, note)
