"""Codes of any number of bits that `rebit` learns on the h of a run: the fair rival, if the run is of SimCLR."""

import tempfile
from pathlib import Path

import torch

from stochcon import runs
from stochcon.data.sets import load_training
from stochcon.evaluation.baselines import Representation
from stochcon.evaluation.features import Features
from stochcon.method.model import StochCon
from stochcon.train.loop import launch
from stochcon.train.rebit import CALIBRATION_IMAGES, rebit_config, relearn, store


def learn_codes(run: Path | str, features: tuple[Features, Features], widths: list[int]) -> dict[int, Representation]:
    """Learn bits on the frozen h of a run at several widths, from views that are stored once.

    Args:
        run: The run, whose training images are read again.
        features: The run's features of the images to learn from and of those to classify.
        widths: Numbers of bits.
    """
    trained, config = runs.load_model(run)
    stored = store(trained, load_training(config.data), rebit_config(run))
    fabric, codes = launch(config.precision), {}
    for width in widths:
        wanted = rebit_config(run, **{"latent.dim": width})
        with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
            model = StochCon(wanted).to(fabric.device)
            relearn(model, stored, wanted, fabric, Path(folder), progress=False)
        model.cpu().eval()
        model.calibrate(features[0].h[:: -(-len(features[0].h) // CALIBRATION_IMAGES)])
        with torch.inference_mode():
            train, test = (model.latent.logits(model.pi(each.h)) > 0 for each in features)
        codes[width] = train, test
    return codes
