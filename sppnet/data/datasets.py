"""From draws to batches: what a loader's process does.

A data set here answers a whole batch at once (`__getitems__`), so that batches are stacked where the
images are read.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sppnet.artifacts import stable_seed
from sppnet.data.image_store import ImageStore
from sppnet.data.records import Draw, ImageBatch, ViewBatch
from sppnet.data.transforms import Transform

Shape = tuple[tuple[int, int], ...]  # width and height at every scale of a view, pixels


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class TrainImages(Dataset[ImageBatch]):
    """Training images, each use of one altered in its own way.

    Args:
        store: Their pixels.
        labels: Their classes.
        transform: Region or all of it, mirror image, colours.
        seed: Of all alterations.
    """

    store: ImageStore
    labels: tuple[int, ...]
    transform: Transform
    seed: int

    def __len__(self) -> int:
        return len(self.store)

    def __getitems__(self, draws: list[Draw]) -> ImageBatch:
        """The batch of these draws, all of one epoch and one shape.

        Raises:
            BadImageError: A file cannot be used.
        """
        views = [
            self.transform(
                self.store[draw.index],
                draw,
                torch.Generator().manual_seed(stable_seed(self.seed, draw.epoch, draw.index)),
            )
            for draw in draws
        ]
        return ImageBatch(
            images=torch.stack([view.region for view in views]),
            colour_shift=torch.stack([view.colour_shift for view in views]),
            labels=torch.tensor(
                [
                    self.labels[draw.index] if view.label is None else view.label
                    for draw, view in zip(draws, views, strict=True)
                ]
            ),
            height=draws[0].height,
            width=draws[0].width,
            ids=torch.tensor([draw.index for draw in draws]),
        )


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class ViewedImages(Dataset[ViewBatch]):
    """Validation or test images, each cut as a view asks.

    Args:
        read: From an index to the image's pixels, once for every short side of the view.
        labels: Their classes.
        cut: What the view cuts out of an image, `v 3 h w`.
    """

    read: Callable[[int], Sequence[Tensor]]
    labels: tuple[int, ...]
    cut: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> ViewBatch:
        """The batch of these images, whose cuts must be of one shape.

        Raises:
            BadImageError: A file cannot be used.
        """
        by_image = [[self.cut(image) for image in self.read(index)] for index in indices]
        return ViewBatch(
            images=tuple(torch.stack(cuts) for cuts in zip(*by_image, strict=True)),
            labels=torch.tensor([self.labels[index] for index in indices]),
            ids=torch.tensor(indices),
        )


def stacks_of_like_images(shapes: Sequence[Shape], *, pixels: int) -> list[list[int]]:
    """Group images of equal shape, as only they stack, by at most `pixels` altogether (one image at least).

    Args:
        shapes: Of every image.
        pixels: Bound on a stack, all scales together, so that memory is bounded whatever the shapes.

    Returns:
        Indices, every one once; stacks by the first image in them.
    """
    alike: dict[Shape, list[int]] = defaultdict(list)
    for index, shape in enumerate(shapes):
        alike[shape].append(index)
    return sorted(
        stack
        for shape, indices in alike.items()
        for stack in equal_stacks(indices, max(1, pixels // sum(width * height for width, height in shape)))
    )


def equal_stacks(indices: Sequence[int], size: int) -> list[list[int]]:
    """Cut indices into stacks of `size`; the last may be smaller."""
    return [list(indices[start : start + size]) for start in range(0, len(indices), size)]
