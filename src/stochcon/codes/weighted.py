"""Two distances that look at more than the stored bits, each linear in them.

The asymmetric distance of a query from a stored code is how many bits of a sample of the query's own q(z'|x) differ
from the code, in expectation: the sum of |p_i - c_i| over the bits, where p_i is the probability of a one.

In the weighted distance a bit counts the more, the more informative and the more certain it is. The distance of a
query q from a stored code c is the sum, over the bits i in which they differ, of

    w_i = H(m_i) ln((1 - f_i) / f_i),  scaled so that the mean over the bits is 1.

- m_i is the share of the stored codes that have the bit on. H(m) = -m log2 m - (1 - m) log2 (1 - m) is the
  entropy: 1 for a bit that halves the images, 0 for one that is always on or always off.
- f_i is the probability that a sample of the bit differs from it: min(p, 1 - p) of the query's own q(z'|x).
  For a query of which only the code is stored, it is the mean over the encoded images. The logarithm of the
  odds is what a bit that differs says against both codes being of one image: nothing at f = 1/2.

So distances are in bits, as Hamming's are. Those of two queries are not comparable.
"""

import faiss
import numpy as np
from numpy.typing import ArrayLike, NDArray

from stochcon.codes.packed import BIT_ORDER, limited_threads

LEAST_FLIPS, MOST_FLIPS = 0.001, 0.499
"""The range that f is clipped to: a network's most extreme probabilities are the worst calibrated."""
BYTES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], 1, bitorder=BIT_ORDER).astype(np.float32)
"""(256, 8), the bits of every byte."""


def shares_of_ones(packed: NDArray[np.uint8], bits: int) -> NDArray[np.float64]:
    """Compute the share of (N, B) packed codes that have each of the D bits on."""
    counts = [np.bincount(column, minlength=256) @ BYTES for column in packed.T]
    return np.concatenate(counts)[:bits] / max(1, len(packed))


def bit_weights(shares: ArrayLike, flips: ArrayLike) -> NDArray[np.float32]:
    """Weigh the bits by m (D,) and f (..., D). Where no bit is informative, the entropy is left out.

    >>> print(bit_weights([0.5, 0.5, 1.0], [[0.1, 0.1, 0.1], [0.1, 0.4, 0.1]]).round(2))
    [[1.5  1.5  0.  ]
     [2.53 0.47 0.  ]]
    """
    m, f = np.asarray(shares, np.float64), np.clip(np.asarray(flips, np.float64), LEAST_FLIPS, MOST_FLIPS)
    on, off = np.maximum(m, 1e-300), np.maximum(1 - m, 1e-300)  # so that 0 log 0 is 0
    entropy = -m * np.log2(on) - (1 - m) * np.log2(off)
    weights = (entropy if entropy.any() else 1) * np.log((1 - f) / f)
    return (weights / weights.mean(-1, keepdims=True)).astype(np.float32)


def weighted_neighbours(
    packed: NDArray[np.uint8], queries: NDArray[np.bool_], weights: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find what `exact_neighbours` does under (M, D) weights, for (M, D) bits; ties come in any order."""
    return _nearest(packed, (weights * queries).sum(1), np.where(queries, -weights, weights), k)


def asymmetric_neighbours(
    packed: NDArray[np.uint8], probabilities: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the codes from which (M, D) probabilities of a one differ least, in expectation; ties come in any order.

    >>> distances, rows = asymmetric_neighbours(np.array([[0b01], [0b11]], np.uint8), np.float32([[0.9, 0.6]]), 2)
    >>> print(distances.round(2), rows)
    [[0.5 0.7]] [[1 0]]
    """
    return _nearest(packed, probabilities.sum(1), 1 - 2 * probabilities, k)


def _nearest(
    packed: NDArray[np.uint8], offset: NDArray[np.float32], slope: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k codes c with the least offset (M,) + slope (M, D) c."""
    if not len(packed):
        return np.empty((len(slope), 0), np.float32), np.empty((len(slope), 0), np.int64)
    # FAISS's product quantiser looks inner products up byte by byte, and so computes those of bits if its
    # "centroids" are the 256 bytes themselves.
    width = packed.shape[1]
    quantiser = faiss.IndexPQ(8 * width, width, 8, faiss.METRIC_INNER_PRODUCT)
    faiss.copy_array_to_vector(np.tile(BYTES, (width, 1)).ravel(), quantiser.pq.centroids)
    quantiser.is_trained = True
    quantiser.add_sa_codes(np.ascontiguousarray(packed))
    linear = np.zeros((len(slope), 8 * width), np.float32)
    linear[:, : slope.shape[1]] = -slope
    with limited_threads(len(slope)):
        products, rows = quantiser.search(linear, min(k, len(packed)))
    return np.maximum(offset[:, None] - products, 0), rows  # rounding may have made a distance negative
