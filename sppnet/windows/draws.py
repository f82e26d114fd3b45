"""Which windows fine-tuning sees, and when: a quarter of every batch shows an object (paper §4.1).

A chunk is a number of batches whose windows are drawn together from a part of the images, as in the authors'
code (spp_finetune_voc.m, 500 batches), because reading an image's maps costs more than pooling its windows.

Axes: w windows of all images, b batches, n windows of a batch, d numbers a vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sppnet.data.window_labels import DetectionImage, label_for_finetuning
from sppnet.errors import ConfigError, DataError


@final
@dataclass(frozen=True)
class WindowSampling:
    """What a batch is made of.

    Args:
        batch_size: Windows of a batch (128 in the authors' code).
        positive_share: Share of them that show an object, in (0, 1] (0.25 in §4.1).
        positive_overlap: From here on a window shows the object's class (0.5).
        background_overlap: From here on, up to `positive_overlap`, it is background (0.1; R-CNN: 0).
        images_per_chunk: Images that a chunk draws from, at least: others are added until they have as many
            windows of both kinds as the chunk needs. More images mean more varied batches and more reading.
        flip: Whether half of the windows are those of mirrored images (in the release).
        random_scale: Whether every window is seen at a scale of its own (in the release), not the best one.

    Raises:
        ConfigError: No positives fit into a batch, or there are no images.
    """

    batch_size: int
    positive_share: float
    positive_overlap: float
    background_overlap: float
    images_per_chunk: int
    flip: bool
    random_scale: bool

    def __post_init__(self) -> None:
        if not (0 < self.positive_share <= 1 and self.num_positives >= 1):
            raise ConfigError(
                f"finetuning: positive_share={self.positive_share} of batch_size={self.batch_size} windows "
                f"is not one positive or more; raise them (the share up to 1)"
            )
        if self.images_per_chunk < 1:
            raise ConfigError(f"finetuning: images_per_chunk={self.images_per_chunk}: expected 1 or more")

    @property
    def num_positives(self) -> int:
        """Of every batch."""
        return round(self.positive_share * self.batch_size)


@final
class LabelledWindows(NamedTuple):
    """All windows of an image set that may be drawn, in the order of the images."""

    windows: Float[Tensor, "w 4"]  # x1 y1 x2 y2, pixels of the image as stored
    labels: Int[Tensor, " w"]  # 0 is the background, 1 the first class
    images: Int[Tensor, " w"]  # position of each one's image
    num_images: int


@final
class WindowDraws(NamedTuple):
    """Batches of windows; positives come first in each."""

    rows: Int[Tensor, "b n"]  # positions in the `LabelledWindows`
    is_mirrored: Bool[Tensor, "b n"]
    scales: Int[Tensor, "b n"] | None  # short side; None: the best one of each


def label_windows(images: Sequence[DetectionImage], sampling: WindowSampling) -> LabelledWindows:
    """Find the windows that may be drawn; images may be without objects or proposals.

    Raises:
        ConfigError: The overlaps are not in order.
        DataError: No window of any image is positive, or none is background.
        ValueError: A box is inverted or not finite.
    """
    labelled = [
        label_for_finetuning(
            image.proposals,
            image.truth,
            positive_overlap=sampling.positive_overlap,
            background_overlap=sampling.background_overlap,
        )
        for image in images
    ]
    counts = torch.tensor([len(windows.labels) for windows in labelled], dtype=torch.int64)
    # R-CNN's rule keeps nearly all proposals: ten million windows in VOC2007, so small integers.
    found = LabelledWindows(
        torch.cat([torch.empty(0, 4), *(windows.windows.float() for windows in labelled)]),
        torch.cat([torch.empty(0, dtype=torch.int16), *(windows.labels.short() for windows in labelled)]),
        torch.arange(len(images), dtype=torch.int32).repeat_interleave(counts),
        len(images),
    )
    _require_both_kinds(found, sampling)
    return found


def draw_windows(
    labelled: LabelledWindows,
    sampling: WindowSampling,
    *,
    scales: Sequence[int],
    num_batches: int,
    generator: torch.Generator,
) -> WindowDraws:
    """Draw the windows of one chunk, without replacement as long as there are enough.

    When all images together have fewer windows of a kind than the chunk needs, each of them is drawn as often
    as the others, give or take one.

    Args:
        labelled: To draw from.
        sampling: What a batch is made of.
        scales: To draw from, where scales are random.
        num_batches: Of the chunk.
        generator: Everything random comes from it.
    """
    num_backgrounds = sampling.batch_size - sampling.num_positives
    is_background = labelled.labels == 0
    kinds = [(~is_background, sampling.num_positives), (is_background, num_backgrounds)]
    is_taken = torch.zeros(labelled.num_images, dtype=torch.bool)
    order = torch.randperm(labelled.num_images, generator=generator)
    num_taken = sampling.images_per_chunk
    for is_kind, number in kinds:
        per_image = torch.bincount(labelled.images[is_kind], minlength=labelled.num_images)
        too_few = per_image[order].cumsum(0) < number * num_batches
        num_taken = max(num_taken, int(too_few.sum()) + 1)
    is_taken[order[:num_taken]] = True
    is_candidate = is_taken[labelled.images.long()]
    drawn = []
    for is_kind, number in kinds:
        candidates = (is_candidate & is_kind).nonzero()[:, 0]
        shuffled = candidates[torch.randperm(len(candidates), generator=generator)]
        num_needed = number * num_batches
        num_rounds = -(-num_needed // max(1, len(shuffled)))
        drawn.append(shuffled.repeat(num_rounds)[:num_needed].view(num_batches, number))
    rows = torch.cat(drawn, dim=1)
    is_mirrored = torch.zeros(rows.shape, dtype=torch.bool)
    if sampling.flip:
        is_mirrored = torch.rand(rows.shape, generator=generator) < 0.5
    if not sampling.random_scale:
        return WindowDraws(rows, is_mirrored, None)
    choice = torch.randint(len(scales), rows.shape, generator=generator)
    return WindowDraws(rows, is_mirrored, torch.tensor(scales)[choice])


def _require_both_kinds(labelled: LabelledWindows, sampling: WindowSampling) -> None:
    if not (labelled.labels > 0).any():
        raise DataError(
            f"no window of {labelled.num_images} images overlaps an object by {sampling.positive_overlap} or "
            f"more, so there is nothing to fine-tune with; check the annotations"
        )
    if sampling.num_positives < sampling.batch_size and not (labelled.labels == 0).any():
        raise DataError(
            f"no proposal of {labelled.num_images} images is background: none overlaps an object by "
            f"{sampling.background_overlap} or more and less than {sampling.positive_overlap}; check the "
            f"proposals, or lower finetuning.background_overlap"
        )
