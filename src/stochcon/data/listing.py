"""Long lists of images that are not open yet, at a few bytes an image."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from stochcon.data.images import Source

Indices = NDArray[np.int64]


class Names(Sequence[str]):
    """Strings, file names among them, one after the other in one block of bytes.

    >>> names = Names.of(["cat/1.jpg", "dog/2.jpg"])
    >>> len(names), names[1]
    (2, 'dog/2.jpg')
    """

    def __init__(self, text: NDArray[np.uint8], ends: Indices):
        self.text, self.ends = text, ends

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        text, ends = bytearray(), []
        for name in names:
            text += os.fsencode(name)
            ends.append(len(text))
        return cls(np.frombuffer(bytes(text), np.uint8), np.array(ends, np.int64))

    @classmethod
    def joined(cls, parts: Sequence[Names]) -> Names:
        starts = np.cumsum([0, *(len(part.text) for part in parts)])
        ends = [part.ends + start for part, start in zip(parts, starts, strict=False)]
        return cls(np.concatenate([part.text for part in parts]), np.concatenate(ends))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not 0 <= i < len(self):
            raise IndexError(i)
        start = self.ends[i - 1] if i else 0
        return os.fsdecode(self.text[start : self.ends[i]].tobytes())


class Sources(Sequence[Source]):
    """The images that `make` makes of `indices`, each when it is asked for."""

    def __init__(self, make: Callable[[int], Source], indices: Indices):
        self.make, self.indices = make, indices

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, i: int) -> Source: ...
    @overload
    def __getitem__(self, i: slice) -> Sources: ...
    def __getitem__(self, i: int | slice) -> Source | Sources:
        return (
            Sources(self.make, self.indices[i]) if isinstance(i, slice) else self.make(int(self.indices[i]))
        )


def taken(sources: Sequence[Source], chosen: Sequence[int]) -> Sources:
    """Some of the images, by their places."""
    return Sources(sources.__getitem__, np.array(chosen, np.int64))


def chained(first: Sequence[Source], second: Sequence[Source]) -> Sources:
    """The images of one list, then those of another."""
    split = len(first)
    return Sources(
        lambda i: first[i] if i < split else second[i - split], np.arange(split + len(second), dtype=np.int64)
    )
