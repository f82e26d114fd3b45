"""The resized pixels of a set of images: kept in memory when they fit, else decoded at every use."""

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from sppnet.data.images import BadImageError, image_kind, image_size, read_image, resize_short_side
from sppnet.data.splits import ImageSet
from sppnet.errors import DataError
from sppnet.progress_bar import map_in_threads

_NUM_SAMPLED = 100  # files whose headers tell how large the whole set will be
_NUM_LISTED = 20
log = logging.getLogger(__name__)


@final
class ImageStore:
    """Whole images, resized by their short side.

    Args:
        images: The files.
        name: What to call the set in messages: train, val or test.
        short_side: Pixels.
        upright: Whether EXIF orientation is applied.
        max_pixels: A larger file is refused.
    """

    def __init__(
        self, images: ImageSet, *, name: str, short_side: int, upright: bool, max_pixels: int
    ) -> None:
        # One block of bytes instead of a million objects: forked workers share it without copying.
        self._paths = np.array([os.fsencode(path) for path in images.paths], dtype=bytes)
        self._name = name
        self._short_side = short_side
        self._upright = upright
        self._max_pixels = max_pixels
        self._kept: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 h w"]:
        """Pixels of one image.

        Raises:
            BadImageError: The file cannot be used; path, reason and index.
        """
        return self._kept[index] if self._kept else self.at(index, (self._short_side,))[0]

    def at(self, index: int, short_sides: Sequence[int]) -> tuple[UInt8[Tensor, "3 _h _w"], ...]:
        """Pixels of one image at several short sides, decoded once.

        Raises:
            BadImageError: The file cannot be used.
        """
        try:
            image = read_image(self._path(index), upright=self._upright, max_pixels=self._max_pixels)
        except BadImageError as error:
            raise BadImageError(f"{error} [image {index} of the {self._name} set]") from error
        return tuple(resize_short_side(image, short_side) for short_side in short_sides)

    def sizes(self) -> list[tuple[int, int]]:
        """Width and height of every file's image, from the headers.

        Raises:
            BadImageError: A file cannot be used.
        """
        return map_in_threads(self._size, range(len(self)), label=f"sizes of {self._name} images")

    def keep_in_memory(self, budget: int) -> int:
        """Decode everything now if it fits into `budget` bytes; return the bytes taken (0: nothing kept)."""
        if not len(self) or self._estimate_bytes() > budget:
            return 0
        log.info("decoding %d %s images into memory", len(self), self._name)
        self._kept = map_in_threads(self.__getitem__, range(len(self)), label=f"decoding {self._name} images")
        return sum(image.numel() for image in self._kept)

    def _path(self, index: int) -> Path:
        return Path(os.fsdecode(self._paths[index]))

    def _size(self, index: int) -> tuple[int, int]:
        return image_size(self._path(index), upright=self._upright, max_pixels=self._max_pixels)

    def _estimate_bytes(self) -> int:
        """Bytes of all resized images, extrapolated from the headers of evenly spaced files."""
        sampled = range(0, len(self), max(1, len(self) // _NUM_SAMPLED))
        aspects = []
        for index in sampled:
            with contextlib.suppress(BadImageError):  # reported when the image is read
                size = self._size(index)
                aspects.append(max(size) / min(size))
        mean_aspect = float(np.mean(aspects)) if aspects else 1.0
        return int(len(self) * 3 * self._short_side**2 * mean_aspect)


def verify(paths: Sequence[Path], *, upright: bool, max_pixels: int) -> Counter[str]:
    """Decode every image once, and compare its size with its header's.

    Returns:
        How many files there are of each kind, e.g. {"JPEG RGB": 9000, "JPEG CMYK": 2}.

    Raises:
        DataError: Some cannot be used: the first 20 with path and reason, and the total.
    """

    def check(path: Path) -> tuple[str, str]:
        """Kind of one file, and what is wrong with it."""
        try:
            size = read_image(path, upright=upright, max_pixels=max_pixels).size
            if size != (said := image_size(path, upright=upright, max_pixels=max_pixels)):
                raise BadImageError(f"{path}: {size} pixels, but its header says {said}; save it again")
            return image_kind(path), ""
        except BadImageError as error:
            return "", str(error)

    checked = map_in_threads(check, paths, label="reading images")
    wrong = [reason for _, reason in checked if reason]
    if wrong:
        more = [f"... and {len(wrong) - _NUM_LISTED} more"] if len(wrong) > _NUM_LISTED else []
        raise DataError(
            "\n".join([f"{len(wrong)} of {len(paths)} images cannot be used:", *wrong[:_NUM_LISTED], *more])
        )
    return Counter(kind for kind, _ in checked)
