"""Selective search (Uijlings et al., IJCV 2013; paper §4.1), by OpenCV's segmentation and grouping.

A picture is cut into small regions, neighbours are merged by similarity until one is left, and the box of
every region on the way is a proposal. Several colour spaces, scales and similarities make several such
hierarchies.

Axes: n boxes, h w pixels.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor

from sppnet.errors import ConfigError
from sppnet.ops.boxes import keep_windows, rects_to_boxes
from sppnet.ops.suppression import suppress

_COLOURS = {"hsv": "COLOR_RGB2HSV_FULL", "lab": "COLOR_RGB2Lab"}  # FULL: hue over 0..255, as R-CNN's
_SIMILARITIES = ("colour", "texture", "size", "fill")


@final
@dataclass(kw_only=True)
class SelectiveSearch:
    """Boxes of regions that are merged step by step.

    OpenCV's own order is not used: it comes from the C library's generator, which no seed of OpenCV's
    reaches, and puts the smallest regions first.

    Args:
        colours: Of hsv and lab, the spaces in which regions are cut out and compared.
        scales: k of the graph segmentation: larger is coarser.
        sigma: Its smoothing, pixels.
        min_region: Least pixels of a region to begin with; None: as many as k.
        similarities: Each a list of colour, texture, size and fill, whose mean decides what is merged.
        min_side: Least width and height of a proposal, pixels.
        max_overlap: A box that overlaps an earlier one by more (intersection over union) is left out.
        max_proposals: The first so many are kept.
        seed: With an image's pixels it decides the random part of the order.

    Raises:
        ConfigError: A name or a number is none of these.
    """

    colours: Sequence[str]
    scales: Sequence[int]
    sigma: float
    min_region: int | None
    similarities: Sequence[Sequence[str]]
    min_side: int
    max_overlap: float
    max_proposals: int
    seed: int

    def __post_init__(self) -> None:
        self.colours, self.scales = tuple(self.colours), tuple(self.scales)
        self.similarities = tuple(tuple(names) for names in self.similarities)
        _require_names("colours", self.colours, tuple(_COLOURS))
        for names in self.similarities:
            _require_names("similarities", names, _SIMILARITIES)
        if (
            not self.scales
            or min(*self.scales, self.min_side, self.max_proposals, self.min_region or 1) < 1
            or not 0 < self.max_overlap <= 1
        ):
            raise ConfigError(
                f"proposals: scales={list(self.scales)}, min_side={self.min_side}, "
                f"max_proposals={self.max_proposals} must be 1 or more, and "
                f"max_overlap={self.max_overlap} in (0, 1]"
            )

    @property
    def settings(self) -> Mapping[str, Any]:
        """All arguments, and OpenCV's version."""
        import cv2

        return {**vars(self), "opencv": cv2.__version__}

    def propose(self, image: Image.Image) -> Float[Tensor, "n 4"]:
        """Propose windows of an RGB image; the same ones in the same order for the same pixels."""
        if min(image.size) < self.min_side:
            return torch.empty(0, 4)
        import cv2

        pixels = np.asarray(image)
        rects = [
            self._group(cv2.cvtColor(pixels, getattr(cv2, _COLOURS[colour])), k)
            for colour in self.colours
            for k in self.scales
        ]
        # Sorted by their coordinates first: whatever the order they came in, the draw is the same.
        boxes = rects_to_boxes(np.unique(np.concatenate(rects), axis=0))
        boxes = keep_windows(boxes, min_side=self.min_side, max_proposals=len(boxes))
        boxes = boxes[self._order(boxes, _seed_of(image, self.seed))]
        if self.max_overlap < 1:
            boxes = boxes[suppress(boxes, -torch.arange(len(boxes)).float(), self.max_overlap)]
        return boxes[: self.max_proposals]

    def _group(self, pixels: Shaped[np.ndarray, "h w 3"], k: int) -> Shaped[np.ndarray, "n 4"]:
        """Boxes (x y width height) of the hierarchies of one colour space and scale."""
        from cv2.ximgproc import segmentation

        search = segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(pixels)
        search.addImage(pixels)
        min_region = self.min_region or k
        search.addGraphSegmentation(segmentation.createGraphSegmentation(self.sigma, float(k), min_region))
        for names in self.similarities:
            search.addStrategy(_mean_of(segmentation, names))
        return np.asarray(search.process(), dtype=np.int32).reshape(-1, 4)

    @staticmethod
    def _order(boxes: Tensor, seed: int) -> Tensor:
        """Rank x uniform random, ascending (R-CNN, selective_search_boxes.m).

        There the last merge of a hierarchy has rank 1. OpenCV does not tell which merge made a box; the
        rank by area stands for it, as merging only ever makes boxes larger.
        """
        generator = torch.Generator().manual_seed(seed)
        areas = (boxes[:, 2:] - boxes[:, :2] + 1).prod(dim=1)
        rank = areas.argsort(descending=True, stable=True).argsort(stable=True) + 1
        return (rank * torch.rand(len(boxes), generator=generator)).argsort(stable=True)


def _mean_of(segmentation: Any, names: Sequence[str]) -> Any:
    """One similarity: the mean of the named ones."""
    makers = {
        "colour": segmentation.createSelectiveSearchSegmentationStrategyColor,
        "texture": segmentation.createSelectiveSearchSegmentationStrategyTexture,
        "size": segmentation.createSelectiveSearchSegmentationStrategySize,
        "fill": segmentation.createSelectiveSearchSegmentationStrategyFill,
    }
    mean = segmentation.createSelectiveSearchSegmentationStrategyMultiple()
    for name in names:
        mean.addStrategy(makers[name](), 1 / len(names))
    return mean


def _require_names(key: str, names: Sequence[str], known: Sequence[str]) -> None:
    if not names or set(names) - set(known):
        raise ConfigError(f"proposals.{key}={list(names)}: expected some of {', '.join(known)}")


def _seed_of(image: Image.Image, seed: int) -> int:
    """A seed in [0, 2^63) that an image's pixels and `seed` decide."""
    digest = hashlib.blake2b(image.tobytes(), digest_size=8, salt=seed.to_bytes(8, "big")).digest()
    return int.from_bytes(digest, "big") >> 1
