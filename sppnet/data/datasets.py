"""From draws to batches: what a loader's process does.

A data set here answers a whole batch at once (`__getitems__`), so that batches are stacked where the
images are read.
"""

from collections.abc import Callable
from typing import final

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from sppnet.data.records import Draw, ImageBatch, ViewBatch
from sppnet.data.sampling import stable_seed
from sppnet.data.store import ImageStore
from sppnet.data.transforms import TrainTransform
from sppnet.ops.views import centre_crop, ten_crop


@final
class TrainImages(Dataset[ImageBatch]):
    """Training images, each use of one altered in its own way.

    Args:
        store: Their pixels.
        labels: Their classes.
        transform: Region, mirror image, colours.
        seed: Of all alterations.
    """

    def __init__(
        self, store: ImageStore, labels: tuple[int, ...], *, transform: TrainTransform, seed: int
    ) -> None:
        self.store = store
        self.labels = torch.tensor(labels)
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.store)

    def __getitems__(self, draws: list[Draw]) -> ImageBatch:
        """The batch of these draws, all of one epoch.

        Raises:
            BadImageError: A file cannot be used.
        """
        views = [
            self.transform(
                self.store[draw.index],
                torch.Generator().manual_seed(stable_seed(self.seed, draw.epoch, draw.index)),
            )
            for draw in draws
        ]
        ids = torch.tensor([draw.index for draw in draws])
        return ImageBatch(
            images=torch.stack([view.region for view in views]),
            colour_shift=torch.stack([view.colour_shift for view in views]),
            labels=self.labels[ids],
            size=draws[0].size,
            ids=ids,
        )


@final
class ViewedImages(Dataset[ViewBatch]):
    """Validation or test images, each seen in one or more views.

    Args:
        store: Their pixels.
        labels: Their classes.
        cut: From a whole resized image and a side to its views, `views 3 side side`.
        crop: Side of the views, pixels.
    """

    def __init__(
        self, store: ImageStore, labels: tuple[int, ...], *, cut: Callable[[Tensor, int], Tensor], crop: int
    ) -> None:
        self.store = store
        self.labels = torch.tensor(labels)
        self.cut = cut
        self.crop = crop

    def __len__(self) -> int:
        return len(self.store)

    def __getitems__(self, indices: list[int]) -> ViewBatch:
        """The batch of these images.

        Raises:
            BadImageError: A file cannot be used.
        """
        ids = torch.tensor(indices)
        views = torch.stack([self.cut(self.store[index], self.crop) for index in indices])
        return ViewBatch(images=views, labels=self.labels[ids], ids=ids)


def cut_centre(image: UInt8[Tensor, "3 h w"], size: int) -> UInt8[Tensor, "1 3 size size"]:
    """The central region as the only view (Table 3, "1 crop")."""
    return centre_crop(image, size)[None]


def cut_ten(image: UInt8[Tensor, "3 h w"], size: int) -> UInt8[Tensor, "10 3 size size"]:
    """Centre and corners of the entire resized image, and their mirror images (§3.1, footnote 1)."""
    return ten_crop(image, size)
