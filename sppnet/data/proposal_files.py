"""The .mat files of proposals that R-CNN and SPP-net published, and any in their layout (paper §4.1).

`boxes` is a cell of one n x 4 matrix per image, rows y1 x1 y2 x2 from 1 on, both ends inside; `images` is
a cell of the images' ids.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sppnet.artifacts import regular
from sppnet.data.images import image_size
from sppnet.data.mat_file import Cell, read_cells
from sppnet.errors import ArtifactError, DataError

_MAGIC = b"MATLAB 5.0 MAT-file"
_HDF5_MAGIC = b"MATLAB 7.3 MAT-file"
# Formats that may hold Python objects: pickles (also inside zip and NumPy files).
_PYTHON_MAGIC = (b"\x80", b"PK", b"\x93NUMPY", b"(", b"c", b"]", b"}")
_NUM_LISTED = 5
_MOST_BOXES = 1_000_000  # of an image; published files have a few thousand
Boxes = list[Float[Tensor, "_ 4"]]  # x1 y1 x2 y2 of every image
log = logging.getLogger(__name__)


@runtime_checkable
class StoredImage(Protocol):
    """An image file with an id; `AnnotatedImage` is one."""

    @property
    def image_id(self) -> str:
        """Its id in lists and proposals files."""

    @property
    def path(self) -> Path:
        """The file."""


@final
class MatProposals:
    """Proposals that somebody has computed.

    Args:
        paths: .mat files that together have all images: trainval, test; or the only one.
        max_proposals: The first so many of an image are used.
    """

    is_computed = False  # files know no other pictures

    def __init__(self, *, paths: Sequence[str | Path] | str | Path, max_proposals: int) -> None:
        listed = [paths] if isinstance(paths, (str, Path)) else paths
        self.paths = tuple(Path(path).expanduser() for path in listed)
        self.max_proposals = max_proposals

    def read(self, images: Sequence[StoredImage], _proposals_of: object = None, /) -> Boxes:
        """Read the proposals of some images; no other source is asked.

        Raises:
            DataError: A file cannot be used, no file has an image, or boxes end outside an image, as they
                do when they were made for others.
        """
        known: dict[str, Tensor] = {}
        for path in self.paths:
            known = _read_all(path) | known  # the first file that has an image counts
        files = ", ".join(map(str, self.paths))
        found = _pick(known, [image.image_id for image in images], files)
        for image, boxes in zip(images, found, strict=True):
            _require_inside(image, boxes, files)
        if num_cut := sum(len(boxes) > self.max_proposals for boxes in found):
            log.warning(
                "%s: %d of %d images have more proposals than proposals.max_proposals=%d; the first %d count",
                *(files, num_cut, len(found), self.max_proposals, self.max_proposals),
            )
        return [boxes[: self.max_proposals] for boxes in found]


def read_mat(path: Path, image_ids: Sequence[str]) -> Boxes:
    """Read proposals of some images, in the order of `image_ids`, exactly as they stand in the file.

    Args:
        path: A .mat file of MATLAB version 5, 6 or 7.
        image_ids: Which images; the file may have more, in any order.

    Returns:
        x1 y1 x2 y2, 0-based inclusive pixels; images without proposals have no rows.

    Raises:
        ArtifactError: It is a file that could hold Python objects.
        DataError: It is not such a .mat file, lacks an image or has it twice, or a box is not one.
    """
    return _pick(_read_all(path), image_ids, str(path))


def _pick(known: dict[str, Tensor], image_ids: Sequence[str], files: str) -> list[Tensor]:
    """Look the images up."""
    missing = [image_id for image_id in image_ids if image_id not in known]
    if missing:
        some = ", ".join(missing[:_NUM_LISTED])
        raise DataError(
            f"{files}: no proposals of {len(missing)} of {len(image_ids)} images ({some}, ...); it has "
            f"{len(known)} others (such as {next(iter(known), 'none')}): give the file of this image set"
        )
    return [known[image_id] for image_id in image_ids]


def _read_all(path: Path) -> dict[str, Tensor]:
    """Read every image's boxes."""
    path = Path(path)
    _require_matlab(path)
    try:
        content = read_cells(path, ["images", "boxes"])
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: damaged or not R-CNN's cells images and boxes ({error}); copy or download it again"
        ) from error
    if absent := [name for name in ("images", "boxes") if name not in content]:
        raise DataError(f"{path}: no variable {absent[0]!r} in it; expected R-CNN's cells images and boxes")
    ids, cells = content["images"], content["boxes"]
    if len(ids) != len(cells):
        raise DataError(f"{path}: {len(ids)} images, but boxes of {len(cells)}; make the file again")
    if strange := [cell for cell in ids if not isinstance(cell, str)]:
        raise DataError(f"{path}: images holds {strange[0]!r:.40}; expected ids such as '000005'")
    if len(set(ids)) < len(ids):
        twice = next(image_id for image_id in ids if ids.count(image_id) > 1)
        raise DataError(f"{path}: image {twice} stands there twice; make the file again")
    return {
        str(image_id): _to_boxes(path, str(image_id), cell) for image_id, cell in zip(ids, cells, strict=True)
    }


def _require_matlab(path: Path) -> None:
    """Refuse every other format by its first bytes."""
    try:
        with regular(path).open("rb") as stream:
            head = stream.read(128)
    except OSError as error:
        raise DataError(f"{path}: cannot read ({error.strerror or error}); check proposals.paths") from error
    if head.startswith(_MAGIC):
        return
    if head.startswith(_HDF5_MAGIC):
        raise DataError(f"{path}: MATLAB 7.3 (HDF5); in MATLAB, load it and save it again with '-v7'")
    if head.startswith(_PYTHON_MAGIC):
        raise ArtifactError(f"{path}: starts {head[:8]!r}, may hold Python objects; these are never loaded")
    raise DataError(f"{path}: starts {head[:8]!r}, not {_MAGIC.decode()!r}; expected a .mat file")


def _to_boxes(path: Path, image_id: str, cell: Cell) -> Tensor:
    """Turn rows y1 x1 y2 x2 from 1 on into ours, without changing a box."""
    if isinstance(cell, str) or (cell.size and cell.shape[1] != 4):
        found = f"{cell!r:.40}" if isinstance(cell, str) else f"a matrix {cell.shape}"
        raise DataError(f"{path}: image {image_id}: boxes are {found}; expected n x 4 numbers")
    matrix = cell.reshape(-1, 4)
    if len(matrix) > _MOST_BOXES:
        raise DataError(f"{path}: image {image_id} has {len(matrix)} boxes; expected up to {_MOST_BOXES}")
    boxes = matrix[:, [1, 0, 3, 2]].astype(np.float64) - 1
    good = (
        np.isfinite(boxes).all(axis=1) & (boxes[:, :2] <= boxes[:, 2:]).all(axis=1) & (boxes >= 0).all(axis=1)
    )
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise DataError(
            f"{path}: image {image_id}, row {row + 1}: {matrix[row].tolist()} is no box y1 x1 y2 x2 counted "
            f"from 1; make the file again"
        )
    return torch.from_numpy(boxes.astype(np.float32))


def _require_inside(image: StoredImage, boxes: Tensor, files: str) -> None:
    """Boxes that end outside belong to another image of that name, or to a resized copy."""
    if not len(boxes):
        return
    size = image_size(image.path, upright=False, max_pixels=None)
    right, bottom = boxes[:, 2].max().item(), boxes[:, 3].max().item()
    if right >= size[0] or bottom >= size[1]:
        raise DataError(
            f"{files}: proposals of {image.image_id} reach {right + 1:g} x {bottom + 1:g} pixels, but "
            f"{image.path} has {size[0]} x {size[1]}; they were made for another image set"
        )
