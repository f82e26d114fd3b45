"""Caltech-101 (paper §3.3): 9,144 images in 102 categories, one of them the background.

Of every category 30 random images train and up to 50 others test; ten such splits are averaged.
"""

import logging
from pathlib import Path
from typing import final

from sppnet.data.folder import list_classes, require_root
from sppnet.data.splits import ImageSet, ImageSplits, Selection, split_pool
from sppnet.errors import DataError

_FOLDER = "101_ObjectCategories"
_BACKGROUND = "BACKGROUND_Google"
_NUM_CATEGORIES = 102
log = logging.getLogger(__name__)


@final
class Caltech101Reader:
    """Reads `caltech101/101_ObjectCategories/<category>/*.jpg` from any of its parent folders."""

    def read(self, root: Path | None, selection: Selection) -> ImageSplits:
        """List the images under `root` and draw the split.

        Raises:
            DataError: The folder of categories is not there.
            ConfigError: The number of training images per category is not given.
        """
        return split_pool(self.pool(root), selection)

    def pool(self, root: Path | None) -> ImageSet:
        """List all images under `root`.

        Raises:
            DataError: The folder of categories is not there.
        """
        root = require_root(root, f"caltech101/{_FOLDER}/<category>/*.jpg")
        places = [root / "caltech101" / _FOLDER, root / _FOLDER]
        if root.resolve().name == _FOLDER:
            places.append(root)
        found = [place for place in places if place.is_dir()]
        if not found:
            raise DataError(
                f"data.root={root}: found neither {' nor '.join(map(str, places))}; extract {_FOLDER} there"
            )
        pool = list_classes(found[0])
        if len(pool.classes) != _NUM_CATEGORIES or _BACKGROUND not in pool.classes:
            log.warning(
                "%s: %d categories, %s %s; the paper counts %d with it, so accuracies are not comparable",
                found[0],
                len(pool.classes),
                _BACKGROUND,
                "among them" if _BACKGROUND in pool.classes else "missing",
                _NUM_CATEGORIES,
            )
        return pool
