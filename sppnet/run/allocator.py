"""Keep freed memory inside the process (glibc only).

Large activations otherwise come fresh from the kernel at every step and pay a page fault per 4 KB: a
training step of ZF-5 takes half the time without them. The price is that the process gives memory
back only when it ends, so the configuration decides (`trainer.keep_memory`).
"""

import contextlib
import ctypes
import platform
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_MAX: Final = -4


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to reuse large blocks; returns whether it was done."""
    if platform.libc_ver()[0] != "glibc":
        return False
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        return bool(libc.mallopt(_M_MMAP_MAX, 0)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
    return False
