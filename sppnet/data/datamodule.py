"""Any data set of labelled images as batches for training, validation and test (paper §3.1, §3.3)."""

import functools
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchdata.stateful_dataloader import StatefulDataLoader

from sppnet.artifacts import stable_seed
from sppnet.data.datasets import TrainImages, ViewedImages, equal_stacks, stacks_of_like_images
from sppnet.data.image_store import ImageStore, verify
from sppnet.data.images import size_at
from sppnet.data.records import ViewBatch
from sppnet.data.sampling import BucketSampler, EpochSampler, TrainSampler
from sppnet.data.sizes import BucketSizes, EpochSizes
from sppnet.data.splits import ImageSplits, Reader, Selection, require_classes
from sppnet.data.transforms import ColourNoise, RegionTransform, Transform, WholeTransform
from sppnet.errors import ConfigError
from sppnet.models.views import CropView, View
from sppnet.ops.crops import centre_crop
from sppnet.progress_bar import map_in_threads

_NUM_TOGETHER = 256  # regions in memory while the mean is taken: 40 MB


@final
@dataclass(kw_only=True, eq=False, repr=False)
class ImageDataModule(LightningDataModule):
    """Reads, splits, resizes and crops; the network's side of things (sizes, means) is the task's.

    Args:
        name: What reports call the data set.
        reader: Finds the files of one layout.
        root: Folder that holds them; None lets the reader choose.
        per_class: Training images per class; None for all.
        test_per_class: Test images per class at most; None for all.
        val_fraction: Share of the training images to hold out, in [0, 1).
        split_seed: Seed of the choice of images.
        upright: Whether EXIF orientation is applied.
        short_side: Side to which the shorter dimension is resized, pixels.
        crop: Side of the square regions, pixels.
        train_crop: "random" or "five" (`TrainTransform`).
        mean_images: Training images that the mean image is of, chosen by the seed; None for all.
        colour: How training colours are altered.
        sizes: Side at which the network sees the regions, epoch by epoch; or the buckets of whole images.
        batch_size: Training images per step and process; as many regions' pixels are tested at once.
        seed: Of the order and the alterations.
        workers: Processes that read images; 0 reads them in the training process.
        cache_gb: With no workers, sets of images that fit into so many 10^9 bytes stay in memory.
        max_pixels: A larger file is refused.
    """

    name: str = field()  # Lightning's None is no default
    reader: Reader
    root: str | Path | None
    per_class: int | None
    test_per_class: int | None
    val_fraction: float
    split_seed: int
    upright: bool
    short_side: int
    crop: int
    train_crop: str
    mean_images: int | None
    colour: ColourNoise
    sizes: EpochSizes | BucketSizes
    batch_size: int
    seed: int
    workers: int
    cache_gb: float
    max_pixels: int

    def __post_init__(self) -> None:
        super().__init__()
        if self.crop > self.short_side:
            raise ConfigError(
                f"image.size={self.crop} must not exceed image.short_side={self.short_side}: no region fits"
            )
        self._selection = Selection(self.per_class, self.test_per_class, self.val_fraction, self.split_seed)
        self._of_region = RegionTransform(self.crop, self.train_crop, self.colour)
        if isinstance(self.sizes, BucketSizes):
            self.short_side = max(self.short_side, *self.sizes.sizes)
        self._memory_left = int(self.cache_gb * 1e9)
        self._stores: dict[str, ImageStore] = {}

    @functools.cached_property
    def splits(self) -> ImageSplits:
        """Which images train, validate and test; found on disk at first use."""
        root = None if self.root is None else Path(self.root).expanduser()
        found = self.reader.read(root, self._selection)
        require_classes(found.train)
        return found

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""
        return self.splits.train.classes

    def prepare_data(self) -> None:
        """Find, or generate, the files on one rank, before the others look for them."""
        _ = self.splits

    def setup(self, stage: str) -> None:
        """Find the files.

        Raises:
            DataError: They are not where and what the layout promises.
        """
        _ = self.splits

    def train_dataloader(self) -> StatefulDataLoader:
        """Batches of `ImageBatch`; its state resumes with exactly the draws that are left."""
        images = TrainImages(
            store=self._store("train"),
            labels=self.splits.train.labels,
            transform=self.transform,
            seed=self.seed,
        )
        return self.loader_of_draws(images)

    def loader_of_draws(self, images: Dataset[Any]) -> StatefulDataLoader:
        """Batches of what a data set makes of draws (`TrainImages`)."""
        sampler = self._train_sampler()
        if self.trainer is not None:
            # Lightning restores no loader's state from a checkpoint of an epoch's end, and calls set_epoch
            # only after workers have begun to prefetch. This is the epoch it will set.
            progress: Any = self.trainer.fit_loop.epoch_progress.current
            sampler.set_epoch(progress.processed)
        return StatefulDataLoader(images, self.batch_size, sampler=sampler, **self._loading())

    def val_dataloader(self) -> DataLoader[ViewBatch] | list[Any]:
        """Central regions of the held-out images; an empty list when nothing is held out."""
        if not self.splits.val.paths:
            return []
        store = self._store("val")
        view = CropView(short_side=self.short_side, size=self.crop)
        labels = self.splits.val.labels
        images = ViewedImages(read=lambda index: (store[index],), labels=labels, cut=view.cut)
        return self._in_stacks(images, equal_stacks(range(len(store)), self.batch_size))

    def view_loader(self, view: View) -> DataLoader[ViewBatch]:
        """The test images as a view wants them, each once, in batches of images of one shape.

        Raises:
            BadImageError: A file cannot be used.
        """
        store = self._store("test")
        images = ViewedImages(
            read=lambda index: store.at(index, view.short_sides),
            labels=self.splits.test.labels,
            cut=view.cut,
        )
        if view.is_square:
            size = max(1, self.batch_size // view.num_views)
            return self._in_stacks(images, equal_stacks(range(len(store)), size))
        shapes = [tuple(size_at(size, side) for side in view.short_sides) for size in store.sizes()]
        return self._in_stacks(images, stacks_of_like_images(shapes, pixels=self.batch_size * self.crop**2))

    def mean_image(self, size: int) -> Float[Tensor, "3 size size"]:
        """Mean of the central regions of the training images, 0..255 (Appendix A).

        For another size than that of the regions, the mean is resized, as Appendix A warps it.
        """
        count = self.mean_images or len(self._store("train"))
        total, num = torch.zeros(3, self.crop, self.crop, dtype=torch.float64), 0
        for regions in self._central_regions(count):
            total += regions.sum(dim=0, dtype=torch.float64)
            num += len(regions)
        mean = (total / num).float()
        if size == self.crop:
            return mean
        return F.interpolate(mean[None], size=(size, size), mode="bilinear", antialias=True)[0]

    def central_regions(self, count: int) -> UInt8[Tensor, "n 3 crop crop"]:
        """Central regions of up to `count` training images, chosen by the seed."""
        return torch.cat(list(self._central_regions(count)))

    def _central_regions(self, count: int) -> Iterator[UInt8[Tensor, "n 3 crop crop"]]:
        store = self._store("train")
        generator = torch.Generator().manual_seed(stable_seed(self.seed, "central regions"))
        chosen = torch.randperm(len(store), generator=generator)[:count].tolist()
        for start in range(0, len(chosen), _NUM_TOGETHER):
            part = chosen[start : start + _NUM_TOGETHER]
            yield torch.stack(
                map_in_threads(lambda index: centre_crop(store[index], self.crop), part, label="regions")
            )

    def verify(self) -> Counter[str]:
        """Read every file; how many there are of each kind.

        Raises:
            DataError: The first 20 that cannot be used, and their number.
        """
        paths = [path for images in self.splits for path in images.paths]
        return verify(paths, upright=self.upright, max_pixels=self.max_pixels)

    @property
    def transform(self) -> Transform:
        """What training sees of an image."""
        if isinstance(self.sizes, BucketSizes):
            return WholeTransform(self.colour)
        return replace(self._of_region, regions=self.splits.train.regions)

    def _train_sampler(self) -> TrainSampler:
        num_replicas, rank = self._share()
        if isinstance(self.sizes, BucketSizes):
            return BucketSampler(
                self._store("train").sizes(),
                buckets=self.sizes,
                batch_size=self.batch_size,
                seed=self.seed,
                num_replicas=num_replicas,
                rank=rank,
            )
        num_images = len(self.splits.train.paths)
        return EpochSampler(
            num_images, seed=self.seed, sizes=self.sizes, num_replicas=num_replicas, rank=rank
        )

    def _in_stacks(self, images: ViewedImages, stacks: list[list[int]]) -> DataLoader[ViewBatch]:
        num_replicas, rank = self._share()
        return DataLoader(images, batch_sampler=stacks[rank::num_replicas], **self._loading())

    def _share(self) -> tuple[int, int]:
        """Number of ranks, and which one this is."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _loading(self) -> dict[str, Any]:
        """What all loaders have in common."""
        return {
            "num_workers": self.workers,
            "persistent_workers": self.workers > 0,
            "collate_fn": _as_it_is,
            "pin_memory": torch.cuda.is_available(),
            "worker_init_fn": _leave_interrupts_to_the_trainer,
            # Without one of its own a loader draws from the global generator, and dropout would depend
            # on how often loaders were started.
            "generator": torch.Generator().manual_seed(self.seed),
        }

    def _store(self, name: str) -> ImageStore:
        """Pixels of one of the three sets; what every epoch reads is decoded once, if it fits into memory."""
        if name not in self._stores:
            self._stores[name] = ImageStore(
                getattr(self.splits, name),
                name=name,
                short_side=self.short_side,
                upright=self.upright,
                max_pixels=self.max_pixels,
            )
            if name != "test" and self.workers == 0:
                self._memory_left -= self._stores[name].keep_in_memory(self._memory_left)
        return self._stores[name]


def _as_it_is(batch: Any) -> Any:
    """The data sets stack their batches themselves."""
    return batch


def _leave_interrupts_to_the_trainer(worker: int) -> None:
    """Ctrl-C reaches every process; the training process decides when its workers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
