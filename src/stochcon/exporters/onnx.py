"""A finished run as one ONNX file, from uint8 images to packed bits, compared with PyTorch before it is kept.

Whoever has the file needs onnxruntime and NumPy alone:

    session = onnxruntime.InferenceSession("model.onnx")
    about = json.loads(session.get_modelmeta().custom_metadata_map["stochcon"])
    square = ImageOps.fit(image.convert("RGB"), (about["size"],) * 2, Image.Resampling.BILINEAR)
    codes, probabilities = session.run(None, {"images": np.asarray(square).transpose(2, 0, 1)[None]})

`onnx`, `onnxscript` and `onnxruntime` are imported when they are needed: they come with stochcon[export].
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stochcon import atomic
from stochcon.codes import file as codes
from stochcon.codes.encode import model_hash
from stochcon.config import Config, Views
from stochcon.data import images
from stochcon.data import sets as data
from stochcon.evaluation.features import extract
from stochcon.method.model import StochCon
from stochcon.runs import load_model
from stochcon.views import resampling_matrices

VERSION = 1
OUTPUTS = {"bernoulli": ("codes", "probabilities"), "gaussian": ("codes", "means", "variances")}
"""What comes out, by the latent: the bits packed as in the file of codes, and (N, D) floats."""
CHECKED = 1000
TOLERANCE = 1e-4
"""Share of the logits' standard deviation within which rounding may turn a bit; measured: 0.15 of it."""
AT_ONCE = 512


class Agreement(NamedTuple):
    """How an ONNX file's bits compare with PyTorch's on the same images.

    >>> print(Agreement(images=100, bits=16, differing=0, margin=0.002, tolerance=0.0001))
    1,600 of 1,600 bits of 100 images are PyTorch's; the smallest |logit| is 2.0e-03, and a bit may differ below 1.0e-04
    """

    images: int
    bits: int
    """D"""
    differing: int
    """Of images * bits; each of a logit (of a Gaussian: a mean) that is nearer to 0 than `tolerance`."""
    margin: float
    """The smallest |logit| that PyTorch has on these images."""
    tolerance: float
    """Rounding may turn a bit whose |logit| is below this."""

    def __str__(self) -> str:
        total = self.images * self.bits
        return (
            f"{total - self.differing:,} of {total:,} bits of {self.images:,} images are PyTorch's; "
            f"the smallest |logit| is {self.margin:.1e}, and a bit may differ below {self.tolerance:.1e}"
        )


class Graph(nn.Module):
    """What the file computes: the evaluation view, f, pi, the latent's deterministic code, and its bits, packed.

    >>> graph = Graph(StochCon(config := Config()).eval(), config)
    >>> [output.shape for output in graph(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))]
    [torch.Size([2, 32]), torch.Size([2, 256])]
    """

    scale: Tensor
    shift: Tensor
    resize: Tensor | None
    weights: Tensor

    def __init__(self, model: StochCon, config: Config):
        super().__init__()
        self.backbone, self.pi, self.latent = model.backbone, model.pi, model.latent
        self.outputs = len(OUTPUTS[config.latent.kind])
        mean, std = (torch.tensor(x)[:, None, None] for x in (config.views.mean, config.views.std))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)
        self.register_buffer("resize", _resize(config.data.size, config.views))
        self.register_buffer("weights", 2 ** torch.arange(8, dtype=torch.int32))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """uint8 (N, C, S, S) to uint8 (N, ceil(D / 8)) and float32 (N, D), as OUTPUTS says."""
        x = pixels.float()
        if self.resize is not None:
            x = self.resize @ x @ self.resize.mT
        phi = self.pi(self.backbone(x * self.scale + self.shift))
        bits = (self.latent.logits(phi) > 0).int()
        bits = F.pad(bits, (0, -bits.shape[1] % 8)).unflatten(1, (-1, 8))
        packed = (bits * self.weights).sum(2).to(torch.uint8)
        return (packed, self.latent.mean(phi), self.latent.uncertainty(phi).square())[: self.outputs]


def _resize(size: int, views: Views) -> Tensor | None:
    """(G, S), by which `views.eval_view` resamples rows and columns; none if it leaves the canvas as it is."""
    if size == views.global_size:
        return None
    start, whole, no = torch.zeros(1, 1, 2), torch.full((1, 1, 2), size), torch.tensor([[False]])
    return resampling_matrices(start, whole, no, (size, size), views.global_size)[0, 0, 0]


def to_onnx(
    directory: Path | str, out: Path | str | None = None, check: int = CHECKED
) -> tuple[Path, Agreement | None]:
    """A finished run's model as an ONNX file, by default model.onnx in the run's directory: where, and how it agrees.

    check: on how many of the run's validation images its bits are compared with PyTorch's; 0: on none.

    Raises ValueError, and leaves `out` as it was, if the run is not finished or has no bits, if a bit differs
    by more than rounding, without images to check it on, or without stochcon[export].
    """
    directory = Path(directory)
    out = Path(out or directory / "model.onnx")
    if check < 0:
        raise ValueError(f"--check is {check}; it must be 0 or more")
    if out.is_dir():
        raise ValueError(f"{out} is a folder; it must name a file")
    model, config = load_model(directory)
    if config.latent.kind not in OUTPUTS:
        raise ValueError(
            f"{directory} has a {config.latent.kind} latent, which has no bits for ONNX to give; "
            "--to hub exports the network"
        )
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(f"ONNX needs the package {error.name}: pip install 'stochcon[export]'") from None
    pixels = _validation_images(config, check) if check else None
    content = _translate(Graph(model, config), config, model_hash(directory))
    agreement = None if pixels is None else compare(content, model, config, pixels)
    atomic.write(out, content)
    return out, agreement


def _translate(graph: Graph, config: Config, model: str) -> bytes:
    """The ONNX file that computes `graph`, and says what it is."""
    import onnx

    example = torch.zeros(2, config.data.channels, config.data.size, config.data.size, dtype=torch.uint8)
    names = OUTPUTS[config.latent.kind]
    program = torch.onnx.export(
        graph.eval(),
        (example,),
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=names,
        dynamic_shapes=({0: torch.export.Dim("N")},),
    )
    assert program is not None
    proto = program.model_proto
    # PyTorch notes where each line of the program lies on the disk.
    inside = proto.graph
    parts = inside.node, inside.value_info, inside.initializer, inside.input, inside.output
    for part in (inside, *itertools.chain(*parts)):
        part.ClearField("metadata_props")
    inside.name = "stochcon"
    proto.doc_string = (
        f"uint8 images (N, {config.data.channels}, {config.data.size}, {config.data.size}), each the largest "
        f"centred square of a picture, to {', '.join(names)}. Bit i of a code is bit i % 8, counted from the "
        "lowest, of byte i // 8."
    )
    about = {
        "version": VERSION,
        "bits": graph.latent.dim,
        "bit_order": codes.BIT_ORDER,
        "latent": config.latent.kind,
        "model": model,
        "size": config.data.size,
        "channels": config.data.channels,
        "view": config.views.global_size,
        "mean": config.views.mean,
        "std": config.views.std,
    }
    onnx.helper.set_model_props(proto, {"stochcon": json.dumps(about)})
    return proto.SerializeToString()


def _validation_images(config: Config, count: int) -> Tensor:
    """At most `count` images of the run's own data, evenly over the list of them."""
    try:
        sources = data.LISTS[config.data.name](config.data, "validation")[1]
        some = sources[:: max(1, len(sources) // count)][:count]
        pixels = images.read(some, (), config.data.size, config.data.channels).pixels
        if not len(pixels):
            raise ValueError(f"{config.data.root} has no validation images")
    except ValueError as error:
        raise ValueError(f"{error}; --check 0 exports without comparing") from None
    return pixels


def compare(content: bytes, model: StochCon, config: Config, pixels: Tensor) -> Agreement:
    """An ONNX file under onnxruntime, and the model it was made of, on uint8 images (N, C, S, S).

    Raises ValueError if a bit differs whose logit is further from 0 than rounding explains.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    parts = [session.run(["codes"], {"images": part.numpy()})[0] for part in pixels.split(AT_ONCE)]
    with torch.inference_mode():
        logits = model.latent.logits(model.pi(extract(model, pixels, config.views).h))
    distance, bits = logits.abs().numpy(), logits.shape[1]
    packed = np.packbits(logits.numpy() > 0, axis=1, bitorder=codes.BIT_ORDER)
    differing = np.unpackbits(np.concatenate(parts) ^ packed, axis=1, bitorder=codes.BIT_ORDER)[:, :bits] > 0
    tolerance = TOLERANCE * logits.std().item()
    if (distance[differing] >= tolerance).any():
        raise ValueError(
            f"{differing.sum()} of {differing.size} bits differ between ONNX and PyTorch, one where the logit is "
            f"{distance[differing].max():.1e} from 0; rounding explains {tolerance:.1e}"
        )
    return Agreement(len(pixels), bits, int(differing.sum()), distance.min().item(), tolerance)
