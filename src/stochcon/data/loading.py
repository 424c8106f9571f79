"""The images that a network is trained on: held in memory if they fit, otherwise decoded as they are needed."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from stochcon import atomic
from stochcon.config import Data
from stochcon.data.images import Source, Unreadable, canvas
from stochcon.parallel import all_gather_object, launched_local_world_size, rank

CHUNK = 16
"""Images that one task decodes."""
AHEAD = 4
"""Batches decoded ahead of the one in use, if memory allows; never fewer than 1."""


class Canvases:
    """N square uint8 canvases, by the batch and in any order.

    The place of an image that cannot be read is taken by the next in the list that can, so that N, the
    order and every batch are functions of the list and the files alone: whether the images are held or
    decoded on demand, whichever process meets the bad one, and after resuming.

    Raises ValueError as soon as more than the share `config.max_bad` of the images is found unreadable.
    """

    def __init__(self, sources: Sequence[Source], config: Data):
        self.sources, self.config = sources, config
        self.shape = config.channels, config.size, config.size
        self.bad: dict[str, str] = {}
        """Id and reason of each image found unreadable so far."""
        digest = sha256()
        for i, source in enumerate(sources):
            digest.update(os.fsencode(f"\n{source.id}" if i else source.id))
        self.digest = digest.hexdigest()
        """Of the ids, in their order."""
        self.held: Tensor | None = None
        if len(sources) * self._bytes(1) <= config.memory * 10**6:
            held = torch.empty(len(sources), *self.shape, dtype=torch.uint8)
            at = 0
            for batch in self.batches(torch.arange(len(sources)).split(1024)):
                held[at : at + len(batch)] = batch
                at += len(batch)
            self.held = held

    def __len__(self) -> int:
        return len(self.sources)

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        """uint8 (B, C, S, S) for each B indices of the order; if not held, decoded in threads, some batches ahead.

        Raises ValueError above `max_bad`, and OSError when a file cannot be read for a reason that may pass.
        """
        if self.held is not None:
            for indices in order:
                yield self.held[indices]
            return
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # unreadable, not decoded
        pool = ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // launched_local_world_size()))
        pending: deque[tuple[Tensor, list[Future[None]]]] = deque()
        try:
            for indices in order:
                batch = torch.empty(len(indices), *self.shape, dtype=torch.uint8)
                parts = zip(batch.split(CHUNK), indices.split(CHUNK), strict=True)
                pending.append(
                    (batch, [pool.submit(self._fill, part.numpy(), i.tolist()) for part, i in parts])
                )
                room = (
                    self.config.memory * 10**6 // self._bytes(len(indices)) - 2
                )  # beside those in use and to come
                if len(pending) > min(AHEAD, max(1, room)):
                    yield _done(*pending.popleft())
            while pending:
                yield _done(*pending.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def report(self, path: Path) -> None:
        """All processes: rank 0 lists in a file what any of them has found unreadable, now or before a restart."""
        for theirs in all_gather_object(dict(self.bad)):
            self.bad |= theirs
        self._check()
        if rank() > 0 or not self.bad:
            return
        lines = path.read_text(errors="surrogateescape").splitlines() if path.exists() else []
        before = {name: reason for name, _, reason in (line.partition("\t") for line in lines)}
        if self.bad.keys() - before.keys():
            found = sorted((before | self.bad).items())
            atomic.write(path, os.fsencode("".join(f"{name}\t{reason}\n" for name, reason in found)))
            if not before:
                print(f"{len(found)} of {len(self)} images cannot be read: {path} lists them")

    def _bytes(self, images: int) -> int:
        return images * int(np.prod(self.shape))

    def _fill(self, canvases: NDArray[np.uint8], indices: list[int]) -> None:
        for k, index in enumerate(indices):
            canvases[k] = self._canvas(index)

    def _canvas(self, index: int) -> NDArray[np.uint8]:
        """The image at the index, or the next that can be read; one that could not be read is not tried again."""
        while True:
            source = self.sources[index]
            if source.id not in self.bad:
                try:
                    return canvas(source.open(), self.config.size, self.config.channels)
                except Unreadable as reason:
                    cause = reason.__cause__
                    if isinstance(cause, OSError) and cause.errno and not isinstance(cause, PermissionError):
                        raise cause from None  # the disk's fault, not the image's: go on when it is there again
                    self.bad[source.id] = str(reason)
                    self._check()
            index = (index + 1) % len(self)

    def _check(self) -> None:
        bad = dict(self.bad)
        if len(bad) > self.config.max_bad * len(self):
            name = min(bad)
            raise ValueError(
                f"data.root: {len(bad)} of {len(self)} images below {self.config.root} have been found unreadable, "
                f"more than data.max_bad = {self.config.max_bad:g} allows; one is {name}: {bad[name]}"
            )


def _done(batch: Tensor, parts: list[Future[None]]) -> Tensor:
    for part in parts:
        part.result()
    return batch
