"""What the windows of one training image are worth to fine-tuning, SVMs and box regression (paper §4.1).

Axes: p proposals, m annotated objects, n windows, k classes.

The windows of an image are its ground truth followed by its proposals, as in R-CNN, whose code also counts
the ground truth of one class among the possible negatives of another (rcnn_train.m). `rows` are positions
in that list. Difficult objects are objects like all others, save where a parameter says otherwise.
Overlaps are IoU, both ends of a box counted; of two objects that a window overlaps equally, the first counts.
"""

from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sppnet.data.voc2007 import AnnotatedImage
from sppnet.errors import ConfigError
from sppnet.ops.boxes import iou, require_boxes
from sppnet.ops.suppression import suppress


@final
class GroundTruth(NamedTuple):
    """The annotated objects of one image."""

    boxes_xyxy: Float[Tensor, "m 4"]  # 0-based pixels, both ends belong to the box
    labels: Int[Tensor, " m"]  # 0 is the first class
    is_difficult: Bool[Tensor, " m"]  # found or not, these do not count in average precision


@final
class DetectionImage(NamedTuple):
    """An annotated image to detect objects in, and where they may be."""

    image: AnnotatedImage
    proposals: Float[Tensor, "p 4"]  # x1 y1 x2 y2, 0-based inclusive pixels of the file as stored

    @property
    def truth(self) -> GroundTruth:
        """Its objects."""
        return GroundTruth(self.image.boxes_xyxy, self.image.labels, self.image.is_difficult)


@final
class ClassifiedWindows(NamedTuple):
    """Windows to fine-tune with; positives first, each kind in the order of the image's windows."""

    windows: Float[Tensor, "n 4"]
    labels: Int[Tensor, " n"]  # 0 is the background, 1 the first class
    rows: Int[Tensor, " n"]


@final
class SignedWindows(NamedTuple):
    """All windows of an image, and what each is to every class's SVM."""

    windows: Float[Tensor, "n 4"]
    signs: Int[Tensor, "n k"]  # +1 positive, -1 negative, 0 left out


@final
class AssignedWindows(NamedTuple):
    """Windows that box regression learns from."""

    windows: Float[Tensor, "n 4"]
    truth: Float[Tensor, "n 4"]  # the box each of them should become
    labels: Int[Tensor, " n"]  # of that box's class; 0 is the first
    rows: Int[Tensor, " n"]


def windows_of_image(proposals: Float[Tensor, "p 4"], truth: GroundTruth) -> Float[Tensor, "n 4"]:
    """Ground truth followed by proposals.

    Raises:
        ValueError: A box is inverted or not finite.
    """
    require_boxes(truth.boxes_xyxy, "truth")
    require_boxes(proposals, "proposal")
    return torch.cat([truth.boxes_xyxy.to(proposals), proposals])


def label_for_finetuning(
    proposals: Float[Tensor, "p 4"],
    truth: GroundTruth,
    *,
    positive_overlap: float,
    background_overlap: float,
) -> ClassifiedWindows:
    """Tell objects from background by the largest overlap with any object (§4.1).

    Args:
        proposals: x1 y1 x2 y2.
        truth: Of the same image.
        positive_overlap: From here on a window shows the object's class (0.5).
        background_overlap: From here on, up to `positive_overlap`, it is background (0.1); what overlaps
            less is not used.

    Raises:
        ConfigError: The overlaps are not in order.
        ValueError: A box is inverted or not finite.
    """
    if not 0 <= background_overlap < positive_overlap <= 1:
        raise ConfigError(
            f"background_overlap={background_overlap} and positive_overlap={positive_overlap}: expected "
            f"0 <= background_overlap < positive_overlap <= 1"
        )
    windows = windows_of_image(proposals, truth)
    overlaps, objects = _best_objects(windows, truth)
    positives = (overlaps >= positive_overlap).nonzero()[:, 0]
    negatives = ((overlaps >= background_overlap) & (overlaps < positive_overlap)).nonzero()[:, 0]
    rows = torch.cat([positives, negatives])
    classes = truth.labels.to(objects)[objects[positives]] + 1
    return ClassifiedWindows(windows[rows], torch.cat([classes, torch.zeros_like(negatives)]), rows)


def label_for_svm(
    proposals: Float[Tensor, "p 4"],
    truth: GroundTruth,
    *,
    num_classes: int,
    negative_overlap: float,
    duplicate_overlap: float,
    difficult_positives: bool,
) -> SignedWindows:
    """Mark the ground truth of every class, and what overlaps none of it.

    A negative that overlaps an earlier one too much is left out: "any negative sample is removed if it
    overlaps another negative sample by more than 70 percent" (§4.1).

    Args:
        proposals: x1 y1 x2 y2.
        truth: Of the same image.
        num_classes: k.
        negative_overlap: A negative overlaps every object of the class, difficult ones too, less (0.3).
        duplicate_overlap: IoU above which the later of two negatives is left out (0.7).
        difficult_positives: Whether difficult objects are positives, as in R-CNN's code, or left out.

    Raises:
        ConfigError: An overlap is out of range.
        ValueError: A box is inverted or not finite.
    """
    if not (0 <= negative_overlap <= 1 and 0 <= duplicate_overlap <= 1):
        raise ConfigError(
            f"negative_overlap={negative_overlap} and duplicate_overlap={duplicate_overlap}: expected "
            f"numbers from 0 to 1"
        )
    windows = windows_of_image(proposals, truth)
    overlaps = iou(windows, truth.boxes_xyxy.to(windows))
    labels = truth.labels.to(windows.device)
    signs = torch.zeros(len(windows), num_classes, dtype=torch.int64, device=windows.device)
    everything = torch.ones(len(windows), dtype=torch.bool, device=windows.device)
    # Most classes are absent from an image and share their negatives, which are thinned out once.
    signs[_without_duplicates(windows, everything, duplicate_overlap)] = -1
    for label in set(labels.tolist()):
        is_negative = (overlaps[:, labels == label] < negative_overlap).all(dim=1)
        signs[:, label] = 0
        signs[_without_duplicates(windows, is_negative, duplicate_overlap), label] = -1
    positives = (~truth.is_difficult.to(windows.device) | difficult_positives).nonzero()[:, 0]
    signs[positives, labels[positives]] = 1
    return SignedWindows(windows, signs)


def assign_truth(
    proposals: Float[Tensor, "p 4"], truth: GroundTruth, *, min_overlap: float
) -> AssignedWindows:
    """Give every window that overlaps an object well the object it overlaps most, of whatever class.

    Args:
        proposals: x1 y1 x2 y2.
        truth: Of the same image.
        min_overlap: Least IoU (0.5 in §4.1, 0.6 in R-CNN's code), over 0.

    Raises:
        ConfigError: `min_overlap` is out of range.
        ValueError: A box is inverted or not finite.
    """
    if not 0 < min_overlap <= 1:
        raise ConfigError(f"min_overlap={min_overlap}: expected an intersection over union over 0, up to 1")
    windows = windows_of_image(proposals, truth)
    overlaps, objects = _best_objects(windows, truth)
    rows = (overlaps >= min_overlap).nonzero()[:, 0]
    chosen = objects[rows]
    return AssignedWindows(
        windows[rows], truth.boxes_xyxy.to(windows)[chosen], truth.labels.to(chosen)[chosen], rows
    )


def _best_objects(
    windows: Float[Tensor, "n 4"], truth: GroundTruth
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Every window's largest overlap, and with which object; zeros where there is no object."""
    overlaps = iou(windows, truth.boxes_xyxy.to(windows))
    if not len(truth.boxes_xyxy):
        return overlaps.new_zeros(len(windows)), windows.new_zeros(len(windows), dtype=torch.int64)
    best = overlaps.max(dim=1)
    return best.values, best.indices


def _without_duplicates(
    windows: Float[Tensor, "n 4"], is_candidate: Bool[Tensor, " n"], max_overlap: float
) -> Int[Tensor, " kept"]:
    """Rows of the candidates that overlap no earlier one that stays; with equal scores, the first wins."""
    rows = is_candidate.nonzero()[:, 0]
    return rows[suppress(windows[rows], windows.new_zeros(len(rows)), max_overlap)]
