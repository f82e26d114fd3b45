"""Images as pooled regions of maps that are kept: what a head is trained on while the trunk stays as it is.

As for detection (§4.1) the convolutions run once an image: over the whole of it and over its mirror image, at
every training size. A training region is a window on these maps (as views are, §3.1.5), which sees of its
surroundings the image, where a cut-out region sees zeros. Colours are as they are.

Axes: n images, d numbers a vector, h w cells, c channels.
"""

import functools
import hashlib
import os
import random
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Float, Int
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchdata.stateful_dataloader import StatefulDataLoader

from sppnet.artifacts import stable_seed
from sppnet.data.datamodule import ImageDataModule
from sppnet.data.images import size_at
from sppnet.data.records import Draw
from sppnet.data.sizes import BucketSizes, CyclicSizes
from sppnet.data.transforms import Place
from sppnet.errors import ConfigError
from sppnet.models.sppnet import SppNet
from sppnet.models.trunk import Backbone
from sppnet.ops.boxes import flip_boxes
from sppnet.ops.pyramid import num_bins
from sppnet.ops.receptive_field import ReceptiveField
from sppnet.ops.window_pooling import pool_windows
from sppnet.ops.windows import map_cells, scale_windows
from sppnet.store.entry import Images
from sppnet.store.feature_cache import FeatureCache
from sppnet.windows.conv_maps import ConvMaps, entry_of_pixels, maps_as_file, read_maps


class PooledBatch(NamedTuple):
    """Regions of images, pooled."""

    inputs: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    ids: Int[Tensor, " n"]  # index of each image in its set
    size: int  # short side of what was pooled, pixels


@final
class PooledDataModule(LightningDataModule):
    """The draws of an `ImageDataModule`, of kept maps.

    Args:
        images: Says which images there are, and what is drawn of them.
        net: Its trunk makes the maps, its pyramid pools them; in evaluation mode from here on.
        cache: Where maps are kept.

    Raises:
        ConfigError: Sizes are drawn at random: there would be maps of every size.
    """

    def __init__(self, *, images: ImageDataModule, net: SppNet, cache: FeatureCache) -> None:
        super().__init__()
        if not isinstance(images.sizes, CyclicSizes | BucketSizes):
            raise ConfigError(
                "training.trains=head with train_sizes=random: maps are kept at listed sizes; choose "
                "train_sizes=multi (any list of sizes) or buckets, or training.trains=all"
            )
        self.images = images
        self.net = net
        self._maps = [
            ConvMaps(
                net,
                is_mirrored=is_mirrored,
                cache=cache,
                max_pixels=images.max_pixels,
                upright=images.upright,
            )
            for is_mirrored in (False, True)
        ]
        self._files: dict[tuple[Path, int, bool], Path] = {}
        self._field = _field_of(net)

    def fill(self, *, workers: int, report: Callable[[int, int], None]) -> None:
        """Compute the maps of all training and held-out images, or find them whole.

        Args:
            workers: Images at a time.
            report: Told after every image how many are done, and of how many; may raise to stop here.

        Raises:
            ...: As `ConvMaps.fill`.
        """
        train, val = self.images.splits.train.paths, self.images.splits.val.paths
        both = [(path, scale) for path in train for scale in self._scales(path)]
        wanted = [(path, scale, is_mirrored) for is_mirrored in (False, True) for path, scale in both]
        wanted += [(path, self.images.short_side, False) for path in val]
        for scale, is_mirrored in sorted({key[1:] for key in wanted}):
            paths = [path for path, *kind in wanted if kind == [scale, is_mirrored]]
            # In an order of its own: processes that fill one cache side by side share the work.
            random.Random(os.getpid()).shuffle(paths)
            before = len(self._files)

            def told(done: int, total: int, before: int = before) -> None:
                report(before + done, len(wanted))

            files = self._maps[is_mirrored].fill(paths, scale, workers=workers, report=told)
            self._files |= {(path, scale, is_mirrored): file for path, file in zip(paths, files, strict=True)}

    def train_dataloader(self) -> StatefulDataLoader:
        """Batches of `PooledBatch`; its state resumes with exactly the draws that are left."""
        self.images.trainer = self.trainer
        return self.images.loader_of_draws(_PooledDraws(self))

    def val_dataloader(self) -> DataLoader[PooledBatch] | list[Any]:
        """Central regions of the held-out images; an empty list when nothing is held out."""
        held_out = self.images.splits.val
        if not held_out.paths:
            return []

        def batch(ids: list[int]) -> PooledBatch:
            out = self._room(len(ids))
            for row, index in zip(out, ids, strict=True):
                path, side = held_out.paths[index], self.images.short_side
                width, height = self._size(path, side)
                crop = self.images.crop
                place = Place((height - crop) // 2, (width - crop) // 2, crop, crop, is_mirrored=False)
                self._pool(path, side, side, place, row)
            return PooledBatch(out, torch.tensor(held_out.labels)[ids], torch.tensor(ids), self.images.crop)

        everything: Any = range(len(held_out.paths))
        return DataLoader(everything, batch_size=self.images.batch_size, collate_fn=batch)

    def batch(self, draws: Sequence[Draw]) -> PooledBatch:
        """The batch of these draws, all of one epoch."""
        out, labels, images = self._room(len(draws)), [], self.images
        for row, draw in zip(out, draws, strict=True):
            path = images.splits.train.paths[draw.index]
            generator = torch.Generator().manual_seed(stable_seed(images.seed, draw.epoch, draw.index))
            scale = self._scale(min(draw.height, draw.width))
            side = scale if isinstance(images.sizes, BucketSizes) else images.short_side
            width, height = self._size(path, side)
            place = images.transform.place(draw, height, width, generator)
            labels.append(images.splits.train.labels[draw.index] if place.label is None else place.label)
            self._pool(path, side, scale, place, row)
        ids = torch.tensor([draw.index for draw in draws])
        return PooledBatch(out, torch.tensor(labels), ids, min(draws[0].height, draws[0].width))

    def _pool(self, path: Path, side: int, scale: int, place: Place, out: Float[Tensor, " d"]) -> None:
        """Pool a place in an image of short side `side` from its maps at short side `scale`."""
        left, top = place.left, place.top
        window = torch.tensor([[left, top, left + place.width - 1.0, top + place.height - 1.0]])
        if place.is_mirrored:
            window = flip_boxes(window, self._size(path, side)[0])
        maps = read_maps(self._files[path, scale, place.is_mirrored])
        height, width = maps.shape[:2]
        cells = map_cells(scale_windows(window, side, scale), self._field, (height, width), "centre_inside")
        x1, y1, x2, y2 = cells[0].tolist()
        region = maps[y1 : y2 + 1, x1 : x2 + 1].float().permute(2, 0, 1)
        whole = torch.tensor([[0, 0, x2 - x1, y2 - y1]])
        pool_windows(region, whole, self.net.levels, out=out[None])

    def _scales(self, path: Path) -> list[int]:
        """Short sides at which a training image is seen."""
        sizes = self.images.sizes
        if isinstance(sizes, BucketSizes):
            return [min(sizes.shape_of(*self._maps[0].size(path)))]
        assert isinstance(sizes, CyclicSizes)
        return [self._scale(size) for size in sizes.sizes]

    def _scale(self, size: int) -> int:
        """Short side of the image of which the network sees `size` pixels."""
        is_whole = isinstance(self.images.sizes, BucketSizes)
        return size if is_whole else round(self.images.short_side * size / self.images.crop)

    def _size(self, path: Path, side: int) -> tuple[int, int]:
        return size_at(self._maps[0].size(path), side)

    def _room(self, num_rows: int) -> Float[Tensor, "n d"]:
        return torch.empty(num_rows, self.net.backbone.out_channels * num_bins(self.net.levels))


@final
class _PooledDraws(Dataset[PooledBatch]):
    """What a loader asks for batches."""

    def __init__(self, data: PooledDataModule) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data.images.splits.train.paths)

    def __getitems__(self, draws: list[Draw]) -> PooledBatch:
        """The batch of these draws."""
        return self.data.batch(draws)


@final
class KeptTrunk(Backbone):
    """A trunk whose maps of every image it has seen are kept, by pixels: networks that share it share them.

    They are rounded to 16 bits, as those are that the head was trained on, and have no gradients.

    Args:
        net: Whose trunk; in evaluation mode.
        cache: Where maps are kept.
    """

    def __init__(self, net: SppNet, cache: FeatureCache) -> None:
        inner = net.backbone
        super().__init__(
            name=inner.name, trunk=inner, roles=inner.roles, mean=inner.mean, std=inner.std, own_init=True
        )
        self._inner = inner
        self._entry = entry_of_pixels(net, cache)

    @property
    def layers(self) -> tuple[str, ...]:
        """The trunk's."""
        return self._inner.layers

    @functools.cached_property
    def receptive_field(self) -> ReceptiveField:
        """The trunk's."""
        return self._inner.receptive_field

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c h2 w2"]:
        """Maps of normalised images, one by one: none depends on those beside it."""
        return torch.stack([self._maps_of(image) for image in images]).to(images.device)

    def _maps_of(self, image: Float[Tensor, "3 h w"]) -> Float[Tensor, "c h2 w2"]:
        pixels = image.contiguous().cpu().numpy()
        digest = hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()

        def written() -> bytes:
            maps = self.trunk(image[None].contiguous(memory_format=torch.channels_last))[0].cpu()
            return maps_as_file(maps, f"a test image of {pixels.shape[1:]} pixels", self.name)

        return read_maps(self._entry.get(Images((), digest), written)).float().permute(2, 0, 1)

    def _outputs(self, images: Tensor, modules: Set[str]) -> dict[str, Tensor]:
        return self._inner._outputs(images, modules)


def _field_of(net: SppNet) -> ReceptiveField:
    """The trunk's geometry; of one that it cannot be derived for, cells as if they tiled the image."""
    try:
        return net.backbone.receptive_field
    except ConfigError:
        return ReceptiveField(net.backbone.stride, net.backbone.stride, 0)
