"""What the monitors cost: python -m benchmarks.monitors digits 10 takes the recipe and a number of epochs."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.measure import Row
from stochcon.config import Config
from stochcon.data.sets import load_training
from stochcon.method.model import StochCon
from stochcon.recipebook import recipe
from stochcon.train import monitor, picture
from stochcon.train.loop import Schedule
from stochcon.train.pretrain import pretrain


def measure(config: Config) -> Row:
    """Take the processor seconds of each part within one training, since two trainings differ by more than that."""
    images, now = load_training(config.data), time.process_time
    schedule = Schedule(len(images), config.batch_size, config.epochs, config.seed, config.log_every, 100)
    start = now()
    watched = monitor.load_watched(config, schedule)
    reading, looking = now() - start, 0.0

    def observe(done: int, model: StochCon) -> None:
        nonlocal looking
        if schedule.due(done, monitor.interval(schedule)):
            start = now()
            monitor.look(model, watched, config)
            looking += now() - start

    with tempfile.TemporaryDirectory() as folder:
        start = now()
        run = pretrain(config, Path(folder) / "run", images=images, progress=False, observe=observe, watch=False)
        training = now() - start - looking
        start = now()
        picture.draw(run)
        drawing = now() - start
    share = f"{100 * (reading + looking) / training:.1f} %"
    seconds = {"training": training, "reading": reading, "looking": looking, "drawing": drawing}
    return {"images": len(watched.pixels), "share": share} | {name: round(x, 2) for name, x in seconds.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    name, epochs = sys.argv[1:]
    print(measure(recipe(name, epochs=int(epochs), rebit={"steps": 0})))
