"""Pretraining without labels: Algorithm 1 over multi-crops of images, step after step."""

import math
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule
from torch import Tensor

from stochcon import runs
from stochcon.config import Config
from stochcon.data.sets import listed, load_training
from stochcon.data.training_images import TrainingImages
from stochcon.method.algorithm1 import Algorithm1, Objective
from stochcon.method.model import StochCon
from stochcon.parallel import rank, restarted, synchronise_batch_norm, world_size
from stochcon.recipebook import before_rebit
from stochcon.train import gradcache, loggers, monitor, picture
from stochcon.train.check import nothing_learned
from stochcon.train.loop import Loop, Schedule, build_optimizer, cosine, derive_seed, launch, warmup_cosine
from stochcon.train.objective import build_objective
from stochcon.train.rebit import finish, relearn, store, successor
from stochcon.views import eval_view, make_views

INITIAL_IMAGES = 256
TIMED = 64  # images


def pretrain(
    config: Config,
    out: Path | str,
    *,
    images: TrainingImages | None = None,
    resume: bool = False,
    progress: bool = True,
    observe: Callable[[int, StochCon], None] | None = None,
    watch: bool = True,
    logger: loggers.Name | None = None,
) -> Path:
    """Train a model as the configuration says, and leave it in a run directory.

    Args:
        config: The whole configuration.
        out: The run directory.
        images: The images to train on; by default those of the configuration.
        resume: Go on from the last checkpoint of an interrupted run, to the same bits. It does so by itself when
            torchrun has restarted the processes.
        progress: Whether to show a progress bar.
        observe: Is called after every step with the number of steps done and the model, and leaves both as they are.
        watch: Whether to look at the model at about 15 moments (`monitor.look`), which changes nothing in it. The
            log has what is seen, and training.png shows it.
        logger: Where the lines of the log go too: "tensorboard", "wandb" or "trackio".

    Returns:
        The run directory.

    Raises:
        ValueError: If the configuration cannot work.
        FloatingPointError: With the step, when the loss is no longer finite; the last checkpoint is still there.

    Example:
        >>> import tempfile
        >>> from stochcon import recipe
        >>> run = pretrain(recipe("digits", epochs=1, rebit={"steps": 0}), tempfile.mkdtemp() + "/run", progress=False)
        >>> sorted(path.name for path in run.iterdir())
        ['checkpoint', 'config.json', 'log.jsonl', 'model.safetensors', 'training.png']
    """
    out = Path(out)
    resume = resume or (restarted() and runs.holds(out, config))
    loggers.refuse_missing(logger)
    fabric = launch(config.precision)
    given = images.sources if images else None
    images = load_training(config.data) if images is None else images
    schedule = _schedule(len(images), config)
    watched = monitor.load_watched(config, schedule, given) if watch and rank() == 0 else None
    first = before_rebit(config)
    interval, chance = monitor.interval(schedule), nothing_learned(first)
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices):  # the caller's generators stay as they are
        torch.manual_seed(derive_seed(config.seed))
        model = Algorithm1(first).to(memory_format=torch.channels_last).to(fabric.device)
        if config.sync_batch_norm and world_size() > 1:
            synchronise_batch_norm(model)
        if config.latent.initial_spread:
            (some,) = images.batches([torch.arange(0, len(images), math.ceil(len(images) / INITIAL_IMAGES))])
            model.initialise(eval_view(some.to(fabric.device), config.views))
        if config.compile:
            model.backbone.compile()
        network, optimizer = fabric.setup(model, build_optimizer(model, config.optimizer))
        if rank() == 0 and not resume:
            runs.create(out, config)
        fabric.barrier()
        images.report(out / runs.SKIPPED)

        steps, warmup = schedule.steps, round(config.optimizer.warmup * schedule.per_epoch)
        advice = (
            "try a lower --optimizer.lr or a longer --optimizer.warmup; the last checkpoint, if there is one, is kept"
        )
        about = {"digest": images.digest, "title": config.recipe, "advice": advice}
        loop = Loop(model, optimizer, out, schedule, **about, progress=progress)
        with loggers.opened(logger if rank() == 0 else None, out, config, loop.done) as loop.logger:
            for step, x in loop.steps(images.batches, lambda t: warmup_cosine(t, steps, warmup, config.optimizer.lr)):
                relaxation = cosine(step, steps, *config.latent.temperature)
                optimizer.zero_grad()
                loss, details = backward(fabric, network, x.to(fabric.device), step, relaxation, first)
                optimizer.step()
                if observe:
                    observe(step + 1, model)
                if watched and schedule.due(step + 1, interval):
                    seen = monitor.look(model, watched, first)
                    short = (f", {word} {seen[name]:.0f}" for name, word in monitor.IN_SHORT.items() if seen.get(name))
                    loop.note = "".join(short)
                    details |= seen | {"chance": chance}
                if loop.record(loss, relaxation=relaxation, **details):
                    images.report(out / runs.SKIPPED)
        if first != config:
            model = successor(model, config, fabric)
        if config.rebit.steps and model.latent.has_code:
            relearn(model, store(model, images, config), config, fabric, out, progress)
        finish(model, images, config, out)
        if watched:
            picture.draw(out)
        fabric.barrier()
    return out


def backward(
    fabric: Fabric, network: _FabricModule, images: Tensor, step: int, relaxation: float, config: Config
) -> tuple[Tensor, dict[str, float | Tensor]]:
    """Add the gradient of one step on this process's uint8 images (N, C, S, S) to the parameters.

    Returns the loss, and what the log has beside it; see `build_objective`.
    """
    model = network.module
    assert isinstance(model, StochCon)
    details = dict[str, float | Tensor]()
    objective = build_objective(config, model.latent, details)

    def branches(k: int) -> tuple[Tensor, Tensor]:
        # Seeded here, so that a chunk that passes twice has the same views and the same noise.
        torch.manual_seed(derive_seed(config.seed, step, rank(), *([k] if config.chunk else [])))
        top, bottom = make_views(chunks[k], config.views)
        if not len(bottom):  # no multi-crop: the two global views are the branches
            top, bottom = top.split(1)
        return (bottom, top) if config.latent.placement == "top" else (top, bottom)

    def run(k: int, objective: Objective) -> Tensor:
        loss: Tensor = network(*branches(k), relaxation, objective)
        return loss

    chunks = images.split(config.chunk or len(images))
    if config.chunk:
        return gradcache.backward(fabric, network, run, len(chunks), objective), details
    loss = network(*branches(0), relaxation, objective)
    fabric.backward(loss)
    return loss.detach(), details


def plan(config: Config) -> str:
    """Say how long a training will be. A step is timed on noise, with TIMED images."""
    images = len(listed(config.data, "train")[1])
    schedule = _schedule(images, config)
    fabric = launch(config.precision)
    some = torch.randint(
        256,
        (min(TIMED, config.batch_size), config.data.channels, config.data.size, config.data.size),
        dtype=torch.uint8,
    )
    with torch.random.fork_rng([fabric.device] if fabric.device.type == "cuda" else []):
        first = before_rebit(config)
        network = fabric.setup(Algorithm1(first).to(memory_format=torch.channels_last))
        times = []
        for _ in range(4):  # the least, since the first includes preparations, and others may be disturbed
            began = perf_counter()
            float(backward(fabric, network, some.to(fabric.device), 0, 1.0, first)[0])
            times.append(perf_counter() - began)
    seconds = min(times) / len(some)  # of an image, with its gradient
    rebit = min(images, config.rebit.images) * (config.rebit.views + 1) / 6 if config.rebit.steps else 0
    minutes = max(1, round(seconds * (schedule.steps * schedule.batch_size + rebit) / world_size() / 60))
    size = f"{schedule.epochs:,} epochs, {schedule.steps:,} steps of {schedule.batch_size:,} images"
    return f"{size}: about {minutes:,} minute{'s' * (minutes > 1)} on this machine's {fabric.device.type.upper()}"


def _schedule(images: int, config: Config) -> Schedule:
    world, batch_size = world_size(), config.batch_size
    if batch_size > images:
        raise ValueError(f"batch_size is {batch_size}, but there are only {images} training images: use at most that")
    if batch_size % world or batch_size < 2 * world:
        raise ValueError(f"batch_size is {batch_size}; it must be a multiple of the {world} processes, at least 2 each")
    if config.chunk and batch_size // world % config.chunk:
        raise ValueError(
            f"chunk is {config.chunk}; it must divide the {batch_size // world} images a step of each process"
        )
    epochs = max(config.epochs, math.ceil(config.min_steps / (images // batch_size)))
    return Schedule(images, batch_size, epochs, config.seed, config.log_every, config.checkpoint_every)
