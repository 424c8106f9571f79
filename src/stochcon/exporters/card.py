"""The model card of a finished run. Its text is in model_card.md, a jinja template beside this file."""

from __future__ import annotations

from importlib.metadata import version
from importlib.resources import files

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from stochcon.config import Config
from stochcon.data import sets
from stochcon.evaluation.evaluate import table
from stochcon.method import backbones
from stochcon.method.model import StochCon
from stochcon.report import markdown

ON_HUB = {"fashion-mnist": "zalando-datasets/fashion_mnist", "cifar10": "uoft-cs/cifar10"}
"""The names that data sets have on the Hub."""
TAGS = ["stochcon", "self-supervised-learning", "contrastive-learning", "binary-codes", "uncertainty"]


def model_card(name: str, model: StochCon, config: Config, metrics: dict[str, float]) -> str:
    r"""Write the model card, with a header that the Hub reads. It names no licence: that is the publisher's.

    Args:
        name: The name of the folder.
        model: The model.
        config: The configuration of the run.
        metrics: The result of `stochcon.evaluate`; empty if it was not evaluated.

    Example:
        >>> model_card("mine", StochCon(Config()), Config(), metrics={}).split("\n\n")[1]
        '# mine'
    """
    best = "bits" if "knn.bits" in metrics else "h"
    data = ON_HUB.get(config.data.name, config.data.name)
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=data,
            dataset_name=config.data.name,
            dataset_split="test",
            metric_type="accuracy",
            metric_name=f"{probe} top-1 on {best}, per cent",
            metric_value=metrics[f"{measure}.{best}"],
        )
        for measure, probe in (("linear", "linear probe"), ("knn", "kNN"))
        if metrics
    ]
    header = ModelCardData(
        library_name="stochcon",
        pipeline_tag="image-feature-extraction",
        tags=TAGS,
        datasets=[data] if config.data.name in ON_HUB else None,
        model_name=name,
        eval_results=results or None,
    )
    card = ModelCard.from_template(
        header,
        template_str=files("stochcon.exporters").joinpath("model_card.md").read_text(encoding="utf-8"),
        name=name,
        version=version("stochcon"),
        config=config,
        latent=model.latent,
        width=backbones.width(model.backbone),
        parameters=sum(p.numel() for part in (model.backbone, model.pi) for p in part.parameters()),
        description=_described(config.data.name),
        scores=markdown(table(metrics)) if metrics else "",
    )
    return f"{card}\n"


def _described(name: str) -> str:
    """Say what a data set is, from the docstring of its list; nothing is known of a folder."""
    return "" if name == "folder" else " ".join((sets.LISTS[name].__doc__ or "").split())
