"""In which order, and at which size, training images are drawn (paper §2.3.2).

Every draw is a pure function of (seed, epoch), so that a run that was killed goes on with exactly the
draws it had left.
"""

import abc
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data.distributed import DistributedSampler

from sppnet.artifacts import stable_seed
from sppnet.data.records import Draw
from sppnet.data.sizes import BucketSizes, EpochSizes


class Pass(NamedTuple):
    """One rank's draws of one epoch, in order."""

    epoch: int
    indices: Int[Tensor, " n"]
    shapes: Int[Tensor, "n 2"]  # height, width

    def draw(self, position: int) -> Draw:
        """One of them."""
        height, width = self.shapes[position].tolist()
        return Draw(int(self.indices[position]), self.epoch, height, width)


class TrainSampler(DistributedSampler[Draw], abc.ABC):
    """All training images in a new random order every epoch, one rank's share of it.

    A `DistributedSampler`, because Lightning replaces every other kind when there are several ranks.
    """

    @abc.abstractmethod
    def pass_of_epoch(self, epoch: int) -> Pass:
        """This rank's draws; equally many on every rank."""

    def __iter__(self) -> Iterator[Draw]:
        return _Position(self)


@final
class EpochSampler(TrainSampler):
    """One size for all images of an epoch.

    As in a `DistributedSampler`, ranks get equally many draws: the order is continued from its start until
    they divide.

    Args:
        num_images: Size of the training set.
        seed: Of the order.
        sizes: Side at which each epoch's images are to be seen.
        num_replicas: Number of ranks.
        rank: Which of them draws.
    """

    def __init__(
        self, num_images: int, *, seed: int, sizes: EpochSizes, num_replicas: int, rank: int
    ) -> None:
        everything: Any = range(num_images)  # all that the parent asks of a data set is its length
        super().__init__(everything, num_replicas=num_replicas, rank=rank, seed=seed)
        self.num_images = num_images
        self.sizes = sizes

    def pass_of_epoch(self, epoch: int) -> Pass:
        """This rank's part of a permutation."""
        generator = torch.Generator().manual_seed(stable_seed(self.seed, "order", epoch))
        order = torch.randperm(self.num_images, generator=generator)
        num_rounds = -(-self.total_size // self.num_images)
        indices = order.repeat(num_rounds)[: self.total_size][self.rank :: self.num_replicas]
        size = self.sizes.size_of_epoch(epoch, seed=stable_seed(self.seed, "size", epoch))
        return Pass(epoch, indices, torch.tensor([[size, size]]).expand(len(indices), 2))


@final
class BucketSampler(TrainSampler):
    """Batches of images whose shapes fall into one bucket, so that whole images stack (see `BucketSizes`).

    An epoch draws every image at least once. A bucket's last batch is filled with other images of the
    bucket, and the list of batches with other batches until every rank gets equally many; batches come in
    random order.

    Args:
        sizes: Width and height of every image, pixels.
        buckets: Which shapes there are.
        batch_size: Images per batch and rank.
        seed: Of the order.
        num_replicas: Number of ranks.
        rank: Which of them draws.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]],
        *,
        buckets: BucketSizes,
        batch_size: int,
        seed: int,
        num_replicas: int,
        rank: int,
    ) -> None:
        self.shapes = torch.tensor([buckets.shape_of(width, height) for width, height in sizes])
        self.batch_size = batch_size
        # Which images share a bucket never changes, and so neither does the number of batches.
        self.shape_of_bucket, bucket_of = torch.unique(self.shapes, dim=0, return_inverse=True)
        self.members = [(bucket_of == bucket).nonzero()[:, 0] for bucket in range(len(self.shape_of_bucket))]
        num_batches = sum(-(-len(members) // batch_size) for members in self.members)
        num_batches = -(-num_batches // num_replicas) * num_replicas
        everything: Any = range(num_batches * batch_size)
        super().__init__(everything, num_replicas=num_replicas, rank=rank, seed=seed)

    def pass_of_epoch(self, epoch: int) -> Pass:
        """This rank's batches, one behind the other."""
        generator = torch.Generator().manual_seed(stable_seed(self.seed, "order", epoch))
        batches: list[Tensor] = []
        for members in self.members:
            order = members[torch.randperm(len(members), generator=generator)]
            num_batches = -(-len(order) // self.batch_size)
            filled = order.repeat(-(-num_batches * self.batch_size // len(order)))
            batches += filled[: num_batches * self.batch_size].split(self.batch_size)
        shuffled = torch.randperm(len(batches), generator=generator)
        num_wanted = self.total_size // self.batch_size
        chosen = shuffled.repeat(-(-num_wanted // len(batches)))[:num_wanted][self.rank :: self.num_replicas]
        indices = torch.cat([batches[batch] for batch in chosen])
        return Pass(epoch, indices, self.shapes[indices])


@final
class _Position(Iterator[Draw]):
    """Where one pass over an epoch stands; the loader asks for it (torchdata's `Stateful`).

    The state names the epoch, because Lightning lets a resumed loader prefetch before it tells the
    sampler which epoch it is. A state saved after the last draw stands for the start of the next epoch:
    Lightning takes that epoch from the restored iterator, without asking for a new one.
    """

    def __init__(self, sampler: TrainSampler) -> None:
        self.sampler = sampler
        self._start(sampler.epoch, num_drawn=0)

    def __next__(self) -> Draw:
        if self.num_drawn == len(self.draws.indices):
            raise StopIteration
        self.num_drawn += 1
        return self.draws.draw(self.num_drawn - 1)

    def state_dict(self) -> dict[str, int]:
        """Where the pass stands."""
        return {"epoch": self.draws.epoch, "num_drawn": self.num_drawn}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on where the state was taken."""
        self._start(state_dict["epoch"], state_dict["num_drawn"])
        if self.num_drawn == len(self.draws.indices):
            self._start(state_dict["epoch"] + 1, num_drawn=0)
        self.sampler.set_epoch(self.draws.epoch)

    def _start(self, epoch: int, num_drawn: int) -> None:
        self.num_drawn = num_drawn
        self.draws = self.sampler.pass_of_epoch(epoch)
