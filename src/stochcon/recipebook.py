"""Named configurations. Each is a function headed by its command, its cost and what was measured."""

from collections.abc import Callable, Mapping
from inspect import getdoc
from typing import Any

from pydantic import BaseModel, ValidationError

from stochcon.config import Backbone, Config, Data, Head, Latent, Optimizer, Rebit, Views, explain


def photographs() -> Config:
    """18 photographs, 32 x 32 patches: 64 bits.

    stochcon pretrain photographs
    10 minutes of one core. Test, 3 seeds, 2026-11-24: kNN 87.3, mAP 71.5 on the bits.
    """
    return Config(
        recipe="photographs",
        data=Data(name="photographs"),
        views=Views(local_views=4, brightness=0.1, contrast=0.1, saturation=0.1, hue=0.02, grey=0, solarize=(0, 0, 0)),
        backbone=Backbone(name="small", width=16),
        latent=spread_bits(64),
        rebit=Rebit(steps=1000, alone=True),
        epochs=34,
    )


def digits() -> Config:
    """scikit-learn's 1,797 digits, 8 x 8, unflipped: 16 bits.

    stochcon pretrain digits
    28 seconds of one core. Test, seed 0, 2026-11-24: linear 96.9, kNN 96.7, mAP 84.0 on the bits.
    """
    return Config(
        recipe="digits",
        data=Data(name="digits", size=16, channels=1),
        views=Views(
            global_size=16,
            local_size=8,
            local_views=0,
            global_scale=(0.6, 1.0),
            flip=0,
            grey=0,
            solarize=(0, 0, 0),
            mean=(0.3,),
            std=(0.37,),
        ),
        backbone=Backbone(name="small", width=16),
        latent=spread_bits(16),
        rebit=Rebit(steps=1000),
        head=Head(hidden=256, dim=64),
        batch_size=128,
        epochs=60,
    )


def fashion_mnist() -> Config:
    """Fashion-MNIST, all 60,000 training images of 28 x 28: 256 bits.

    stochcon pretrain fashion-mnist
    14 minutes of one core. Test, 3 seeds, 2026-11-24: kNN 82.6, mAP 55.6 on the bits.
    """
    return Config(
        recipe="fashion-mnist",
        data=Data(name="fashion-mnist", size=28, channels=1, holdout=False),
        views=Views(
            global_size=28,
            local_size=16,
            local_views=0,
            global_scale=(0.6, 1.0),
            jitter=0.5,
            blur=(0, 0, 0),
            solarize=(0, 0, 0),
            mean=(0.286,),
            std=(0.353,),
        ),
        backbone=Backbone(name="small", width=16),
        latent=spread_bits(256),
        rebit=Rebit(steps=1000, alone=True, temperature=0.4, decorrelation=0.02),
        epochs=30,
    )


def cifar10() -> Config:
    """CIFAR-10 as the paper has it: ResNet-50, batch 4096, LARS, 2 + 8 views. For GPUs; not run here.

    stochcon pretrain cifar10
    """
    return Config(
        recipe="cifar10",
        data=Data(name="cifar10"),
        views=Views(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
        backbone=Backbone(name="resnet50"),
        head=Head(hidden=2048, dim=128),
        optimizer=Optimizer(name="lars", lr=4.8, weight_decay=1e-6, warmup=10),
        batch_size=4096,
        epochs=1000,
    )


def folder() -> Config:
    """Any folder of images, with or without class folders: 64 bits of 64 x 64 pixels.

    stochcon pretrain DIR, which is short for stochcon pretrain folder --data.root DIR
    About 6 minutes of one core for some thousands of images.
    """
    return Config(
        recipe="folder",
        data=Data(name="folder", size=64),
        views=Views(
            global_size=64,
            local_views=0,
            flip=0,
            saturation=0.4,
            blur=(0.5, 0.5, 0),
            blur_sigma=(0.1, 4),
            solarize=(0, 0, 0),
        ),
        backbone=Backbone(name="small", width=16, pool=2),
        latent=spread_bits(64),
        rebit=Rebit(steps=1000, alone=True, neighbours=0, temperature=0.1, decorrelation=0.2),
        epochs=10,
        min_steps=600,
    )


def spread_bits(dim: int) -> Latent:
    """A relaxed Bernoulli latent on the global views, with our two extensions that make use of every bit."""
    return Latent(kind="bernoulli", dim=dim, placement="top", hard=False, logit_scale=4, decorrelation=0.05)


def simclr(config: Config) -> Config:
    """Configure SimCLR with the same network, views and budget: the deterministic latent."""
    return changed(config, {"latent.kind": "deterministic"})


def before_rebit(config: Config) -> Config:
    """Configure the first part of a training: SimCLR, if the latent is learned in the last part alone."""
    return simclr(config) if config.rebit.alone and config.rebit.steps else config


RECIPES: dict[str, Callable[[], Config]] = {
    "photographs": photographs,
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
    "folder": folder,
}


def recipe(name: str, /, **changes: Any) -> Config:
    """Make the configuration of a recipe, with any fields changed.

    Args:
        name: One of the recipes that `recipes` lists.
        changes: New values by field: `epochs=2`, `latent={"dim": 64}`, or `**{"latent.dim": 64}`.

    Returns:
        The validated configuration.

    Raises:
        ValueError: If there is no such recipe or no such field, or if a value is not right.

    Example:
        >>> recipe("digits", epochs=2, latent={"dim": 64}).latent.dim
        64
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}")
    return changed(RECIPES[name](), changes)


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """Change fields of a configuration, named as for `recipe`, and validate all of it again."""
    values = config.model_dump()
    _merge(values, changes)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ValueError(explain(error)) from None


def suited(config: Config, images: int, grey: bool) -> tuple[Config, list[str]]:
    """Change the recipe for folders as its training images want it, and say why; options still come after it."""
    fields: dict[str, Any] = {}
    reasons = []
    if images < config.batch_size:
        fields["batch_size"] = max(2, images)
        reasons.append(f"--batch-size {images}, since there are no more images to train on")
    if grey and config.data.channels == 3:
        fields |= {"data.channels": 1, "views.mean": config.views.mean[:1], "views.std": config.views.std[:1]}
        reasons.append("--data.channels 1, since all images that were opened are grey")
    return changed(config, fields), reasons


def _merge(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        group, dot, field = name.partition(".")
        if dot:
            name, value = group, {field: value}
        elif isinstance(value, BaseModel):
            value = value.model_dump()
        if isinstance(value, Mapping) and isinstance(values.get(name), dict):
            _merge(values[name], value)
        else:
            values[name] = value


def recipes() -> dict[str, str]:
    """List the recipes.

    Returns:
        By the name of each recipe: what it is, its command, its cost and what was measured.

    Example:
        >>> print(recipes()["cifar10"].splitlines()[0])
        CIFAR-10 as the paper has it: ResNet-50, batch 4096, LARS, 2 + 8 views. For GPUs; not run here.
    """
    return {name: getdoc(function) or "" for name, function in RECIPES.items()}
