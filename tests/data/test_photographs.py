"""Patches of photographs: as many of each, of textures, and no pixel in two splits."""

import hashlib
from collections import Counter

import numpy as np
import pytest
import torch
from torchvision.transforms.functional import pil_to_tensor, resize

from stochcon.config import Data
from stochcon.data.images import SPLITS, Split, raw_bits
from stochcon.data.photographs import GAP, PHOTOGRAPHS, list_photographs, photograph
from stochcon.data.sets import load_data

Patches = dict[Split, list[tuple[str, int, int, int]]]


@pytest.fixture(scope="module")
def patches() -> Patches:
    """Photograph, left, top and side of every patch, read off its id."""
    found: Patches = {}
    for split in SPLITS:
        parts = [source.id.split("/") for source in list_photographs(Data(), split)[1]]
        found[split] = [(name, int(x), int(y), int(side)) for name, x, y, side in parts]
    return found


def test_patches_are_as_many_for_every_photograph(patches: Patches) -> None:
    for split, each in zip(SPLITS, (1000, 200, 200), strict=True):
        assert Counter(name for name, *_ in patches[split]) == dict.fromkeys(PHOTOGRAPHS, each)
        assert len(set(patches[split])) == 18 * each
        assert {side for *_, side in patches[split]} == set(range(32, 73))


def test_no_pixel_of_a_photograph_is_in_two_splits(patches: Patches) -> None:
    for name in PHOTOGRAPHS:
        width, height = photograph(name).size
        taken = {}
        for split in SPLITS:
            pixels = np.zeros((height, width), bool)
            for _, x, y, side in (patch for patch in patches[split] if patch[0] == name):
                assert x >= 0 and y >= 0 and x + side <= width and y + side <= height
                pixels[y : y + side, x : x + side] = True
            taken[split] = np.flatnonzero(pixels.any(axis=0 if width >= height else 1))
        assert taken["train"].min() - taken["validation"].max() > GAP
        assert taken["test"].min() - taken["train"].max() > GAP
        shares = [np.ptp(taken[split]) / max(width, height) for split in SPLITS]
        assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.05)


def test_patches_are_the_same_on_every_machine(patches: Patches) -> None:
    digest = hashlib.sha256(repr([patches[split] for split in SPLITS]).encode()).hexdigest()
    assert digest[:16] == "35a8b4278eef6c9d"


def test_a_patch_is_what_its_id_says() -> None:
    images = load_data(Data(limit=180), "train")
    assert images.pixels.shape == (180, 3, 32, 32) and images.pixels.dtype == torch.uint8
    assert images.labels is not None and images.labels.bincount().tolist() == [10] * 18
    assert images.classes == tuple(PHOTOGRAPHS) and images.skipped == () and len(images) == 180
    for pixels, label, name in zip(images.pixels, images.labels, images.ids, strict=True):
        photo, x, y, side = name.split("/")
        assert images.classes[label] == photo
        whole = pil_to_tensor(photograph(photo).convert("RGB"))
        patch = whole[:, int(y) : int(y) + int(side), int(x) : int(x) + int(side)]
        expected = resize(patch, [32, 32], antialias=True)
        assert (pixels.int() - expected.int()).abs().max() <= 1


def test_no_patch_is_of_one_flat_colour() -> None:
    images = load_data(Data(), "validation")
    assert images.pixels.shape == (3600, 3, 32, 32)
    assert images.pixels.flatten(1).float().std(dim=1).min() > 0.5


def test_grey_and_colour() -> None:
    grey, colour = load_data(Data(limit=18, channels=1), "train"), load_data(Data(limit=18), "train")
    assert grey.pixels.shape == (18, 1, 32, 32) and raw_bits(grey) == 32 * 32 * 8
    assert raw_bits(colour) == 3 * 32 * 32 * 8
    camera, cat = (list(PHOTOGRAPHS).index(name) for name in ("camera", "cat"))
    assert torch.equal(colour.pixels[camera], grey.pixels[camera].expand(3, 32, 32))
    assert not torch.equal(colour.pixels[cat][0], colour.pixels[cat][2])
