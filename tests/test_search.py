"""Searching a file of codes, as a user does: exactly, weighted, by an index, with a table and a picture."""

import os
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from shared import error

from stochcon import recipebook as recipes
from stochcon import runs
from stochcon.cli import main
from stochcon.codes import file as codes
from stochcon.codes import gallery, index, weighted
from stochcon.codes.encode import encode
from stochcon.codes.file import Codes
from stochcon.codes.search import search
from stochcon.codes.stored import Stored
from stochcon.config import Latent
from stochcon.method.model import StochCon

BITS = 13


def make(n: int, d: int, seed: int = 0) -> Codes:
    bits = np.random.default_rng(seed).random((n, d)) < 0.5
    return Codes.pack(bits, [f"{seed}/{i}.jpg" for i in range(n)], model="a" * 64)


def clustered(n: int, d: int) -> Codes:
    """Codes of images that are alike in groups, as learned ones are."""
    rng = np.random.default_rng(0)
    bits = (rng.random((20, d)) < 0.5)[rng.integers(0, 20, n)] ^ (rng.random((n, d)) < 0.1)
    return Codes.pack(bits, [str(i) for i in range(n)])


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of several row groups."""
    monkeypatch.setattr(codes, "ROW_GROUP", 10)
    made = make(47, BITS)
    codes.write((made[i : i + 10] for i in range(0, 47, 10)), tmp_path / "codes.parquet")
    return tmp_path / "codes.parquet"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is finished, of a network that has learnt nothing."""
    directory = tmp_path_factory.mktemp("run") / "run"
    return write_run(directory, seed=0)


def write_run(directory: Path, seed: int) -> Path:
    config = recipes.digits().model_copy(update={"latent": Latent(dim=BITS)})
    torch.manual_seed(seed)
    runs.create(directory, config)
    runs.write_tensors(directory / runs.MODEL, StochCon(config).state_dict())
    return directory


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    (root / "wide").mkdir(parents=True)
    random = np.random.default_rng(0)
    for i in range(8):
        pixels = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / ("wide" if i % 2 else ".") / f"{i:02}.png")
    return root


# exact


@given(d=st.integers(1, 70), n=st.integers(1, 60), k=st.integers(1, 70), seed=st.integers(0, 99))
def test_ties_are_in_the_order_of_the_rows(d: int, n: int, k: int, seed: int) -> None:
    made, queries = make(n, d, seed), make(3, d, seed + 1)
    distances, indices = made.search(queries, k)
    everything = queries.hamming(made)
    assert (indices == np.argsort(everything, axis=1, kind="stable")[:, :k]).all()
    flat = faiss.IndexBinaryFlat(8 * made.packed.shape[1])
    flat.add(made.packed)
    assert (distances == flat.search(queries.packed, min(k, n))[0]).all()


def test_a_search_leaves_the_threads_as_they_were() -> None:
    before = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(2)
        make(9, 20).search(make(1, 20), 1)
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(before)


def test_queries_by_id_find_what_brute_force_finds(stored: Path) -> None:
    made = codes.read(stored)
    queries = ["0/46.jpg", "0/0.jpg", "0/19.jpg", "0/46.jpg"]
    everything = made.hamming(made)
    for result, query in zip(search(stored, queries, 5), queries, strict=True):
        own = made.ids.tolist().index(query)
        nearest = [i for i in np.argsort(everything[own], kind="stable").tolist() if i != own][:5]
        assert (result.query, result.ids) == (query, made.ids[nearest].tolist())
        assert result.distances == everything[own][nearest].tolist()
    assert len(search(stored, queries[:1], 500)[0].ids) == 46


def test_parts_of_a_file_are_those_of_the_whole(stored: Path) -> None:
    made, part = codes.read(stored), Stored(stored)
    rows = [46, 0, 19, 20, 0]
    assert part.ids(rows) == made.ids[rows].tolist()
    assert part.ids([]) == []
    assert (part.rows(rows).packed == made.packed[rows]).all()
    assert (part.packed == made.packed).all()
    assert part.find([*made.ids[rows], "cat"]) == {str(made.ids[row]): row for row in rows}
    assert len(part) == 47


def test_shards_are_searched_as_one_file(stored: Path, tmp_path: Path) -> None:
    made = codes.read(stored)
    for rank in range(2):
        codes.write(made[rank * 20 : 20 + rank * 27], codes.shard(tmp_path / "all.parquet", rank, 2))
    queries = ["0/46.jpg", "0/3.jpg"]
    for weigh, guess in ((False, False), (True, False), (False, True)):
        whole = search(stored, queries, weighted=weigh, approximate=guess)
        assert search(tmp_path / "all.parquet", queries, weighted=weigh, approximate=guess) == whole
    other = Codes.pack(made.unpack(), made.ids.tolist(), model="b")
    codes.write(other, codes.shard(tmp_path / "all.parquet", 1, 2))
    with pytest.raises(ValueError, match=r"all-00001-of-00002.parquet was made by the model b, not a"):
        search(tmp_path / "all.parquet", ["0/3.jpg"])


def test_a_file_cut_or_changed_is_never_misread(stored: Path, tmp_path: Path) -> None:
    content, expected, refused = stored.read_bytes(), search(stored, ["0/3.jpg"]), 0
    broken = tmp_path / "broken.parquet"
    places = range(0, len(content), 37)
    damaged = [content[:i] for i in places]
    damaged += [content[:i] + bytes([content[i] ^ 1 << i % 8]) + content[i + 1 :] for i in places]
    for piece in damaged:
        broken.write_bytes(piece)
        try:
            assert search(broken, ["0/3.jpg"]) == expected
        except ValueError as error:
            assert str(broken) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > len(damaged) / 2


# weighted


@given(d=st.integers(1, 70), n=st.integers(1, 40), k=st.integers(1, 50), seed=st.integers(0, 99))
def test_weighted_distances_are_those_of_a_loop(d: int, n: int, k: int, seed: int) -> None:
    made, queries = make(n, d, seed), make(3, d, seed + 1)
    flips = np.random.default_rng(seed).random((3, d)) / 2
    on = weighted.shares(made)
    weights = weighted.weights(on, flips)
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
        return np.array(
            [
                sum(
                    w * d / total
                    for w, a, b in zip(weight, row, queries.unpack()[query].tolist(), strict=True)
                    if a != b
                )
                for row in made.unpack().tolist()
            ]
        )

    distances, indices = weighted.search(made, queries, weights, k)
    assert distances.shape == (3, min(n, k))
    for query in range(3):
        expected = naive(query)
        assert np.allclose(distances[query], np.sort(expected)[:k], atol=1e-3)
        assert np.allclose(distances[query], expected[indices[query]], atol=1e-3)
        assert len({*indices[query].tolist()}) == min(n, k)


def test_an_uninformative_bit_does_not_count_when_weighted(tmp_path: Path) -> None:
    bits = [[True, False, False], [True, True, False], [True, True, True], [True, False, True]]
    codes.write(Codes.pack(bits, list("abcd")), tmp_path / "codes.parquet")
    (plain,) = search(tmp_path / "codes.parquet", ["a"])
    (result,) = search(tmp_path / "codes.parquet", ["a"], weighted=True)
    assert plain.distances == [1, 1, 2]
    assert {*result.ids[:2]} == {"b", "d"} and result.ids[2] == "c"
    assert result.distances == pytest.approx([1.5, 1.5, 3.0])


# approximate


def test_an_index_is_built_once_and_finds_nearly_all(tmp_path: Path) -> None:
    path, said = tmp_path / "codes.parquet", list[str]()
    made = clustered(3000, 64)
    codes.write(made, path)
    queries = [str(i) for i in range(0, 3000, 50)]
    exact = search(path, queries, 10)
    first = search(path, queries, 10, approximate=True, say=said.append)
    assert len(said) == 2 and said[0] == "building an index of 3,000 codes"
    assert said[1].startswith(f"{path}.index: 64 lists, of which a search reads ")
    assert sorted(os.listdir(tmp_path)) == ["codes.parquet", "codes.parquet.index"]
    again = search(path, queries, 10, approximate=True, say=said.append)
    assert again == first and len(said) == 2
    found = sum(
        distance <= theirs.distances[-1]
        for ours, theirs in zip(first, exact, strict=True)
        for distance in ours.distances
    )
    assert found / (10 * len(queries)) > 0.95
    everything = dict(zip(made.ids, range(3000), strict=True))
    for result in first:
        rows = [everything[name] for name in result.ids]
        assert made[everything[result.query]].hamming(made[rows])[0].tolist() == result.distances
        assert result.query not in result.ids


def test_an_index_of_other_codes_or_damaged_is_built_again(tmp_path: Path) -> None:
    path = tmp_path / "codes.parquet"
    file = tmp_path / "codes.parquet.index"
    codes.write(make(40, BITS), path)
    before = search(path, ["0/1.jpg"], approximate=True)
    content = file.read_bytes()
    line = content.index(b"\n")
    for broken in [
        b"",
        content[:9],
        content[:-1],
        content[: line + 9],
        b"[]\n",
        b'{"sha256": 1}\n',
        b"\xff\n",
    ] + [content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :] for i in range(0, len(content), 97)]:
        said = list[str]()
        file.write_bytes(broken)
        assert search(path, ["0/1.jpg"], approximate=True, say=said.append) == before
        assert said[0] in (
            f"{file} is damaged: it is built again",
            f"{file} is of other codes: it is built again",
        )
        assert len(said) == 3
        assert file.read_bytes() == content
    codes.write(make(41, BITS), path)
    said = []
    assert search(path, ["0/40.jpg"], approximate=True, say=said.append)[0].query == "0/40.jpg"
    assert said[0] == f"{file} is of other codes: it is built again"


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_an_index_of_few_codes_is_exact(n: int) -> None:
    made = make(n, BITS)
    found, recall = index.build(made.packed)
    assert recall >= index.RECALL
    found.nprobe = found.nlist
    distances, _ = index.search(found, made.packed, n)
    assert (distances == np.sort(made.hamming(made), axis=1)).all()


# the command


def test_several_queries_and_a_picture(
    run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "codes.parquet"
    encode(run, str(pictures), out, progress=False)
    queries = ["02.png", str(pictures / "wide" / "03.png")]
    assert main(["search", str(out), *queries, "-k", "8", "--run", str(run), "--images", str(pictures)]) == 0
    printed = capsys.readouterr().out
    by_id, by_file = results = search(out, queries, 8, run)
    for result in results:
        assert "".join(f"nearest to {result.query}".split()) in "".join(printed.split())
        for name, distance in zip(result.ids, result.distances, strict=True):
            assert any(name in line and f" {distance} " in line for line in printed.splitlines())
    assert len(by_id.ids) == 7 and "02.png" not in by_id.ids
    assert ("wide/03.png", 0) in zip(by_file.ids, by_file.distances, strict=True)
    assert "".join(printed.split()).endswith("".join(f"The picture is {tmp_path}/codes.search.png".split()))
    with Image.open(tmp_path / "codes.search.png") as picture:
        assert picture.width > picture.height > 200
    for flag in ("--weighted", "--approximate"):
        assert main(["search", str(out), *queries, "--run", str(run), flag]) == 0


def test_a_picture_shows_the_right_images(run: Path, pictures: Path, tmp_path: Path) -> None:
    encode(run, str(pictures), tmp_path / "codes.parquet", progress=False)
    results = search(tmp_path / "codes.parquet", ["02.png", "wide/05.png"], 4)
    opened = gallery._open(str(pictures), ["02.png", "wide/05.png", *results[0].ids, *results[1].ids])
    axes = gallery.draw(results, opened).axes
    names = [name for result in results for name in (result.query, *result.ids)]
    for axis, name in zip(axes, names, strict=True):
        with Image.open(pictures / name) as image:
            assert (np.asarray(axis.images[0].get_array()) == np.asarray(image)).all()
        assert axis.texts[0].get_text() == name
    assert [axis.get_title() for axis in axes[:2]] == ["query", f"{results[0].distances[0]} bits"]


def test_search_says_what_is_wrong(
    run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, picture = tmp_path / "codes.parquet", pictures / "02.png"
    encode(run, str(pictures), out, progress=False)
    other = write_run(tmp_path / "other", seed=1)
    (pictures / "bad.png").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "empty" / "x.png")
    cases: list[tuple[list[object], str]] = [
        ([out, "cat.jpg"], f"cat.jpg is neither an id in {out} nor an image file"),
        (
            [out, "02.png", picture],
            f"{picture} is no id in {out}; to encode it as an image, say --run DIR, the run of the codes",
        ),
        (
            [out, picture, "--run", other],
            f"{out} was not made by the model in {other}: encode the images again with it",
        ),
        ([out, pictures / "bad.png", "--run", run], f"{pictures / 'bad.png'} cannot be read: an empty file"),
        ([out, "02.png", "-k", "0"], "-k is 0; it must be at least 1"),
        ([out], f"nothing to look for in {out}: it must be given ids or image files"),
        (
            [out, "02.png", "--weighted", "--approximate"],
            "--weighted compares all codes; leave --approximate away",
        ),
        (
            [tmp_path / "none", "02.png"],
            f"{tmp_path / 'none'} is missing; stochcon encode writes a file of codes",
        ),
        (
            [out, "02.png", "--picture", "x.png"],
            "--picture x.png needs --images, what was encoded",
        ),
        (
            [out, "02.png", "-k", "1", "--images", tmp_path / "empty"],
            f"--images {tmp_path / 'empty'} has no 02.png; it must be what was encoded",
        ),
    ]
    for arguments, message in cases[:-1]:
        assert error(capsys, "search", *arguments) == message
    assert "it must be what was encoded" in error(capsys, "search", *cases[-1][0])
    assert error(capsys, "search", picture, "02.png").startswith(f"{picture} is damaged, or no Parquet file")
    assert sorted(os.listdir(tmp_path)) == ["codes.parquet", "empty", "other", "pictures"]
