"""Codes that `rebit` learns on the h of a run: the fair rival of any code, if the run is of SimCLR."""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from stochcon import runs
from stochcon.data.sets import load_training
from stochcon.evaluation.baselines import Representation
from stochcon.evaluation.features import Features
from stochcon.method.model import StochCon
from stochcon.train.loop import launch
from stochcon.train.rebit import CALIBRATION_IMAGES, rebit_config, relearn, store


def learn_codes(
    run: Path | str, features: tuple[Features, Features], settings: Iterable[Mapping[str, Any]]
) -> list[Representation]:
    """Learn bits on the frozen h of a run under several settings, from views that are stored once.

    Args:
        run: The run, whose training images are read again.
        features: The run's features of the images to learn from and of those to classify.
        settings: Fields for `rebit_config`, such as {"latent.dim": 16}. Those of what is stored (`rebit.views`,
            `rebit.neighbours` and `rebit.images`) are the run's own.
    """
    trained, config = runs.load_model(run)
    fabric, codes = launch(config.precision), []
    some = features[0].h[:: -(-len(features[0].h) // CALIBRATION_IMAGES)]
    with torch.random.fork_rng([fabric.device] if fabric.device.type == "cuda" else []):
        stored = store(trained, load_training(config.data), rebit_config(run))
        for fields in settings:
            wanted = rebit_config(run, **fields)
            with tempfile.TemporaryDirectory() as folder:
                model = StochCon(wanted).to(fabric.device)
                relearn(model, stored, wanted, fabric, Path(folder), progress=False)
            model.cpu().eval().calibrate(some)
            with torch.inference_mode():
                train, test = (model.latent.logits(model.pi(each.h)) > 0 for each in features)
            codes.append((train, test))
    return codes


def learn_widths(run: Path | str, features: tuple[Features, Features], widths: list[int]) -> dict[int, Representation]:
    """Learn bits at several widths; see `learn_codes`."""
    return dict(zip(widths, learn_codes(run, features, [{"latent.dim": width} for width in widths]), strict=True))
