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

import stochcon
from stochcon import recipe
from stochcon.cli import main
from stochcon.codes.encoder import model_hash
from stochcon.config import Config, Data
from stochcon.data.sets import load_data
from stochcon.exporters.export import TOLERANCE, compare, export, to_onnx
from tests.shared import error, write_run

BITS = 13
SMALL = {"latent.dim": BITS, "backbone.width": 4, "rebit.steps": 20}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = recipe("digits", **SMALL, epochs=2)
    return stochcon.pretrain(config, tmp_path_factory.mktemp("run") / "run", progress=False)


@pytest.fixture(scope="module")
def exported(run: Path) -> tuple[bytes, str]:
    """The file that the command writes, and what it says."""
    with redirect_stdout(io.StringIO()) as said:
        assert main(["export", str(run), "--to", "onnx"]) == 0
    return (run / "model.onnx").read_bytes(), said.getvalue()


def test_the_bits_of_1000_real_images_are_those_of_pytorch(run: Path, exported: tuple[bytes, str]) -> None:
    model, config = stochcon.load_model(run)
    pixels = load_data(config.data, "train").pixels[:1000]
    packed, probabilities = onnxruntime.InferenceSession(exported[0]).run(None, {"images": pixels.numpy()})
    features = stochcon.extract(model, pixels, config.views)
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

    agreement = compare(exported[0], model, config, pixels)
    assert (agreement.images, agreement.bits, agreement.differing) == (1000, BITS, differing.sum())
    assert agreement.margin == pytest.approx(logits.abs().min().item(), abs=1e-6)


def test_the_file_says_what_it_is_and_not_where_it_was_made(run: Path, exported: tuple[bytes, str]) -> None:
    content, said = exported  # of all validation images, since there are fewer than 1000
    assert said.startswith(f"{run / 'model.onnx'}: 4,680 of 4,680 bits of 360 images are PyTorch's; ")
    proto = onnx.load_from_string(content)
    onnx.checker.check_model(proto, full_check=True)
    about = {"version": 1, "bits": BITS, "bit_order": "little", "latent": "bernoulli", "model": model_hash(run)}
    about |= {"size": 16, "channels": 1, "view": 16, "mean": [0.3], "std": [0.37]}
    assert json.loads({entry.key: entry.value for entry in proto.metadata_props}["stochcon"]) == about
    for place in (Path(stochcon.__file__).parent, Path(torch.__file__).parent, run):
        assert str(place).encode() not in content


FAMILY = {
    "gaussian, colour, reduced": Config.model_validate(
        {
            "data": {"limit": 90},
            "views": {"global_size": 20},
            "backbone": {"width": 4},
            "latent": {"kind": "gaussian", "dim": 8},
        }
    ),
    "standardised logits, a network of timm, enlarged": recipe(
        "digits",
        views={"global_size": 24},
        backbone={"name": "test_resnet", "stem": "standard"},
        latent={"dim": 9, "logit_scale": 8},
    ),
}


@pytest.mark.parametrize("config", FAMILY.values(), ids=FAMILY)
def test_any_latent_network_and_view(config: Config, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", config)
    file, unchecked = to_onnx(run, tmp_path / "there" / "x.onnx", check=0)
    assert unchecked is None
    model, _ = stochcon.load_model(run)
    pixels = load_data(config.data, "train").pixels[:90]
    agreement = compare(file.read_bytes(), model, config, pixels)
    assert (agreement.images, agreement.differing) == (90, 0)

    session = onnxruntime.InferenceSession(file)
    features = stochcon.extract(model, pixels, config.views)
    _, means, *variances = session.run(None, {"images": pixels.numpy()})
    assert features.z is not None
    np.testing.assert_allclose(means, features.z, rtol=1e-4, atol=1e-5)
    names = [output.name for output in session.get_outputs()]
    assert names == (["codes", "means", "variances"] if variances else ["codes", "probabilities"])
    assert bool(variances) == (config.latent.kind == "gaussian")
    for variance in variances:
        np.testing.assert_allclose(variance, features.uncertainty.square(), rtol=1e-4)


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
    for i, digit in enumerate(load_data(Data(name="digits", size=40, channels=3), "test").pixels[:12]):
        cut = digit.numpy().transpose(1, 2, 0)[: random.integers(20, 40)]
        Image.fromarray(np.ascontiguousarray(cut)).save(tmp_path / "pictures" / f"{i:02}.png")
    (tmp_path / "model.onnx").write_bytes(exported[0])
    command = [sys.executable, "-I", "-c", READER]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert said.returncode == 0, said.stderr

    paths = sorted((tmp_path / "pictures").iterdir())
    made = stochcon.load(run)(paths)
    ours = {path.name: code.tobytes().hex() for path, code in zip(paths, made.packed, strict=True)}
    assert dict(line.split() for line in said.stdout.splitlines()) == ours
    assert len(set(ours.values())) > 1


def test_bits_that_rounding_does_not_explain_are_refused(exported: tuple[bytes, str], tmp_path: Path) -> None:
    model, config = stochcon.load_model(write_run(tmp_path / "other", recipe("digits", **SMALL), seed=1))
    pixels = load_data(config.data, "test").pixels
    with pytest.raises(ValueError, match=r"of 4680 bits differ between ONNX and PyTorch"):
        compare(exported[0], model, config, pixels)
    torch.nn.init.constant_(next(model.pi.parameters()), torch.nan)  # every bit is 0, and so is ONNX's
    with pytest.raises(ValueError, match="not finite: its weights hold NaN"):
        compare(exported[0], model, config, pixels)


def test_export_says_what_is_wrong(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x.onnx"
    to = "--to", "onnx", "--out", out
    simclr = write_run(tmp_path / "simclr", recipe("digits", **{"latent.kind": "deterministic"}))
    gone = Data(name="folder", root=tmp_path / "gone", channels=1)
    moved = write_run(tmp_path / "moved", recipe("digits", data=gone))
    cases: list[tuple[tuple[object, ...], str]] = [
        ((tmp_path / "none", *to), f"{tmp_path / 'none'} is not a run: it has no config.json"),
        ((simclr, *to), f"{simclr} has a deterministic latent, which has no bits; "),
        ((moved, *to), f"data.root: {gone.root} is not a folder; "),
        ((run, "--to", "onnx", "--out", tmp_path), f"{tmp_path} is a folder; it must name a file"),
        ((run, *to, "--check", "-1"), "--check is -1; it must be 0 or more"),
        ((run, "--to", "hub", "--check", "5"), "--check is for --to onnx; "),
    ]
    for arguments, message in cases:
        assert error(capsys, "export", *arguments).startswith(message)
    with pytest.raises(ValueError, match="--to is 'tflite'; it must be onnx or hub"):
        export(run, "tflite")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # as if it were not installed
    needed = "ONNX needs the package onnxscript: pip install 'stochcon[export]'"
    assert error(capsys, "export", run, *to) == needed
    assert not out.exists()
