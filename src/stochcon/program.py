"""What this process asks of the operating system, so that computing waits less."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Names of malloc.h's for mallopt."""


def keep_freed_memory() -> bool:
    """From now on malloc keeps what this process frees, for the next step to use; whether it can (Linux, glibc).

    Otherwise large blocks go back to the system, which has to clear each page anew when the next step wants them:
    a tenth or more of the time of a small network (docs/lab-notes.md). The peak is hardly higher.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return bool(mallopt and mallopt(MMAP_THRESHOLD, 2**30) and mallopt(TRIM_THRESHOLD, -1))


def compute_in_batches() -> None:
    """From now on the scheduler takes this thread, and those that it starts, for work that no one waits for (Linux).

    Processes that compute and exchange on the same cores then interrupt each other less: two trained a
    fifth faster (docs/lab-notes.md). Another policy than the usual one, which someone has chosen, stays.
    """
    if sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_OTHER:
        with suppress(OSError):  # where a container forbids it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
