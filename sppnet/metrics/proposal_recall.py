"""How many objects have a proposal on them: the ceiling of what a detector can find (paper §4).

Axes: i images, n proposals and m objects of an image (or of all).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int, Integer
from torch import Tensor

from sppnet.errors import ConfigError, DataError
from sppnet.metrics.matching import require_objects
from sppnet.ops.boxes import iou, require_boxes


class ProposalRecall(NamedTuple):
    """What the proposals of some images cover; difficult objects are left out."""

    found: Int[Tensor, " i"]  # objects that a proposal overlaps enough
    objects: Int[Tensor, " i"]
    best_overlaps: Float64[Tensor, " m"]  # of all objects, image by image; 0 where nothing overlaps

    @property
    def recall(self) -> float:
        """Fraction of all objects that are found.

        Raises:
            DataError: There are no objects.
        """
        if not self.objects.sum():
            raise DataError("recall of proposals: no image has an object that is not difficult")
        return float(self.found.sum() / self.objects.sum())


def proposal_recall(
    proposals: Sequence[Float[Tensor, "_ 4"]],
    truth_boxes: Sequence[Float[Tensor, "_ 4"]],
    is_difficult: Sequence[Bool[Tensor, " _"] | Integer[Tensor, " _"]],
    *,
    min_overlap: float,
) -> ProposalRecall:
    """Find out which objects the proposals of their image overlap.

    Args:
        proposals: For every image, x1 y1 x2 y2, 0-based inclusive pixels.
        truth_boxes: Its objects.
        is_difficult: Which of them do not count.
        min_overlap: Least intersection over union that counts as found, in (0, 1].

    Raises:
        ConfigError: `min_overlap` is out of range.
        ValueError: The numbers of images differ, a box is none, or a flag is neither bool nor 0 or 1.
    """
    if not 0 < min_overlap <= 1:
        raise ConfigError(f"min_overlap={min_overlap} must be above 0 and at most 1")
    if not len(proposals) == len(truth_boxes) == len(is_difficult):
        numbers = f"{len(proposals)}, {len(truth_boxes)} and {len(is_difficult)}"
        raise ValueError(f"proposals, objects and flags of {numbers} images: expected the same images")
    best = []
    for boxes, truth, difficult in zip(proposals, truth_boxes, is_difficult, strict=True):
        require_boxes(boxes, "proposal")
        require_objects(truth, difficult)
        best.append(_best_overlaps(boxes, truth[~difficult.bool()]))
    return ProposalRecall(
        found=torch.tensor([int((overlaps >= min_overlap).sum()) for overlaps in best], dtype=torch.long),
        objects=torch.tensor([len(overlaps) for overlaps in best], dtype=torch.long),
        best_overlaps=torch.cat([torch.empty(0, dtype=torch.float64), *best]),
    )


def _best_overlaps(boxes: Tensor, truth: Tensor) -> Tensor:
    if not len(boxes):
        return torch.zeros(len(truth), dtype=torch.float64)
    return iou(truth, boxes).amax(dim=1)
