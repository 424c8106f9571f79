"""Codes of images: packed bits, how uncertain they are, Hamming distances, and exact search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import ArrayLike, NDArray

BIT_ORDER: Literal["little"] = "little"
"""Bit i of a code is bit i % 8, counted from the lowest, of byte i // 8 (numpy.packbits' name for it)."""
MOST_BITS = 65535
"""The most bits of a code, so that a distance fits uint16."""


@dataclass(frozen=True, eq=False)
class Codes:
    """The codes of N images, in the order of the images.

    `len` and slicing work as on the rows of a NumPy array; a single integer gives one code.

    Attributes:
        packed: (N, ceil(bits / 8)) uint8. The bits that are left over in the last byte are zero.
        bits: D, the number of bits, from 1 to 65535.
        ids: (N,) strings.
        uncertainty: (N,) float32, in how many bits a sample from q(z'|x) is expected to differ; 0 to D / 2.
        flips: (D,) float32, how often a sample differs in each bit, from 0 to 1 / 2. It is the mean over all
            images of the file, also when these codes are only some of them.
        model: SHA-256 of the model (`encoder.model_hash`); codes of two models are not comparable.
        latent: The kind of latent. The bits of a Gaussian are the signs of its mean.
        size: Side of the square, in pixels, that images were brought to before they were encoded.
        channels: 1 if images were made grey, 3 if they were coloured.
        mean, variance: (N, D) float16 of a latent whose samples are no bits, else None.

    Raises:
        ValueError: If a shape or a type does not fit.

    Example:
        >>> codes = Codes.pack([[True, False, True], [False, False, True]], ["cat", "dog"])
        >>> codes[1].ids[0], codes.hamming(codes).tolist()
        ('dog', [[0, 1], [1, 0]])
    """

    packed: NDArray[np.uint8]
    bits: int
    ids: NDArray[np.object_]
    uncertainty: NDArray[np.float32]
    flips: NDArray[np.float32]
    model: str = ""
    latent: str = "bernoulli"
    size: int | None = None
    channels: int | None = None
    mean: NDArray[np.float16] | None = None
    variance: NDArray[np.float16] | None = None

    def __post_init__(self) -> None:
        n, d = len(self.ids), self.bits
        if not 1 <= d <= MOST_BITS:
            raise ValueError(f"codes have {d} bits; it must be 1 to {MOST_BITS}")
        wanted = {
            "packed": f"uint8 {(n, -(-d // 8))}",
            "uncertainty": f"float32 {(n,)}",
            "flips": f"float32 {(d,)}",
        } | dict.fromkeys(self.moments, f"float16 {(n, d)}")
        for name, expected in wanted.items():
            values = getattr(self, name)
            if (given := f"{values.dtype} {values.shape}") != expected:
                raise ValueError(f"{name} is {given}; {n} ids and {d} bits need {expected}")
        if d % 8 and (self.packed[:, -1] >> d % 8).any():
            raise ValueError(f"codes of {d} bits have ones beyond them; the padding must be zero")

    @classmethod
    def pack(
        cls,
        bits: ArrayLike,
        ids: Sequence[str],
        uncertainty: ArrayLike | None = None,
        flips: ArrayLike | None = None,
        **about: Any,
    ) -> Codes:
        """Pack (N, D) booleans; `about` are attributes by their names. The codes are certain by default."""
        rows = np.asarray(bits, dtype=bool)
        if rows.ndim != 2:
            raise ValueError(f"bits are {rows.shape}; they must be (N, D)")
        n, d = rows.shape
        unsure = np.asarray(np.zeros(n) if uncertainty is None else uncertainty, np.float32)
        rates = np.asarray(np.zeros(d) if flips is None else flips, np.float32)
        return cls(np.packbits(rows, 1, BIT_ORDER), d, np.array(ids, object), unsure, rates, **about)

    @property
    def moments(self) -> dict[str, NDArray[np.float16]]:
        """Mean and variance by these names, as far as they are there."""
        both = {"mean": self.mean, "variance": self.variance}
        return {name: values for name, values in both.items() if values is not None}

    def unpack(self) -> NDArray[np.bool_]:
        """Unpack the codes to (N, D) booleans."""
        return np.unpackbits(self.packed, 1, self.bits, BIT_ORDER).astype(bool)

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, index: int | slice | Sequence[int] | NDArray[Any]) -> Codes:
        rows: Any = [index] if isinstance(index, int | np.integer) else index
        of_images = ["packed", "ids", "uncertainty", *self.moments]
        return replace(self, **{name: getattr(self, name)[rows] for name in of_images})

    def hamming(self, other: Codes) -> NDArray[np.uint16]:
        """Compute all (N, M) distances to M other codes. Raises ValueError if they are of another model."""
        self._check_comparable(other)
        distances = np.empty((len(self), len(other)), np.uint16)
        for row, code in zip(distances, self.packed, strict=True):
            row[:] = np.bitwise_count(code ^ other.packed).sum(1, dtype=np.uint16)
        return distances

    def search(self, queries: Codes, k: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Find the codes that are nearest to each query; exactly.

        Args:
            queries: M codes of the same model.
            k: How many to find for each, at least 1.

        Returns:
            Distances in bits and rows of the codes, both (M, min(k, N)), nearest first. Equal distances come
            in the order of the rows.

        Raises:
            ValueError: If the queries are of another model, or if k is below 1.

        Example:
            >>> codes = Codes.pack([[True, False, True], [False, False, True]], ["cat", "dog"])
            >>> distances, rows = codes.search(codes[1], k=2)
            >>> distances.tolist(), codes.ids[rows[0]].tolist()
            ([[0, 1]], ['dog', 'cat'])
        """
        self._check_comparable(queries)
        if k < 1:
            raise ValueError(f"k is {k}; it must be at least 1")
        return exact_neighbours(self.packed, queries.packed, k)

    def _check_comparable(self, other: Codes) -> None:
        if self.bits != other.bits:
            raise ValueError(f"codes of {self.bits} bits cannot be compared with codes of {other.bits}")
        if self.model != other.model:
            ours, theirs = self.model[:12], other.model[:12]
            raise ValueError(f"codes of the models {ours} and {theirs} cannot be compared; encode with one")


def exact_neighbours(
    packed: NDArray[np.uint8], queries: NDArray[np.uint8], k: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Find what `Codes.search` finds, among (N, B) bytes for (M, B) bytes."""
    k = min(k, len(packed))
    if not k or not len(queries):
        return np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.int64)
    with limited_threads(len(queries)):  # FAISS's IndexBinaryFlat would copy the codes first
        return faiss.knn_hamming(np.ascontiguousarray(queries), np.ascontiguousarray(packed), k)


@contextmanager
def limited_threads(queries: int) -> Iterator[None]:
    """Let FAISS use no more threads than queries, as it would wait for idle ones; restores their number."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(max(1, min(before, queries)))
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def mean_flips(total: NDArray[np.float64], images: int) -> NDArray[np.float64]:
    """Average (D,) sums of flips over the images, to the 4 digits that a file keeps; zeros without images."""
    return (total / max(1, images)).round(4)
