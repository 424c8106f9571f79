"""Codes: packing, distances, exact search, and a file that others can read and that is never misread."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
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

from stochcon.codes import file as codes
from stochcon.codes import packed as hamming
from stochcon.codes.file import Codes, files, read, shard, writable, write

sizes = st.integers(1, 4096) | st.integers(1, 70)


def random_bits(n: int, d: int, seed: int) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random((n, d)) < 0.5


def make(n: int, d: int, seed: int = 0, model: str = "a" * 64) -> Codes:
    random = np.random.default_rng(seed)
    uncertainty, flips = random.random(n) * d / 2, (random.random(d) / 2).round(4)
    ids = [f"Zürich/{seed}/{i}.jpg" for i in range(n)]
    made = Codes.pack(random_bits(n, d, seed), ids, uncertainty, model, flips=flips)
    return replace(made, size=32, channels=3)


def make_gaussian(n: int, d: int, seed: int = 0) -> Codes:
    mean, variance = np.random.default_rng(seed).normal(size=(2, n, d)).astype(np.float16)
    made = make(n, d, seed)
    return replace(
        Codes.pack(mean > 0, made.ids.tolist(), made.uncertainty, made.model, "gaussian", made.flips),
        mean=mean,
        variance=variance**2,
    )


def same(a: Codes, b: Codes) -> bool:
    """In every field, to the bit."""
    return all(
        x.tolist() == y.tolist() and x.dtype == y.dtype if isinstance(x, np.ndarray) else x == y
        for x, y in ((getattr(a, field.name), getattr(b, field.name)) for field in fields(Codes))
    )


def as_stored(codes: Codes) -> Codes:
    """A file of no images knows no flips."""
    return codes if len(codes) else replace(codes, flips=np.zeros(codes.bits, np.float32))


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
    assert part.flips.tolist() == whole.flips.tolist()
    gaussian = make_gaussian(5, 13)
    assert gaussian.mean is not None and gaussian.variance is not None
    assert gaussian[index].moments["mean"].tolist() == gaussian.mean[rows].tolist()
    assert gaussian[index].moments["variance"].tolist() == gaussian.variance[rows].tolist()


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
    monkeypatch.setattr(hamming, "DISTANCES_AT_ONCE", 3 * b.packed.size)
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
            lambda: replace(Codes.pack(np.zeros((1, 3)), ["a"]), packed=np.array([[8]], np.uint8)),
            "codes of 3 bits have ones beyond them; the padding must be zero",
        ),
        (
            lambda: Codes.pack([[True]], ["a"], flips=[0.1, 0.2]),
            "flips are (2,); they must be one number for each bit",
        ),
        (
            lambda: replace(make_gaussian(2, 8), mean=np.zeros((2, 8), np.float32)),
            "mean is float32 (2, 8); it must be float16 (2, 8)",
        ),
        (lambda: Codes.join([]), "there are no codes to join"),
        (
            lambda: Codes.join([make(2, 8), make(2, 9)]),
            "codes of 8 bits cannot be compared with codes of 9",
        ),
    ],
)
def test_what_does_not_fit_is_refused(mistake: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError) as error:
        mistake()
    assert str(error.value) == message


# the file


@pytest.mark.parametrize("kind", [make, make_gaussian])
@settings(max_examples=30)
@given(d=sizes, n=st.integers(0, 9), seed=st.integers(0, 99))
def test_a_file_gives_back_what_was_written(
    folder: Path, d: int, n: int, seed: int, kind: Callable[[int, int, int], Codes]
) -> None:
    made = kind(n, d, seed)
    assert write(made, folder / "codes.parquet") == n
    again = read(folder / "codes.parquet", model="a" * 64)
    assert same(again, as_stored(made))
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


@settings(max_examples=15)
@given(d=sizes, n=st.integers(0, 9), seed=st.integers(0, 99))
@pytest.mark.parametrize("reader", READERS)
def test_others_read_the_file(folder: Path, reader: str, d: int, n: int, seed: int) -> None:
    made = make(n, d, seed)
    write(made, folder / "codes.parquet")
    columns = READERS[reader](folder / "codes.parquet")
    assert list(columns) == ["id", "code", "uncertainty"]
    assert columns["id"] == made.ids.tolist()
    assert columns["uncertainty"] == made.uncertainty.tolist()
    packed = np.array([list(code) for code in columns["code"]], np.uint8).reshape(n, -(-d // 8))
    assert (np.unpackbits(packed, axis=1, count=d, bitorder="little") == made.unpack()).all()


@pytest.mark.parametrize("reader", READERS)
def test_others_read_a_gaussians_moments(reader: str, tmp_path: Path) -> None:
    made = make_gaussian(20, 13)
    write(made, tmp_path / "codes.parquet")
    columns = READERS[reader](tmp_path / "codes.parquet")
    assert list(columns) == ["id", "code", "uncertainty", "mean", "variance"]
    for name, values in made.moments.items():
        assert [list(row) for row in columns[name]] == values.tolist()


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    write(make(1, 13), tmp_path / "codes.parquet")
    expected = {
        "version": 2,
        "bits": 13,
        "bit_order": "little",
        "latent": "bernoulli",
        "model": "a" * 64,
        "size": 32,
        "channels": 3,
        "flips": [round(rate, 4) for rate in make(1, 13).flips.tolist()],
    }
    assert json.loads(pq.read_metadata(tmp_path / "codes.parquet").metadata[b"stochcon"]) == expected
    query = f"SELECT decode(value) FROM parquet_kv_metadata('{tmp_path}/codes.parquet') WHERE decode(key) = 'stochcon'"
    ((value,),) = duckdb.execute(query).fetchall()
    assert json.loads(value) == expected


def test_a_file_is_hardly_larger_than_its_codes(tmp_path: Path) -> None:
    n = 20_000
    made = make(n, 256)
    write(made, tmp_path / "codes.parquet")
    assert (tmp_path / "codes.parquet").stat().st_size < 1.25 * 32 * n + sum(len(i) for i in made.ids)


# shards


@settings(max_examples=20)
@given(d=sizes, n=st.integers(0, 20), world=st.integers(2, 4), seed=st.integers(0, 99))
def test_shards_are_read_as_one(d: int, n: int, world: int, seed: int) -> None:
    whole, gaussian = make(n, d, seed), make_gaussian(n, d, seed)
    for codes_ in (whole, gaussian):
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "codes.parquet"
            for rank in range(world):
                rows = slice(rank * n // world, (rank + 1) * n // world)
                write(codes_[rows], shard(path, rank, world))
            assert same(read(path), as_stored(codes_))
            assert [len(read(file)) for file in files(path)] == [
                (rank + 1) * n // world - rank * n // world for rank in range(world)
            ]


def test_flips_of_shards_are_the_mean_over_all_images(tmp_path: Path) -> None:
    for rank, (n, rate) in enumerate([(1, 0.4), (3, 0.1)]):
        certain = Codes.pack(np.ones((n, 2), bool), [f"{rank}/{i}" for i in range(n)])
        write(
            replace(certain, flips=np.array([rate, 0.5], np.float32)),
            shard(tmp_path / "codes.parquet", rank, 2),
        )
    assert read(tmp_path / "codes.parquet").flips.tolist() == np.array([0.175, 0.5], np.float32).tolist()


def test_shards_that_are_no_set_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "codes.parquet"
    first, second = shard(path, 0, 2), shard(path, 1, 2)
    write(make(1, 8), first)
    assert refusal(path) == f"{second} is missing beside {first.name}; all processes must have finished"
    write(make(1, 8, model="b" * 64), second)
    assert refusal(path) == (
        f"{second} was made by the model bbbbbbbbbbbb, not aaaaaaaaaaaa; encode the images again"
    )
    write(make(1, 8), shard(path, 2, 3))
    assert refusal(path) == (
        f"{first} and codes-00002-of-00003.parquet are not of one set; remove what is not wanted"
    )
    write(make(1, 8), path)
    assert refusal(path) == f"{path} and {first.name} are not of one set; remove what is not wanted"


def test_nothing_is_written_beside_another_set(tmp_path: Path) -> None:
    path = tmp_path / "codes.parquet"
    assert writable(path, 1, 2) == shard(path, 1, 2)
    write(make(1, 8), path)
    assert writable(path) == path  # it may be written again
    with pytest.raises(ValueError) as error:
        writable(path, 1, 2)
    assert str(error.value) == (
        f"{path} is there, and codes-00001-of-00002.parquet is not of its set; remove it, or write elsewhere"
    )


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
            assert again.flips.shape == made.flips.shape
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


ABOUT = {
    "version": 2,
    "bits": 13,
    "bit_order": "little",
    "latent": "bernoulli",
    "model": "",
    "size": None,
    "channels": None,
    "flips": [0.0] * 13,
}


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (ABOUT | {"version": 3}, "has format 3, of a newer stochcon; this one reads format 2"),
        ({"version": 3}, "has format 3, of a newer stochcon; this one reads format 2"),
        ({"version": 1}, "has format 1, of an older stochcon; this one reads format 2"),
        (ABOUT | {"bit_order": "big"}, "has its bits in the order big; it must be little"),
        (ABOUT | {"bits": 17}, "has other columns than bernoulli codes of 17 bits have"),
        (
            ABOUT | {"bits": 12, "flips": [0.0] * 12},
            "is damaged: codes of 12 bits have ones beyond them; the padding must be zero",
        ),
        (ABOUT | {"bits": "13"}, "is damaged: its metadata does not describe codes"),
        (ABOUT | {"bits": 0}, "is damaged: its metadata does not describe codes"),
        ({"version": 2}, "is damaged: its metadata does not describe codes"),
        (ABOUT | {"flips": [0.6] * 13}, "is damaged: its metadata does not describe codes"),
        (ABOUT | {"flips": [0.1]}, "is damaged: flips are (1,); they must be one number for each bit"),
        (ABOUT | {"latent": "gaussian"}, "has other columns than gaussian codes of 13 bits have"),
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
    schema = pq.read_schema(path).with_metadata(pq.read_metadata(path).metadata)
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff")]
    )
    table = pq.read_table(path)
    pq.write_table(pa.Table.from_arrays([bad, table["code"], table["uncertainty"]], schema=schema), path)
    assert refusal(path).startswith(f"{path} is damaged")
