"""Training images have the same bits whether they are held, decoded on demand, or in shards."""

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from PIL import Image

from stochcon import runs
from stochcon.cli import main
from stochcon.config import Data
from stochcon.data.folder import files
from stochcon.data.images import Source, Unreadable
from stochcon.data.sets import load_training
from stochcon.data.training_images import TrainingImages
from tests.data.files import folder, jpeg, write_tar

SIZES = ["data.size=16", "views.global-size=16", "views.local-size=8", "views.local-views=2", "batch-size=8"]
SIZES += [
    "epochs=2",
    "min-steps=1",
    "rebit.steps=3",
    "backbone.width=4",
    "head.hidden=16",
    "head.dim=8",
    "checkpoint-every=3",
]


def pretrain(root: Path, out: Path, *options: str) -> str:
    """The digest of a tiny network, trained on the images below `root`."""
    sizes = [f"--{size}" for size in SIZES]
    assert main(["pretrain", "folder", f"--data.root={root}", *sizes, "--quiet", *options, f"--out={out}"]) == 0
    return sha256((out / runs.MODEL).read_bytes()).hexdigest()


@pytest.mark.parametrize(("memory", "ahead"), [(0, 1), (1, 4)])
def test_only_what_the_memory_allows_is_decoded_ahead(memory: int, ahead: int) -> None:
    opened: list[int] = []

    def picture() -> Image.Image:
        opened.append(1)
        return Image.new("RGB", (8, 8))

    asked: list[int] = []

    def order() -> Iterable[torch.Tensor]:
        for indices in torch.arange(10_000).split(10):
            asked.append(len(asked))
            yield indices

    images = TrainingImages([Source(str(i), None, picture) for i in range(10_000)], Data(size=8, memory=memory))
    batches = images.batches(order())
    for used in range(1, 4):
        next(batches)
        assert len(asked) == used + ahead and len(opened) <= 10 * (used + ahead)


def test_an_unreadable_image_gives_its_place_to_the_next_that_can_be_read(tmp_path: Path) -> None:
    def open_image(i: int) -> Image.Image:
        if i in (2, 3, 9):
            raise Unreadable("bad")
        return Image.new("RGB", (2, 2), (i, i, i))

    sources = [Source(str(i), None, lambda i=i: open_image(i)) for i in range(10)]  # type: ignore[misc]
    path = tmp_path / "skipped.txt"
    for memory in (0, 100):
        images = TrainingImages(sources, Data(size=2, max_bad=0.3, memory=memory))
        order = [torch.tensor([2, 9, 5]), torch.tensor([3, 4, 9])]
        seen = [batch[:, 0, 0, 0].tolist() for batch in images.batches(order)]
        assert seen == [[4, 0, 5], [4, 4, 0]]
        assert images.bad == dict.fromkeys("239", "bad")
        images.report(path)
        assert path.read_text() == "2\tbad\n3\tbad\n9\tbad\n"
    path.write_text("1\tfound before a restart\n")
    images.report(path)
    assert path.read_text() == "1\tfound before a restart\n2\tbad\n3\tbad\n9\tbad\n"
    streamed = TrainingImages(sources, Data(size=2, max_bad=0.2, memory=0))
    with pytest.raises(ValueError, match=r"3 of 10 training images .* data.max_bad = 0.2 .* 2: bad"):
        list(streamed.batches([torch.tensor([9]), torch.tensor([2])]))


def test_a_file_that_is_gone_ends_the_run_instead_of_changing_it(tmp_path: Path) -> None:
    """What a disk refuses for a while must not be replaced: the resumed run would see it again."""
    for name in ("train", "val", "test"):
        (tmp_path / name).mkdir(parents=True)
        for i in range(20):
            (tmp_path / name / f"{i:02}.jpg").write_bytes(jpeg(i))
    images = load_training(folder(tmp_path, memory=0))
    (tmp_path / "train" / "07.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"07.jpg"):
        list(images.batches([torch.arange(20)]))
    assert images.bad == {}


def test_a_run_has_the_same_bits_held_decoded_on_demand_and_from_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    # Validation and test take no share: it is drawn by names, which are others in shards.
    monkeypatch.setattr("stochcon.data.folder.SHARE", 1e-9)
    root, held, streamed, sharded = (tmp_path / name for name in ("few", "held", "streamed", "sharded"))
    for k in range(60):
        path = root / "abc"[k % 3] / f"{k:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if k in (7, 30) else jpeg(k))
    digest = pretrain(root, held)
    assert pretrain(root, streamed, "--data.memory=0") == digest
    skipped = (held / runs.SKIPPED).read_text()
    assert skipped.count("an empty file") == 2 and (streamed / runs.SKIPPED).read_text() == skipped

    names = list(files(root, (".jpg",)))
    for k in range(3):
        members = [(name, (root / name).read_bytes()) for name in names[20 * k : 20 * k + 20]]
        write_tar(tmp_path / "shards" / f"{k}.tar", members)
    assert pretrain(tmp_path / "shards", sharded, "--data.memory=0") == digest
