"""The images that a network is trained on: held in memory if they fit, otherwise decoded when needed."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stochcon import atomic
from stochcon.config import Data
from stochcon.data.images import Source, Unreadable, canvas, refuse_too_many
from stochcon.parallel import all_gather_object, launched_local_world_size, rank

CHUNK = 16  # images that one task decodes
AHEAD = 4  # batches decoded ahead of the one in use, if memory allows; never fewer than 1


class TrainingImages:
    """N square uint8 canvases, by the batch and in any order.

    The next image in the list that can be read takes the place of one that cannot. So N, the order and every
    batch depend on the list and the files alone: not on whether images are held or decoded on demand, on the
    process that meets the unreadable one, or on a resumption. More than the share `max_bad` is a ValueError.
    """

    def __init__(self, sources: Sequence[Source], config: Data):
        self.sources, self.config = sources, config
        self.shape = config.channels, config.size, config.size
        self.bad: dict[str, str] = {}  # the id and the reason of each image found unreadable so far
        digest = sha256()
        for i, source in enumerate(sources):
            digest.update(os.fsencode(f"\n{source.id}" if i else source.id))
        self.digest = digest.hexdigest()  # of the ids, in their order
        self.held: Tensor | None = None
        if self._batches_in_memory(len(sources)) >= 1:
            (self.held,) = self.batches([torch.arange(len(sources))])

    def __len__(self) -> int:
        return len(self.sources)

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield uint8 (B, C, S, S) for each B indices. What is not held is decoded in threads, ahead of use.

        Raises OSError when the disk refuses for a reason that may pass.
        """
        if self.held is not None:
            yield from (self.held[indices] for indices in order)
            return
        pool = ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // launched_local_world_size()))
        pending: deque[tuple[Tensor, Iterator[None]]] = deque()
        try:
            for indices in order:
                batch = torch.empty(len(indices), *self.shape, dtype=torch.uint8)
                pending.append((batch, pool.map(self._fill, batch.split(CHUNK), indices.split(CHUNK))))
                room = self._batches_in_memory(len(indices)) - 2  # beside the one in use and the next
                if len(pending) > min(AHEAD, max(1, room)):
                    yield _finished(*pending.popleft())
            while pending:
                yield _finished(*pending.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def report(self, path: Path) -> None:
        """List in a file what any process has found unreadable, now or before a restart. All must call this.

        A line is an id, a tab and the reason.
        """
        for theirs in all_gather_object(dict(self.bad)):
            self.bad |= theirs
        self._check()
        if rank() > 0 or not self.bad:
            return
        before = os.fsdecode(path.read_bytes()).splitlines() if path.exists() else []
        lines = sorted({*before, *(f"{name}\t{reason}" for name, reason in self.bad.items())})
        if lines != before:
            atomic.write(path, os.fsencode("".join(line + "\n" for line in lines)))
        if not before:
            print(f"{len(lines)} of {len(self)} images cannot be read: {path} lists them")

    def _batches_in_memory(self, size: int) -> int:
        return self.config.memory * 10**6 // max(1, size * int(np.prod(self.shape)))

    def _fill(self, canvases: Tensor, indices: Tensor) -> None:
        for place, index in zip(canvases.numpy(), indices.tolist(), strict=True):
            while (found := self._canvas(self.sources[index])) is None:
                index = (index + 1) % len(self)
            place[:] = found

    def _canvas(self, source: Source) -> NDArray[np.uint8] | None:
        if source.id not in self.bad:  # what could not be read is not tried again
            try:
                return canvas(source.open(), self.config.size, self.config.channels)
            except Unreadable as reason:
                self.bad[source.id] = str(reason)
                self._check()
        return None

    def _check(self) -> None:
        what = f"training images of {self.config.root or self.config.name}"
        refuse_too_many(list(self.bad.items()), len(self), self.config.max_bad, what)


def _finished(batch: Tensor, tasks: Iterator[None]) -> Tensor:
    deque(tasks, maxlen=0)  # wait, and raise what a task has raised
    return batch
