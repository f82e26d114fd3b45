"""Rows of kept features as batches: what an SVM is trained and tested on.

Axes: n images, d numbers a vector, k classes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int, Int8
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

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
        data = _Rows(self.features, self.target.presence, rows, is_held_out)
        return DataLoader(data, batch_size=_ROWS, collate_fn=_as_it_is)


@final
class _Rows(Dataset[FeatureBatch]):
    """Answers a whole batch at once."""

    def __init__(self, features: Features, presence: Tensor, rows: Tensor, is_held_out: Tensor) -> None:
        self.features, self.presence, self.rows, self.is_held_out = features, presence, rows, is_held_out

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, positions: Sequence[int]) -> FeatureBatch:
        ids = self.rows[list(positions)]
        return FeatureBatch(
            self.features.rows(ids.tolist()), self.presence[ids], self.is_held_out[list(positions)], ids
        )


def _as_it_is(batch: Any) -> Any:
    """The rows come stacked."""
    return batch
