"""Regions that show an object: pre-training on images with boxes (paper §4.5).

Axes: k objects of one image, h w pixels.

"We resize the images to min(w, h) = 400 and randomly crop 224 x 224 views; a crop is used only when it
overlaps a ground-truth object by at least 50 %." The paper does not say of what: here of the union (IoU).
The crop's class is that object's, the one it overlaps most. All positions of an image are judged at
once, so that a region is drawn uniformly among those that count, without trial and error.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sppnet.data.images import size_at
from sppnet.data.splits import ImageSet, ImageSplits, Selection, split_given
from sppnet.data.voc2007 import AnnotatedImage, AnnotatedImages, read_voc, require_apart
from sppnet.errors import DataError


class Objects(NamedTuple):
    """The objects of one image; coordinates as shares of its width and height, ends outside."""

    boxes: Float[Tensor, "k 4"]
    labels: Int[Tensor, " k"]
    crop: int  # side of the square regions, pixels
    min_overlap: float  # least IoU of a region and the object it shows

    def draw_region(self, height: int, width: int, generator: torch.Generator) -> tuple[int, int, int]:
        """Draw top, left and label of a region, uniformly among all that show an object well enough.

        Args:
            height: Of the resized image, pixels.
            width: Of the resized image, pixels.
            generator: Of the draw.
        """
        best, shown = region_overlaps(self.boxes, height, width, self.crop).max(dim=0)
        # Images without such a region were left out when they were listed (`_shows_an_object`).
        good = (best >= self.min_overlap).nonzero()
        top, left = good[int(torch.randint(len(good), (), generator=generator))].tolist()
        return top, left, int(self.labels[shown[top, left]])


def region_overlaps(
    boxes: Float[Tensor, "k 4"], height: int, width: int, crop: int
) -> Float[Tensor, "k tops lefts"]:
    """IoU of every object with every square region of an image.

    Args:
        boxes: Shares of width and height.
        height: Of the resized image, pixels, at least `crop`.
        width: Of the resized image, pixels, at least `crop`.
        crop: Side of the regions, pixels.
    """
    x1, y1, x2, y2 = (boxes.double() * torch.tensor([width, height, width, height])).T
    across = _shared(x1, x2, width - crop + 1, crop)
    down = _shared(y1, y2, height - crop + 1, crop)
    shared = down[:, :, None] * across[:, None, :]
    areas = ((x2 - x1) * (y2 - y1))[:, None, None]
    overlaps: Tensor = shared / (areas + crop**2 - shared)
    return overlaps.float()


def _shared(low: Tensor, high: Tensor, num_starts: int, crop: int) -> Tensor:
    """Pixels along one side that an object shares with the regions starting at 0, 1, ..."""
    starts = torch.arange(num_starts)
    shared: Tensor = torch.minimum(high[:, None], starts + crop) - torch.maximum(low[:, None], starts)
    return torch.clamp(shared, min=0)


@final
@dataclass(frozen=True)
class VocObjectReader:
    """Training images of a VOC layout as regions around their objects; test images by their largest object.

    Args:
        train_set: Image set to train on, such as trainval.
        test_set: Image set to test on.
        is_finer: Whether the classes are the sub-categories, where objects have one (§4.5: 499 of 200).
        short_side: Side to which the shorter dimension is resized, pixels.
        crop: Side of the regions, pixels.
        min_overlap: Least IoU of a region and the object it shows.
    """

    train_set: str
    test_set: str
    is_finer: bool
    short_side: int
    crop: int
    min_overlap: float

    def read(self, root: Path | None, selection: Selection) -> ImageSplits:
        """List the images of which some region shows an object, and the test images with any object.

        Raises:
            DataError: The layout is not there, or no image has such a region.
        """
        train = read_voc(root, self.train_set, classes=None, is_finer=self.is_finer)
        test = read_voc(root, self.test_set, classes=train.classes, is_finer=self.is_finer)
        require_apart(train, test, f"{self.train_set} and {self.test_set}")
        shown = [image for image in train.images if self._shows_an_object(image)]
        if not shown:
            raise DataError(
                f"{root}: no region of {self.crop} pixels overlaps an object by {self.min_overlap} in any of "
                f"the {len(train.images)} images of {self.train_set}; lower data.reader.min_overlap or "
                f"image.short_side"
            )
        tested = [image for image in test.images if len(image.labels)]
        return split_given(
            self._image_set(AnnotatedImages(tuple(shown), train.classes)),
            self._image_set(AnnotatedImages(tuple(tested), train.classes)),
            selection,
        )

    def _shows_an_object(self, image: AnnotatedImage) -> bool:
        width, height = size_at((image.width, image.height), self.short_side)
        if not len(image.labels) or min(width, height) < self.crop:
            return False
        overlaps = region_overlaps(self._objects_of(image).boxes, height, width, self.crop)
        return bool((overlaps >= self.min_overlap).any())

    def _image_set(self, annotated: AnnotatedImages) -> ImageSet:
        objects = [self._objects_of(image) for image in annotated.images]
        areas = [(one.boxes[:, 2:] - one.boxes[:, :2]).prod(dim=1) for one in objects]
        return ImageSet(
            tuple(image.path for image in annotated.images),
            tuple(int(one.labels[area.argmax()]) for one, area in zip(objects, areas, strict=True)),
            annotated.classes,
            tuple(one.draw_region for one in objects),
        )

    def _objects_of(self, image: AnnotatedImage) -> Objects:
        """Boxes with both ends inside, in pixels, as shares with their ends outside."""
        ends = image.boxes_xyxy + torch.tensor([0.0, 0.0, 1.0, 1.0])
        shares = ends / torch.tensor([image.width, image.height] * 2)
        return Objects(shares, image.labels, self.crop, self.min_overlap)
