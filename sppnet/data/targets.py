"""Data sets to transfer to: images with labels for every class, and who of them trains and who tests.

Axes: n images, k classes.

A target lists all its images, always in the same order: features are computed once for all of them, and a
random split is a choice of rows (paper §3.2 has fixed sets, §3.3 ten random splits).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, final, runtime_checkable

import torch
from jaxtyping import Bool, Int, Int8
from torch import Tensor

from sppnet.artifacts import stable_seed
from sppnet.data.shapes import build_shapes
from sppnet.data.splits import ImageSet, require_classes
from sppnet.data.voc2007 import AnnotatedImages, class_labels, read_voc, require_apart
from sppnet.errors import ConfigError, DataError


class TargetImages(NamedTuple):
    """All images of a target.

    Attributes:
        paths: Image files.
        presence: +1 where an image shows a class, -1 where not, 0 where it counts as neither (VOC's
            images with difficult objects only).
        classes: Names.
        is_test: Which images test, if the data set says so; None if they are drawn.
        is_upright: Whether EXIF orientation is applied.
    """

    paths: tuple[Path, ...]
    presence: Int8[Tensor, "n k"]
    classes: tuple[str, ...]
    is_test: Bool[Tensor, " n"] | None
    is_upright: bool


class TargetSplit(NamedTuple):
    """Rows of a target: to fit on, to choose with, to test on."""

    train: Int[Tensor, " a"]
    val: Int[Tensor, " b"]
    test: Int[Tensor, " c"]


@runtime_checkable  # the tests check argument types
class Pool(Protocol):
    """Finds images of one label each."""

    def pool(self, root: Path | None) -> ImageSet:
        """List all of them; DataError when they are not there."""
        ...


@final
@dataclass(frozen=True)
class VocTarget:
    """Classification in VOC's layout (§3.2): an image may show several classes.

    Args:
        name: What reports call it.
        root: Folder that holds VOCdevkit/VOC2007, or one of these.
        trainval_set: Image set to train on.
        test_set: Image set to test on.
    """

    name: str
    root: str | None
    trainval_set: str
    test_set: str

    def read_boxes(self) -> tuple[AnnotatedImages, AnnotatedImages]:
        """Read the annotations of trainval, and of test."""
        root = None if self.root is None else Path(self.root).expanduser()
        trainval = read_voc(root, self.trainval_set, classes=None)
        test = read_voc(root, self.test_set, classes=trainval.classes)
        require_apart(trainval, test, f"{self.trainval_set} and {self.test_set}")
        return trainval, test

    def read(self) -> TargetImages:
        """List trainval, then test; DataError where no test image lacks a class."""
        trainval, test = self.read_boxes()
        images = [*trainval.images, *test.images]
        is_test = torch.arange(len(images)) >= len(trainval.images)
        presence = torch.cat([class_labels(trainval), class_labels(test)])
        if not (presence[is_test] < 0).any():
            shown = ", ".join(trainval.classes)
            raise DataError(
                f"{self.root}: all images of {self.test_set} show every class ({shown}): no "
                f"ranking could be wrong, so there is nothing to measure; add images without them"
            )
        paths = tuple(image.path for image in images)
        return TargetImages(paths, presence, trainval.classes, is_test, is_upright=False)


@final
@dataclass(frozen=True)
class ShapesVocTarget:
    """Generated scenes in VOC's layout, the first half trainval, the other test.

    Args:
        name: What reports call it.
        root: Where they are generated; None: $SPPNET_DATA or ~/.cache/sppnet.
        num_images: Of both halves together.
        seed: Of the scenes.
    """

    name: str
    root: str | None
    num_images: int
    seed: int

    def read_boxes(self) -> tuple[AnnotatedImages, AnnotatedImages]:
        """Generate the scenes at first use, and read their annotations."""
        return self._generated().read_boxes()

    def read(self) -> TargetImages:
        """Generate the scenes at first use, and list them."""
        return self._generated().read()

    def _generated(self) -> VocTarget:
        folder = build_shapes(
            Path(self.root).expanduser() if self.root else None,
            per_class=1,
            test_per_class=1,
            detection_images=self.num_images,
            seed=self.seed,
        )
        return VocTarget(self.name, str(folder), "trainval", "test")


@final
@dataclass(frozen=True)
class PoolTarget:
    """Images of one class each, from which training and test images are drawn (§3.3).

    Args:
        name: What reports call it.
        root: Folder that holds them.
        reader: Finds them.
    """

    name: str
    root: str | None
    reader: Pool

    def read(self) -> TargetImages:
        """List all images."""
        images = require_classes(
            self.reader.pool(None if self.root is None else Path(self.root).expanduser())
        )
        presence = torch.full((len(images.paths), len(images.classes)), -1, dtype=torch.int8)
        presence[torch.arange(len(images.labels)), torch.tensor(images.labels)] = 1
        return TargetImages(images.paths, presence, images.classes, None, is_upright=True)


def draw_split(
    target: TargetImages,
    *,
    per_class: int | None,
    test_per_class: int | None,
    val_fraction: float,
    split: int,
) -> TargetSplit:
    """Choose who trains, who helps to choose C, and who tests.

    Where the target has a test set, all others train. Otherwise `per_class` images of every class do, and
    up to `test_per_class` of the rest test; one image at least. Of five training images a class the first
    are those of a 1-shot run.

    Args:
        target: All images.
        per_class: Training images of every class; None where the target has a test set.
        test_per_class: Test images of every class at most; None for all.
        val_fraction: Share of the training images to choose C with; of a single one none.
        split: Seed of the choice.

    Raises:
        ConfigError: `per_class` does not fit the target.
        DataError: A class has a single image.
    """
    if target.is_test is not None:
        if per_class is not None or test_per_class is not None:
            raise ConfigError(
                "transfer.per_class and transfer.test_per_class are for targets without a test set of their "
                "own; set them to null"
            )
        train = _shuffled((~target.is_test).nonzero()[:, 0], stable_seed(split, "trainval"))
        num_val = min(len(train) - 1, round(val_fraction * len(train)))
        return TargetSplit(
            train[num_val:].sort().values, train[:num_val].sort().values, target.is_test.nonzero()[:, 0]
        )
    if per_class is None:
        raise ConfigError("transfer.per_class is needed: these images come without a test set")
    parts: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    for name, shows in zip(target.classes, target.presence.T > 0, strict=True):
        members = _shuffled(shows.nonzero()[:, 0], stable_seed(split, name))
        if len(members) < 2:
            raise DataError(
                f"class {name!r} has {len(members)} image; one to train and one to test are needed"
            )
        num_train = min(per_class, len(members) - 1)
        num_val = min(num_train - 1, round(val_fraction * num_train))
        stop = None if test_per_class is None else num_train + test_per_class
        chosen = (members[: num_train - num_val], members[num_train - num_val : num_train])
        for part, positions in zip(parts, (*chosen, members[num_train:stop]), strict=True):
            part.append(positions)
    train, val, test = (torch.cat(part).sort().values for part in parts)
    return TargetSplit(train, val, test)


def _shuffled(positions: Tensor, seed: int) -> Tensor:
    return positions[torch.randperm(len(positions), generator=torch.Generator().manual_seed(seed))]
