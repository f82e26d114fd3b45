"""Keep freed memory inside the process (glibc only).

Large activations otherwise come fresh from the kernel at every step and pay a page fault per 4 KB: a
training step of ZF-5 takes half the time without them. The price is that the process gives memory
back only when it ends, so the configuration decides (`trainer.keep_memory`).
"""

import contextlib
import ctypes
import platform
from collections.abc import Iterator
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_MAX: Final = -4
_DEFAULTS: Final = {_M_MMAP_MAX: 65536, _M_TRIM_THRESHOLD: 128 * 1024}  # glibc's
_KEEPING: Final = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1}


@contextlib.contextmanager
def freed_memory_kept(wanted: bool) -> Iterator[None]:
    """While the block runs, glibc's malloc keeps large blocks, if that is wanted; then it gives them back."""
    if not wanted or platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    _set(libc, _KEEPING)
    try:
        yield
    finally:
        _set(libc, _DEFAULTS)
        libc.malloc_trim(0)


def _set(libc: ctypes.CDLL, options: dict[int, int]) -> None:
    for option, value in options.items():
        libc.mallopt(option, value)
