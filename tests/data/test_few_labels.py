"""Few labels: the lists are what is drawn, the same share of each class, of training images only."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stochcon.config import Data
from stochcon.data import few_labels as labels
from stochcon.data.images import Images
from stochcon.data.sets import LISTS, load_data

FASHION_LABELS = Path(__file__).with_name("fashion-mnist-train-labels-idx1-ubyte.gz")
"""Of Fashion-MNIST's authors (Zalando SE, MIT licence), as they publish it."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Data]:
    """The data sets that have lists; Fashion-MNIST with its labels, and with black images."""
    root = tmp_path_factory.mktemp("fashion")
    shutil.copy(FASHION_LABELS, root / "train-labels-idx1-ubyte.gz")
    shape = np.array([60_000, 28, 28], ">u4")
    with open(root / "train-images-idx3-ubyte", "wb") as images:
        images.write(bytes([0, 0, 8, 3]) + shape.tobytes())
        images.truncate(16 + 60_000 * 28 * 28)
    return {
        "digits": Data(name="digits"),
        "photographs": Data(name="photographs"),
        "fashion-mnist": Data(name="fashion-mnist", root=root),
    }


@pytest.mark.parametrize("name", ["digits", "photographs", "fashion-mnist"])
def test_a_list_is_what_is_drawn_of_the_training_images(name: str, sources: dict[str, Data]) -> None:
    classes, train = LISTS[name](sources[name], "train")
    truth = torch.tensor([source.label for source in train])
    smaller: set[str] = set()
    for fraction in (0.01, 0.1):
        path = labels.list_path(Data.model_validate({"name": name}), fraction)
        assert path is not None
        heading, promise, *ids = path.read_text().splitlines()
        assert heading.startswith(f"# {len(ids)} of the {len(train)} training images of {name}: ")
        assert promise == "# No validation or test image of stochcon is among them."
        drawn = labels.draw(truth, classes, fraction)
        assert ids == [train[i].id for i in drawn.tolist()]
        assert truth[drawn].bincount().tolist() == (fraction * truth.bincount()).round().tolist()
        assert smaller <= set(ids)
        smaller = set(ids)
    held_out = {source.id for source in LISTS[name](sources[name], "validation")[1]}
    assert held_out and not smaller & held_out


def fake(ids: list[str]) -> Images:
    return Images(torch.zeros(len(ids), 1, 1, 1, dtype=torch.uint8), torch.zeros(len(ids)).long(), ("0",), tuple(ids))


def test_the_list_decides_whatever_the_order_of_the_images() -> None:
    config = Data(name="digits")
    images = load_data(config, "train")
    path = labels.list_path(config, 0.1)
    assert path is not None
    listed = set(path.read_text().splitlines()[2:])
    assert {images.ids[i] for i in labels.choose(images, config, 0.1)} == listed
    backwards = fake([*reversed(images.ids)])
    assert {backwards.ids[i] for i in labels.choose(backwards, config, 0.1)} == listed


def test_shares_without_a_list_are_drawn() -> None:
    assert labels.list_path(Data(name="digits"), 0.2) is None
    assert labels.list_path(Data(name="digits", limit=100), 0.1) is None
    assert labels.list_path(Data(name="folder"), 0.1) is None
    assert len(labels.choose(fake([*"abcdefghij"]), Data(name="digits", limit=10), 0.1)) == 1


def test_a_list_of_other_images_is_refused() -> None:
    config = Data(name="digits")
    with pytest.raises(ValueError, match=r"digits-0\.01\.txt lists digits/.*, which is no training image here"):
        labels.choose(fake(["digits/0"]), config, 0.01)


def vector(sizes: list[int]) -> Tensor:
    everything = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return everything[torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))]


@given(
    sizes=st.lists(st.integers(20, 80), min_size=1, max_size=5),
    fractions=st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)),
)
def test_a_draw_is_stratified_and_contains_the_smaller_ones(sizes: list[int], fractions: tuple[float, float]) -> None:
    truth, classes = vector(sizes), tuple("abcde"[: len(sizes)])
    small, large = (labels.draw(truth, classes, fraction) for fraction in sorted(fractions))
    assert set(small.tolist()) <= set(large.tolist())
    assert truth[small].bincount().tolist() == [round(min(fractions) * size) for size in sizes]
    assert torch.equal(small, small.unique())


def test_a_class_with_too_few_labels_is_named() -> None:
    with pytest.raises(ValueError, match=r"leaves none of the 3 training images of class dog: use at least 0\.334"):
        labels.draw(torch.tensor([0] * 9 + [1] * 3), ("cat", "dog"), 0.3)
