"""Export a finished run: as one ONNX file from uint8 images to packed bits, or as a Hub folder."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stochcon import atomic
from stochcon.codes.encoder import model_hash
from stochcon.codes.packed import BIT_ORDER
from stochcon.config import Config
from stochcon.data import images, sets
from stochcon.data.images import refuse_too_many
from stochcon.evaluation.features import extract
from stochcon.exporters.hub import to_hub
from stochcon.method.model import StochCon
from stochcon.runs import load_model

TOLERANCE = 1e-4  # rounding may turn a bit whose logit is this near to 0, in standard deviations of the logits
CHECK, BATCH = 1000, 512


class Agreement(NamedTuple):
    """How the bits of an ONNX file compare with PyTorch's on the same images; its text says so in a line."""

    images: int
    bits: int  # of one image
    differing: int  # of all bits; the logit of each is nearer to 0 than the tolerance
    margin: float  # the smallest |logit| of PyTorch
    tolerance: float

    def __str__(self) -> str:
        total = self.images * self.bits
        return (
            f"{total - self.differing:,} of {total:,} bits of {self.images:,} images are PyTorch's; "
            f"the smallest |logit| is {self.margin:.1e}, and a bit may differ below {self.tolerance:.1e}"
        )


def export(
    run: Path | str, to: Literal["onnx", "hub"], out: Path | str | None = None, check: int | None = None
) -> tuple[Path, Agreement | None]:
    """Write the network of a finished run as an ONNX file or as a folder for the Hugging Face Hub.

    Args:
        run: The run directory.
        to: Which of the two.
        out: Where to write it; by default RUN/model.onnx, or hub/NAME with the name of the run.
        check: ONNX: on how many validation images to compare with PyTorch; by default 1000, 0 for none.

    Returns:
        The file or folder, and how the bits of an ONNX file compare with PyTorch's if they were compared.

    Raises:
        ValueError: If `to_onnx` or `to_hub` raises it, or if a check is asked for that only ONNX has.
    """
    if to == "onnx":
        return to_onnx(run, out, CHECK if check is None else check)
    if to != "hub":
        raise ValueError(f"--to is {to!r}; it must be onnx or hub")
    if check is not None:
        raise ValueError("--check is for --to onnx; a Hub folder has the run's own weights")
    return to_hub(run, out), None


def to_onnx(directory: Path | str, out: Path | str | None = None, check: int = CHECK) -> tuple[Path, Agreement | None]:
    """Write the network of a finished run, from uint8 images to packed bits, as an ONNX file.

    Args:
        directory: The run directory.
        out: The file; by default model.onnx in the run directory.
        check: On how many of the run's validation images its bits are compared with PyTorch's; 0: on none.

    Returns:
        The file, and how its bits compare with PyTorch's (None without a check).

    Raises:
        ValueError: If the run is not finished or has no bits, if a bit differs by more than rounding, if
            there are no images for the check, or if stochcon[export] is missing. `out` stays as it was.

    Example:
        >>> import tempfile, stochcon
        >>> config = stochcon.recipe("digits", epochs=1)
        >>> run = stochcon.pretrain(config, tempfile.mkdtemp() + "/digits", progress=False)
        >>> file, agreement = to_onnx(run, check=100)
        >>> file.name, agreement.images, agreement.bits
        ('model.onnx', 100, 16)
    """
    out = Path(out or Path(directory) / "model.onnx")
    if check < 0:
        raise ValueError(f"--check is {check}; it must be 0 or more")
    if out.is_dir():
        raise ValueError(f"{out} is a folder; it must name a file")
    model, config = load_model(directory)
    if not model.latent.has_code:
        kind = config.latent.kind
        raise ValueError(f"{directory} has a {kind} latent, which has no bits; --to hub exports the network")
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if not find_spec(package):
            raise ValueError(f"ONNX needs the package {package}: pip install 'stochcon[export]'")
    pixels = _validation_images(config, check) if check else None
    content = _translate(_Network(model, config).eval(), config, model_hash(directory))
    agreement = None if pixels is None else compare(content, model, config, pixels)
    atomic.write(out, content)
    return out, agreement


def compare(content: bytes, model: StochCon, config: Config, pixels: Tensor) -> Agreement:
    """Compare an ONNX file's bits with its model's on uint8 images; refuse what rounding does not explain."""
    import onnxruntime

    with torch.inference_mode():
        logits = model.latent.logits(model.pi(extract(model, pixels, config.views).h))
    if not logits.isfinite().all():
        raise ValueError("the network gives logits that are not finite: its weights hold NaN or infinity")
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    codes = [session.run(["codes"], {"images": part.numpy()})[0] for part in pixels.split(BATCH)]
    bits = np.unpackbits(np.concatenate(codes), axis=1, count=logits.shape[1], bitorder=BIT_ORDER)
    distance, differing = logits.abs().numpy(), bits != (logits > 0).numpy()
    tolerance = TOLERANCE * logits.std().item()
    if not (distance[differing] < tolerance).all():
        raise ValueError(
            f"{differing.sum()} of {differing.size} bits differ between ONNX and PyTorch, one where the "
            f"logit is {distance[differing].max():.1e} from 0; rounding explains {tolerance:.1e}"
        )
    return Agreement(len(bits), bits.shape[1], int(differing.sum()), float(distance.min()), tolerance)


def _validation_images(config: Config, count: int) -> Tensor:
    """Read at most `count` images of the run's own data, spread evenly over the list of them."""
    try:
        sources = sets.listed(config.data, "validation")[1]
        some = sources[:: max(1, len(sources) // count)][:count]
        found = images.read(some, (), config.data.size, config.data.channels)
        refuse_too_many(found.skipped, len(some), config.data.max_bad, "validation images")
    except ValueError as error:
        raise ValueError(f"{error}; --check 0 exports without comparing") from None
    return found.pixels


class _Network(nn.Module):
    """The computation in the file: the evaluation view, f, π, and the latent's code without randomness."""

    def __init__(self, model: StochCon, config: Config):
        super().__init__()
        self.backbone, self.pi, self.latent = model.backbone, model.pi, model.latent
        self.outputs = ["codes", "probabilities"] if self.latent.binary else ["codes", "means", "variances"]
        mean, std = (torch.tensor(x)[:, None, None] for x in (config.views.mean, config.views.std))
        self.scale, self.shift = nn.Buffer(1 / (255 * std)), nn.Buffer(-mean / std)
        # The evaluation view resamples linearly, so what it makes of the unit matrix resamples any image.
        size, view = config.data.size, config.views.global_size
        resize = F.interpolate(torch.eye(size)[None, None], (view, size), mode="bilinear", antialias=True)
        self.resize = None if view == size else nn.Buffer(resize[0, 0])
        self.powers = nn.Buffer(2 ** torch.arange(8, dtype=torch.int32))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Turn uint8 images (N, C, S, S) into uint8 (N, ceil(D / 8)) and one or two times float32 (N, D)."""
        x = pixels.float()
        if self.resize is not None:
            x = self.resize @ x @ self.resize.mT
        phi = self.pi(self.backbone(x * self.scale + self.shift))
        bits = (self.latent.logits(phi) > 0).int()
        bits = F.pad(bits, (0, -bits.shape[1] % 8)).unflatten(1, (-1, 8))
        codes = (bits * self.powers).sum(2).to(torch.uint8)
        return (codes, self.latent.mean(phi), self.latent.uncertainty(phi).square())[: len(self.outputs)]


def _translate(network: _Network, config: Config, model: str) -> bytes:
    size, channels = config.data.size, config.data.channels
    program = torch.onnx.export(
        network,
        (torch.zeros(2, channels, size, size, dtype=torch.uint8),),
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=network.outputs,
        dynamic_shapes=({0: torch.export.Dim("N")},),
    )
    assert program is not None
    proto = program.model_proto
    graph = proto.graph
    graph.name = "stochcon"
    # PyTorch notes where each line of the program lies on the disk.
    for part in (graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")
    proto.doc_string = (
        f"uint8 images (N, {channels}, {size}, {size}), each the largest centred square of a picture, "
        f"to {', '.join(network.outputs)}. "
        "Bit i of a code is bit i % 8, counted from the lowest, of byte i // 8."
    )
    about = {"version": 1, "bits": network.latent.dim, "bit_order": BIT_ORDER, "latent": config.latent.kind}
    about |= {"model": model, "size": size, "channels": channels, "view": config.views.global_size}
    about |= config.views.model_dump(include={"mean", "std"})
    proto.metadata_props.add(key="stochcon", value=json.dumps(about))
    return proto.SerializeToString()
