"""Encoding folders and data sets with a tiny run, as a user does."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stochcon import runs
from stochcon.cli import main
from stochcon.codes.encoder import encode, model_hash
from stochcon.codes.file import read_codes, shard, write
from stochcon.codes.packed import Codes
from stochcon.config import Config
from stochcon.data import sets as data
from stochcon.data.sets import list_images
from stochcon.evaluation.features import extract
from stochcon.runs import load_model
from tests.codes.made import BITS, untrained
from tests.shared import error


@pytest.mark.parametrize("latent", [{}, {"kind": "gaussian", "variance": "cross"}], ids=["bernoulli", "gaussian"])
def test_a_data_set_becomes_the_bits_of_its_features(latent: dict[str, Any], tmp_path: Path) -> None:
    run, out = untrained(tmp_path / "run", **latent), tmp_path / "codes.parquet"
    assert encode(run, "digits", out, "test", progress=False) == (out, 360, None)
    made = read_codes(out, model=model_hash(run))
    model, config = load_model(run)
    images = data.load_data(config.data, "test")
    features = extract(model, images.pixels, config.views)
    assert features.code is not None and features.flips is not None and features.z is not None
    assert tuple(made.ids) == images.ids
    assert (made.unpack() == features.code.numpy()).all()
    assert (made.bits, made.size, made.channels, made.latent) == (BITS, 16, 1, latent.get("kind", "bernoulli"))
    assert np.abs(made.uncertainty - features.flips.sum(1).numpy()).max() < 1e-4
    assert np.abs(made.flips - features.flips.mean(0).numpy()).max() < 1e-4
    assert (made.flips == made.flips.round(4)).all()
    assert bool(made.moments) == bool(latent)
    if made.moments:
        np.testing.assert_allclose(made.moments["mean"], features.z, rtol=1e-3)
        np.testing.assert_allclose(made.moments["variance"], features.uncertainty.square(), rtol=1e-3)


def test_a_folder_is_encoded_whatever_the_batches(run: Path, pictures: Path, tmp_path: Path) -> None:
    for size in (1, 3, 512):
        out = tmp_path / f"codes-{size}.parquet"
        listing = tmp_path / f"codes-{size}.skipped.txt"
        assert encode(run, str(pictures), out, batch_size=size, progress=False) == (out, 19, listing)
        (line,) = listing.read_text().splitlines()
        assert line.startswith("10.png\t")
        assert not (tmp_path / f"codes-{size}.parquet.parts").exists()
    made = read_codes(tmp_path / "codes-3.parquet")
    whole = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png"))
    assert made.ids.tolist() == [name for name in whole if name != "10.png"]
    for size in (1, 512):
        assert (read_codes(tmp_path / f"codes-{size}.parquet").unpack() == made.unpack()).all()


def test_what_was_listed_before_is_not_left_beside_new_codes(run: Path, pictures: Path, tmp_path: Path) -> None:
    encode(run, str(pictures), tmp_path / "codes.parquet", progress=False)
    (pictures / "10.png").unlink()
    out = tmp_path / "codes.parquet"
    assert encode(run, str(pictures), out, progress=False) == (out, 19, None)
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
    simclr = untrained(tmp_path / "simclr", kind="deterministic")
    (tmp_path / "empty").mkdir()
    write(Codes.pack([[True]], ["a"]), shard(tmp_path / "shards.parquet", 0, 2))
    cases: list[tuple[list[object], str]] = [
        ([run, "nowhere", "--out", out], "nowhere is neither a folder or an archive of images nor one of"),
        ([pictures, "digits", "--out", out], f"{pictures} is not a run: it has no config.json"),
        ([simclr, "digits", "--out", out], f"{simclr} has a deterministic latent, which has no code"),
        ([run, tmp_path / "empty", "--out", out], f"{tmp_path / 'empty'} has no images"),
        ([run, pictures, "--out", pictures], f"{pictures} is a folder; it must name a file of codes"),
        ([run, pictures, "--out", tmp_path / "shards.parquet"], "shards.parquet; remove it, or write elsewhere"),
    ]
    for arguments, message in cases:
        assert message in error(capsys, "encode", *arguments, "--quiet")
    assert not out.exists() and not (tmp_path / "shards.parquet").exists()


def test_the_hash_covers_what_an_image_is_turned_into(run: Path, tmp_path: Path) -> None:
    config = runs.read_config(run)
    other = config.model_copy(update={"views": config.views.model_copy(update={"mean": (0.5,)})})
    runs.create(tmp_path / "run", other)
    shutil.copy(run / runs.MODEL, tmp_path / "run" / runs.MODEL)
    assert model_hash(tmp_path / "run") != model_hash(run)


# going on, and several processes


def stochcon(*arguments: object, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "stochcon", *map(str, arguments), "--quiet"]
    return subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL)


@pytest.mark.slow
def test_what_was_killed_goes_on_and_ends_with_the_same_file(run: Path, pictures: Path, tmp_path: Path) -> None:
    for i in range(100):  # so many that it is not done before it is killed
        shutil.copy(pictures / "02.png", pictures / f"more-{i:03}.png")
    command = ["encode", run, pictures, "--batch-size", 1, "--out"]
    one_go = tmp_path / "one-go" / "codes.parquet"
    assert main([*map(str, command), str(one_go), "--quiet"]) == 0

    out = tmp_path / "killed" / "codes.parquet"
    parts = tmp_path / "killed" / "codes.parquet.parts"
    process = stochcon(*command, out)
    while process.poll() is None and len(list(parts.glob("*.parquet"))) < 3:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = list(parts.glob("*.parquet"))
    assert 3 <= len(before) < 120
    assert not out.exists()

    assert main([*map(str, command), str(out), "--quiet"]) == 0
    assert out.read_bytes() == one_go.read_bytes()
    assert sorted(path.name for path in out.parent.iterdir()) == ["codes.parquet", "codes.skipped.txt"]
    assert (out.parent / "codes.skipped.txt").read_text() == (one_go.parent / "codes.skipped.txt").read_text()


def interrupted(directory: Path, images: Path, out: Path) -> list[Path]:
    """Encode until all parts are there, when the list of skipped images cannot be written; return the parts."""
    listing = out.with_suffix(".skipped.txt")
    listing.mkdir()
    with pytest.raises(OSError, match=str(listing)):
        encode(directory, str(images), out, batch_size=8, progress=False)
    listing.rmdir()
    assert not out.exists()
    return sorted(out.with_name(out.name + ".parts").glob("*.parquet"))


def test_parts_of_another_run_or_folder_are_not_taken(run: Path, pictures: Path, tmp_path: Path) -> None:
    """They are left by another run, and by another folder in which the images have the same names."""
    out, fresh = tmp_path / "codes.parquet", tmp_path / "fresh.parquet"
    moved = tmp_path / "moved"
    shutil.copytree(pictures, moved)
    for path in moved.rglob("*.png"):
        if path.name != "10.png":
            Image.new("RGB", (8, 8)).save(path)
    other = untrained(tmp_path / "other", seed=1)
    assert len(interrupted(other, pictures, out)) == 3
    assert len(interrupted(run, moved, out)) == 6
    encode(run, str(pictures), out, batch_size=8, progress=False)
    encode(run, str(pictures), fresh, batch_size=8, progress=False)
    assert out.read_bytes() == fresh.read_bytes()


def test_the_list_of_skipped_images_is_there_before_the_codes(run: Path, pictures: Path, tmp_path: Path) -> None:
    """A part that is damaged stops the file of codes from being put together."""
    out = tmp_path / "codes.parquet"
    part = interrupted(run, pictures, out)[-1]
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(ValueError, match=rf"{part} is damaged"):
        encode(run, str(pictures), out, batch_size=8, progress=False)
    assert (tmp_path / "codes.skipped.txt").read_text().startswith("10.png")
    assert not out.exists()


@pytest.mark.parametrize("variables", [("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")], ids=str)
def test_each_process_makes_a_shard(
    run: Path, pictures: Path, tmp_path: Path, variables: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, (rank, world) = tmp_path / "codes.parquet", variables
    monkeypatch.setenv(world, "2")
    for number in "01":
        monkeypatch.setenv(rank, number)
        encode(run, str(pictures), out, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "codes-00000-of-00002.parquet",
        "codes-00000-of-00002.skipped.txt",
        "codes-00001-of-00002.parquet",
    ]
    monkeypatch.undo()
    made = read_codes(out, model=model_hash(run))
    encode(run, str(pictures), tmp_path / "one" / "codes.parquet", progress=False)
    one = read_codes(tmp_path / "one" / "codes.parquet")
    assert made.ids.tolist() == one.ids.tolist()
    assert (made.packed == one.packed).all()
    np.testing.assert_allclose(made.flips, one.flips, atol=2e-4)


def test_a_process_may_have_nothing_to_do(
    run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(pictures, tmp_path / "one", ignore=lambda _, names: {*names} - {"02.png"})
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        assert encode(run, str(tmp_path / "one"), tmp_path / "codes.parquet", progress=False).written == int(rank)
    assert read_codes(tmp_path / "codes.parquet").ids.tolist() == ["02.png"]


def test_a_data_set_of_the_run_is_read_where_the_run_read_it() -> None:
    config = Config().data.model_copy(update={"name": "fashion-mnist", "root": Path("/nowhere")})
    with pytest.raises(ValueError, match="/nowhere"):
        list_images("fashion-mnist", config, "test")
    assert len(list_images("digits", config, "test")) == 360
