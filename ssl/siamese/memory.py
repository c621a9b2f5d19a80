"""Keep freed memory in the process."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


def keep_freed_memory() -> None:
    """Ask glibc to reuse freed blocks of any size instead of handing them back to the kernel.

    By default a block of 32 MB or more (one batch of 224-pixel views, one activation) is mapped and
    zeroed anew at each allocation; on a CPU that costs more than the arithmetic on it
    (benchmarks/augment.py measures it). Elsewhere than on Linux with glibc it does nothing.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
