"""Keep freed memory in the process: without it the same network may take half as long again, or not, by luck."""

from __future__ import annotations

import ctypes
import platform

__all__ = ["keep_memory"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
LARGEST = 2**30  # bytes


def keep_memory() -> bool:
    """Let the C library keep blocks of up to a gigabyte that were freed, for all of this process; say whether it does.

    By default glibc gives large blocks back to the system after each layer, and the system hands them out again page
    by page, zeroed. Whether that happens depends on what the process allocated before, so two processes time the same
    model differently (MobileNetV2 at batch 1: 12.1 or 17.7 ms on the machine of `results/latency.csv`). Servers avoid
    it by this, by the variables ``MALLOC_TRIM_THRESHOLD_`` and ``MALLOC_MMAP_THRESHOLD_``, or by another allocator.
    Elsewhere than with glibc nothing is changed.

    >>> keep_memory() in (True, False)
    True
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(option, LARGEST) == 1 for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD))
