"""Hamming distance in which a bit counts as much as it is informative and certain.

The distance of a query q from a stored code c is the sum, over the bits i in which they differ, of

    w_i = H(m_i) ln((1 - f_i) / f_i),  scaled so that the mean over the bits is 1,

- m_i is the share of the stored codes that have the bit on, and H(m) = -m log2 m - (1 - m) log2 (1 - m) the
  entropy: 1 for a bit that halves the images, 0 for one that is always on or always off.
- f_i is the probability that a sample of the bit differs from it, min(p, 1 - p) of the query's own q(z'|x);
  for a query of which only the code is stored, the mean over the encoded images. The logarithm of the odds
  is what a bit that differs says against both being of one image: nothing at f = 1/2.

So distances are in bits, as Hamming's are, but those of two queries are not comparable.
"""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import ArrayLike, NDArray

from stochcon.codes.packed import BIT_ORDER, Codes, threads

SUREST, LEAST_SURE = 0.001, 0.499
"""Between which f is kept: a network's most extreme probabilities are the worst calibrated."""
BYTES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], 1, bitorder=BIT_ORDER).astype(np.float32)
"""(256, 8) the bits of every byte"""


def shares(codes: Codes) -> NDArray[np.float64]:
    """(D,) how many of the codes have each bit on, from 0 to 1.

    >>> shares(Codes.pack([[True, False], [True, True]], ["a", "b"])).tolist()
    [1.0, 0.5]
    """
    counts = [np.bincount(column, minlength=256) @ BYTES for column in codes.packed.T]
    return np.concatenate(counts)[: codes.bits] / max(1, len(codes))


def weights(shares: ArrayLike, flips: ArrayLike) -> NDArray[np.float32]:
    """(..., D) of each bit, of mean 1, from m (D,) and f (..., D).

    Where no bit is informative, all weigh the same.

    >>> weights([0.5, 0.5, 1.0], [0.1, 0.1, 0.1]).tolist()
    [1.5, 1.5, 0.0]
    >>> print(weights([0.5, 0.5], [[0.1, 0.1], [0.1, 0.4]]).round(2))
    [[1.   1.  ]
     [1.69 0.31]]
    """
    m = np.asarray(shares, np.float64)
    on, off = np.maximum(m, 1e-300), np.maximum(1 - m, 1e-300)  # so that 0 log 0 is 0
    entropy = -m * np.log2(on) - (1 - m) * np.log2(off)
    informative = entropy if entropy.any() else np.ones_like(m)
    f = np.clip(np.asarray(flips, np.float64), SUREST, LEAST_SURE)
    weight = informative * np.log((1 - f) / f)
    return (weight / weight.mean(-1, keepdims=True)).astype(np.float32)


def search(
    codes: Codes, queries: Codes, weights: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Distances and indices (M, min(k, N)), nearest first, all codes compared; `weights` are (M, D).

    Equal distances come in any order.

    >>> stored = Codes.pack([[True, True], [True, False], [False, False]], ["a", "b", "c"])
    >>> distances, indices = search(stored, stored[:1], np.array([[0.5, 1.5]], np.float32), 3)
    >>> distances.tolist(), indices.tolist()
    ([[0.0, 1.5, 2.0]], [[0, 1, 2]])
    """
    # sum w |q - c| = sum w q + sum w (1 - 2q) c is linear in c. So FAISS's product quantiser, which looks inner
    # products up byte by byte, gives it if its "centroids" are the 256 bytes themselves
    width = codes.packed.shape[1]
    quantiser = faiss.IndexPQ(8 * width, width, 8, faiss.METRIC_INNER_PRODUCT)
    faiss.copy_array_to_vector(np.tile(BYTES, (width, 1)).ravel(), quantiser.pq.centroids)
    quantiser.is_trained = True
    quantiser.add_sa_codes(np.ascontiguousarray(codes.packed))
    ones = queries.unpack()
    sought = np.zeros((len(queries), 8 * width), np.float32)
    sought[:, : codes.bits] = np.where(ones, weights, -weights)
    with threads(len(queries)):
        products, indices = quantiser.search(sought, min(k, len(codes)))
    distances = (weights * ones).sum(1, keepdims=True) - products
    return np.maximum(distances, 0), indices  # which rounding may have made a little less
