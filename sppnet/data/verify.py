"""Read every file of a data set before weeks of training depend on it."""

import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from sppnet.data.images import BadImageError, read_image
from sppnet.data.splits import ImageSet
from sppnet.errors import DataError
from sppnet.progress_bar import show_progress

_NUM_LISTED = 20
_MAX_THREADS = 8


def verify(image_sets: Iterable[ImageSet], *, upright: bool, max_pixels: int) -> Counter[str]:
    """Decode every image once.

    Returns:
        How many files there are of each kind, e.g. {"JPEG RGB": 9000, "JPEG CMYK": 2}.

    Raises:
        DataError: Some cannot be used: the first 20 with path and reason, and the total.
    """
    paths = [path for images in image_sets for path in images.paths]

    def check(path: Path) -> tuple[str, str]:
        """Kind of one file, and what is wrong with it."""
        try:
            read_image(path, upright=upright, max_pixels=max_pixels)
            with Image.open(path) as image:
                return f"{image.format} {image.mode}", ""
        except BadImageError as error:
            return "", str(error)

    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        checked = list(show_progress(pool.map(check, paths), label="reading images", total=len(paths)))
    wrong = [reason for _, reason in checked if reason]
    if wrong:
        more = [f"... and {len(wrong) - _NUM_LISTED} more"] if len(wrong) > _NUM_LISTED else []
        raise DataError(
            "\n".join([f"{len(wrong)} of {len(paths)} images cannot be used:", *wrong[:_NUM_LISTED], *more])
        )
    return Counter(kind for kind, _ in checked)
