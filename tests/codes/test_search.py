"""Searching a file of codes, as a user does: exactly, weighted, by inverted lists, with a table and a picture."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from stochcon.cli import main
from stochcon.codes import inverted_lists, mosaic, weighted
from stochcon.codes.encoder import Encoder, encode
from stochcon.codes.file import made_of, read_codes, shard, write
from stochcon.codes.packed import Codes
from stochcon.codes.search import Neighbours, search, show
from tests.codes.made import BITS, make, untrained
from tests.shared import error


def name(row: int) -> str:
    """The id that `make` gives a row."""
    return f"Zürich/0/{row}.jpg"


def clustered(n: int, d: int) -> Codes:
    """Codes of images that are alike in groups, as learned ones are."""
    rng = np.random.default_rng(0)
    bits = (rng.random((20, d)) < 0.5)[rng.integers(0, 20, n)] ^ (rng.random((n, d)) < 0.1)
    return Codes.pack(bits, [str(i) for i in range(n)])


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    write(make(47, BITS), tmp_path / "codes.parquet")
    return tmp_path / "codes.parquet"


# exact


def test_a_search_by_id_imports_neither_torch_nor_pandas(stored: Path) -> None:
    program = (
        "import sys; from stochcon import search\n"
        "for more in ({}, {'weighted': True}, {'approximate': True}, {'asymmetric': True}):\n"
        f"    search({str(stored)!r}, [{name(1)!r}], **more)\n"
        "assert not {'torch', 'pandas', 'matplotlib'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_queries_by_id_find_what_brute_force_finds(stored: Path) -> None:
    made = read_codes(stored)
    queries = [name(46), name(0), name(19), name(46)]
    everything = made.hamming(made)
    for result, query in zip(search(stored, queries, 5), queries, strict=True):
        own = made.ids.tolist().index(query)
        nearest = [i for i in np.argsort(everything[own], kind="stable").tolist() if i != own][:5]
        assert (result.query, result.ids, result.by_id) == (query, made.ids[nearest].tolist(), True)
        assert result.distances == everything[own][nearest].tolist()
    assert len(search(stored, queries[:1], 500)[0].ids) == 46


def test_of_an_id_that_is_there_twice_the_first_counts(tmp_path: Path) -> None:
    write(Codes.pack([[0, 0], [0, 1], [1, 1]], ["b", "a", "a"]), tmp_path / "codes.parquet")
    (found,) = search(tmp_path / "codes.parquet", ["a"])
    assert dict(zip(found.ids, found.distances, strict=True)) == {"a": 1, "b": 1}


def test_shards_are_searched_as_one_file(stored: Path, tmp_path: Path) -> None:
    made = read_codes(stored)
    for rank in range(2):
        write(made[rank * 20 : 20 + rank * 27], shard(tmp_path / "all.parquet", rank, 2))
    queries = [name(46), name(3)]
    for weigh, guess in ((False, False), (True, False), (False, True)):
        whole = search(stored, queries, weighted=weigh, approximate=guess)
        assert search(tmp_path / "all.parquet", queries, weighted=weigh, approximate=guess) == whole


# weighted


@given(d=st.integers(1, 70), n=st.integers(1, 40), k=st.integers(1, 50), seed=st.integers(0, 99))
def test_weighted_distances_are_those_of_a_loop(d: int, n: int, k: int, seed: int) -> None:
    made, queries = make(n, d, seed), make(3, d, seed + 1)
    flips = np.random.default_rng(seed).random((3, d)) / 2
    on = weighted.shares_of_ones(made.packed, d)
    weights = weighted.bit_weights(on, flips)
    assert np.allclose(on, made.unpack().mean(0))

    def naive(query: int) -> NDArray[np.float64]:
        weight = []
        for i in range(d):
            m, f = float(on[i]), min(max(float(flips[query, i]), 0.001), 0.499)
            entropy = -sum(p * np.log2(p) for p in (m, 1 - m) if p)
            weight.append(entropy * np.log((1 - f) / f))
        total = sum(weight)
        if not total:  # no bit is informative
            weight = [np.log((1 - f) / f) for f in np.clip(flips[query], 0.001, 0.499)]
            total = sum(weight)
        own = queries.unpack()[query].tolist()
        distances = [
            sum(w * d / total for w, a, b in zip(weight, row, own, strict=True) if a != b)
            for row in made.unpack().tolist()
        ]
        return np.array(distances)

    distances, indices = weighted.weighted_neighbours(made.packed, queries.unpack(), weights, k)
    assert distances.shape == (3, min(n, k))
    for query in range(3):
        expected = naive(query)
        assert np.allclose(distances[query], np.sort(expected)[:k], atol=1e-3)
        assert np.allclose(distances[query], expected[indices[query]], atol=1e-3)
        assert len({*indices[query].tolist()}) == min(n, k)


@given(d=st.integers(1, 40), n=st.integers(1, 30), k=st.integers(1, 40), seed=st.integers(0, 99))
def test_asymmetric_distances_are_those_of_a_loop(d: int, n: int, k: int, seed: int) -> None:
    made, p = make(n, d, seed=seed), np.random.default_rng(seed).random((3, d), np.float32)
    expected = np.abs(p[:, None] - made.unpack()).sum(2)
    distances, rows = weighted.asymmetric_neighbours(made.packed, p, k)
    np.testing.assert_allclose(distances, np.sort(expected, axis=1)[:, :k], atol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(expected, rows, axis=1), distances, atol=1e-4)


def test_an_asymmetric_search_has_the_probabilities_of_an_image_file(run: Path, pictures: Path, tmp_path: Path) -> None:
    encode(run, str(pictures), tmp_path / "codes.parquet", progress=False)
    query = pictures / "02.png"
    codes, one = read_codes(tmp_path / "codes.parquet"), Encoder(run).file(query)
    others = codes[codes.ids != "02.png"]
    p = np.abs(one.unpack() - one.flips)
    (found,) = search(tmp_path / "codes.parquet", [str(query)], 3, run=run, asymmetric=True)
    expected = np.abs(p - others.unpack()).sum(1)
    np.testing.assert_allclose(found.distances, np.sort(expected)[:3], atol=1e-4)


def test_an_uninformative_bit_does_not_count_when_weighted(tmp_path: Path) -> None:
    bits = [[True, False, False], [True, True, False], [True, True, True], [True, False, True]]
    write(Codes.pack(bits, list("abcd")), tmp_path / "codes.parquet")
    (plain,) = search(tmp_path / "codes.parquet", ["a"])
    (result,) = search(tmp_path / "codes.parquet", ["a"], weighted=True)
    assert plain.distances == [1, 1, 2]
    assert {*result.ids[:2]} == {"b", "d"} and result.ids[2] == "c"
    assert result.distances == pytest.approx([1.5, 1.5, 3.0])


# approximate


def test_lists_are_built_once_and_find_nearly_all(tmp_path: Path) -> None:
    path, made = tmp_path / "codes.parquet", clustered(3000, 64)
    write(made, path)
    queries = [str(i) for i in range(0, 3000, 50)]
    exact = search(path, queries, 10)
    first = search(path, queries, 10, approximate=True)
    assert sorted(os.listdir(tmp_path)) == ["codes.parquet", "codes.parquet.index"]
    written = (tmp_path / "codes.parquet.index").stat()
    assert search(path, queries, 10, approximate=True) == first
    assert (tmp_path / "codes.parquet.index").stat() == written
    found = sum(
        distance <= theirs.distances[-1]
        for ours, theirs in zip(first, exact, strict=True)
        for distance in ours.distances
    )
    assert found / (10 * len(queries)) > 0.95
    for result in first:
        rows = [int(other) for other in result.ids]
        assert made[int(result.query)].hamming(made[rows])[0].tolist() == result.distances
        assert result.query not in result.ids


def test_lists_of_other_codes_or_damaged_are_built_again(tmp_path: Path) -> None:
    path, file = tmp_path / "codes.parquet", tmp_path / "codes.parquet.index"
    write(make(40, BITS), path)
    before = search(path, [name(1)], approximate=True)
    content = file.read_bytes()
    line = content.index(b"\n")
    broken = [b"", content[:9], content[:-1], content[: line + 9], b"[]\n", b'{"sha256": 1}\n', b"\xff\n", b"[" * 99999]
    broken += [content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :] for i in range(0, len(content), 97)]
    for damaged in broken:
        file.write_bytes(damaged)
        assert inverted_lists.load(path) is None
        assert search(path, [name(1)], approximate=True) == before
        assert file.read_bytes() == content
    write(make(41, BITS), path)
    assert inverted_lists.load(path) is None
    assert search(path, [name(40)], approximate=True)[0].query == name(40)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_lists_of_few_codes_are_exact(n: int) -> None:
    made = make(n, BITS)
    index, recall = inverted_lists.build(made.packed)
    assert recall >= inverted_lists.RECALL
    index.nprobe = index.nlist
    distances, _ = inverted_lists.approximate_neighbours(index, made.packed, n)
    assert (distances == np.sort(made.hamming(made), axis=1)).all()


# the command


def test_several_queries_and_a_picture(
    run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "codes.parquet"
    encode(run, str(pictures), out, progress=False)
    queries = ["02.png", str(pictures / "test" / "03.png")]
    assert main(["search", str(out), *queries, "-k", "30", "--run", str(run), "--images", str(pictures)]) == 0
    printed = capsys.readouterr().out
    by_id, by_file = results = search(out, queries, 30, run)
    for result in results:
        assert "".join(f"nearest to {result.query}".split()) in "".join(printed.split())
        for name, distance in zip(result.ids, result.distances, strict=True):
            assert any(name in line and f" {distance} " in line for line in printed.splitlines())
    assert len(by_id.ids) == len(by_file.ids) == 18
    assert "02.png" not in by_id.ids and "test/03.png" not in by_file.ids
    assert "".join(printed.split()).endswith("".join(f"The picture is {tmp_path}/codes.search.png".split()))
    with Image.open(tmp_path / "codes.search.png") as picture:
        assert picture.width > picture.height > 200
    for flag in ("--weighted", "--approximate"):
        assert main(["search", str(out), *queries, "--run", str(run), flag]) == 0


def test_an_image_file_leaves_itself_out_and_no_other_image_of_its_name(
    run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(run, str(pictures), tmp_path / "codes.parquet", progress=False)
    monkeypatch.chdir(pictures / "test")
    for kind in ({}, {"weighted": True}, {"asymmetric": True}, {"approximate": True}):
        by_id, by_file = search(tmp_path / "codes.parquet", ["test/03.png", "03.png"], 30, run, **kind)
        assert by_id.by_id and not by_file.by_id
        assert "test/03.png" not in by_file.ids and {*by_id.ids} == {*by_file.ids}
    (tmp_path / "elsewhere" / "test").mkdir(parents=True)
    other = Path(tmp_path / "elsewhere" / "test" / "03.png")
    Image.new("RGB", (16, 12), "white").save(other)
    (found,) = search(tmp_path / "codes.parquet", [str(other)], 30, run)
    assert "test/03.png" in found.ids


def test_json_is_all_that_is_on_standard_output(
    run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "codes.parquet"
    encode(run, str(pictures), out, progress=False)
    for flag in ("--approximate", "--weighted", "--asymmetric"):
        assert main(["search", str(out), "02.png", "04.png", "--json", flag, "--images", str(pictures)]) == 0
        printed, told = capsys.readouterr()
        kind: Any = {flag.removeprefix("--"): True}
        expected = search(out, ["02.png", "04.png"], **kind)
        assert [Neighbours(**found) for found in json.loads(printed)] == expected
        assert "The picture is" in told and ("inverted lists" in told) == (flag == "--approximate")


def test_a_picture_has_rows_for_all_results_up_to_a_number(run: Path, pictures: Path, tmp_path: Path) -> None:
    encode(run, str(pictures), tmp_path / "codes.parquet", progress=False)
    results = search(tmp_path / "codes.parquet", ["02.png"], 15)
    assert mosaic.left_out(results) == ""
    drawn = [axis for axis in mosaic.draw(results, str(pictures)).axes if axis.images]
    assert [axis.texts[0].get_text() for axis in drawn] == ["02.png", *results[0].ids]
    many = [Neighbours("02.png", 60 * ["04.png"], 60 * [1.0]), Neighbours("04.png", [], [])]
    drawn = [axis for axis in mosaic.draw(many, str(pictures)).axes if axis.images]
    assert len(drawn) == 1 + mosaic.SHOWN_RESULTS + 1
    assert mosaic.left_out(many) == "; it shows at most 12 queries and 50 results of each"
    assert mosaic.left_out(13 * results) != ""


def test_a_picture_names_an_image_by_the_end_of_its_path(tmp_path: Path) -> None:
    name = "2024/holiday in Spain/IMG_20240817_2015.jpg"
    (tmp_path / name).parent.mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / name)
    (axis,) = mosaic.draw([Neighbours(name, [], [])], str(tmp_path)).axes
    assert axis.texts[0].get_text() == "…G_20240817_2015.jpg"


def test_a_picture_shows_the_right_images(run: Path, pictures: Path, tmp_path: Path) -> None:
    encode(run, str(pictures), tmp_path / "codes.parquet", progress=False)
    results = search(tmp_path / "codes.parquet", ["02.png", "test/05.png"], 4)
    axes = mosaic.draw(results, str(pictures)).axes
    names = [name for result in results for name in (result.query, *result.ids)]
    for axis, name in zip(axes, names, strict=True):
        with Image.open(pictures / name) as image:
            assert (np.asarray(axis.images[0].get_array()) == np.asarray(image)).all()
        assert axis.texts[0].get_text() == name
    assert [axis.get_title() for axis in axes[:2]] == ["query", f"{results[0].distances[0]} bits"]


def test_a_file_of_codes_knows_its_run_and_its_images(
    run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also when all three have moved together; what is gone has to be given."""
    before, after = tmp_path / "before", tmp_path / "after"
    shutil.copytree(run, before / "run")
    shutil.copytree(pictures, before / "pictures")
    encode(before / "run", str(before / "pictures"), before / "codes.parquet", progress=False)
    before.rename(after)
    codes, query = after / "codes.parquet", after / "pictures" / "02.png"
    assert made_of(codes) == {"run": str(after / "run"), "images": str(after / "pictures")}
    assert main(["search", str(codes), str(query)]) == 0
    assert f"The picture is {after / 'codes.search.png'}" in capsys.readouterr().out
    shutil.rmtree(after / "run")
    assert "give --run DIR" in error(capsys, "search", codes, query)
    (after / "pictures").rename(tmp_path / "elsewhere")
    assert made_of(codes) == {}
    assert main(["search", str(codes), "02.png"]) == 0
    assert "The picture" not in capsys.readouterr().out


def test_search_says_what_is_wrong(
    run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, picture = tmp_path / "codes.parquet", pictures / "02.png"
    encode(run, str(pictures), out, progress=False)
    bare = tmp_path / "bare.parquet"  # names neither run nor images
    write(read_codes(out), bare)
    other = untrained(tmp_path / "other", seed=1)
    (pictures / "bad.png").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "empty" / "x.png")
    cases: list[tuple[list[object], str]] = [
        ([out, "cat.jpg"], f"cat.jpg is neither an id in {out} nor an image file"),
        ([bare, "02.png", picture], f"{picture} is an image file; to encode it, give --run DIR"),
        ([out, picture, "--run", other], f"{out} was not made by the model in {other}"),
        ([out, pictures / "bad.png", "--run", run], f"{pictures / 'bad.png'} cannot be read: an empty file"),
        ([out, "02.png", "-k", "0"], "k is 0; it must be at least 1"),
        ([out], f"there is nothing to look for in {out}"),
        (
            [out, "02.png", "--weighted", "--approximate"],
            "weighted, approximate and asymmetric are three searches: choose one",
        ),
        ([tmp_path / "none", "02.png"], f"{tmp_path / 'none'} is missing"),
        ([bare, "02.png", "--picture", "x.png"], "--picture x.png needs --images"),
        ([out, "02.png", "-k", "1", "--images", tmp_path / "empty"], "it must be what was encoded"),
        ([picture, "02.png"], f"{picture} is damaged, or no Parquet file"),
    ]
    for arguments, message in cases:
        assert message in error(capsys, "search", *arguments)
    assert sorted(os.listdir(tmp_path)) == [
        "bare.parquet",
        "codes.parquet",
        "codes.skipped.txt",
        "empty",
        "other",
        "pictures",
    ]


def test_a_table_shows_ids_as_they_are_or_that_nothing_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    show([Neighbours("a", ["007", "1e5"], [1, 12]), Neighbours("b", [], [])])
    found, nothing = capsys.readouterr().out.split("nearest to b")
    assert "007" in found and "1e5" in found and " 12 │" in found
    assert "bits that differ" in nothing
    show([Neighbours("a", ["b"], [1.5])], weighted=True)
    assert "weighted bits: the bits that differ, by how informative and certain" in capsys.readouterr().out
    show([Neighbours("a", ["b"], [1.5])], asymmetric=True)
    assert "expected bits: the bits that differ on average" in capsys.readouterr().out


def test_a_file_without_codes_is_searched(run: Path, pictures: Path, tmp_path: Path) -> None:
    write(
        read_codes(encode(run, str(pictures), tmp_path / "some.parquet", progress=False).path)[:0],
        tmp_path / "no.parquet",
    )
    for weigh in (False, True):
        (found,) = search(tmp_path / "no.parquet", [str(pictures / "02.png")], run=run, weighted=weigh)
        assert (found.ids, found.by_id) == ([], False)
    with pytest.raises(ValueError, match="has no codes"):
        search(tmp_path / "no.parquet", [str(pictures / "02.png")], run=run, approximate=True)
