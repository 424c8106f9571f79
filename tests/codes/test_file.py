"""The file of codes, which others can read and which is never misread."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
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

from stochcon.codes.file import files, read_codes, shard, write
from stochcon.codes.packed import Codes
from tests.codes.made import make, make_gaussian, same, sizes


def as_stored(codes: Codes) -> Codes:
    """A file of no images knows no flips."""
    return codes if len(codes) else replace(codes, flips=np.zeros(codes.bits, np.float32))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Of the module: hypothesis wants no fixture that is made anew for a test."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def refusal(path: Path, **options: str) -> str:
    with pytest.raises(ValueError) as error:
        read_codes(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", [make, make_gaussian])
@settings(max_examples=30)
@given(d=sizes, n=st.integers(0, 9), seed=st.integers(0, 99))
def test_a_file_gives_back_what_was_written(
    folder: Path, d: int, n: int, seed: int, kind: Callable[[int, int, int], Codes]
) -> None:
    made = kind(n, d, seed)
    assert write(made, folder / "codes.parquet") == n
    assert same(read_codes(folder / "codes.parquet", model="a" * 64), as_stored(made))
    assert [path.name for path in folder.iterdir()] == ["codes.parquet"]


def test_batches_make_the_same_file_as_all_at_once(tmp_path: Path) -> None:
    """The codes are so long that they take two row groups."""
    n = 4500
    rows = np.random.default_rng(0).integers(0, 256, (n, 8191), np.uint8)
    whole = replace(make(n, 8), packed=rows, bits=65528, flips=np.zeros(65528, np.float32))
    path, batches = tmp_path / "codes.parquet", tmp_path / "batches" / "codes.parquet"
    assert write((whole[i : i + 127] for i in range(0, n, 127)), batches) == write(whole, path) == n
    assert batches.read_bytes() == path.read_bytes()
    assert pq.ParquetFile(path).num_row_groups == 2
    assert (read_codes(path).packed == rows).all()


READERS: dict[str, Callable[[Path], dict[str, list[Any]]]] = {
    "pandas": lambda path: pd.read_parquet(path).to_dict("list"),
    "polars": lambda path: pl.read_parquet(path).to_dict(as_series=False),
    "duckdb": lambda path: {
        name: column.tolist() for name, column in duckdb.read_parquet(str(path)).fetchnumpy().items()
    },
}


@pytest.mark.parametrize("kind", [make, make_gaussian])
@settings(max_examples=15)
@given(d=sizes, n=st.integers(0, 9), seed=st.integers(0, 99))
@pytest.mark.parametrize("reader", READERS)
def test_others_read_the_file(
    folder: Path, reader: str, d: int, n: int, seed: int, kind: Callable[[int, int, int], Codes]
) -> None:
    made = kind(n, d, seed)
    write(made, folder / "codes.parquet")
    columns = READERS[reader](folder / "codes.parquet")
    assert list(columns) == ["id", "code", "uncertainty", *made.moments]
    assert columns["id"] == made.ids.tolist()
    assert columns["uncertainty"] == made.uncertainty.tolist()
    packed = np.array([list(code) for code in columns["code"]], np.uint8).reshape(n, -(-d // 8))
    assert (np.unpackbits(packed, axis=1, count=d, bitorder="little") == made.unpack()).all()
    for name, values in made.moments.items():
        assert [list(row) for row in columns[name]] == values.tolist()


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    write(make(1, 13), tmp_path / "codes.parquet")
    expected = ABOUT | {
        "model": "a" * 64,
        "size": 32,
        "channels": 3,
        "flips": [round(rate, 4) for rate in make(1, 13).flips.tolist()],
        "run": None,
        "images": None,
    }
    assert json.loads(pq.read_metadata(tmp_path / "codes.parquet").metadata[b"stochcon"]) == expected
    query = f"SELECT decode(value) FROM parquet_kv_metadata('{tmp_path}/codes.parquet') WHERE decode(key) = 'stochcon'"
    ((value,),) = duckdb.execute(query).fetchall()
    assert json.loads(value) == expected


def test_a_file_is_hardly_larger_than_its_codes(tmp_path: Path) -> None:
    made = make(20_000, 256)
    write(made, tmp_path / "codes.parquet")
    assert (tmp_path / "codes.parquet").stat().st_size < 1.25 * 32 * len(made) + sum(map(len, made.ids))


# shards


@pytest.mark.parametrize("kind", [make, make_gaussian])
@settings(max_examples=20)
@given(d=sizes, n=st.integers(0, 20), world=st.integers(2, 4), seed=st.integers(0, 99))
def test_shards_are_read_as_one(d: int, n: int, world: int, seed: int, kind: Callable[[int, int, int], Codes]) -> None:
    whole, ends = kind(n, d, seed), [rank * n // world for rank in range(world + 1)]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "codes.parquet"
        for rank in range(world):
            write(whole[ends[rank] : ends[rank + 1]], shard(path, rank, world))
        assert same(read_codes(path), as_stored(whole))
        assert [len(read_codes(file)) for file in files(path)] == np.diff(ends).tolist()


def test_flips_of_shards_are_the_mean_over_all_images(tmp_path: Path) -> None:
    for rank, (n, rate) in enumerate([(1, 0.4), (3, 0.1)]):
        some = Codes.pack(np.ones((n, 2)), [f"{rank}/{i}" for i in range(n)], flips=[rate, 0.5])
        write(some, shard(tmp_path / "codes.parquet", rank, 2))
    assert read_codes(tmp_path / "codes.parquet").flips.tolist() == np.array([0.175, 0.5], np.float32).tolist()


def test_shards_that_are_no_set_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "codes.parquet"
    first, second = shard(path, 0, 2), shard(path, 1, 2)
    write(make(1, 8), first)
    assert refusal(path).startswith(f"{second} is missing beside {first.name}")
    write(make(1, 8, model="b" * 64), second)
    assert refusal(path) == (f"{second} was made by the model bbbbbbbbbbbb, not aaaaaaaaaaaa; encode the images again")
    write(make(1, 8), shard(path, 2, 3))
    assert "codes-00002-of-00003.parquet" in refusal(path) and "not of one set" in refusal(path)
    shard(path, 2, 3).unlink()
    write(make(1, 8), path)
    assert f"and {path.name} are not of one set" in refusal(path)


# damage


def test_a_file_cut_at_any_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "codes.parquet"
    write(make(3, 13), path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert refusal(path).startswith(f"{path} is damaged, or no Parquet file: ")


def test_a_changed_byte_never_changes_a_code(tmp_path: Path) -> None:
    path, made, refused = tmp_path / "codes.parquet", make(3, 13), 0
    write(made, path)
    content = path.read_bytes()
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ 1 << i % 8]) + content[i + 1 :])
        try:
            again = read_codes(path, model="a" * 64)
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
        else:  # a byte that says nothing about the codes: who created the file, say
            assert same(again, replace(made, **{n: getattr(again, n) for n in UNCHECKED}))
            assert again.flips.shape == made.flips.shape
    assert refused > len(content) / 4


UNCHECKED = "flips", "size", "channels", "latent"
"""What is in the footer, which has no checksum."""


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "codes.parquet"
    assert refusal(path) == f"{path} is missing; stochcon encode writes a file of codes"
    pd.DataFrame({"id": ["a"]}).to_parquet(path)
    assert refusal(path) == f"{path} is no file of codes: its metadata has no key stochcon"
    write(make(3, 13), path)
    assert refusal(path, model="b" * 64) == (
        f"{path} was made by the model aaaaaaaaaaaa, not bbbbbbbbbbbb; encode the images again"
    )


ABOUT: dict[str, Any] = {
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
        (ABOUT | {"version": 3}, "version: 3 is not right: input should be 2"),
        ({"version": 1}, "version: 1 is not right: input should be 2"),
        (ABOUT | {"bit_order": "big"}, "bit_order: 'big' is not right: input should be 'little'"),
        (ABOUT | {"bits": 17, "flips": [0.0] * 17}, "has other columns or flips than codes of 17 bits have"),
        (ABOUT | {"bits": 12, "flips": [0.0] * 12}, "codes of 12 bits have ones beyond them"),
        (ABOUT | {"bits": "13"}, "bits: '13' is not right"),
        (ABOUT | {"bits": 0}, "bits: 0 is not right"),
        ({"version": 2}, "bits: "),
        (ABOUT | {"flips": [0.6] * 13}, "flips.0: 0.6 is not right"),
        (ABOUT | {"flips": [0.1]}, "has other columns or flips than codes of 13 bits have"),
        ([], "does not describe codes"),
        ("[" * 100_000, "does not describe codes"),
        ("\udcff", "does not describe codes"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_file_that_says_something_else_is_refused(about: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "codes.parquet"
    write(Codes.pack(np.ones((1, 13), bool), ["a"]), path)
    content = about.encode(errors="surrogateescape") if isinstance(about, str) else json.dumps(about)
    pq.write_table(pq.read_table(path).replace_schema_metadata({"stochcon": content}), path)
    assert refusal(path).startswith(str(path)) and message in refusal(path)


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


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "there are no codes to write"),
        ([make(1, 8), make(1, 8, model="b")], "codes of two models cannot go into one file"),
    ],
)
def test_what_cannot_be_written_is_refused(batches: list[Codes], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write(batches, tmp_path / "codes.parquet")
    with pytest.raises(OSError, match=str(tmp_path)):
        write(make(1, 8), tmp_path)
    assert os.listdir(tmp_path) == []


def test_ids_that_are_no_text_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "codes.parquet"
    write(make(1, 8), path)
    table, schema = pq.read_table(path), pq.read_schema(path).with_metadata(pq.read_metadata(path).metadata)
    offsets = pa.py_buffer(np.array([0, 1], np.int32))
    bad = pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(b"\xff")])
    pq.write_table(pa.Table.from_arrays([bad, table["code"], table["uncertainty"]], schema=schema), path)
    assert refusal(path).startswith(f"{path} is damaged")
