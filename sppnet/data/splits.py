"""Which images train, which are held out of training, which test.

Every choice is made class by class from a generator seeded by the split's seed and the class's name:
a data set that gains a class keeps the images chosen in the others, and the first 5 of 30 training
images are the training images of a 5-shot run.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import torch

from sppnet.artifacts import stable_seed
from sppnet.errors import ConfigError, DataError

log = logging.getLogger(__name__)


# From an image's height and width, resized, to a training region's top, left and label (§4.5).
DrawRegion = Callable[[int, int, torch.Generator], tuple[int, int, int]]


@dataclass(frozen=True)
class ImageSet:
    """Image files with one label each; `labels[i]` is a position in `classes`."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    regions: tuple[DrawRegion, ...] = ()  # of every image, where its content decides them


class ImageSplits(NamedTuple):
    """The three sets of a data set; `val` is empty when nothing is held out."""

    train: ImageSet
    val: ImageSet
    test: ImageSet


@dataclass(frozen=True)
class Selection:
    """How much of a data set is used.

    Args:
        per_class: Training images per class (the held-out ones among them); None for all.
        test_per_class: Test images per class at most; None for all.
        val_fraction: Share of every class's *training* images to hold out, in [0, 1).
        split_seed: Seed of every choice.
    """

    per_class: int | None
    test_per_class: int | None
    val_fraction: float
    split_seed: int

    def __post_init__(self) -> None:
        for name in ("per_class", "test_per_class"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"data.{name}={value} must be at least 1, or null for all images")
        if not 0 <= self.val_fraction < 1:
            raise ConfigError(f"data.val_fraction={self.val_fraction} must be at least 0 and below 1")


@runtime_checkable  # the tests check argument types
class Reader(Protocol):
    """Finds the images of one layout on disk."""

    def read(self, root: Path | None, selection: Selection) -> ImageSplits:
        """List the images under `root`; DataError when they are not there."""
        ...


def split_given(train: ImageSet, test: ImageSet, selection: Selection) -> ImageSplits:
    """Select from a data set that comes with its own training and test images."""
    if train.classes != test.classes:
        differing = sorted(set(train.classes) ^ set(test.classes))
        raise DataError(
            f"training and test images have different classes ({', '.join(differing[:5])}"
            f"{', ...' if len(differing) > 5 else ''}): both need one folder for every class"
        )
    chosen = _select(train, selection, lambda order: order[: selection.per_class])
    tested = _select(test, selection, lambda order: order[: selection.test_per_class])
    return _hold_out(chosen, tested, selection)


def split_pool(pool: ImageSet, selection: Selection) -> ImageSplits:
    """Draw training and test images from one pool, class by class (§3.3: 30 to train, up to 50 to test).

    A class that is too small for both keeps one image to test with; a warning says so.
    """
    wanted = selection.per_class
    if wanted is None:
        raise ConfigError(
            "data.per_class is needed: these images come without a training and a test part, "
            "so that many of every class train and the others test"
        )
    counts = torch.bincount(torch.tensor(pool.labels), minlength=len(pool.classes)).tolist()
    for name, count in zip(pool.classes, counts, strict=True):
        if count < 2:
            raise DataError(f"class {name!r} has {count} image; one to train and one to test are needed")

    small = [
        f"{name} has {count}" for name, count in zip(pool.classes, counts, strict=True) if count <= wanted
    ]
    if small:
        more = f" and {len(small) - 3} more" if len(small) > 3 else ""
        log.warning(
            "%d of %d classes have too few images for data.per_class=%d and one to test, which they keep: "
            "%s%s",
            *(len(small), len(pool.classes), wanted, ", ".join(small[:3]), more),
        )

    def num_train(count: int) -> int:
        return min(wanted, count - 1)

    def part_to_test(order: list[int]) -> list[int]:
        return order[num_train(len(order)) :][: selection.test_per_class]

    train = _select(pool, selection, lambda order: order[: num_train(len(order))])
    return _hold_out(train, _select(pool, selection, part_to_test), selection)


def require_classes(images: ImageSet) -> ImageSet:
    """The images themselves, if there is something to tell apart.

    Raises:
        DataError: They are of one class.
    """
    if len(images.classes) < 2:
        place = images.paths[0].parent if images.paths else ""
        raise DataError(
            f"only one class, {images.classes[0]} ({place}): a classifier needs two or more; is data.root "
            f"(or paths.data) one folder too high, or too deep?"
        )
    return images


def _hold_out(train: ImageSet, test: ImageSet, selection: Selection) -> ImageSplits:
    """Take the validation images out of the training images, never out of the test images."""

    def num_held(count: int) -> int:
        if selection.val_fraction == 0:
            return 0
        return min(count - 1, max(1, round(selection.val_fraction * count)))

    val = _select(train, selection, lambda order: order[: num_held(len(order))])
    kept = _select(train, selection, lambda order: order[num_held(len(order)) :])
    if selection.val_fraction > 0 and not val.paths:
        raise ConfigError(
            f"data.val_fraction={selection.val_fraction} of {len(train.paths)} training images in "
            f"{len(train.classes)} classes holds out none of any class: raise it, or set it to 0"
        )
    return ImageSplits(kept, val, test)


def _select(images: ImageSet, selection: Selection, choose: Callable[[list[int]], list[int]]) -> ImageSet:
    """Keep what `choose` takes of each class's images in random order; the set stays sorted."""
    members: list[list[int]] = [[] for _ in images.classes]
    for position, label in enumerate(images.labels):
        members[label].append(position)
    kept: list[int] = []
    for name, positions in zip(images.classes, members, strict=True):
        generator = torch.Generator().manual_seed(stable_seed(selection.split_seed, name))
        order = torch.randperm(len(positions), generator=generator).tolist()
        kept.extend(choose([positions[i] for i in order]))
    kept.sort()
    return ImageSet(
        tuple(images.paths[i] for i in kept),
        tuple(images.labels[i] for i in kept),
        images.classes,
        tuple(images.regions[i] for i in kept) if images.regions else (),
    )
