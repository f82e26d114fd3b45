"""Anybody's images: a folder per class, with or without train, val and test folders above them."""

import functools
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, final

from sppnet.artifacts import file_digest
from sppnet.data.picture_files import ENDINGS, is_data, pictures_below, tell_left_out
from sppnet.data.splits import ImageSet, ImageSplits, Selection, split_given, split_pool
from sppnet.errors import DataError

# What the parts of a data set are called, in any case and with such words as in training_set around it.
_SPLITS: Final = {
    "train": ("train", "training", "trn", "trainval"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tst", "eval", "evaluation"),
}
_PADDING: Final = re.compile(r"[\W\d_]|set|data|images?|imgs?|split|samples?")
_MOST_COMPARED: Final = 20_000  # images that are looked through for copies: a second or two
log = logging.getLogger(__name__)


@final
class FolderReader:
    """Reads `root/<class>/*`, or `root/{train,test}/<class>/*` with a `val` folder if there is one.

    The three may have other people's names too: Training, valid, test_set.
    Without a `test` folder, `val` holds the test images, as ImageNet's does.
    """

    def read(self, root: Path | None, selection: Selection) -> ImageSplits:
        """List the images under `root`.

        Raises:
            DataError: No folder, no classes, or a class without images.
            ConfigError: `selection` does not fit the layout.
        """
        root = require_root(root, "root/<class>/*.jpg or root/{train,test}/<class>/*.jpg")
        parts = _find_splits(root)
        if not {"train", "test"} & parts.keys():
            drawn = split_pool(list_classes(root), selection)
            if copies := list(_copies(drawn.train, drawn.test)):
                log.warning(
                    "%s: %d test images are copies of training images, such as %s of %s; remove one of each",
                    *(root, len(copies), *copies[0]),
                )
            return drawn
        train, val, test = (parts.get(name) for name in _SPLITS)
        if train is None or not (val or test):
            raise DataError(
                f"{root}: has a folder {', '.join(sorted(path.name for path in parts.values()))} but "
                f"{'no train' if train is None else 'neither test nor val'}; add one, or give "
                f"{train or test} as data.root and set data.per_class"
            )
        if others := [name for name in _folders(root) if root / name not in parts.values()]:
            log.warning("%s: left out beside the parts of the data set: %s", root, ", ".join(others))
        trained, tested = list_classes(train), list_classes(test or val or root)
        for path, other in _copies(trained, tested):
            raise DataError(f"{path}: the same image as {other}: what trains cannot test; remove one of them")
        if not (val and test):
            return split_given(trained, tested, selection)
        # Images for validation are there: none are held out of the training images.
        splits = split_given(trained, tested, replace(selection, val_fraction=0.0))
        held_out = list_classes(val)
        if held_out.classes != splits.train.classes:
            raise DataError(f"{val}: other classes than {train}; both need one folder for every class")
        return splits._replace(val=held_out)

    def pool(self, root: Path | None) -> ImageSet:
        """List all images of `root/<class>/*`.

        Raises:
            DataError: No folder, no classes, or a class without images.
        """
        return list_classes(require_root(root, "root/<class>/*.jpg"))


def _copies(train: ImageSet, test: ImageSet) -> Iterator[tuple[Path, Path]]:
    """Test images that are, byte for byte, training images, and these; of very many none are read."""
    if len(train.paths) + len(test.paths) > _MOST_COMPARED:
        return
    by_size: dict[int, list[Path]] = {}
    try:
        for path in train.paths:
            by_size.setdefault(path.stat().st_size, []).append(path)
        by_size.pop(0, None)  # empty files are another fault
        digest = functools.cache(file_digest)
        for path in test.paths:
            same = (one for one in by_size.get(path.stat().st_size, ()) if digest(one) == digest(path))
            if other := next(same, None):
                yield path, other
    except OSError as error:
        raise DataError(f"{error.filename}: cannot read ({error.strerror}); restore the file") from error


def require_root(root: Path | None, layout: str) -> Path:
    """The folder a data set is said to be in, if it exists.

    Raises:
        DataError: It was not given or is not a folder.
    """
    if root is None:
        raise DataError(f"data.root is not set; give the folder that holds {layout}")
    if not root.is_dir():
        raise DataError(f"data.root={root}: no such folder (looked in {Path.cwd()}); expected {layout}")
    return root


def list_classes(folder: Path) -> ImageSet:
    """List `folder`'s images; every folder in it is a class, files may lie deeper.

    Raises:
        DataError: No class folders, one without images or with a name that is not UTF-8, pipes or devices
            among the images; or folders that seem to be parts of a data set, not classes.
    """
    classes = _folders(folder)
    if not classes:
        raise DataError(f"{folder}: no class folders; expected {folder}/<class>/<image>")
    _refuse_splits(folder, classes)
    paths: list[Path] = []
    labels: list[int] = []
    left_out: Counter[str] = Counter()
    for label, name in enumerate(classes):
        if not name.isprintable():
            raise DataError(f"{folder}: the class folder {name!r} is not named in plain UTF-8; rename it")
        found = list(pictures_below(folder / name, left_out))
        if not found:
            raise DataError(
                f"{folder / name}: no images (files ending in {', '.join(ENDINGS)}"
                f"{f'; there are {left_out.total()} others' if left_out else ''}); "
                f"add some, or remove the folder"
            )
        if strange := [entry.path for entry in found if not entry.is_file()]:
            raise DataError(f"{strange[0]}: a link to nothing, a pipe or a device, no image; remove it")
        paths.extend(Path(entry.path) for entry in found)
        labels.extend([label] * len(found))
    tell_left_out(folder, left_out)
    return ImageSet(tuple(paths), tuple(labels), tuple(classes))


def _folders(folder: Path) -> list[str]:
    """Names of the folders in a folder that may be data."""
    try:
        return sorted(entry.name for entry in os.scandir(folder) if is_data(entry.name) and entry.is_dir())
    except OSError as error:
        raise DataError(
            f"{folder}: cannot read the folder ({error.strerror}); change its permissions"
        ) from error


def _find_splits(root: Path) -> dict[str, Path]:
    """The folders that hold class folders and are called train, val or test, or what others call these."""
    parts: dict[str, Path] = {}
    for name in _folders(root):
        word = _PADDING.sub("", name.casefold())
        split = next((split for split, words in _SPLITS.items() if word in words), None)
        if split is None or not _folders(root / name):
            continue
        if split in parts:
            raise DataError(f"{root}: both {parts[split].name} and {name} seem to be {split}; keep one")
        parts[split] = root / name
    return parts


def _refuse_splits(folder: Path, classes: Sequence[str]) -> None:
    """Refuse "classes" that are parts of a data set: by their names, or by equal folders in all."""
    below = [set(_folders(folder / name)) for name in classes]
    shared = set.intersection(*below) if len(classes) > 1 else set()
    named = sorted(path.name for path in _find_splits(folder).values())
    if len(named) > 1 or shared:
        holding = f", which all hold {', '.join(sorted(shared)[:3])}" if shared else ""
        raise DataError(
            f"{folder}: are {', '.join((named if len(named) > 1 else classes)[:5])}{holding}, parts of a "
            f"data set and not classes? Call them train, val and test for data=folder, or give one of them"
        )
