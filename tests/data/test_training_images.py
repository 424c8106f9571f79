"""Folders and shards of any size: listed at a few bytes a file, decoded on demand, the same bits as from memory."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stochcon import runs as rundir
from stochcon.cli import main
from stochcon.config import Data
from stochcon.data.archives import read_headers
from stochcon.data.array_sets import cache
from stochcon.data.decode import Unreadable
from stochcon.data.folder import Names, files
from stochcon.data.images import Source, Sources, chained
from stochcon.data.sets import load, load_training
from stochcon.data.training_images import TrainingImages

TINY = [
    "--data.size=16",
    "--views.global-size=16",
    "--views.local-size=8",
    "--views.local-views=2",
    "--batch-size=8",
    "--epochs=2",
    "--backbone.width=4",
    "--head.hidden=16",
    "--head.dim=8",
    "--checkpoint-every=3",
    "--quiet",
]


def jpeg(i: int, size: tuple[int, int] = (40, 30)) -> bytes:
    """A picture that is like no other: its means tell i."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (i % 16 * 16, i // 16 % 16 * 16, i // 256 * 16)).save(buffer, "jpeg")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3,000 files in 3 class folders, all of them to be trained on."""
    root = tmp_path_factory.mktemp("many")
    for i in range(3000):
        path = root / "train" / "abc"[i % 3] / f"{i:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(i))
    for split in ("val", "test"):
        (root / split / "a").mkdir(parents=True)
        (root / split / "a" / "0.jpg").write_bytes(jpeg(0))
    return root


def config(root: Path, **changes: object) -> Data:
    return Data.model_validate({"name": "folder", "root": root, "size": 8, **changes})


def digest(run: Path) -> str:
    return sha256((run / rundir.MODEL).read_bytes()).hexdigest()


def test_decoded_on_demand_is_what_is_held(many: Path) -> None:
    held, streamed = load_training(config(many)), load_training(config(many, memory=0))
    assert held.held is not None and streamed.held is None
    assert held.digest == streamed.digest and len(held) == len(streamed) == 3000
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(0)).split(257)
    for a, b, indices in zip(held.batches(order), streamed.batches(order), order, strict=True):
        assert a.shape == (len(indices), 3, 8, 8) and a.equal(b)
    assert held.held.equal(load(config(many), "train").pixels)


def test_only_what_the_memory_allows_is_decoded_ahead() -> None:
    opened: list[int] = []

    def picture(i: int) -> Image.Image:
        opened.append(i)
        return Image.new("RGB", (8, 8))

    sources = [Source(str(i), None, lambda i=i: picture(i)) for i in range(1000)]  # type: ignore[misc]
    asked: list[int] = []

    def order() -> Iterable[torch.Tensor]:
        for indices in torch.arange(1000).split(10):
            asked.append(len(asked))
            yield indices

    for memory, ahead in ((0, 1), (10**6, 4)):
        opened.clear()
        asked.clear()
        canvases = TrainingImages(sources, Data(size=8, memory=0))
        canvases.config = Data(size=8, memory=memory)
        batches = canvases.batches(order())
        for used in range(1, 4):
            next(batches)
            assert len(asked) == used + ahead and len(opened) <= 10 * (used + ahead)
        del batches


def test_an_unreadable_image_gives_its_place_to_the_next_that_can_be_read(tmp_path: Path) -> None:
    def unreadable() -> Image.Image:
        raise Unreadable("bad")

    bad = {2, 3, 9}
    sources = [
        Source(
            str(i),
            None,
            unreadable if i in bad else lambda i=i: Image.new("RGB", (2, 2), (i, i, i)),  # type: ignore[misc]
        )
        for i in range(10)
    ]
    for memory in (0, 100):
        canvases = TrainingImages(sources, Data(size=2, max_bad=0.3, memory=memory))
        order = [torch.tensor([2, 9, 5]), torch.tensor([3, 4, 9])]
        seen = [batch[:, 0, 0, 0].tolist() for batch in canvases.batches(order)]
        assert seen == [[4, 0, 5], [4, 4, 0]]
        assert canvases.bad == {str(i): "bad" for i in bad}
        canvases.report(tmp_path / "skipped.txt")
        assert (tmp_path / "skipped.txt").read_text() == "2\tbad\n3\tbad\n9\tbad\n"
    streamed = TrainingImages(sources, Data(size=2, max_bad=0.2, memory=0))
    with pytest.raises(
        ValueError,
        match=r"3 of 10 training images .* more than data.max_bad = 0.2 allows; the first is 2: bad",
    ):
        list(streamed.batches([torch.tensor([9]), torch.tensor([2])]))


def test_a_file_that_is_gone_ends_the_run_instead_of_changing_it(many: Path, tmp_path: Path) -> None:
    """What a disk refuses for a while must not be replaced: the resumed run would see it again."""
    root = tmp_path / "root"
    for name in ("train", "val", "test"):
        (root / name).mkdir(parents=True)
        for i in range(20):
            (root / name / f"{i:02}.jpg").write_bytes(jpeg(i))
    canvases = load_training(config(root, memory=0))
    (root / "train" / "07.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"07.jpg"):
        list(canvases.batches([torch.arange(20)]))
    assert canvases.bad == {}


@given(st.lists(st.text()), st.lists(st.text()))
def test_names_are_kept(first: list[str], second: list[str]) -> None:
    names = Names(first + second)
    assert list(names) == first + second and len(names) == len(first + second)


def test_lists_of_sources() -> None:
    sources = [Source(str(i), i, lambda: Image.new("L", (1, 1))) for i in range(6)]
    taken = Sources(sources.__getitem__, np.array([4, 1, 5]))
    assert [source.id for source in taken] == ["4", "1", "5"]
    assert [source.id for source in chained(sources[:2], taken[1:])[1:]] == ["1", "1", "5"]


def test_files_come_in_the_order_of_paths(tmp_path: Path) -> None:
    for name in ("b.jpg", "a/z.jpg", "a-b/c.jpg", "a/b/c.JPG", "é.jpg", "a.jpg", ".x/y.jpg", "a/t.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = list(files(tmp_path, (".jpg",)))
    assert found == [path.as_posix() for path in sorted(map(Path, found))] and len(found) == 6


@pytest.fixture(scope="module")
def held(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 60 of the files, with two that cannot be read among them, held in memory."""
    root = tmp_path_factory.mktemp("few")
    for i, path in enumerate(sorted(many.glob("train/*/*1.jpg"))[:60]):
        target = root / path.relative_to(many / "train")
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(b"" if i in (7, 30) else path.read_bytes())
    run = tmp_path_factory.mktemp("runs") / "held"
    assert main(["pretrain", "folder", f"--data.root={root}", *TINY, f"--out={run}"]) == 0
    return run


def test_a_run_has_the_same_bits_held_and_decoded_on_demand(held: Path, tmp_path: Path) -> None:
    root = rundir.read_config(held).data.root
    run = tmp_path / "streamed"
    options = [f"--data.root={root}", *TINY, "--data.memory=0", f"--out={run}"]
    assert main(["pretrain", "folder", *options]) == 0
    assert digest(run) == digest(held)
    assert (run / rundir.SKIPPED).read_text() == (held / rundir.SKIPPED).read_text() != ""


# shards


def write_shards(root: Path, names: dict[str, list[dict[str, bytes]]]) -> None:
    """Samples as the webdataset library writes them: `__key__` and one entry for each ending."""
    for name, samples in names.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(root / name, "w") as tar:
            for sample in samples:
                for ending, content in sample.items():
                    if ending != "__key__":
                        member = tarfile.TarInfo(f"{sample['__key__'].decode()}.{ending}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))


def samples(numbers: Iterable[int], **label: str) -> list[dict[str, bytes]]:
    made = []
    for i in numbers:
        sample = {"__key__": b"%06d" % i, "jpg": jpeg(i), "seg.png": b"no image of its own"}
        if "cls" in label:
            sample["cls"] = str(i % 12).encode()
        if "json" in label:
            sample["json"] = json.dumps({label["json"]: f"class {i % 3}", "caption": "words"}).encode()
        made.append(sample)
    return made


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_shards_are_read_at_random_places(home: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shards = {f"train/shard-{k:06}.tar": samples(range(40 * k, 40 * k + 40), cls="cls") for k in range(3)}
    write_shards(root, shards | {"test/shard-000000.tar": samples([7], cls="cls")})
    images = load(config(root, holdout=False), "train")
    assert len(images) == 120 and images.skipped == ()
    assert set(images.ids) == {f"train/shard-{i // 40:06}.tar/{i:06}.jpg" for i in range(120)}
    numbers = [int(name[-10:-4]) for name in images.ids]
    assert images.classes == tuple(str(c) for c in range(12)) and images.labels is not None
    assert images.labels.tolist() == [i % 12 for i in numbers]
    for pixels, i in zip(images.pixels, numbers, strict=True):
        assert np.abs(pixels[:, 4, 4].numpy().astype(int) - [i % 16 * 16, i // 16 * 16, 0]).max() <= 3
    assert load(config(root), "test").ids == ("test/shard-000000.tar/000007.jpg",)
    validation, train = load(config(root), "validation"), load(config(root), "train")
    assert 0 < len(validation) < 40 and {*validation.ids} | {*train.ids} == {*images.ids}
    order = [torch.tensor([3, 77, 3])]
    (streamed,) = load_training(config(root, memory=0, holdout=False)).batches(order)
    assert streamed.equal(images.pixels[order[0]])


@pytest.mark.parametrize("key", ["cls", "label"])
def test_labels_in_json_and_splits_in_names(home: Path, tmp_path: Path, key: str) -> None:
    write_shards(
        tmp_path,
        {
            "imagenet-train-000000.tar": samples(range(6), json=key),
            "imagenet-val-000000.tar": samples(range(6, 9), json=key),
            "imagenet-test-000000.tar": samples(range(9, 11), json=key),
        },
    )
    train, validation, test = (load(config(tmp_path), split) for split in ("train", "validation", "test"))
    assert [len(train), len(validation), len(test)] == [6, 3, 2]
    assert train.classes == test.classes == ("class 0", "class 1", "class 2")
    assert train.labels is not None and train.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_the_index_is_kept_and_made_anew_when_the_shard_changes(home: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_shards(
        root, {"train/0.tar": samples(range(5)), "val/0.tar": samples([1]), "test/0.tar": samples([1])}
    )
    images = load(config(root), "train")
    assert images.labels is None and images.classes == () and len(images) == 5
    kept = {path: path.stat().st_mtime_ns for path in home.rglob("*.parquet")}
    assert len(kept) == 3 and {*home.rglob("*")} - {*kept} == {
        home / ".cache",
        home / ".cache/stochcon",
        home / ".cache/stochcon/shards",
    }
    assert load(config(root), "train").pixels.equal(images.pixels)
    assert kept == {path: path.stat().st_mtime_ns for path in home.rglob("*.parquet")}
    write_shards(root, {"train/0.tar": samples(range(7, 10))})
    assert len(load(config(root), "train")) == 3


def test_damaged_shards(home: Path, tmp_path: Path) -> None:
    write_shards(tmp_path, {"a.tar": samples(range(3))})
    path = tmp_path / "a.tar"
    whole = path.read_bytes()
    middle = read_headers(path)["offset"][1].as_py() - 512
    for content in (
        whole[:1000],
        b"\x1f\x8b" + whole,
        whole[:middle] + bytes(range(1, 256)) * 2 + b"xx" + whole[middle + 512 :],
    ):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"a.tar is damaged or compressed .* it must be a whole tar file"
        ):
            load(config(tmp_path), "train")
    write_shards(tmp_path, {"a.tar": [{"__key__": b"0", "txt": b"no image"}]})
    with pytest.raises(ValueError, match="have no images"):
        load(config(tmp_path), "train")
    write_shards(tmp_path, {"a.tar": samples(range(3)), "train-0.tar": samples(range(3))})
    with pytest.raises(ValueError, match=r"has a.tar beside split folders"):
        load(config(tmp_path), "train")
    os.remove(path)
    write_shards(tmp_path, {"train-0.tar": [{"__key__": b"0", "jpg": jpeg(0), "json": b"{"}]})
    with pytest.raises(ValueError, match=r"train-0.tar/0.json holds no label"):
        load(config(tmp_path), "train")


def test_an_unreadable_image_in_a_shard_is_listed(home: Path, tmp_path: Path) -> None:
    bad = [{"__key__": b"cut", "jpg": jpeg(1)[:300]}, {"__key__": b"empty", "jpg": b""}]
    write_shards(
        tmp_path, {"train.tar": samples(range(3)) + bad, "val.tar": samples([0]), "test.tar": samples([0])}
    )
    images = load(config(tmp_path, max_bad=0.5), "train")
    assert len(images) == 3 and [path for path, _ in images.skipped] == [
        "train.tar/cut.jpg",
        "train.tar/empty.jpg",
    ]
    assert images.skipped[1][1] == "an empty file"


def test_a_run_on_shards_has_the_bits_of_a_run_on_the_files(
    held: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same images under other names: the same network, whatever held them."""
    root = rundir.read_config(held).data.root
    assert root is not None
    monkeypatch.setattr("stochcon.data.folder.SHARES", {})
    order = list(files(root, (".jpg",)))
    write_shards(
        tmp_path / "shards",
        {
            f"{k}.tar": [
                {"__key__": name[:-4].encode(), "jpg": (root / name).read_bytes()}
                for name in order[20 * k : 20 * k + 20]
            ]
            for k in range(3)
        },
    )
    runs = []
    for name, where in (("files", root), ("shards", tmp_path / "shards")):
        runs.append(tmp_path / name)
        options = [f"--data.root={where}", *TINY, "--data.memory=0", "--epochs=1", f"--out={runs[-1]}"]
        assert main(["pretrain", "folder", *options]) == 0
    assert digest(runs[0]) == digest(runs[1])
    assert cache() == home / ".cache" / "stochcon"
