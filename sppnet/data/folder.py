"""Anybody's images: a folder per class, with or without train, val and test folders above them."""

import functools
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Final, final

from sppnet.artifacts import file_digest
from sppnet.data.splits import ImageSet, ImageSplits, Selection, split_given, split_pool
from sppnet.errors import DataError

# What sppnet.data.images decodes; anything else in a class folder (thumbs, texts) is not an image.
_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"}
)
_MOST_COMPARED: Final = 20_000  # images that are looked through for copies: a second or two
log = logging.getLogger(__name__)


@final
class FolderReader:
    """Reads `root/<class>/*`, or `root/{train,test}/<class>/*` with a `val` folder if there is one.

    Without a `test` folder, `val` holds the test images, as ImageNet's does.
    """

    def read(self, root: Path | None, selection: Selection) -> ImageSplits:
        """List the images under `root`.

        Raises:
            DataError: No folder, no classes, or a class without images.
            ConfigError: `selection` does not fit the layout.
        """
        root = require_root(root, "root/<class>/*.jpg or root/{train,test}/<class>/*.jpg")
        train, val, test = root / "train", root / "val", root / "test"
        if not train.is_dir():
            return split_pool(list_classes(root), selection)
        if not (val.is_dir() or test.is_dir()):
            raise DataError(
                f"{root}: has a folder train but neither test nor val; add one, "
                f"or give {train} as data.root and set data.per_class"
            )
        trained, tested = list_classes(train), list_classes(test if test.is_dir() else val)
        _require_no_copies(trained, tested)
        if not (val.is_dir() and test.is_dir()):
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


def _require_no_copies(train: ImageSet, test: ImageSet) -> None:
    """Refuse test images that are, byte for byte, training images; of very many none are read."""
    if len(train.paths) + len(test.paths) > _MOST_COMPARED:
        return
    by_size: dict[int, list[Path]] = {}
    try:
        for path in train.paths:
            by_size.setdefault(path.stat().st_size, []).append(path)
        by_size.pop(0, None)  # empty files are another fault
        digest = functools.cache(file_digest)
        for path in test.paths:
            for other in by_size.get(path.stat().st_size, ()):
                if digest(path) == digest(other):
                    raise DataError(
                        f"{path}: the same image as {other}: what is trained on cannot be tested on; remove "
                        f"one of them"
                    )
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
        DataError: No class folders, or one without images.
    """
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    if not classes:
        raise DataError(f"{folder}: no class folders; expected {folder}/<class>/<image>")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = _list_images(folder / name)
        if not found:
            raise DataError(
                f"{folder / name}: no images (files ending in {', '.join(sorted(_EXTENSIONS))}); "
                f"add some, or remove the folder"
            )
        paths.extend(found)
        labels.extend([label] * len(found))
    return ImageSet(tuple(paths), tuple(labels), tuple(classes))


def _list_images(folder: Path) -> list[Path]:
    """All image files below `folder`, hidden ones aside, in an order that is the same everywhere."""
    found = [
        os.path.join(directory, name)  # noqa: PTH118 - a Path per directory entry takes minutes on ImageNet
        for directory, _, names in os.walk(folder)
        for name in names
        if name[0] != "." and os.path.splitext(name)[1].lower() in _EXTENSIONS  # noqa: PTH122 - as above
    ]
    return [Path(name) for name in sorted(found)]
