"""Rows of features, read from a cache's shards as memory maps.

Axes: n images, dim numbers per image.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


@final
@dataclass(frozen=True, kw_only=True)
class Features:
    """One vector per image, on disk: memory is taken only for what is asked for.

    While it is alive `sppnet cache gc` leaves its shards alone.

    Args:
        paths: The shards' files, in the order of the images.
        num_rows: Number of images.
        shard_rows: Rows of every shard but the last.
        row_length: Numbers per row on disk.
        columns: Which of them are meant.
        hold: Lock that keeps the shards.
    """

    paths: Sequence[Path]
    num_rows: int
    shard_rows: int
    row_length: int
    columns: slice
    hold: BinaryIO
    _maps: "dict[int, np.memmap[tuple[int, int], np.dtype[np.float32]]]" = field(
        default_factory=dict, repr=False
    )

    def __len__(self) -> int:
        return self.num_rows

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return len(range(self.row_length)[self.columns])

    def only(self, columns: slice) -> "Features":
        """Narrow to some columns, such as `level_columns` of one level; the others are not even read."""
        kept = range(self.row_length)[self.columns][columns]
        return replace(self, columns=slice(kept.start, kept.stop, kept.step))

    def rows(self, indices: Sequence[int]) -> Float[Tensor, "n dim"]:
        """Copy some vectors into memory.

        Args:
            indices: Numbers of images, in any order, also repeated.

        Raises:
            IndexError: There is no such image.
        """
        rows = torch.empty(len(indices), self.dim)
        for row, index in zip(rows.numpy(), indices, strict=True):
            if not 0 <= index < self.num_rows:
                raise IndexError(f"row {index} of the features of {self.num_rows} images")
            shard, offset = divmod(index, self.shard_rows)
            row[:] = self._map(shard)[offset, self.columns]
        return rows

    def shards(self) -> Iterator[Float[Tensor, "n dim"]]:
        """Yield all vectors in order, one shard's at a time."""
        for number in range(len(self.paths)):
            yield torch.from_numpy(np.array(self._map(number)[:, self.columns], dtype=np.float32))

    def matrix(self) -> Float[Tensor, "n dim"]:
        """Copy all vectors into memory."""
        return self.rows(range(self.num_rows))

    def _map(self, number: int) -> "np.memmap[tuple[int, int], np.dtype[np.float32]]":
        if number not in self._maps:
            rows = min(self.shard_rows, self.num_rows - number * self.shard_rows)
            self._maps[number] = np.memmap(
                self.paths[number], dtype="<f4", mode="r", shape=(rows, self.row_length)
            )
        return self._maps[number]
