"""Class-free boxes in which objects may be (paper §4.1: selective search; §4.3: EdgeBoxes).

A source looks at pixels and proposes; what it proposed is kept on disk, so that a data set costs its hour
once. Boxes are 0-based inclusive pixels of the image as stored, as the ground truth is.

Axes: n proposals, h w pixels.
"""

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import PIL
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from sppnet.data.images import read_image
from sppnet.data.proposal_files import Boxes, StoredImage
from sppnet.errors import ArtifactError, DataError, ResourceError, SppnetError
from sppnet.progress_bar import show_progress
from sppnet.sources import code_of
from sppnet.store.entry import BOXES, Entry, Images, share_work
from sppnet.store.feature_cache import FeatureCache

_Found = tuple[str, Path]  # digest of an image, and the file of its boxes


@runtime_checkable
class ProposalSource(Protocol):
    """Computes proposals from pixels, and nothing else."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything besides the image that decides the boxes, the version of libraries included."""

    def propose(self, image: Image.Image) -> Float[Tensor, "n 4"]:
        """Propose windows of an RGB image, the best first, without duplicates."""


@runtime_checkable
class SetSource(Protocol):
    """Has the proposals of a set of images, from files or from other sources."""

    @property
    def is_computed(self) -> bool:
        """Whether it can `propose` in pictures of no set as well."""

    def read(
        self, images: Sequence[StoredImage], proposals_of: Callable[[Sequence[StoredImage], Any], Boxes], /
    ) -> Boxes:
        """Get the proposals of some images.

        Args:
            images: Ids and files.
            proposals_of: Gets those of another source, of either kind, from disk where they are kept.
        """


class _Work(NamedTuple):
    """What to do with images."""

    source: ProposalSource
    cache_dir: Path
    identity: Mapping[str, Any]
    max_pixels: int

    def entry(self) -> Entry:
        """Where boxes are kept."""
        source = str(self.identity["source"])
        cache = FeatureCache(self.cache_dir)
        return cache.entry(self.identity, source=source, kind="proposals", dim=4, suffix=BOXES)


def proposals_of(
    images: Sequence[StoredImage],
    source: ProposalSource | SetSource,
    *,
    cache_dir: Path,
    jobs: int,
    max_pixels: int,
    report: Callable[[int, int], None] | None = None,
) -> Boxes:
    """Get the proposals of every image, computing what is not on disk yet; equal files count once.

    Args:
        images: Ids and files, such as `AnnotatedImages.images`.
        source: `SelectiveSearch`, `EdgeBoxes`, the files of `MatProposals`, or several of them.
        cache_dir: Where features are kept; what is computed goes there, and comes from there.
        jobs: Processes; 1 works in this one.
        max_pixels: Larger images are refused.
        report: Told after every image that is computed how many are, and of how many; may raise to stop.

    Returns:
        In the order of `images`: x1 y1 x2 y2, possibly no rows.

    Raises:
        DataError: An image or a proposals file cannot be used.
        ResourceError: The cache cannot be written, or a process was killed (memory).
    """
    if isinstance(source, SetSource):
        others = functools.partial(
            proposals_of, cache_dir=cache_dir, jobs=jobs, max_pixels=max_pixels, report=report
        )
        return source.read(images, others)
    work = _Work(source, cache_dir, _identity(source), max_pixels)
    files = [Images.of([image.path]) for image in images]
    entry = work.entry()  # as long as it lives, nobody clears it away
    found = {one.digest: kept for one in files if (kept := entry.find(one))}
    missing = list({one.digest: one for one in files if one.digest not in found}.values())
    made: Iterable[_Found]
    if min(jobs, len(missing)) > 1:
        made = filter(None, _in_pool(missing, work, jobs))
        found |= show_progress(made, label="proposals", total=len(missing), report=report)
        missing = [one for one in missing if one.digest not in found]  # others are at them
    made = share_work(missing, lambda image: _propose(image, work))
    found |= show_progress(made, label="proposals", total=len(missing), report=report)
    return [_read(found[one.digest]) for one in files]


def _identity(source: ProposalSource) -> dict[str, Any]:
    """Whatever changes the boxes of an image changes this."""
    return {
        "source": type(source).__qualname__,
        "settings": dict(source.settings),
        "view": {"kind": "as stored"},
        "code": code_of([read_image.__module__, type(source).__module__]),
        "pillow": PIL.__version__,  # its JPEG decoder
    }


def _in_pool(missing: Sequence[Images], work: _Work, jobs: int) -> Iterator[_Found | None]:
    # A server that has imported torch once and never used it: forking this process would copy the locks
    # of its threads, and starting afresh would import torch in every worker.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    pool = ProcessPoolExecutor(min(jobs, len(missing)), mp_context=context, initializer=_begin_worker)
    try:
        for future in as_completed([pool.submit(_propose, image, work) for image in missing]):
            yield future.result()
    except BrokenProcessPool as error:
        raise ResourceError(
            f"one of {jobs} processes that computed proposals was killed (out of memory?); what was finished "
            f"is in {work.cache_dir}: run the same command again, with fewer jobs"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    """One thread per process; Ctrl-C is the parent's business, and nobody outlives the parent."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_leave_with, args=(parent.sentinel,), daemon=True).start()


def _leave_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _propose(images: Images, work: _Work) -> _Found | None:
    """Compute and keep an image's proposals; None when another process is at it."""

    def compute() -> bytes:
        # Boxes refer to the pixels as stored, whatever EXIF says.
        (path,) = images.paths
        image = read_image(path, upright=False, max_pixels=work.max_pixels)
        try:
            boxes = work.source.propose(image)
        except SppnetError as error:
            raise type(error)(f"{path}: {error}") from error
        except Exception as error:  # OpenCV's own cannot be sent between processes
            raise DataError(f"{path}: no proposals ({type(error).__name__}: {error})") from None
        return boxes.numpy().astype("<f4").tobytes()

    file = work.entry().obtain(images, compute)
    return None if file is None else (images.digest, file)


def _read(file: Path) -> Float[Tensor, "n 4"]:
    try:
        rows = np.fromfile(file, "<f4").reshape(-1, 4)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file}: found a moment ago, and now gone or damaged; run again") from error
    return torch.from_numpy(rows.astype(np.float32))
