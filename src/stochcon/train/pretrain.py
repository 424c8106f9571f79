"""Algorithm 1: pretraining without labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule
from torch import Tensor, nn

from stochcon import runs
from stochcon.config import Config
from stochcon.data import sets as data
from stochcon.data.loading import Canvases
from stochcon.method.model import Embedded, Standardised, StochCon
from stochcon.method.objective import decorrelation, multi_crop_info_nce
from stochcon.method.views import eval_view, make_views
from stochcon.parallel import everyones, rank, restarted, synchronise_batch_norm, world_size
from stochcon.train import gradcache as cached
from stochcon.train import loop as training


def loss(embedded: Embedded, config: Config) -> Tensor:
    """Equation 1 over every pair of views, and the extension's term where it is asked for."""
    total = multi_crop_info_nce(embedded.top, embedded.bottom, config.temperature)
    if config.latent.decorrelation and config.latent.kind != "deterministic":
        total = total + config.latent.decorrelation * decorrelation(embedded.logits)
    return total


def backward(
    fabric: Fabric, network: _FabricModule, images: Tensor, step: int, relaxation: float, config: Config
) -> tuple[Tensor, Embedded]:
    """The gradients of a step on this process's uint8 images (N, C, H, W), its loss, and the embeddings."""
    parts = images.split(config.chunk or len(images))

    def embed(k: int) -> Embedded:
        # Seeded here, so that a chunk that passes twice has the same views and the same noise.
        torch.manual_seed(training.number(config.seed, step, rank(), *([k] if config.chunk else [])))
        embedded: Embedded = network(*make_views(parts[k], config.views), relaxation)
        return embedded

    if config.chunk:
        exact = config.chunk_batch_norm == "exact"
        return cached.backward(fabric, network, embed, len(parts), lambda x: loss(x, config), exact)
    embedded = embed(0)
    value = loss(embedded, config)
    fabric.backward(value)
    return value.detach(), embedded


def pretrain(
    config: Config,
    out: Path | str,
    *,
    images: Canvases | None = None,
    resume: bool = False,
    progress: bool = True,
    observe: Callable[[int, StochCon], None] | None = None,
) -> Path:
    """Train a model as the configuration says and leave it in the directory `out`; returns that directory.

    images: what to train on; by default those of the configuration. observe: called after every step with the
    number of steps done and the model; it must leave both as they are.

    With resume, or when torchrun has restarted the processes, go on from the last checkpoint of a run that
    was interrupted; the result has the same bits. Raises ValueError for a configuration that cannot work and
    FloatingPointError, with the step, when the loss is no longer finite; the last checkpoint is then still there.

    >>> import tempfile
    >>> from stochcon import recipebook as recipes
    >>> tiny = recipes.digits().model_copy(update={"epochs": 1})
    >>> run = pretrain(tiny, tempfile.mkdtemp() + "/run", progress=False)
    >>> sorted(path.name for path in run.iterdir())
    ['checkpoint', 'config.json', 'log.jsonl', 'model.safetensors']
    """
    out = Path(out)
    resume = resume or (restarted() and runs.holds(out, config))
    fabric = training.launch(config.precision)
    images = data.load_training(config.data) if images is None else images
    per_epoch = _steps_per_epoch(len(images), config)
    steps = per_epoch * config.epochs

    torch.manual_seed(training.number(config.seed))
    model = StochCon(config).to(memory_format=torch.channels_last).to(fabric.device)
    if config.sync_batch_norm and world_size() > 1:
        synchronise_batch_norm(model)
    if config.compile:
        model.backbone.compile()
    optimizer = training.build_optimizer(model, config.optimizer)
    network, optimizer = fabric.setup(model, optimizer)

    checkpoint = out / runs.CHECKPOINT
    start = 0
    if resume and checkpoint.exists():
        start = training.load_checkpoint(checkpoint, model, optimizer, images.digest)
    if len(set(everyones((start, images.digest)))) > 1:
        raise ValueError(
            f"the processes see different images, or not the same {out}: all must share the files"
        )
    if rank() == 0 and not resume:
        runs.create(out, config)
    images.report(out / runs.SKIPPED)

    mine = training.share(config.batch_size)
    warmup = round(config.optimizer.warmup * per_epoch)
    order = training.batches(len(images), config.batch_size, config.seed, start, steps)
    advice = "try a lower --optimizer.lr or a longer --optimizer.warmup; the last checkpoint is kept"
    with training.Journal(
        out, config.recipe, start, steps, per_epoch, config.batch_size, progress, advice
    ) as journal:
        for step, x in enumerate(images.batches(indices[mine] for indices in order), start):
            relaxation = training.cosine(step, steps, *config.latent.temperature)
            lr = training.warmup_cosine(step, steps, warmup, config.optimizer.lr)
            for group in optimizer.param_groups:
                group["lr"] = lr

            optimizer.zero_grad()
            value, embedded = backward(fabric, network, x.to(fabric.device), step, relaxation, config)
            optimizer.step()

            journal.add(value)
            done = step + 1
            if observe:
                observe(done, model)
            if training.due(done, steps, config.log_every, config.checkpoint_every):
                journal.write(done, {"lr": lr, "relaxation": relaxation} | _active(model, embedded))
            if training.due(done, steps, config.checkpoint_every):
                if rank() == 0:
                    training.save_checkpoint(checkpoint, done, model, optimizer, images.digest)
                images.report(out / runs.SKIPPED)
    if rank() == 0:
        calibrate(model, images, config)
        runs.write_tensors(out / runs.MODEL, model.state_dict())
    fabric.barrier()
    return out


CALIBRATION_IMAGES = 20_000


@torch.no_grad()
def calibrate(model: StochCon, images: Canvases, config: Config) -> None:
    """Thresholds of bits, measured on plain images instead of views, since codes are made of plain images.

    Extension: the standardised logits' running statistics become those of these images. And where a
    Gaussian's mean is 0 is arbitrary, as rho's bias undoes any shift: so its zero becomes the images' mean,
    which changes nothing but the signs.
    """
    gaussian = config.latent.kind == "gaussian" and isinstance(model.pi, nn.Linear)
    if not gaussian and not isinstance(model.pi, Standardised):
        return
    model.eval()
    device = next(model.parameters()).device
    step = -(-len(images) // CALIBRATION_IMAGES)
    pi = model.pi.linear if isinstance(model.pi, Standardised) else model.pi
    some = images.batches(torch.arange(0, len(images), step).split(512))
    phi = torch.cat([pi(model.backbone(eval_view(batch.to(device), config.views))) for batch in some])
    if isinstance(model.pi, Standardised):
        model.pi.set_statistics(phi)
    else:
        model.centre(phi.mean(0)[: model.latent.dim])
    model.train()


def _steps_per_epoch(images: int, config: Config) -> int:
    if config.batch_size > images:
        raise ValueError(
            f"batch_size is {config.batch_size}, but there are only {images} training images: use at most that"
        )
    if config.batch_size % world_size() or config.batch_size < 2 * world_size():
        raise ValueError(
            f"batch_size is {config.batch_size}; it must be a multiple of the {world_size()} processes, at least 2 each"
        )
    share = config.batch_size // world_size()
    if config.chunk and share % config.chunk:
        raise ValueError(f"chunk is {config.chunk}; it must divide the {share} images a step of each process")
    return images // config.batch_size


def _active(model: StochCon, embedded: Embedded) -> dict[str, float]:
    """The share of ones among this batch's bits (section 4.3), of a latent that has bits."""
    bits = model.latent.bits(embedded.logits)
    return {} if bits is None else {"active": bits.float().mean().item()}
