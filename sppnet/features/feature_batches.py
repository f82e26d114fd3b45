"""Rows of kept features as batches: what an SVM is trained and tested on.

Axes: n images, d numbers a vector, k classes.
"""

from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int, Int8
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from sppnet.data.targets import TargetImages, TargetSplit
from sppnet.features.shards import Features

_ROWS = 256  # a batch: some megabytes of the longest vectors


class FeatureBatch(NamedTuple):
    """Vectors of some images."""

    features: Float[Tensor, "n d"]
    presence: Int8[Tensor, "n k"]  # +1, 0, -1
    is_held_out: Bool[Tensor, " n"]  # training images that choose C
    ids: Int[Tensor, " n"]


@final
class FeatureDataModule(LightningDataModule):
    """Training and test rows of one target.

    Args:
        features: Of all its images, in their order.
        target: The images.
        split: Who trains and who tests.
    """

    def __init__(self, *, features: Features, target: TargetImages, split: TargetSplit) -> None:
        super().__init__()
        self.features = features
        self.target = target
        self.split = split

    def train_dataloader(self) -> DataLoader[FeatureBatch]:
        """Rows to fit on, then those that choose C."""
        rows = torch.cat([self.split.train, self.split.val])
        is_held_out = torch.arange(len(rows)) >= len(self.split.train)
        return self._loader(rows, is_held_out)

    def test_dataloader(self) -> DataLoader[FeatureBatch]:
        """Rows to test on."""
        rows = self.split.test
        return self._loader(rows, torch.zeros(len(rows), dtype=torch.bool))

    def _loader(self, rows: Tensor, is_held_out: Tensor) -> DataLoader[FeatureBatch]:
        def batch(positions: list[int]) -> FeatureBatch:
            ids = rows[positions]
            features = self.features.rows(ids.tolist())
            return FeatureBatch(features, self.target.presence[ids], is_held_out[positions], ids)

        return DataLoader(range(len(rows)), batch_size=_ROWS, collate_fn=batch)  # type: ignore[arg-type]
