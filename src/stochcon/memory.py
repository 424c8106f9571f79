"""What becomes of memory that a step of training or encoding has freed."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Names of malloc.h's for mallopt."""


def keep_freed_memory() -> bool:
    """From now on malloc keeps what this process frees, for the next step to use; whether it can (Linux, glibc).

    Otherwise large blocks go back to the system, which has to clear each page anew when the next step wants them:
    a tenth or more of the time of a small network (docs/lab-notes.md). The peak is hardly higher.

    >>> keep_freed_memory() or not sys.platform.startswith("linux")
    True
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return bool(mallopt and mallopt(MMAP_THRESHOLD, 2**30) and mallopt(TRIM_THRESHOLD, -1))
