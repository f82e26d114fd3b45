"""In which order, and at which size, training images are drawn (paper §2.3.2).

Every draw is a pure function of (seed, epoch), so that a run that was killed goes on with exactly the
draws it had left.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data.distributed import DistributedSampler

from sppnet.data.records import Draw
from sppnet.errors import ConfigError


def stable_seed(*parts: int | str) -> int:
    """A seed in [0, 2^63) made of numbers and names; the same in every process and Python version."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@runtime_checkable  # the tests check argument types
class SizeSchedule(Protocol):
    """The side at which the network sees its training images, epoch by epoch, in pixels."""

    def size_of_epoch(self, epoch: int) -> int:
        """Side in pixels during `epoch`, counted from 0."""
        ...


@final
@dataclass(frozen=True)
class CyclicSizes:
    """One size for a full epoch, then the next (§2.3.2: 224, 180, 224, ...); one size is "single-size".

    Args:
        sizes: Sides in pixels, in turn.
    """

    sizes: Sequence[int]

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise ConfigError(
                f"train_sizes.sizes={list(self.sizes)} must name at least one side of 1 pixel or more"
            )

    def size_of_epoch(self, epoch: int) -> int:
        """The sizes in turn."""
        return self.sizes[epoch % len(self.sizes)]


@final
@dataclass(frozen=True)
class RandomSizes:
    """A whole number of pixels drawn uniformly for every epoch (§2.3.2: from [180, 224]).

    Args:
        low: Smallest side.
        high: Largest side, itself possible.
        seed: Of the draws.
    """

    low: int
    high: int
    seed: int

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise ConfigError(
                f"train_sizes.low={self.low} must be between 1 and train_sizes.high={self.high}"
            )

    def size_of_epoch(self, epoch: int) -> int:
        """The draw of this epoch, whichever epochs were asked for before."""
        generator = torch.Generator().manual_seed(stable_seed(self.seed, "size", epoch))
        return int(torch.randint(self.low, self.high + 1, (), generator=generator))


@final
class EpochSampler(DistributedSampler[Draw]):
    """All training images in a new random order every epoch, one rank's share of it.

    A `DistributedSampler`, because Lightning replaces every other kind when there are several ranks.
    As there, ranks get equally many draws: the order is continued from its start until they divide.

    Args:
        num_images: Size of the training set.
        seed: Of the order.
        sizes: Side at which each epoch's images are to be seen.
        num_replicas: Number of ranks.
        rank: Which of them draws.
    """

    def __init__(
        self, num_images: int, *, seed: int, sizes: SizeSchedule, num_replicas: int, rank: int
    ) -> None:
        everything: Any = range(num_images)  # all that the parent asks of a data set is its length
        super().__init__(everything, num_replicas=num_replicas, rank=rank, seed=seed)
        self.num_images = num_images
        self.sizes = sizes

    def __iter__(self) -> Iterator[Draw]:
        return _Pass(self)

    def order_of_epoch(self, epoch: int) -> Int[Tensor, " n"]:
        """This rank's images of an epoch, in order."""
        generator = torch.Generator().manual_seed(stable_seed(self.seed, "order", epoch))
        order = torch.randperm(self.num_images, generator=generator)
        num_rounds = -(-self.total_size // self.num_images)
        return order.repeat(num_rounds)[: self.total_size][self.rank :: self.num_replicas]


@final
class _Pass(Iterator[Draw]):
    """One pass over an epoch; the loader asks it where it stands (torchdata's `Stateful`).

    The state names the epoch, because Lightning lets a resumed loader prefetch before it tells the
    sampler which epoch it is. A state saved after the last draw stands for the start of the next epoch:
    Lightning takes that epoch from the restored iterator, without asking for a new one.
    """

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler
        self._start(sampler.epoch, num_drawn=0)

    def __next__(self) -> Draw:
        if self.num_drawn == len(self.order):
            raise StopIteration
        index = int(self.order[self.num_drawn])
        self.num_drawn += 1
        return Draw(index, self.epoch, self.size)

    def state_dict(self) -> dict[str, int]:
        """Where the pass stands."""
        return {"epoch": self.epoch, "num_drawn": self.num_drawn}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on where the state was taken."""
        self._start(state_dict["epoch"], state_dict["num_drawn"])
        if self.num_drawn == len(self.order):
            self._start(self.epoch + 1, num_drawn=0)
        self.sampler.set_epoch(self.epoch)

    def _start(self, epoch: int, num_drawn: int) -> None:
        self.epoch = epoch
        self.num_drawn = num_drawn
        self.order = self.sampler.order_of_epoch(epoch)
        self.size = self.sampler.sizes.size_of_epoch(epoch)
