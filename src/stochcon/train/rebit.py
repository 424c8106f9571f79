"""Rebit (extension): π learns the code again from the frozen h of stored views, so that its distance ranks as h does.

Equation 1 is taken on the samples of q(z|x) themselves, without ρ and g. A few views of every image pass through the
network once; to train a linear π on them is a matter of seconds.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from stochcon import runs
from stochcon.config import Config, Latent, changes
from stochcon.data.sets import load_training
from stochcon.data.training_images import TrainingImages
from stochcon.method.algorithm1 import Algorithm1
from stochcon.method.latents import LATENTS
from stochcon.method.model import StochCon
from stochcon.method.objective import decorrelation, info_nce
from stochcon.parallel import rank, synchronise_batch_norm, world_size
from stochcon.recipebook import changed, spread_bits
from stochcon.train.loop import Loop, Schedule, build_optimizer, cosine, derive_seed, launch, warmup_cosine
from stochcon.views import eval_view, make_views

CALIBRATION_IMAGES = 20_000
DIRECTORY = "rebit"
MAY_DIFFER = "latent", "rebit", "seed", "log_every", "checkpoint_every"
STEPS = 1000
WARMUP = 20


def rebit(
    run: Path | str,
    out: Path | str,
    config: Config | None = None,
    *,
    images: TrainingImages | None = None,
    progress: bool = True,
) -> Path:
    """Learn the code of a finished run again on its frozen h: other numbers of bits, another objective, in a minute.

    Args:
        run: The directory of any finished run, of SimCLR too.
        out: The directory of the new run, which is like any other. One that was interrupted goes on.
        config: The new configuration, which differs from the run's in `latent`, `rebit` and `seed` alone; by default
            that of `rebit_config`.
        images: The images to train on; by default those of the configuration.
        progress: Whether to show a progress bar.

    Returns:
        The directory of the new run.

    Raises:
        ValueError: If the run is not finished, if anything else differs, or if `out` holds another run.

    Example:
        >>> import tempfile
        >>> from stochcon import load_model, pretrain, recipe
        >>> folder = Path(tempfile.mkdtemp())
        >>> run = pretrain(recipe("digits", epochs=1), folder / "run", progress=False)
        >>> shorter = rebit_config(run, **{"latent.dim": 8, "rebit.steps": 9})
        >>> load_model(rebit(run, folder / "short", shorter, progress=False))[0].latent
        Bernoulli(dim=8, hard=False)
    """
    out = Path(out)
    config = rebit_config(run) if config is None else config
    trained, old = runs.load_model(run)
    for field, (before, after) in changes(old, config).items():
        if field.split(".")[0] not in MAY_DIFFER:
            raise ValueError(f"rebit cannot change {field} from {before} to {after}: the network stays as it is")
    if not config.rebit.steps or not LATENTS[config.latent.kind].has_code:
        raise ValueError("rebit needs rebit.steps and a latent with a code, such as --latent.kind bernoulli")
    fabric = launch(config.precision)
    if rank() == 0 and (not runs.holds(out, config) or (out / runs.MODEL).exists()):
        runs.create(out, config)
    fabric.barrier()
    images = load_training(config.data) if images is None else images
    with torch.random.fork_rng([fabric.device] if fabric.device.type == "cuda" else []):
        model = successor(trained, config, fabric)
        relearn(model, store(model, images, config), config, fabric, out, progress)
        finish(model, images, config, out)
    fabric.barrier()
    return out


def rebit_config(run: Path | str, **fields: Any) -> Config:
    """Configure `rebit` for a run: the run's configuration with STEPS steps, and with bits if it has no code.

    Args:
        run: The directory of the run.
        fields: New values, named as for `recipe`.

    Raises:
        ValueError: If there is no run, or a value is not right.
    """
    config = runs.read_config(Path(run))
    latent = config.latent if LATENTS[config.latent.kind].has_code else spread_bits(config.latent.dim or 64)
    return changed(config, {"latent": latent, "rebit.steps": config.rebit.steps or STEPS} | fields)


def successor(trained: StochCon, config: Config, fabric: Fabric) -> Algorithm1:
    """Make a new model as configured, but with the backbone of one that is trained."""
    torch.manual_seed(derive_seed(config.seed))
    model = Algorithm1(config).to(memory_format=torch.channels_last).to(fabric.device)
    model.backbone.load_state_dict(trained.backbone.state_dict())
    if config.sync_batch_norm and world_size() > 1:
        synchronise_batch_norm(model)
    return model


class Code(nn.Module):
    """π and the latent alone: h of a pair of views (2, N, H) to centred samples (2, N, D) and logits (2, N, D)."""

    def __init__(self, model: StochCon, options: Latent):
        super().__init__()
        self.pi, self.latent = model.pi, type(model.latent)(model.latent.dim, options)

    def forward(self, h: Tensor, relaxation: float) -> tuple[Tensor, Tensor]:
        """Draw a sample of every view; a latent that reads the opposing view has the other one of the pair."""
        phi = self.pi(h.flatten(0, 1)).unflatten(0, h.shape[:2])
        z = self.latent(phi, phi.flip(0), relaxation).rsample()
        return self.latent.centred(z), self.latent.logits(phi)


class Stored(NamedTuple):
    """The frozen features that π learns from."""

    views: Tensor
    """h of K random global views of N images, (K, N, H), in half precision."""
    near: Tensor
    """For each image, those whose h is nearest, or itself: indices (N, k)."""
    digest: str
    """Says from which images they are."""


def relearn(
    model: StochCon, stored: Stored, config: Config, fabric: Fabric, directory: Path, progress: bool = True
) -> None:
    """Train the π of a model again.

    Args:
        model: The model, on its device.
        stored: What `store` made of the model.
        config: The configuration, of which `rebit` and `latent` say how.
        fabric: The processes. Each of them has all that is stored, and trains on its share of every batch.
        directory: The run, in which a folder of its own receives the checkpoint and the log.
        progress: Whether to show a progress bar.
    """
    options, count = config.rebit, len(stored.near)
    batch_size = min(options.batch_size, count) // world_size() * world_size()
    epochs = math.ceil(options.steps / (count // batch_size))
    schedule = Schedule(count, batch_size, epochs, config.seed, config.log_every, config.checkpoint_every)
    torch.manual_seed(derive_seed(config.seed, *b"rebit"))
    for module in model.pi.modules():
        if isinstance(module, nn.Linear | nn.modules.batchnorm._BatchNorm):
            module.reset_parameters()
    code = Code(model, config.latent.model_copy(update={"hard": options.hard}))
    network, optimizer = fabric.setup(code, build_optimizer(code, config.optimizer))
    about = {"digest": stored.digest, "title": f"{model.latent.dim} bits", "advice": "try a lower --rebit.lr"}
    loop = Loop(code, optimizer, directory / DIRECTORY, schedule, **about, progress=progress)
    for step, i in loop.steps(iter, lambda t: warmup_cosine(t, schedule.steps, WARMUP, options.lr)):
        torch.manual_seed(derive_seed(config.seed, step, rank(), *b"rebit"))
        h = _pairs(stored, i).to(next(code.parameters()))
        optimizer.zero_grad()
        c, logits = network(h, cosine(step, schedule.steps, *config.latent.temperature))
        loss = info_nce(c[0], c[1], options.temperature)
        if options.decorrelation:
            loss = loss + options.decorrelation * decorrelation(logits)
        fabric.backward(loss)
        optimizer.step()
        loop.record(loss)


@torch.no_grad()
def finish(model: StochCon, images: TrainingImages, config: Config, directory: Path) -> None:
    """Set the thresholds of bits by plain training images, at most CALIBRATION_IMAGES, and write the weights."""
    if rank() == 0:
        model.eval()
        chosen = torch.arange(0, len(images), math.ceil(len(images) / CALIBRATION_IMAGES))
        weight = next(model.parameters())
        batches = (batch.to(weight.device) for batch in images.batches(chosen.split(512)))
        model.calibrate(torch.cat([model.backbone(eval_view(batch, config.views).to(weight)) for batch in batches]))
        runs.write_tensors(directory / runs.MODEL, model.state_dict())
        model.train()


@torch.inference_mode()
def store(model: StochCon, images: TrainingImages, config: Config) -> Stored:
    """Compute what π learns from, as `rebit` says, of at most `rebit.images` training images."""
    options, weight, training = config.rebit, next(model.parameters()), model.training
    crops = config.views.model_copy(update={"local_views": 0})
    chosen = torch.arange(0, len(images), math.ceil(len(images) / options.images))
    torch.manual_seed(derive_seed(config.seed, *b"views"))
    plain, views = [], []
    model.eval()
    for batch in images.batches(chosen.split(256)):
        x = batch.to(weight.device)
        pairs = [make_views(x, crops)[0] for _ in range(math.ceil(options.views / 2))]
        views.append(model.f(torch.cat(pairs)[: options.views].to(weight))[0].half().cpu())
        plain.append(model.backbone(eval_view(x, config.views).to(weight)).float().cpu())
    model.train(training)
    near = neighbours(torch.cat(plain), options.neighbours) if options.neighbours else chosen.argsort()[:, None]
    return Stored(torch.cat(views, dim=1), near, images.digest)


def neighbours(h: Tensor, k: int) -> Tensor:
    """Find the k images with the nearest h (N, H), by cosine about the mean, beside the image itself: (N, k)."""
    k = min(k, len(h) - 1)
    h = F.normalize(h - h.mean(0))
    index = faiss.IndexFlatIP(h.shape[1])
    index.add(h.numpy())
    found = torch.from_numpy(index.search(h.numpy(), k + 1)[1])
    others = found != torch.arange(len(h))[:, None]
    others[others.all(1), -1] = False  # an image that has more than k copies
    return found[others].view(len(h), k)


def _pairs(stored: Stored, i: Tensor) -> Tensor:
    """Draw a view of each image i and another of its positive: (2, N, H)."""
    views, near, _ = stored
    j = near[i, torch.randint(near.shape[1], i.shape)]
    k = torch.randint(len(views), i.shape)
    other = (k + torch.randint(1, len(views), i.shape)) % len(views)
    return torch.stack([views[k, i], views[other, j]])
