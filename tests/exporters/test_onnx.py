"""ONNX files of tiny runs: the same bits as PyTorch on real images, and no stochcon needed to read them."""

import io
import json
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from shared import error, write_run

import stochcon
from stochcon import atomic, runs
from stochcon import recipebook as recipes
from stochcon.cli import main
from stochcon.codes.encoder import model_hash
from stochcon.config import Backbone, Config, Data, Latent, Views
from stochcon.data import sets as data
from stochcon.evaluation.features import extract
from stochcon.exporters.export import export
from stochcon.exporters.onnx import TOLERANCE, compare, to_onnx
from stochcon.runs import load_model
from stochcon.train.pretrain import pretrain

BITS = 13
SMALL = Backbone(width=4)


def digits(**update: object) -> Config:
    return recipes.digits().model_copy(update={"latent": Latent(dim=BITS), "backbone": SMALL, **update})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(digits(epochs=2), tmp_path_factory.mktemp("run") / "run", progress=False)


@pytest.fixture(scope="module")
def exported(run: Path) -> tuple[bytes, str]:
    """The file that the command writes, and what it says."""
    with redirect_stdout(io.StringIO()) as said:
        assert main(["export", str(run), "--to", "onnx"]) == 0
    return (run / "model.onnx").read_bytes(), said.getvalue()


def test_the_bits_of_1000_real_images_are_those_of_pytorch(run: Path, exported: tuple[bytes, str]) -> None:
    content, _ = exported
    model, config = load_model(run)
    pixels = data.load(config.data, "train").pixels[:1000]
    packed, probabilities = onnxruntime.InferenceSession(content).run(None, {"images": pixels.numpy()})
    features = extract(model, pixels, config.views)
    assert features.bits is not None and features.z is not None
    assert packed.dtype == np.uint8 and packed.shape == (1000, 2)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, features.z.numpy(), atol=1e-5)

    unpacked = np.unpackbits(packed, axis=1, bitorder="little")
    differing = unpacked[:, :BITS] != features.bits.numpy()
    logits = features.z.double().logit()
    assert logits[torch.from_numpy(differing)].abs().lt(TOLERANCE * logits.std()).all()
    assert differing.sum() <= 1, "rounding turns about one bit in 200,000"
    assert not unpacked[:, BITS:].any(), "the padding is zero"

    agreement = compare(content, model, config, pixels)
    assert (agreement.images, agreement.bits, agreement.differing) == (1000, BITS, differing.sum())
    assert agreement.margin == pytest.approx(logits.abs().min().item(), abs=1e-6)


def test_the_file_says_what_it_is_and_not_where_it_was_made(run: Path, exported: tuple[bytes, str]) -> None:
    content, said = exported
    assert said.startswith(  # all validation images, as there are fewer than 1000
        f"{run / 'model.onnx'}: 4,680 of 4,680 bits of 360 images are PyTorch's; the smallest |logit| is "
    )
    proto = onnx.load_from_string(content)
    onnx.checker.check_model(proto, full_check=True)
    assert json.loads({entry.key: entry.value for entry in proto.metadata_props}["stochcon"]) == {
        "version": 1,
        "bits": BITS,
        "bit_order": "little",
        "latent": "bernoulli",
        "model": model_hash(run),
        "size": 16,
        "channels": 1,
        "view": 16,
        "mean": [0.3],
        "std": [0.37],
    }
    for place in (Path(stochcon.__file__).parent, Path(torch.__file__).parent, run):
        assert str(place).encode() not in content


FAMILY = {
    "gaussian, colour, reduced": Config(
        data=Data(limit=90),
        views=Views(global_size=20),
        backbone=SMALL,
        latent=Latent(kind="gaussian", dim=8),
    ),
    "standardised logits, a network of timm, enlarged": digits(
        views=recipes.digits().views.model_copy(update={"global_size": 24}),
        backbone=Backbone(name="test_resnet", stem="standard"),
        latent=Latent(dim=9, logit_scale=8),
    ),
}


@pytest.mark.parametrize("config", FAMILY.values(), ids=FAMILY)
def test_any_latent_network_and_view(config: Config, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", config)
    file, unchecked = to_onnx(run, tmp_path / "there" / "x.onnx", check=0)
    assert unchecked is None
    model, _ = load_model(run)
    pixels = data.load(config.data, "train").pixels[:90]
    agreement = compare(file.read_bytes(), model, config, pixels)
    assert (agreement.images, agreement.differing) == (90, 0)

    session = onnxruntime.InferenceSession(file)
    features = extract(model, pixels, config.views)
    _, means, *variances = session.run(None, {"images": pixels.numpy()})
    assert features.z is not None
    np.testing.assert_allclose(means, features.z, rtol=1e-4, atol=1e-5)
    names = [output.name for output in session.get_outputs()]
    if config.latent.kind == "gaussian":
        assert names == ["codes", "means", "variances"]
        np.testing.assert_allclose(variances[0], features.uncertainty.square(), rtol=1e-4)
    else:
        assert names == ["codes", "probabilities"]


READER = """
import json, sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("model.onnx")
about = json.loads(session.get_modelmeta().custom_metadata_map["stochcon"])
for path in sorted(Path("pictures").iterdir()):  # one by one: the batch has any length
    image = Image.open(path).convert("L" if about["channels"] == 1 else "RGB")
    square = np.asarray(ImageOps.fit(image, (about["size"],) * 2, Image.Resampling.BILINEAR))
    pixels = square.reshape(1, about["size"], about["size"], about["channels"]).transpose(0, 3, 1, 2)
    codes, probabilities = session.run(None, {"images": pixels})
    print(path.name, codes.tobytes().hex())
assert not {"stochcon", "torch"} & {*sys.modules}
"""


def test_a_process_without_stochcon_or_torch_reads_pictures_to_the_same_codes(
    run: Path, exported: tuple[bytes, str], tmp_path: Path
) -> None:
    (tmp_path / "pictures").mkdir()
    random = np.random.default_rng(0)
    for i, digit in enumerate(data.load(Data(name="digits", size=40, channels=3), "test").pixels[:12]):
        noisy = digit.numpy().transpose(1, 2, 0)[: random.integers(20, 40)]
        Image.fromarray(np.ascontiguousarray(noisy)).save(tmp_path / "pictures" / f"{i:02}.png")
    (tmp_path / "model.onnx").write_bytes(exported[0])
    said = subprocess.run(
        [sys.executable, "-I", "-c", READER], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert said.returncode == 0, said.stderr

    out = tmp_path / "codes.parquet"
    assert main(["encode", str(run), str(tmp_path / "pictures"), "--out", str(out), "--quiet"]) == 0
    made = stochcon.read_codes(out)
    ours = {str(name): code.tobytes().hex() for name, code in zip(made.ids, made.packed, strict=True)}
    assert dict(line.split() for line in said.stdout.splitlines()) == ours
    assert len(set(ours.values())) > 1


def test_bits_that_rounding_does_not_explain_are_refused(exported: tuple[bytes, str], tmp_path: Path) -> None:
    model, config = load_model(write_run(tmp_path / "other", digits(), seed=1))
    pixels = data.load(config.data, "test").pixels
    with pytest.raises(
        ValueError, match=r"of 4680 bits differ between ONNX and PyTorch, one where the logit"
    ):
        compare(exported[0], model, config, pixels)


def test_a_network_of_nan_does_not_pass_the_comparison(exported: tuple[bytes, str], run: Path) -> None:
    model, config = load_model(run)
    assert isinstance(model.pi, torch.nn.Linear)
    torch.nn.init.constant_(model.pi.bias, torch.nan)  # every bit of it is 0 here and in ONNX
    with pytest.raises(ValueError, match="not finite: its weights hold NaN"):
        compare(exported[0], model, config, data.load(config.data, "test").pixels[:8])


def test_export_says_what_is_wrong(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x.onnx"
    onnx_ = "--to", "onnx", "--out", out
    simclr = write_run(tmp_path / "simclr", digits(latent=Latent(kind="deterministic")))
    moved = write_run(
        tmp_path / "moved", digits(data=Data(name="folder", root=tmp_path / "gone", channels=1))
    )
    unfinished = tmp_path / "unfinished"
    runs.create(unfinished, digits())
    atomic.write(unfinished / runs.CHECKPOINT, b"")
    cases: list[tuple[tuple[object, ...], str]] = [
        ((tmp_path / "none", *onnx_), f"{tmp_path / 'none'} is not a run: it has no config.json"),
        (
            (unfinished, *onnx_),
            f"{unfinished} is not finished: stochcon pretrain --resume {unfinished}",
        ),
        (
            (simclr, *onnx_),
            f"{simclr} has a deterministic latent, which has no bits for ONNX to give; "
            "--to hub exports the network",
        ),
        (
            (moved, *onnx_),
            f"data.root: {tmp_path / 'gone'} is not a folder; it must be a folder of images; "
            "--check 0 exports without comparing",
        ),
        ((run, "--to", "onnx", "--out", tmp_path), f"{tmp_path} is a folder; it must name a file"),
        ((run, *onnx_, "--check", "-1"), "--check is -1; it must be 0 or more"),
        (
            (run, "--to", "hub", "--check", "5"),
            "--check is for --to onnx; a Hub folder has the run's own weights",
        ),
    ]
    for arguments, message in cases:
        assert error(capsys, "export", *arguments) == message
    with pytest.raises(ValueError, match="--to is 'tflite'; it must be onnx or hub"):
        export(run, "tflite")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # as if it were not installed
    assert error(capsys, "export", run, *onnx_) == (
        "ONNX needs the package onnxscript: pip install 'stochcon[export]'"
    )
    assert not out.exists()
