"""Parts of a batch in parallel threads, each of which computes on one.

Where operations are small, as in making views, this keeps cores busy that PyTorch's own threads leave idle
between two operations. The result does not depend on the number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier

import torch


def in_parallel(work: Callable[[int], None], items: Sequence[int]) -> None:
    """Does the work for every item, in as many threads as PyTorch has.

    >>> done = []
    >>> in_parallel(done.append, range(3))
    >>> sorted(done)
    [0, 1, 2]
    """
    threads, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()

    def within(item: int) -> None:
        with torch.inference_mode(inference):  # which each thread has to itself
            work(item)

    for _ in _pool(threads).map(within, items) if threads > 1 and len(items) > 1 else map(work, items):
        pass


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    all_started = Barrier(threads)
    for _ in pool.map(lambda _: all_started.wait(), range(threads)):
        pass
    torch.set_num_threads(threads)  # what any further thread starts with, which the pool's have set to 1
    return pool


os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has the pool, but none of its threads
