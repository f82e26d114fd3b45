"""Proposals kept on disk: found by the bytes of the image and everything that decides its boxes.

A file is the SHA-256 of what follows, then rows x1 y1 x2 y2 of little-endian float32; one file per image,
so that a killed job loses the images it was at and nothing else.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sppnet.artifacts import content_key, remove_stale_temporaries, write_atomic, write_json
from sppnet.errors import ResourceError

_FOLDER: Final = "proposals"  # features and other artifacts may lie beside it
_DIGEST_BYTES: Final = 32
_ROW_BYTES: Final = 16
log = logging.getLogger(__name__)


@final
class ProposalCache:
    """The proposals of one source with one setting; any number of processes may use it at once.

    Args:
        root: Directory of all caches; made when missing.
        identity: Everything besides an image's bytes that decides its boxes.
    """

    def __init__(self, root: Path, identity: Mapping[str, Any]) -> None:
        self.path = root.expanduser().resolve() / _FOLDER / content_key(identity)[:32]
        if not (self.path / "settings.json").exists():
            write_json(self.path / "settings.json", identity)  # for people; nothing reads it
        remove_stale_temporaries(self.path)

    def find(self, image: str) -> Float[Tensor, "n 4"] | None:
        """Read the proposals of an image; None when there are none yet, or damaged ones.

        Args:
            image: SHA-256 of the image file, hexadecimal.
        """
        path = self._file(image)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ResourceError(f"{path}: cannot read ({error.strerror or error})") from error
        digest, rows = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if len(rows) % _ROW_BYTES or hashlib.sha256(rows).digest() != digest:
            log.warning("%s: damaged; its proposals are computed again", path)
            return None
        return torch.from_numpy(np.frombuffer(rows, "<f4").astype(np.float32).reshape(-1, 4))

    def write(self, image: str, boxes: Float[Tensor, "n 4"]) -> None:
        """Keep the proposals of an image, all of them or none.

        Raises:
            ResourceError: The disk is full or read-only.
        """
        rows = boxes.numpy().astype("<f4").tobytes()
        write_atomic(self._file(image), lambda stream: stream.write(hashlib.sha256(rows).digest() + rows))

    @contextlib.contextmanager
    def claim(self, image: str, *, wait: bool) -> Iterator[bool]:
        """Own the right to compute an image's proposals.

        Args:
            image: SHA-256 of the image file.
            wait: Until the process that has it is done or dead; otherwise yield False at once.
        """
        # 256 files for all images: those that share one only wait for each other.
        path = self.path / ".locks" / f"{image[:2]}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise ResourceError(
                f"{path}: cannot lock ({error.strerror or error}); choose another cache directory"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            yield True
        except BlockingIOError:
            yield False
        finally:
            os.close(descriptor)

    def _file(self, image: str) -> Path:
        return self.path / f"{image[:32]}.boxes"
