"""Codes of images: a few packed bits each, how sure they are, Hamming distances, and exact search."""

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
"""So that a distance fits uint16."""
DISTANCES_AT_ONCE = 1 << 24
"""Bytes that the NumPy reference compares in one go."""


@dataclass(frozen=True, eq=False)
class Codes:
    """Of N images, in their order.

    `len`, and slicing by anything that indexes a NumPy array's rows; a single integer gives one code.

    >>> codes = Codes.pack([[True, False, True], [False, False, True]], ["cat", "dog"])
    >>> codes[1].ids[0], codes.hamming(codes).tolist()
    ('dog', [[0, 1], [1, 0]])
    """

    packed: NDArray[np.uint8]
    """(N, ceil(bits / 8)); what the last byte has left over is zero, and so changes no distance"""
    bits: int
    """D, from 1 to 65535"""
    ids: NDArray[np.object_]
    """(N,) strings"""
    uncertainty: NDArray[np.float32]
    """(N,) the number of bits in which a sample from q(z'|x) is expected to differ from the code; 0 to D / 2"""
    flips: NDArray[np.float32]
    """(D,) how often each bit of a sample differs from that of the code: the mean over the images of the
    file, also when these are only some of them; from 0 to 1 / 2"""
    model: str = ""
    """SHA-256 of what made them (`encoding.model_hash`); codes of two models are not comparable"""
    latent: str = "bernoulli"
    """The kind of latent; of a Gaussian, a bit is the sign of the mean"""
    size: int | None = None
    """Side of the square that images were brought to before they were encoded, if it is known"""
    channels: int | None = None
    """1: images were made grey; 3: coloured"""
    mean: NDArray[np.float16] | None = None
    """(N, D) of a Gaussian"""
    variance: NDArray[np.float16] | None = None
    """(N, D) of a Gaussian"""

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MOST_BITS:
            raise ValueError(f"codes of {self.bits} bits: it must be 1 to {MOST_BITS}")
        shape = (len(self.ids), -(-self.bits // 8))
        if self.packed.shape != shape or self.packed.dtype != np.uint8:
            raise ValueError(
                f"codes are {self.packed.dtype} {self.packed.shape}; "
                f"{shape[0]} ids and {self.bits} bits need uint8 {shape}"
            )
        if self.uncertainty.shape != shape[:1]:
            raise ValueError(f"uncertainty is {self.uncertainty.shape}; it must be one number for each id")
        if self.flips.shape != (self.bits,):
            raise ValueError(f"flips are {self.flips.shape}; they must be one number for each bit")
        for name, values in self.moments.items():
            if values.shape != (len(self), self.bits) or values.dtype != np.float16:
                raise ValueError(
                    f"{name} is {values.dtype} {values.shape}; it must be float16 {(len(self), self.bits)}"
                )
        if self.bits % 8 and (self.packed[:, -1] >> self.bits % 8).any():
            raise ValueError(f"codes of {self.bits} bits have ones beyond them; the padding must be zero")

    @classmethod
    def pack(
        cls,
        bits: ArrayLike,
        ids: Sequence[str],
        uncertainty: ArrayLike | None = None,
        model: str = "",
        latent: str = "bernoulli",
        flips: ArrayLike | None = None,
    ) -> Codes:
        """Codes from (N, D) booleans; without uncertainty and flips they are certain."""
        rows = np.asarray(bits, dtype=bool)
        if rows.ndim != 2:
            raise ValueError(f"bits are {rows.shape}; they must be (N, D)")
        names = np.empty(len(ids), dtype=object)
        names[:] = ids
        n, d = rows.shape
        unsure = np.zeros(n, np.float32) if uncertainty is None else np.asarray(uncertainty, np.float32)
        rates = np.zeros(d, np.float32) if flips is None else np.asarray(flips, np.float32)
        return cls(np.packbits(rows, 1, BIT_ORDER), d, names, unsure, rates, model, latent)

    @classmethod
    def join(cls, parts: Sequence[Codes]) -> Codes:
        """Codes one after the other; the flips are the mean over them all.

        Raises ValueError if there are none, or if they are of different models or bits.
        """
        if not parts:
            raise ValueError("there are no codes to join")
        for part in parts:
            comparable(parts[0], part)
        rows: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("packed", "ids", "uncertainty", *parts[0].moments)
        }
        flips = np.sum([len(part) * part.flips.astype(np.float64) for part in parts], axis=0)
        return replace(parts[0], **rows, flips=mean_flips(flips, len(rows["ids"])))

    @property
    def moments(self) -> dict[str, NDArray[np.float16]]:
        """A Gaussian's mean and variance by these names; nothing of a Bernoulli."""
        both = {"mean": self.mean, "variance": self.variance}
        return {name: values for name, values in both.items() if values is not None}

    def unpack(self) -> NDArray[np.bool_]:
        """(N, D) booleans."""
        return np.unpackbits(self.packed, 1, self.bits, BIT_ORDER).astype(bool)

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, index: int | slice | Sequence[int] | NDArray[Any]) -> Codes:
        rows: Any = [index] if isinstance(index, int | np.integer) else index
        moments: Any = {name: values[rows] for name, values in self.moments.items()}
        return replace(
            self, packed=self.packed[rows], ids=self.ids[rows], uncertainty=self.uncertainty[rows], **moments
        )

    def hamming(self, other: Codes) -> NDArray[np.uint16]:
        """(N, M) distances. Raises ValueError if the codes are of other bits or of another model."""
        comparable(self, other)
        distances = np.empty((len(self), len(other)), np.uint16)
        step = max(1, DISTANCES_AT_ONCE // max(1, other.packed.size))
        for start in range(0, len(self), step):
            differing = self.packed[start : start + step, None] ^ other.packed
            distances[start : start + step] = np.bitwise_count(differing).sum(2, dtype=np.uint16)
        return distances

    def search(self, queries: Codes, k: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Distances and indices (M, min(k, N)) of the codes nearest to each query, nearest first; exact.

        Equal distances come in the order of the rows. Raises ValueError as `hamming` does, and for k below 1.
        """
        comparable(self, queries)
        if k < 1:
            raise ValueError(f"k is {k}; it must be at least 1")
        k = min(k, len(self))
        if not k or not len(queries):
            return np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.int64)
        # what IndexBinaryFlat runs, on our own array instead of a copy of it
        base, sought = np.ascontiguousarray(self.packed), np.ascontiguousarray(queries.packed)
        with threads(len(sought)):
            distances, indices = faiss.knn_hamming(sought, base, k)
        return distances, indices


@contextmanager
def threads(queries: int) -> Iterator[None]:
    """No more threads in FAISS than queries: it shares out queries, and waits for idle threads all the same."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(max(1, min(before, queries)))
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def comparable(codes: Codes, other: Codes) -> None:
    """Raises ValueError, in one line, if a distance between these codes would mean nothing."""
    if codes.bits != other.bits:
        raise ValueError(f"codes of {codes.bits} bits cannot be compared with codes of {other.bits}")
    if codes.model != other.model:
        raise ValueError(
            f"codes of the model {codes.model[:12]} cannot be compared with those of {other.model[:12]}: "
            "encode both with one model"
        )


def mean_flips(total: NDArray[np.float64], images: int) -> NDArray[np.float32]:
    """(D,) from the sum over the images, rounded to 4 digits as in a file of codes; zeros without images.

    >>> mean_flips(np.array([0.6, 1.5]), 3)
    array([0.2, 0.5], dtype=float32)
    """
    return (total / max(1, images)).round(4).astype(np.float32)
