"""Packed codes: every bit in its place, distances and exact search as a loop finds them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stochcon.codes.packed import Codes
from tests.codes.made import make, make_gaussian, random_bits, sizes


@given(d=sizes, n=st.integers(0, 5), seed=st.integers(0, 99))
def test_packing_keeps_every_bit_in_its_place(d: int, n: int, seed: int) -> None:
    bits = random_bits(n, d, seed)
    made = Codes.pack(bits, [str(i) for i in range(n)])
    assert made.packed.shape == (n, (d + 7) // 8)
    assert (made.unpack() == bits).all()
    i = seed % d
    assert [row[i // 8] >> i % 8 & 1 for row in made.packed.tolist()] == bits[:, i].tolist()
    assert not np.unpackbits(made.packed, axis=1, bitorder="little")[:, d:].any()


INDICES = [
    slice(1, 4),
    slice(None, None, -2),
    slice(9, 12),
    [3, 0, 3],
    [],
    np.array([-1, 2]),
    np.array([True, False, True, False, False]),
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_slicing_is_that_of_the_rows(index: Any) -> None:
    whole, rows = make_gaussian(5, 13), np.arange(5)[index]
    part = whole[index]
    assert (part.unpack() == whole.unpack()[rows]).all()
    assert part.ids.tolist() == [whole.ids[i] for i in rows]
    assert part.uncertainty.tolist() == [whole.uncertainty[i] for i in rows]
    assert (part.bits, part.model, len(part)) == (13, whole.model, len(rows))
    assert part.flips.tolist() == whole.flips.tolist()
    for name, values in whole.moments.items():
        assert part.moments[name].tolist() == values[rows].tolist()


def test_one_index_gives_one_code() -> None:
    assert make(5, 13)[-1].ids.tolist() == ["Zürich/0/4.jpg"]
    with pytest.raises(IndexError):
        make(5, 13)[5]


@given(d=sizes, n=st.integers(0, 4), m=st.integers(0, 4), seed=st.integers(0, 99))
def test_hamming_is_that_of_a_loop(d: int, n: int, m: int, seed: int) -> None:
    a, b = make(n, d, seed), make(m, d, seed + 1)
    distances = a.hamming(b)
    assert distances.dtype == np.uint16 and distances.shape == (n, m)
    expected = [
        [sum(x != y for x, y in zip(p, q, strict=True)) for q in b.unpack().tolist()] for p in a.unpack().tolist()
    ]
    assert distances.tolist() == expected


def test_the_largest_distance_fits() -> None:
    ends = Codes.pack(np.array([[False], [True]]).repeat(65535, 1), ["0", "1"])
    assert ends.hamming(ends).tolist() == [[0, 65535], [65535, 0]]
    assert ends.search(ends[0], 2)[0].tolist() == [[0, 65535]]


@given(d=sizes, n=st.integers(0, 60), m=st.integers(0, 4), k=st.integers(1, 70), seed=st.integers(0, 99))
def test_search_is_that_of_brute_force_with_ties_in_the_order_of_rows(
    d: int, n: int, m: int, k: int, seed: int
) -> None:
    stored, queries = make(n, d, seed), make(m, d, seed + 1)
    distances, rows = stored.search(queries, k)
    everything = queries.hamming(stored)
    expected = np.argsort(everything, axis=1, kind="stable")[:, :k]
    assert distances.shape == rows.shape == (m, min(k, n))
    assert (rows == expected).all()
    assert (distances == np.take_along_axis(everything, expected, 1)).all()
    if n and m:
        flat = faiss.IndexBinaryFlat(8 * stored.packed.shape[1])
        flat.add(stored.packed)
        assert (distances == flat.search(queries.packed, min(k, n))[0]).all()


def test_search_in_a_slice_of_codes() -> None:
    stored = make(9, 20)[::-2]
    assert stored.search(stored, 1)[1][:, 0].tolist() == [0, 1, 2, 3, 4]


MISTAKES: dict[str, Callable[[], object]] = {
    "codes of 8 bits cannot be compared with codes of 9": lambda: make(2, 8).hamming(make(2, 9)),
    "codes of the models aaaaaaaaaaaa and bbbbbbbbbbbb cannot be compared": lambda: make(2, 8).search(
        make(2, 8, model="b" * 64), 1
    ),
    "k is 0; it must be at least 1": lambda: make(2, 8).search(make(1, 8), 0),
    "codes have 0 bits": lambda: make(2, 0),
    "codes have 65536 bits; it must be 1 to 65535": lambda: make(1, 65536),
    "bits are (2,); they must be (N, D)": lambda: Codes.pack([True, False], ["a", "b"]),
    "packed is uint8 (2, 1); 1 ids and 1 bits need uint8 (1, 1)": lambda: Codes.pack([[1], [0]], ["a"]),
    "uncertainty is float32 (2,)": lambda: Codes.pack([[True]], ["a"], [0.1, 0.2]),
    "flips is float32 (2,); 1 ids and 1 bits need float32 (1,)": lambda: Codes.pack([[True]], ["a"], flips=[0.1, 0.2]),
    "codes of 3 bits have ones beyond them": lambda: replace(
        Codes.pack(np.zeros((1, 3)), ["a"]), packed=np.array([[8]], np.uint8)
    ),
    "mean is float32 (2, 8); 2 ids and 8 bits need float16 (2, 8)": lambda: replace(
        make_gaussian(2, 8), mean=np.zeros((2, 8), np.float32)
    ),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_what_does_not_fit_is_refused(message: str) -> None:
    with pytest.raises(ValueError) as error:
        MISTAKES[message]()
    assert message in str(error.value) and "\n" not in str(error.value)
