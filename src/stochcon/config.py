"""The whole configuration of a run: frozen, validated, and the same after a trip through JSON.

Every field can be set from the command line by its dotted name (`--latent.dim 64`). A field of the
paper has the paper's value as its default; a field that the paper does not have says *extension* and
is off by default.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Frozen(BaseModel):
    """A group of fields that cannot be changed; an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Data(Frozen):
    """The images, and the size of the square canvas that views are cut from."""

    name: Literal["photographs", "digits", "fashion-mnist", "cifar10", "folder"] = "photographs"
    root: Path | None = None
    """Where the files are; only `folder` needs to be told."""
    size: Count = 32
    """Side of the canvas in pixels. Every image is brought to size x size once, when loaded."""
    channels: Literal[1, 3] = 3
    """1: grey. 3: colour (grey images are repeated)."""
    limit: Count | None = None
    """Use at most so many training images, drawn evenly over the classes."""
    holdout: bool = True
    """Keep the validation images out of training; off for a final run, which trains on them too."""
    max_bad: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of unreadable files above which a folder is refused."""
    memory: Annotated[int, Field(ge=0)] = 4096
    """Megabytes of canvases that each process may hold (at least three batches).
    A training set that needs more is decoded as it is needed, with the same result."""


class Views(Frozen):
    """DINO's augmentations (Caron et al., 2021): 2 global and n local crops of every image."""

    global_size: Count = 32
    local_size: Count = 16
    local_views: Annotated[int, Field(ge=0)] = 8
    global_scale: tuple[Probability, Probability] = (0.4, 1.0)
    """Smallest and largest share of the image's area that a global crop covers."""
    local_scale: tuple[Probability, Probability] = (0.05, 0.4)
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """Smallest and largest width : height of a crop."""
    flip: Probability = 0.5
    jitter: Probability = 0.8
    """How often the four parts below are applied, in a random order."""
    brightness: NotNegative = 0.4
    contrast: NotNegative = 0.4
    saturation: NotNegative = 0.2
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    grey: Probability = 0.2
    blur: tuple[Probability, Probability, Probability] = (1.0, 0.1, 0.5)
    """How often: first global view, second global view, local views."""
    blur_sigma: tuple[Positive, Positive] = (0.1, 2.0)
    """Smallest and largest width of the blur, in pixels of a 224-pixel view (scaled to the view's size)."""
    solarize: tuple[Probability, Probability, Probability] = (0.0, 0.2, 0.0)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[Positive, ...] = (0.229, 0.224, 0.225)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("global_scale", "local_scale", "ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"views.{name} must be two numbers, 0 < low <= high, not {low} {high}")
        return self


class Backbone(Frozen):
    """The network f, spatial pooling included."""

    name: str = "small"
    """`small`, or any timm name: resnet18, resnet50, resnet200, ..."""
    stem: Literal["small", "standard"] = "small"
    """`small`: 3x3 stride 1 and no max pooling, for images of about 32 pixels. `standard`: as timm has it."""
    width: Count = 32
    """Channels of the `small` network's first stage."""
    pool: Count = 1
    """Extension: h is the means over pool x pool parts of the picture, so that it knows where things are."""


class Latent(Frozen):
    """q(z'|x), between the backbone and the head of one branch (sections 3, 4.1 to 4.3)."""

    kind: str = "bernoulli"
    """bernoulli, gaussian, or deterministic, which is SimCLR."""
    dim: Count | None = None
    """Width of the latent; none: as wide as the backbone's output."""
    placement: Literal["top", "bottom"] = "bottom"
    """The branch that passes through the latent: under multi-crop, the global views (top) or the local."""
    hard: bool = True
    """Bernoulli: feed forward 0 and 1 with the gradient of the relaxation (listing 1)."""
    temperature: tuple[Positive, Positive] = (1.0, 0.1)
    """Bernoulli: the relaxation's temperature at the start and end of training, one cosine between."""
    variance: Literal["own", "cross"] = "cross"
    """Gaussian: sigma is read from the same view, or from the opposing one (section 4.2)."""
    projection: Literal["linear", "identity"] = "linear"
    """pi; identity needs dim to be the backbone's width."""
    initial_spread: NotNegative = 2.0
    """Before the first step a linear pi is scaled and centred by images: the logits, or means, then differ from image
    to image by so many standard deviations of the noise; 0: as PyTorch initialises. The paper says nothing of it."""
    logit_scale: NotNegative = 0.0
    """Extension: batch-normalise the logits to this standard deviation, so that every bit is used; 0: off."""
    decorrelation: NotNegative = 0.0
    """Extension: weight of the squared off-diagonal correlations of the logits; SimCLR ignores it."""
    contrast: NotNegative = 0.0
    """Extension: weight of equation 1 on the samples themselves, which trains the codes' own distance; 0: off."""
    contrast_temperature: Positive = 0.3
    """Its temperature."""


class Rebit(Frozen):
    """Extension: a last part of training, in which π learns bits again from the frozen h of stored views."""

    steps: Annotated[int, Field(ge=0)] = 0
    """0: off. Otherwise `latent.contrast` and `latent.decorrelation` hold before it, and the fields below in it."""
    alone: bool = False
    """The latent is learned in this part alone, if it has steps. Before it f learns as SimCLR does, in fewer steps."""
    batch_size: Annotated[int, Field(ge=2)] = 512
    lr: Positive = 3e-3
    images: Count = 100_000
    """At most so many training images, spread evenly over their order."""
    views: Annotated[int, Field(ge=2)] = 10
    """Random global views of each image, of which h is stored."""
    neighbours: Annotated[int, Field(ge=0)] = 10
    """The positive of a view is a view of one of so many images with the nearest h; 0: of the same image."""
    temperature: Positive = 0.3
    """Of equation 1 on the samples."""
    decorrelation: NotNegative = 0.0
    """Weight of the squared off-diagonal correlations of the logits: better nearest neighbours, a worse ranking."""
    hard: bool = True
    """Bernoulli: 0 and 1 with the gradient of the relaxation."""


class Head(Frozen):
    """g: a perceptron of one hidden layer, as SimCLR has it."""

    hidden: Count = 512
    dim: Count = 128


class Optimizer(Frozen):
    """The optimizer and its learning rate, for which section 4 has LARS."""

    name: Literal["adamw", "lars"] = "adamw"
    """`lars` for batches of thousands (section 4), `adamw` for small budgets."""
    lr: Positive = 2e-3
    weight_decay: NotNegative = 1e-2
    """Biases and normalisation parameters are excluded, from LARS's adaptation too."""
    warmup: NotNegative = 0.5
    """Epochs of linear warm-up, then one cosine to zero."""


WHOLE = {"recipe", "data", "views", "backbone", "latent", "head", "optimizer"}
"""The fields that the configuration file of every run has had, in all versions."""


class Config(Frozen):
    """One pretraining run."""

    recipe: str = "photographs"
    data: Data = Data()
    views: Views = Views()
    backbone: Backbone = Backbone()
    latent: Latent = Latent()
    head: Head = Head()
    rebit: Rebit = Rebit()
    optimizer: Optimizer = Optimizer()
    temperature: Positive = 0.2
    """InfoNCE's temperature (equation 1)."""
    epochs: Count = 10
    min_steps: Count = 1
    """Few images get more epochs than `epochs`, until there are so many steps."""
    batch_size: Annotated[int, Field(ge=2)] = 256
    """Images a step, over all processes."""
    chunk: Annotated[int, Field(ge=2)] | None = None
    """Cached gradients: images of each process in one pass, with batch statistics of their own; none: all."""
    seed: Annotated[int, Field(ge=0)] = 0
    sync_batch_norm: bool = True
    """Take batch norm's statistics over all processes."""
    precision: Literal["32-true", "bf16-mixed", "64-true"] = "32-true"
    compile: bool = False
    """Compile the network (needs a C++ compiler on a CPU)."""
    checkpoint_every: Count = 100
    """Steps between checkpoints; an interruption loses at most so many."""
    log_every: Count = 10
    """Steps between lines of log.jsonl."""

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_versions(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(values)
        if values.keys() >= WHOLE and isinstance(values["latent"], dict):  # what the file of a run lacks was not there
            values["latent"] = {"initial_spread": 0} | values["latent"]
        if values.pop("chunk_batch_norm", "chunk") != "chunk":
            raise ValueError("chunk_batch_norm: the exact mode is gone since version 0.2; leave it away")
        return values

    @model_validator(mode="after")
    def _fits(self) -> Self:
        views, data = self.views, self.data
        if views.local_views and views.local_size > data.size:
            wrong = f"views.local_size is {views.local_size}, larger than the image"
            raise ValueError(f"{wrong}; at most data.size = {data.size}")
        for name in ("mean", "std"):
            if len(getattr(views, name)) != data.channels:
                raise ValueError(f"views.{name} must have data.channels = {data.channels} numbers")
        if self.latent.projection == "identity" and (self.latent.logit_scale or self.rebit.steps):
            field = "rebit.steps" if self.rebit.steps else "latent.logit_scale"
            raise ValueError(f"{field} needs --latent.projection linear")
        if self.latent.dim is not None and self.latent.dim > 65535:
            raise ValueError(f"latent.dim is {self.latent.dim}; at most 65535 bits make sense")
        return self


def explain(error: ValidationError) -> str:
    """Say a validation error in one line: the field's dotted name, its value, and what would be right."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if not field or message.startswith(field):
        return message
    if first["type"] == "extra_forbidden":
        return f"{field}: there is no such field"
    return f"{field}: {first['input']!r} is not right: {message[0].lower()}{message[1:]}"


def changes(old: Frozen, new: Frozen, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """List the fields in which two configurations differ by dotted name, with the old and the new value."""
    differing: dict[str, tuple[Any, Any]] = {}
    for name in type(old).model_fields:
        a, b = getattr(old, name), getattr(new, name)
        if isinstance(a, Frozen) and isinstance(b, Frozen):
            differing |= changes(a, b, f"{prefix}{name}.")
        elif a != b:
            differing[prefix + name] = a, b
    return differing
