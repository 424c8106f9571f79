"""Encoding folders and data sets with a tiny run, as a user does."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stochcon import codes, data, recipes, rundir
from stochcon.cli import main
from stochcon.config import Config, Latent
from stochcon.encoding import Encoder, encode, list_images, model_hash
from stochcon.features import extract, load_model
from stochcon.model import StochCon

BITS = 13


def write_run(directory: Path, seed: int = 0, latent: Latent | None = None) -> Path:
    """A run that is finished, of a network that has learnt nothing."""
    config = recipes.digits().model_copy(update={"latent": latent or Latent(dim=BITS)})
    torch.manual_seed(seed)
    rundir.create(directory, config)
    rundir.write_tensors(directory / rundir.MODEL, StochCon(config).state_dict())
    return directory


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twenty pictures in folders and on top, one of them of no pixels."""
    root = tmp_path / "pictures"
    (root / "test").mkdir(parents=True)
    random = np.random.default_rng(0)
    for i in range(20):
        pixels = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / ("test" if i % 2 else ".") / f"{i:02}.png")
    (root / "10.png").write_bytes((root / "10.png").read_bytes()[:60])
    return root


def error(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The line of a command that must fail."""
    assert main([str(argument) for argument in arguments]) == 2
    line = capsys.readouterr().err
    assert line.startswith("stochcon: error: ") and line.count("\n") == 1
    return line.removeprefix("stochcon: error: ").strip()


def test_a_data_set_becomes_the_bits_of_its_features(run: Path, tmp_path: Path) -> None:
    assert encode(run, "digits", tmp_path / "codes.parquet", "test", progress=False) == (360, None)
    made = codes.read(tmp_path / "codes.parquet", model=model_hash(run))
    model, config = load_model(run)
    images = data.load(config.data, "test")
    features = extract(model, images.pixels, config.views)
    assert features.bits is not None and features.z is not None
    assert tuple(made.ids) == images.ids
    assert (made.unpack() == features.bits.numpy()).all()
    assert made.bits == BITS


def test_uncertainty_is_how_many_bits_a_sample_flips(run: Path, tmp_path: Path) -> None:
    encode(run, "digits", tmp_path / "codes.parquet", "validation", progress=False)
    made = codes.read(tmp_path / "codes.parquet")
    model, config = load_model(run)
    images = data.load(config.data, "validation")
    features = extract(model, images.pixels, config.views)
    assert features.z is not None
    torch.manual_seed(0)
    samples = torch.bernoulli(features.z.expand(1000, -1, -1))
    flips = (samples != torch.from_numpy(made.unpack())).sum(2).float().mean(0).numpy()
    assert np.abs(flips - made.uncertainty).max() < 5 * np.sqrt(BITS / 4 / 1000)
    assert 0 < made.uncertainty.min() < made.uncertainty.max() < BITS / 2


def test_a_folder_is_encoded_whatever_the_batches(run: Path, pictures: Path, tmp_path: Path) -> None:
    for size in (1, 3, 512):
        out = tmp_path / f"codes-{size}.parquet"
        count, listing = encode(run, str(pictures), out, batch_size=size, progress=False)
        assert (count, listing) == (19, tmp_path / f"codes-{size}.skipped.txt")
        (line,) = (tmp_path / f"codes-{size}.skipped.txt").read_text().splitlines()
        assert line.startswith("10.png\t")
    made = codes.read(tmp_path / "codes-3.parquet")
    whole = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png"))
    assert made.ids.tolist() == [name for name in whole if name != "10.png"]
    for size in (1, 512):
        assert (codes.read(tmp_path / f"codes-{size}.parquet").unpack() == made.unpack()).all()


def test_an_image_file_has_the_code_that_it_has_in_its_folder(
    run: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "codes.parquet"
    encode(run, str(pictures), out, progress=False)
    made = codes.read(out)
    assert Encoder(run).file(pictures / "04.png").hamming(made[made.ids == "04.png"]).tolist() == [[0]]


def test_what_was_listed_before_is_not_left_beside_new_codes(
    run: Path, pictures: Path, tmp_path: Path
) -> None:
    encode(run, str(pictures), tmp_path / "codes.parquet", progress=False)
    (pictures / "10.png").unlink()
    assert encode(run, str(pictures), tmp_path / "codes.parquet", progress=False) == (19, None)
    assert sorted(os.listdir(tmp_path)) == ["codes.parquet", "pictures"]


def test_too_many_unreadable_images_leave_nothing(
    run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in (0, 2, 4):
        (pictures / f"{i:02}.png").write_bytes(b"")
    assert error(capsys, "encode", run, pictures, "--out", tmp_path / "codes.parquet", "--quiet") == (
        f"4 of 20 images of {pictures} cannot be read, more than data.max_bad = 0.1 allows; "
        "the first is 00.png: an empty file"
    )
    assert os.listdir(tmp_path) == ["pictures"]


def test_encode_says_what_is_wrong(
    run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "codes.parquet"
    assert error(capsys, "encode", run, "nowhere", "--out", out) == (
        "nowhere is neither a folder of images nor one of the data sets photographs, digits, fashion-mnist, cifar10"
    )
    assert error(capsys, "encode", pictures, "digits", "--out", out) == (
        f"{pictures} is not a run: it has no config.json"
    )
    simclr = write_run(tmp_path / "simclr", latent=Latent(kind="deterministic"))
    assert error(capsys, "encode", simclr, "digits", "--out", out) == (
        f"{simclr} has a deterministic latent, which has no bits; pretrain with --latent.kind bernoulli"
    )
    (tmp_path / "empty").mkdir()
    assert error(capsys, "encode", run, tmp_path / "empty", "--out", out) == (
        f"{tmp_path / 'empty'} has no images"
    )
    assert error(capsys, "encode", run, pictures, "--out", pictures, "--quiet") == (
        f"{pictures} is a folder; it must name a file of codes"
    )
    assert not out.exists()


def test_a_data_set_of_the_run_is_read_where_the_run_read_it() -> None:
    config = Config().data.model_copy(update={"name": "fashion-mnist", "root": Path("/nowhere")})
    with pytest.raises(ValueError, match="/nowhere"):
        list_images("fashion-mnist", config, "test")
    assert len(list_images("digits", config, "test")) == 360
