"""ImageNet 2012 in its usual layout: train/<wnid>/*.JPEG and val/<wnid>/*.JPEG (paper §3.1).

The paper's test images are the 50,000 validation images; what a schedule looks at is held out of the
training images.
"""

from pathlib import Path
from typing import final

from sppnet.data.folder import list_classes, require_root
from sppnet.data.splits import ImageSplits, Selection, split_given
from sppnet.errors import DataError

_LAYOUT = "ILSVRC2012's train/<wnid>/*.JPEG and val/<wnid>/*.JPEG"


@final
class ImageNetReader:
    """Reads ILSVRC2012; any number of its classes."""

    def read(self, root: Path | None, selection: Selection) -> ImageSplits:
        """List the images under `root`.

        Raises:
            DataError: A folder is missing, or the validation images are not sorted into classes.
        """
        root = require_root(root, _LAYOUT)
        train, val = root / "train", root / "val"
        for folder in (train, val):
            if not folder.is_dir():
                raise DataError(f"{folder}: no such folder; data.root must hold {_LAYOUT}")
        if not any(entry.is_dir() for entry in val.iterdir()):
            raise DataError(
                f"{val}: the images lie in one flat folder, as in ILSVRC2012_img_val.tar; move each into "
                f"{val}/<wnid>/ by the devkit's ILSVRC2012_validation_ground_truth.txt"
            )
        return split_given(list_classes(train), list_classes(val), selection)
