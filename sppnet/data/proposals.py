"""Class-free boxes in which objects may be (paper §4.1: selective search; §4.3: EdgeBoxes).

A source looks at pixels and proposes; what it proposed is kept on disk, so that a data set costs its hour
once. Boxes are 0-based inclusive pixels of the image as stored, as the ground truth is.

Axes: n proposals, h w pixels.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import PIL
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from sppnet.artifacts import file_digest
from sppnet.data.images import read_image
from sppnet.data.joined_proposals import JoinedProposals
from sppnet.data.progress import show_progress
from sppnet.data.proposal_cache import ProposalCache
from sppnet.data.proposal_files import MatProposals, StoredImage
from sppnet.errors import ArtifactError, DataError, ResourceError, SppnetError
from sppnet.sources import code_of


@runtime_checkable
class ProposalSource(Protocol):
    """Computes proposals from pixels."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything besides the image that decides the boxes, the version of libraries included."""

    def propose(self, image: Image.Image) -> Float[Tensor, "n 4"]:
        """Propose windows of an RGB image, the best first, without duplicates."""


class _Task(NamedTuple):
    """An image to work on."""

    path: Path
    digest: str  # SHA-256 of the file


class _Work(NamedTuple):
    """What to do with it."""

    source: ProposalSource
    cache: ProposalCache
    max_pixels: int


def proposals_of(
    images: Sequence[StoredImage],
    source: ProposalSource | MatProposals | JoinedProposals,
    *,
    cache_dir: Path,
    jobs: int,
    max_pixels: int,
) -> list[Float[Tensor, "_ 4"]]:
    """Get the proposals of every image, computing what is not on disk yet.

    Args:
        images: Ids and files, such as `AnnotatedImages.images`.
        source: `SelectiveSearch`, `EdgeBoxes`, the files of `MatProposals`, or several of them.
        cache_dir: What is computed goes to, and comes from, `cache_dir/proposals`.
        jobs: Processes; 1 works in this one.
        max_pixels: Larger images are refused.

    Returns:
        In the order of `images`: x1 y1 x2 y2, possibly no rows.

    Raises:
        DataError: An image or a proposals file cannot be used.
        ResourceError: The cache cannot be written, or a process was killed (memory).
    """
    if isinstance(source, MatProposals):
        return source.read(images)
    if isinstance(source, JoinedProposals):
        parts = [
            proposals_of(images, one, cache_dir=cache_dir, jobs=jobs, max_pixels=max_pixels)
            for one in source.sources.values()
        ]
        return [source.join(windows) for windows in zip(*parts, strict=True)]
    cache = ProposalCache(cache_dir, _identity(source))
    tasks = [_Task(image.path, _digest(image.path)) for image in images]
    found = {task.digest: cache.find(task.digest) for task in tasks}
    missing = list({task.digest: task for task in tasks if found[task.digest] is None}.values())
    _compute(missing, _Work(source, cache, max_pixels), jobs)
    for task in missing:
        found[task.digest] = cache.find(task.digest)
    return [_require(found[task.digest], cache) for task in tasks]


def _identity(source: ProposalSource) -> dict[str, Any]:
    """Whatever changes the boxes of an image changes this."""
    return {
        "source": type(source).__qualname__,
        "settings": dict(source.settings),
        "code": code_of([read_image.__module__, type(source).__module__]),
        "pillow": PIL.__version__,  # its JPEG decoder
    }


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise DataError(f"{path}: cannot read ({error.strerror or error}); restore the file") from error


def _compute(tasks: Sequence[_Task], work: _Work, jobs: int) -> None:
    """Fill the cache. What another process is computing is left to it, and waited for at the end."""
    outcomes = _in_pool(tasks, work, jobs) if min(jobs, len(tasks)) > 1 else _here(tasks, work)
    for task, is_done in list(show_progress(outcomes, label="proposals", total=len(tasks))):
        if not is_done:
            _propose(task, work, wait=True)


def _here(tasks: Sequence[_Task], work: _Work) -> Iterator[tuple[_Task, bool]]:
    for task in tasks:
        yield task, _propose(task, work, wait=False)


def _in_pool(tasks: Sequence[_Task], work: _Work, jobs: int) -> Iterator[tuple[_Task, bool]]:
    # A server that has imported torch once and never used it: forking this process would copy the locks
    # of its threads, and starting afresh would import torch in every worker.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    pool = ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=context, initializer=_begin_worker)
    try:
        futures = {pool.submit(_propose, task, work, wait=False): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise ResourceError(
            f"one of {jobs} processes that computed proposals was killed (out of memory?); what was finished "
            f"is in {work.cache.path}: run the same command again, with fewer jobs"
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


def _propose(task: _Task, work: _Work, *, wait: bool) -> bool:
    """Compute and keep an image's proposals; False when another process is at it."""
    with work.cache.claim(task.digest, wait=wait) as is_ours:
        if is_ours and work.cache.find(task.digest) is None:
            # Boxes refer to the pixels as stored, whatever EXIF says.
            image = read_image(task.path, upright=False, max_pixels=work.max_pixels)
            try:
                boxes = work.source.propose(image)
            except SppnetError as error:
                raise type(error)(f"{task.path}: {error}") from error
            except Exception as error:  # OpenCV's own cannot be sent between processes
                raise DataError(f"{task.path}: no proposals ({type(error).__name__}: {error})") from None
            work.cache.write(task.digest, boxes)
    return is_ours


def _require(boxes: Tensor | None, cache: ProposalCache) -> Tensor:
    if boxes is None:
        raise ArtifactError(f"{cache.path}: proposals written a moment ago are gone or damaged; run again")
    return boxes
