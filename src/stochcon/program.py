"""What this process asks of the operating system, so that computing waits less."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from stochcon.parallel import rank, world_size

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


LOST = re.compile("closed by peer|reset by peer|broken pipe|remote process exited|timed out", re.IGNORECASE)


@contextmanager
def resumable(how: str) -> Iterator[None]:
    """Around a run: what to say when it is told to stop, or when one of its processes is lost.

    SIGTERM becomes a KeyboardInterrupt, as Ctrl-C is; the connections that the death of another process
    breaks become a ConnectionError. Both say how to go on.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(how) from None
    except RuntimeError as error:
        if world_size() > 1 and LOST.search(str(error)):
            raise ConnectionError(f"process {rank()} has lost another process of this run; {how}") from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
