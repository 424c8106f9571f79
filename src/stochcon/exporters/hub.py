"""A finished run as a Hugging Face Hub folder: weights, configuration and a model card; and such a folder, loaded."""

from __future__ import annotations

import json
import textwrap
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from stochcon import atomic, runs
from stochcon.codes.encode import Encoder
from stochcon.config import Config
from stochcon.data import sets as data
from stochcon.evaluation.evaluate import NAMES
from stochcon.method import backbones
from stochcon.method.model import StochCon
from stochcon.runs import load_model

CARD = "README.md"
FILES = {runs.MODEL, runs.CONFIG, runs.METRICS, CARD}
GIT = {".git", ".gitattributes"}
"""Of a clone of a repository on the Hub, into which a run may be exported."""
DATASETS = {"fashion-mnist": "zalando-datasets/fashion_mnist", "cifar10": "uoft-cs/cifar10"}
"""Their names on the Hub."""
MEASURES = {"linear": "linear probe", "knn": "10 nearest neighbours", "map": "mAP"}
TAGS = ["stochcon", "self-supervised-learning", "contrastive-learning", "binary-codes", "uncertainty"]


def to_hub(directory: Path | str, out: Path | str | None = None) -> Path:
    """A folder to upload to the Hub, by default hub/NAME for the run's NAME; `from_hub` loads it. Returns it.

    An earlier export there is replaced. Raises ValueError if the run is not finished, or if the folder
    holds something else.
    """
    directory = Path(directory)
    out = Path(out or Path("hub") / directory.resolve().name)
    model, config = load_model(directory)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; it must name a folder")
    for name in sorted({path.name for path in out.iterdir()} - FILES - GIT if out.is_dir() else ()):
        raise ValueError(f"{out} holds {name}, which is no part of a Hub folder: choose another --out")

    # where the images lay on this disk is nobody's business
    config = config.model_copy(update={"data": config.data.model_copy(update={"root": None})})
    scored = directory / runs.METRICS
    metrics = json.loads(scored.read_bytes()) if scored.is_file() else None
    weights = (directory / runs.MODEL).read_bytes()

    atomic.write(out / runs.MODEL, weights)
    atomic.write(out / CARD, card(out.resolve().name, model, config, metrics).encode())
    if metrics is None:
        (out / runs.METRICS).unlink(missing_ok=True)
    else:
        atomic.write_json(out / runs.METRICS, metrics)
    # last, as nothing loads a folder without it
    atomic.write(out / runs.CONFIG, (config.model_dump_json(indent=2) + "\n").encode())
    return out


def from_hub(name: Path | str) -> Encoder:
    """The encoder in a folder that `to_hub` wrote, or in a repository on the Hub.

    A repository is downloaded once; with HF_HUB_OFFLINE=1 in the environment, never. Raises ValueError if
    it cannot be had.
    """
    if Path(name).is_dir():
        return Encoder(name)
    try:
        return Encoder(snapshot_download(str(name), allow_patterns=[runs.MODEL, runs.CONFIG]))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{name} is no folder, and the Hub does not give it: {reason}") from None


def card(name: str, model: StochCon, config: Config, metrics: dict[str, float] | None) -> str:
    """The model card: a header for the Hub, then what it is, how to use it, whence it comes, and its limits.

    >>> text = card("mine", StochCon(Config()), Config(), metrics=None)
    >>> text.splitlines()[:3]
    ['---', 'library_name: stochcon', 'license: mit']
    """
    size = config.data.size
    about = f"""A network that turns an image into {_what(model, config)}, learned without labels by *Stochastic
        Contrastive Learning* (Ramapuram, Busbridge, Suau and Webb, 2021), in the implementation stochcon
        {version("stochcon")}. An image is cut to its largest centred square and brought to {size} × {size}
        pixels, {"in colour" if config.data.channels == 3 else "in grey"}."""
    header = ModelCardData(
        license="mit",
        library_name="stochcon",
        pipeline_tag="image-feature-extraction",
        tags=TAGS,
        datasets=[DATASETS[config.data.name]] if config.data.name in DATASETS else None,
        model_name=name,
        eval_results=_results(config, metrics),
    )
    return f"""---
{header.to_yaml()}
---

# {name}

{_paragraph(about)}

## How to use it

{_use(name, config)}

## Data

{_paragraph(_data(config) + " No label was used in training.")}

## Recipe

{_recipe(model, config)}

The whole configuration is `{runs.CONFIG}`.

## Metrics

{_metrics(metrics)}

## Limits

- It has seen the images above and nothing else, at {size} × {size} pixels. On other images its codes may be
  worth little: evaluate them on yours.
- What is smaller than a pixel at this size, or outside the centred square, is not in the code.
- Bits are not semantic labels. None was given a meaning, and one that seems to have a meaning on some images
  need not have it on others.
- The uncertainty is that of the model's own q(z|x). It is not the probability that a prediction is wrong.
- Codes of two models are not comparable, not even of two seeds of one recipe.

## Licence

MIT, as stochcon has it, unless the publisher of this folder says otherwise here and in the header. The images
that it was trained on have licences of their own.

## Citation

```bibtex
@inproceedings{{ramapuram2021stochastic,
  title     = {{Stochastic Contrastive Learning}},
  author    = {{Ramapuram, Jason and Busbridge, Dan and Suau, Xavier and Webb, Russ}},
  booktitle = {{2nd Workshop on Self-Supervised Learning: Theory and Practice (NeurIPS 2021)}},
  year      = {{2021}}
}}
```
"""


def _paragraph(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 110)


def _what(model: StochCon, config: Config) -> str:
    if config.latent.kind == "deterministic":
        return f"{backbones.width(model.backbone)} floats (the SimCLR twin of a StochCon)"
    of = "" if config.latent.kind == "bernoulli" else "the means and variances of a Gaussian latent, and "
    return f"{of}{model.latent.dim} bits with their uncertainty"


def _use(name: str, config: Config) -> str:
    if config.latent.kind == "deterministic":
        return f"""```python
import stochcon

model, config = stochcon.load_model("{name}")  # this folder
pixels = stochcon.load_data(config.data, "test").pixels  # or any uint8 (N, {config.data.channels}, S, S)
h = stochcon.extract(model, pixels, config.views).h
```"""
    return f"""```python
from pathlib import Path

import stochcon

encoder = stochcon.from_hub("{name}")  # this folder, or the id of its repository on the Hub
code = encoder.file(Path("picture.png"))
print(code.unpack(), code.uncertainty)  # the bits, and how many of them a sample from q(z|x) would flip
```

```sh
stochcon encode {name} my-pictures --out codes.parquet
stochcon search codes.parquet picture.png --run {name}
```"""


def _data(config: Config) -> str:
    if config.data.name == "folder":
        return "A folder of the publisher's own images, of which nothing is known here: describe them."
    described = (data.LISTS[config.data.name].__doc__ or "").strip()
    limit = f" Of the training images {config.data.limit:,} were used." if config.data.limit else ""
    held = "" if config.data.holdout else " The validation images were trained on too."
    return f"{described}{limit}{held}"


def _recipe(model: StochCon, config: Config) -> str:
    latent, views, optimizer = config.latent, config.views, config.optimizer
    parameters = sum(p.numel() for part in (model.backbone, model.pi) for p in part.parameters())
    width = f", width {config.backbone.width}" if config.backbone.name == "small" else ""
    rows = {
        "recipe": config.recipe,
        "network": f"{config.backbone.name}{width}, {config.backbone.stem} stem; {parameters:,} parameters",
        "latent": latent.kind,
    }
    if latent.kind != "deterministic":
        how = (
            ("hard" if latent.hard else "soft")
            if latent.kind == "bernoulli"
            else f"{latent.variance} variance"
        )
        rows["latent"] += f", {model.latent.dim} dimensions, {how}, in the {latent.placement} branch"
        rows["extensions"] = f"logit scale {latent.logit_scale:g}, decorrelation {latent.decorrelation:g}"
    local = f", {views.local_views} of {views.local_size}" if views.local_views else ""
    rows |= {
        "views": f"2 of {views.global_size} × {views.global_size} pixels{local}",
        "epochs": f"{config.epochs}, of batches of {config.batch_size}",
        "optimizer": f"{optimizer.name}, learning rate {optimizer.lr:g}, weight decay {optimizer.weight_decay:g}",
        "InfoNCE": f"temperature {config.temperature:g}",
        "seed": str(config.seed),
    }
    return _table(["setting", "value"], [[key, value] for key, value in rows.items()])


def _metrics(metrics: dict[str, float] | None) -> str:
    if metrics is None:
        return (
            "It has not been evaluated. `stochcon evaluate` on the run, then another export, fills this in."
        )
    measures = {key: head for key, head in MEASURES.items() if f"{key}.h" in metrics}
    rows = [
        [name, *(f"{metrics[f'{measure}.{key}']:.1f}" for measure in measures)]
        for key, name in NAMES.items()
        if f"knn.{key}" in metrics
    ]
    what = """In per cent on the test images, of this run alone: top-1 accuracy from the labels of the training
        images and, if measured, mAP of finding those of the same class. Codes of pixels, which need no network,
        are there for comparison."""
    return f"{_paragraph(what)}\n\n{_table(['representation', *measures.values()], rows)}"


def _results(config: Config, metrics: dict[str, float] | None) -> list[EvalResult] | None:
    """For the header: what the codes are worth, or the floats where there are no bits."""
    if metrics is None:
        return None
    best = "bits" if "knn.bits" in metrics else "h"
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=DATASETS.get(config.data.name, config.data.name),
            dataset_name=config.data.name,
            dataset_split="test",
            metric_type="accuracy",
            metric_name=f"{probe} top-1 on {best}, per cent",
            metric_value=metrics[f"{key}.{best}"],
        )
        for key, probe in {"linear": "linear probe", "knn": "kNN"}.items()
    ]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
