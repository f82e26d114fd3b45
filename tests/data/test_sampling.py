"""Draws are a pure function of seed and epoch, and a killed run gets exactly those it had left."""

import io
from collections import Counter

import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from sppnet.artifacts import stable_seed
from sppnet.data.records import Draw
from sppnet.data.sampling import BucketSampler, EpochSampler
from sppnet.data.sizes import BucketSizes, CyclicSizes, RandomSizes
from sppnet.errors import ConfigError


class Echo:
    """A data set that answers with what it was asked for."""

    def __len__(self):
        return 23

    def __getitem__(self, draw):
        return tuple(draw)


def loader(num_workers=0, num_images=23):
    sampler = EpochSampler(num_images, seed=5, sizes=CyclicSizes([224, 180]), num_replicas=1, rank=0)
    return StatefulDataLoader(
        Echo(),
        batch_size=4,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=list,
        generator=torch.Generator().manual_seed(0),
    )


def epoch_of(data, epoch):
    data.sampler.set_epoch(epoch)
    return [draw for batch in data for draw in batch]


def test_every_image_is_drawn_once_an_epoch_in_another_order():
    sampler = EpochSampler(50, seed=0, sizes=CyclicSizes([224]), num_replicas=1, rank=0)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append([draw.index for draw in sampler])
    assert [sorted(order) for order in orders] == [list(range(50))] * 3
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_an_epoch_does_not_depend_on_the_epochs_before_it():
    used = loader()
    earlier = [epoch_of(used, epoch) for epoch in (0, 1, 2)]
    assert epoch_of(loader(), 2) == earlier[2]


def test_seed_0_in_epoch_1_is_not_seed_1_in_epoch_0():
    orders = []
    for seed, epoch in ((0, 1), (1, 0)):
        sampler = EpochSampler(50, seed=seed, sizes=CyclicSizes([224]), num_replicas=1, rank=0)
        orders.append(sampler.pass_of_epoch(epoch).indices.tolist())
    assert orders[0] != orders[1]


def test_three_ranks_share_an_epoch_and_the_first_images_fill_up():
    shares = [
        [draw.index for draw in EpochSampler(7, seed=0, sizes=CyclicSizes([9]), num_replicas=3, rank=rank)]
        for rank in range(3)
    ]
    assert [len(share) for share in shares] == [3, 3, 3]
    counts = Counter(sum(shares, []))
    assert sorted(counts) == list(range(7))
    assert sorted(counts.values()) == [1, 1, 1, 1, 1, 2, 2]


def test_more_ranks_than_images_still_get_one_each():
    shares = [
        len(list(EpochSampler(2, seed=0, sizes=CyclicSizes([9]), num_replicas=5, rank=rank)))
        for rank in range(5)
    ]
    assert shares == [1] * 5


def saved(state):
    """The state as it comes back from a checkpoint that may hold plain values only."""
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("num_batches", [1, 3, 5])
def test_a_loader_resumed_in_mid_epoch_gives_exactly_what_was_left(num_workers, num_batches):
    undisturbed = epoch_of(loader(), 3)
    killed = loader(num_workers)
    killed.sampler.set_epoch(3)
    batches = iter(killed)
    seen = [draw for _ in range(num_batches) for draw in next(batches)]
    state = saved(killed.state_dict())

    resumed = loader(num_workers)
    resumed.load_state_dict(state)
    # As Lightning does: the iterator first, which lets workers prefetch, and only then the epoch.
    rest = iter(resumed)
    resumed.sampler.set_epoch(3)
    assert seen + [draw for batch in rest for draw in batch] == undisturbed
    assert epoch_of(resumed, 4) == epoch_of(loader(), 4)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_saved_after_its_last_batch_resumes_with_the_next_epoch(num_workers):
    finished = loader(num_workers)
    epoch_of(finished, 3)
    resumed = loader(num_workers)
    resumed.load_state_dict(saved(finished.state_dict()))
    assert [draw for batch in resumed for draw in batch] == epoch_of(loader(), 4)


def test_an_iterator_that_is_thrown_away_changes_nothing():
    data = loader(num_workers=2, num_images=8)
    iter(data)  # Lightning's check that a loader can be iterated; two workers prefetch all of it
    assert {draw[1] for batch in data for draw in batch} == {0}


def test_loading_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    epoch_of(loader(), 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_two_sizes_alternate_with_full_epochs():
    sizes = CyclicSizes([224, 180])
    assert [sizes.size_of_epoch(epoch, seed=0) for epoch in range(5)] == [224, 180, 224, 180, 224]
    assert {draw[2:] for draw in epoch_of(loader(), 1)} == {(180, 180)}


def test_random_sizes_reach_both_ends_and_depend_on_the_epoch_only():
    sizes = RandomSizes(low=180, high=224)
    sampler = EpochSampler(1, seed=0, sizes=sizes, num_replicas=1, rank=0)
    drawn = [int(sampler.pass_of_epoch(epoch).shapes[0, 0]) for epoch in range(2000)]
    assert set(drawn) == set(range(180, 225))
    # Mean of U{180..224} is 202, its deviation 12.99: 2,000 draws average within 202 +- 1.2 (4 sigma).
    assert sum(drawn) / 2000 == pytest.approx(202, abs=1.2)
    again = [int(sampler.pass_of_epoch(epoch).shapes[0, 0]) for epoch in (1999, 7)]
    assert again == [drawn[1999], drawn[7]]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: CyclicSizes([]), "train_sizes.sizes"),
        (lambda: CyclicSizes([224, 0]), "train_sizes.sizes"),
        (lambda: BucketSizes(sizes=[], aspect_step=1.2, max_aspect=2.0), "train_sizes.sizes"),
        (lambda: BucketSizes(sizes=[9], aspect_step=1.0, max_aspect=2.0), "train_sizes.aspect_step=1.0"),
        (lambda: RandomSizes(low=224, high=180), "train_sizes.low=224"),
    ],
)
def test_impossible_sizes_name_their_key(make, named):
    with pytest.raises(ConfigError, match=named):
        make()


def buckets(sizes, rank=0, num_replicas=1):
    return BucketSampler(
        sizes,
        buckets=BucketSizes(sizes=[100, 50], aspect_step=1.5, max_aspect=3.0),
        batch_size=4,
        seed=0,
        num_replicas=num_replicas,
        rank=rank,
    )


@pytest.mark.parametrize(
    ("width", "height", "shape"),
    [
        (100, 100, (100, 100)),
        (99, 99, (50, 50)),  # the largest short side that enlarges nothing
        (30, 20, (50, 75)),  # nothing is small enough: the smallest
        (150, 100, (100, 150)),
        (100, 230, (225, 100)),  # aspect ratios 1, 1.5, 2.25
        (2000, 100, (100, 338)),  # no longer than the last bucket, 1.5^3
    ],
)
def test_an_image_goes_to_the_bucket_of_its_size_and_shape(width, height, shape):
    assert BucketSizes(sizes=[100, 50], aspect_step=1.5, max_aspect=3.0).shape_of(width, height) == shape


SIZES = [(120, 110), (160, 100), (60, 90), (55, 51), (400, 120)] * 7


def test_every_batch_is_of_one_shape_and_every_image_is_in_one():
    sampler = buckets(SIZES)
    draws = list(sampler)
    batches = [draws[start : start + 4] for start in range(0, len(draws), 4)]
    assert len(draws) == len(sampler) == 5 * 8  # five buckets of seven images: two batches of four each
    assert {len({(draw.height, draw.width) for draw in batch}) for batch in batches} == {1}
    assert {draw.index for draw in draws} == set(range(35))
    sampler.set_epoch(1)
    assert [draw.index for draw in sampler] != [draw.index for draw in draws]


def test_ranks_get_equally_many_batches_and_together_all_images():
    shares = [list(buckets(SIZES, rank, num_replicas=3)) for rank in range(3)]
    assert [len(share) for share in shares] == [16, 16, 16]  # ten batches and two again
    assert {draw.index for share in shares for draw in share} == set(range(35))


def test_a_killed_epoch_of_buckets_goes_on_where_it_was():
    undisturbed = list(buckets(SIZES))
    position = iter(buckets(SIZES))
    seen = [next(position) for _ in range(13)]
    resumed = iter(buckets(SIZES))
    resumed.load_state_dict(saved(position.state_dict()))
    assert seen + list(resumed) == undisturbed


def test_stable_seeds_are_the_same_everywhere():
    # Computed once; a change would silently draw other images in a resumed run.
    assert stable_seed(0, "order", 3) == 6785497997347460347
    assert stable_seed(1, 23) != stable_seed(12, 3)


def test_a_draw_survives_a_plain_loader():
    sampler = EpochSampler(4, seed=0, sizes=CyclicSizes([7]), num_replicas=1, rank=0)
    batch = next(iter(DataLoader(Echo(), batch_size=2, sampler=sampler, collate_fn=list)))
    assert [Draw(*draw).height for draw in batch] == [7, 7]
