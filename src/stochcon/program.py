"""The program `stochcon` changes its own process so; a library leaves that alone. Only the verbs use this."""

import ctypes
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout, suppress
from types import FrameType

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""The names that malloc.h has for mallopt's parameters."""
LOST = re.compile("closed by peer|reset by peer|broken pipe|remote process exited|timed out", re.IGNORECASE)


def keep_freed_memory() -> bool:
    """Let malloc keep the memory that this process frees, for the next step to use.

    Otherwise large blocks go back to the system, which has to clear each page anew when the next step wants
    them. That takes a tenth or more of a small network's time (docs/lab-notes.md). The peak is hardly higher.
    Returns whether it can be done, which is on Linux with glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return bool(mallopt and mallopt(MMAP_THRESHOLD, 2**30) and mallopt(TRIM_THRESHOLD, -1))


def compute_in_batches() -> None:
    """Tell Linux's scheduler that nobody waits for this thread, nor for those that it starts.

    Processes that compute and exchange on the same cores then interrupt each other less. Two of them trained
    a fifth faster (docs/lab-notes.md). A policy that somebody has chosen stays.
    """
    if sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_OTHER:
        with suppress(OSError):  # some containers forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


@contextmanager
def computing(how: str | Callable[[], str] = "") -> Iterator[None]:
    """Run what computes for minutes or days with the settings above.

    It ends in KeyboardInterrupt on Ctrl-C or SIGTERM, and in ConnectionError if another process of this run was lost.
    Both say `how` to go on, which a function can find out then: it depends on what has been written.
    """
    import torch  # after the arguments have been read, so that their errors come at once

    from stochcon.parallel import rank, world_size

    keep_freed_memory()
    if not torch.cuda.is_available():
        compute_in_batches()

    def stop(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(*filter(None, [how() if callable(how) else how])) from None
    except RuntimeError as error:
        if world_size() > 1 and LOST.search(str(error)):
            lost = f"process {rank()} has lost another process of this run"
            raise ConnectionError("; ".join(filter(None, [lost, how() if callable(how) else how]))) from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def only_json(wanted: bool) -> AbstractContextManager[object]:
    """Leave standard output to the JSON that follows: what is printed within the block goes to standard error."""
    return redirect_stdout(sys.stderr) if wanted else nullcontext()


def say_once(line: str) -> None:
    """Print a line, once for all processes of a run."""
    from stochcon.parallel import rank

    if rank() == 0:
        print(line)
