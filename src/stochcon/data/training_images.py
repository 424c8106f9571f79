"""The images that a network is trained on: held in memory if they fit, otherwise decoded as they are needed."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stochcon import atomic
from stochcon.config import Data
from stochcon.data.decode import Unreadable, canvas
from stochcon.data.images import Source, refuse_too_many
from stochcon.parallel import all_gather_object, launched_local_world_size, rank

CHUNK = 16
"""Images that one task decodes."""
AHEAD = 4
"""Batches decoded ahead of the one in use, if memory allows; never fewer than 1."""


class TrainingImages:
    """N square uint8 canvases, by the batch and in any order.

    The next image in the list that can be read takes the place of one that cannot. So N, the order and every
    batch depend on the list and the files alone. It does not matter whether the images are held or decoded
    on demand, which process meets the unreadable one, or whether the run was resumed.

    Args:
        sources: The images.
        config: `size` and `channels` of a canvas, the `memory` to use and the share `max_bad`.

    Raises:
        ValueError: If more than the share `config.max_bad` of the images cannot be read.
        OSError: If the disk refuses for a reason that may pass.
    """

    def __init__(self, sources: Sequence[Source], config: Data):
        self.sources, self.config = sources, config
        self.shape = config.channels, config.size, config.size
        self.bad: dict[str, str] = {}
        """The id and the reason of each image found unreadable so far."""
        digest = sha256()
        for i, source in enumerate(sources):
            digest.update(os.fsencode(f"\n{source.id}" if i else source.id))
        self.digest = digest.hexdigest()
        """The SHA-256 of the ids, in their order."""
        self.held: Tensor | None = None
        if self._bytes(len(sources)) <= config.memory * 10**6:
            held = torch.empty(len(sources), *self.shape, dtype=torch.uint8)
            order = torch.arange(len(sources)).split(1024)
            for places, batch in zip(order, self.batches(order), strict=True):
                held[places] = batch
            self.held = held

    def __len__(self) -> int:
        return len(self.sources)

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield a batch for each tensor of indices. Images that are not held are decoded in threads, ahead of use.

        Args:
            order: The indices of each batch, int64 (B,).

        Yields:
            The canvases of a batch, uint8 (B, C, S, S).

        Raises:
            ValueError: If more than the share `max_bad` of the images has been found unreadable.
            OSError: If the disk refuses for a reason that may pass.
        """
        if self.held is not None:
            for indices in order:
                yield self.held[indices]
            return
        pool = ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // launched_local_world_size()))
        pending: deque[tuple[Tensor, list[Future[None]]]] = deque()
        try:
            for indices in order:
                batch = torch.empty(len(indices), *self.shape, dtype=torch.uint8)
                parts = zip(batch.split(CHUNK), indices.split(CHUNK), strict=True)
                tasks = [pool.submit(self._fill, part.numpy(), some.tolist()) for part, some in parts]
                pending.append((batch, tasks))
                room = (
                    self.config.memory * 10**6 // self._bytes(len(indices)) - 2
                )  # one is in use, one is next
                if len(pending) > min(AHEAD, max(1, room)):
                    yield _finished(*pending.popleft())
            while pending:
                yield _finished(*pending.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def report(self, path: Path) -> None:
        """List in a file what any process has found unreadable, now or before a restart. All processes call this.

        Args:
            path: The file to write or to extend. A line is an id, a tab and the reason.

        Raises:
            ValueError: If the processes have together found more than the share `max_bad`.
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

    def _bytes(self, images: int) -> int:
        return images * int(np.prod(self.shape))

    def _fill(self, canvases: NDArray[np.uint8], indices: list[int]) -> None:
        for k, index in enumerate(indices):
            canvases[k] = self._canvas(index)

    def _canvas(self, index: int) -> NDArray[np.uint8]:
        """The image at the index, or the next that can be read; an unreadable one is not tried again."""
        while True:
            source = self.sources[index]
            if source.id not in self.bad:
                try:
                    return canvas(source.open(), self.config.size, self.config.channels)
                except Unreadable as reason:
                    self.bad[source.id] = str(reason)
                    self._check()
            index = (index + 1) % len(self)

    def _check(self) -> None:
        what = f"training images of {self.config.root or self.config.name}"
        refuse_too_many(self.bad.items(), len(self), self.config.max_bad, what)


def _finished(batch: Tensor, tasks: list[Future[None]]) -> Tensor:
    for task in tasks:
        task.result()
    return batch
