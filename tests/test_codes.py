"""Codes: packing, distances, exact search, and a file that others can read and that is never misread."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stochcon import codes
from stochcon.codes import Codes, read, write

sizes = st.integers(1, 4096) | st.integers(1, 70)


def random_bits(n: int, d: int, seed: int) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random((n, d)) < 0.5


def make(n: int, d: int, seed: int = 0, model: str = "a" * 64) -> Codes:
    uncertainty = np.random.default_rng(seed).random(n) * d / 2
    ids = [f"Zürich/{seed}/{i}.jpg" for i in range(n)]
    return Codes.pack(random_bits(n, d, seed), ids, uncertainty, model)


def same(a: Codes, b: Codes) -> bool:
    return (
        (a.bits, a.model, a.latent, a.ids.tolist()) == (b.bits, b.model, b.latent, b.ids.tolist())
        and a.packed.tobytes() == b.packed.tobytes()
        and a.uncertainty.tobytes() == b.uncertainty.tobytes()
    )


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Of the module: hypothesis wants no fixture that is made anew for a test."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


# values


@given(d=sizes, n=st.integers(0, 5), seed=st.integers(0, 99))
def test_packing_keeps_every_bit_in_its_place(d: int, n: int, seed: int) -> None:
    bits = random_bits(n, d, seed)
    made = Codes.pack(bits, [str(i) for i in range(n)])
    assert made.packed.shape == (n, (d + 7) // 8)
    assert (made.unpack() == bits).all()
    i = seed % d
    assert [row[i // 8] >> i % 8 & 1 for row in made.packed.tolist()] == bits[:, i].tolist()
    padding = np.unpackbits(made.packed, axis=1, bitorder="little")[:, d:]
    assert not padding.any()


@pytest.mark.parametrize(
    "index",
    [
        slice(1, 4),
        slice(None, None, -2),
        slice(9, 12),
        [3, 0, 3],
        [],
        np.array([-1, 2]),
        np.array([True, False, True, False, False]),
    ],
    ids=str,
)
def test_slicing_is_that_of_the_rows(index: Any) -> None:
    whole, bits = make(5, 13), random_bits(5, 13, 0)
    part = whole[index]
    rows = np.arange(5)[index]
    assert (part.unpack() == bits[rows]).all()
    assert part.ids.tolist() == [whole.ids[i] for i in rows]
    assert part.uncertainty.tolist() == [whole.uncertainty[i] for i in rows]
    assert (part.bits, part.model, len(part)) == (13, whole.model, len(rows))


def test_one_index_gives_one_code() -> None:
    assert make(5, 13)[-1].ids.tolist() == ["Zürich/0/4.jpg"]
    with pytest.raises(IndexError):
        make(5, 13)[5]


@given(d=sizes, n=st.integers(0, 4), m=st.integers(0, 4), seed=st.integers(0, 99))
def test_hamming_is_that_of_a_loop(d: int, n: int, m: int, seed: int) -> None:
    a, b = make(n, d, seed), make(m, d, seed + 1)
    distances = a.hamming(b)
    assert distances.dtype == np.uint16
    expected = [
        [sum(x != y for x, y in zip(p, q, strict=True)) for q in b.unpack().tolist()]
        for p in a.unpack().tolist()
    ]
    assert distances.shape == (n, m)
    assert distances.tolist() == expected


def test_hamming_in_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = make(20, 65, 0), make(7, 65, 1)
    whole = a.hamming(b)
    monkeypatch.setattr(codes, "DISTANCES_AT_ONCE", 3 * b.packed.size)
    assert (a.hamming(b) == whole).all()


def test_the_largest_distance_fits() -> None:
    ends = Codes.pack(np.array([[False], [True]]).repeat(65535, 1), ["0", "1"])
    assert ends.hamming(ends).tolist() == [[0, 65535], [65535, 0]]
    assert ends.search(ends[0], 2)[0].tolist() == [[0, 65535]]


@given(d=sizes, n=st.integers(0, 30), m=st.integers(0, 4), k=st.integers(1, 40), seed=st.integers(0, 99))
def test_search_is_that_of_brute_force(d: int, n: int, m: int, k: int, seed: int) -> None:
    stored, queries = make(n, d, seed), make(m, d, seed + 1)
    distances, indices = stored.search(queries, k)
    everything = queries.hamming(stored)
    assert distances.shape == indices.shape == (m, min(k, n))
    assert (distances == np.sort(everything, axis=1)[:, :k]).all()
    assert (np.take_along_axis(everything, indices, 1) == distances).all()
    assert all(len(set(row)) == len(row) for row in indices.tolist())


def test_search_in_a_slice_of_codes() -> None:
    stored = make(9, 20)[::-2]
    assert stored.search(stored, 1)[1][:, 0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: make(2, 8).hamming(make(2, 9)), "codes of 8 bits cannot be compared with codes of 9"),
        (
            lambda: make(2, 8).search(make(2, 8, model="b" * 64), 1),
            "codes of the model aaaaaaaaaaaa cannot be compared with those of bbbbbbbbbbbb: "
            "encode both with one model",
        ),
        (lambda: make(2, 8).search(make(1, 8), 0), "k is 0; it must be at least 1"),
        (lambda: make(2, 0), "codes of 0 bits: it must be 1 to 65535"),
        (lambda: make(1, 65536), "codes of 65536 bits: it must be 1 to 65535"),
        (lambda: Codes.pack([True, False], ["a", "b"]), "bits are (2,); they must be (N, D)"),
        (
            lambda: Codes.pack([[True], [False]], ["a"]),
            "codes are uint8 (2, 1); 1 ids and 1 bits need uint8 (1, 1)",
        ),
        (
            lambda: Codes.pack([[True]], ["a"], [0.1, 0.2]),
            "uncertainty is (2,); it must be one number for each id",
        ),
        (
            lambda: Codes(np.array([[8]], np.uint8), 3, np.array(["a"], object), np.zeros(1, np.float32)),
            "codes of 3 bits have ones beyond them; the padding must be zero",
        ),
    ],
)
def test_what_does_not_fit_is_refused(mistake: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError) as error:
        mistake()
    assert str(error.value) == message


# the file


@settings(max_examples=40)
@given(d=sizes, n=st.integers(0, 9), seed=st.integers(0, 99))
def test_a_file_gives_back_what_was_written(folder: Path, d: int, n: int, seed: int) -> None:
    made = make(n, d, seed)
    assert write(made, folder / "codes.parquet") == n
    again = read(folder / "codes.parquet", model="a" * 64)
    assert same(again, made)
    assert [path.name for path in folder.iterdir()] == ["codes.parquet"]


def test_batches_make_the_same_file_as_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes, "ROW_GROUP", 10)
    whole = make(47, 13)
    assert write((whole[i : i + 5] for i in range(0, 47, 5)), tmp_path / "batches" / "codes.parquet") == 47
    write(whole, tmp_path / "codes.parquet")
    assert same(read(tmp_path / "batches" / "codes.parquet"), whole)
    assert (tmp_path / "batches" / "codes.parquet").read_bytes() == (tmp_path / "codes.parquet").read_bytes()
    assert pq.ParquetFile(tmp_path / "codes.parquet").num_row_groups == 5


READERS: dict[str, Callable[[Path], dict[str, list[Any]]]] = {
    "pandas": lambda path: pd.read_parquet(path).to_dict("list"),
    "polars": lambda path: pl.read_parquet(path).to_dict(as_series=False),
    "duckdb": lambda path: {
        name: column.tolist() for name, column in duckdb.read_parquet(str(path)).fetchnumpy().items()
    },
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("d", [1, 13, 64])
def test_others_read_the_file(reader: str, d: int, tmp_path: Path) -> None:
    made = make(20, d)
    write(made, tmp_path / "codes.parquet")
    columns = READERS[reader](tmp_path / "codes.parquet")
    assert list(columns) == ["id", "code", "uncertainty"]
    assert columns["id"] == made.ids.tolist()
    assert columns["uncertainty"] == made.uncertainty.tolist()
    packed = np.array([list(code) for code in columns["code"]], np.uint8)
    assert (np.unpackbits(packed, axis=1, count=d, bitorder="little") == made.unpack()).all()


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    write(make(1, 13), tmp_path / "codes.parquet")
    expected = {"version": 1, "bits": 13, "bit_order": "little", "latent": "bernoulli", "model": "a" * 64}
    assert json.loads(pq.read_schema(tmp_path / "codes.parquet").metadata[b"stochcon"]) == expected
    query = f"SELECT decode(value) FROM parquet_kv_metadata('{tmp_path}/codes.parquet') WHERE decode(key) = 'stochcon'"
    ((value,),) = duckdb.execute(query).fetchall()
    assert json.loads(value) == expected


def test_a_file_is_hardly_larger_than_its_codes(tmp_path: Path) -> None:
    n = 20_000
    made = make(n, 256)
    write(made, tmp_path / "codes.parquet")
    assert (tmp_path / "codes.parquet").stat().st_size < 1.25 * 32 * n + sum(len(i) for i in made.ids)


# damage


def refusal(path: Path, **options: str) -> str:
    with pytest.raises(ValueError) as error:
        read(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_file_cut_at_any_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "codes.parquet"
    write(make(3, 13), path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert refusal(path).startswith(f"{path} is damaged, or no Parquet file: ")


def test_a_changed_byte_never_changes_a_code(tmp_path: Path) -> None:
    path = tmp_path / "codes.parquet"
    made = make(3, 13)
    write(made, path)
    content = path.read_bytes()
    refused = 0
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ 1 << i % 8]) + content[i + 1 :])
        try:
            again = read(path, model="a" * 64)
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
        else:  # a byte that says nothing about the codes: who created the file, say
            assert again.packed.tobytes() == made.packed.tobytes()
            assert again.ids.tolist() == made.ids.tolist()
            assert again.uncertainty.tobytes() == made.uncertainty.tobytes()
    assert refused > len(content) / 4


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "codes.parquet"
    assert refusal(path) == f"{path} is missing; stochcon encode writes a file of codes"
    pd.DataFrame({"id": ["a"]}).to_parquet(path)
    assert refusal(path) == f"{path} is no file of codes: its metadata has no key stochcon"
    write(make(3, 13), path)
    assert refusal(path, model="b" * 64) == (
        f"{path} was made by the model aaaaaaaaaaaa, not bbbbbbbbbbbb; encode the images again"
    )


ABOUT = {"version": 1, "bits": 13, "bit_order": "little", "latent": "bernoulli", "model": ""}


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (ABOUT | {"version": 2}, "has format 2, of a newer stochcon; this one reads format 1"),
        ({"version": 2}, "has format 2, of a newer stochcon; this one reads format 1"),
        (ABOUT | {"bit_order": "big"}, "has its bits in the order big; it must be little"),
        (ABOUT | {"bits": 17}, "has other columns than codes of 17 bits have"),
        (
            ABOUT | {"bits": 12},
            "is damaged: codes of 12 bits have ones beyond them; the padding must be zero",
        ),
        (ABOUT | {"bits": "13"}, "is damaged: its metadata does not describe codes"),
        (ABOUT | {"bits": 0}, "is damaged: its metadata does not describe codes"),
        ({"version": 1}, "is damaged: its metadata does not describe codes"),
        ([], "is damaged: its metadata does not describe codes"),
    ],
)
def test_a_file_that_says_something_else_is_refused(about: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "codes.parquet"
    write(Codes.pack(np.ones((1, 13), bool), ["a"]), path)
    table = pq.read_table(path).replace_schema_metadata({"stochcon": json.dumps(about)})
    pq.write_table(table, path)
    assert refusal(path) == f"{path} {message}"


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "codes.parquet"
    write(make(3, 13), path)
    before = path.read_bytes()

    def batches() -> Iterator[Codes]:
        yield make(3, 13, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(batches(), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["codes.parquet"]


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    for batches, message in [
        ([], "there are no codes to write"),
        ([make(1, 8), make(1, 8, model="b")], "codes of two models cannot go into one file"),
    ]:
        with pytest.raises(ValueError) as error:
            write(batches, tmp_path / "codes.parquet")
        assert str(error.value) == message
    with pytest.raises(ValueError) as error:
        write(make(1, 8), tmp_path)
    assert str(error.value) == f"{tmp_path} is a folder; it must name a file of codes"
    assert os.listdir(tmp_path) == []


def test_ids_that_are_no_text_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "codes.parquet"
    write(make(1, 8), path)
    schema = pq.read_schema(path)
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff")]
    )
    table = pq.read_table(path)
    pq.write_table(pa.Table.from_arrays([bad, table["code"], table["uncertainty"]], schema=schema), path)
    assert refusal(path).startswith(f"{path} is damaged")
