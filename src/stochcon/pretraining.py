"""Algorithm 1: pretraining without labels."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from stochcon import data, rundir, training
from stochcon.config import Config
from stochcon.distributed import rank, synchronise_batch_norm, world_size
from stochcon.model import Embedded, Standardised, StochCon
from stochcon.objective import decorrelation, multi_crop_info_nce
from stochcon.views import eval_view, make_views


def loss(embedded: Embedded, config: Config) -> Tensor:
    """Equation 1 over every pair of views, and the extension's term where it is asked for."""
    total = multi_crop_info_nce(embedded.top, embedded.bottom, config.temperature)
    if config.latent.decorrelation and config.latent.kind != "deterministic":
        total = total + config.latent.decorrelation * decorrelation(embedded.logits)
    return total


def pretrain(
    config: Config,
    out: Path | str,
    *,
    resume: bool = False,
    progress: bool = True,
    observe: Callable[[int, StochCon], None] | None = None,
) -> Path:
    """Train a model as the configuration says and leave it in the directory `out`; returns that directory.

    observe: called after every step with the number of steps done and the model; it must leave both as they are.

    With resume, go on from the last checkpoint of a run that was interrupted; the result has the same
    bits. Raises ValueError for a configuration that cannot work and FloatingPointError, with the step,
    when the loss is no longer finite; the last checkpoint is then still there.

    >>> import tempfile
    >>> from stochcon import recipes
    >>> tiny = recipes.digits().model_copy(update={"epochs": 1})
    >>> run = pretrain(tiny, tempfile.mkdtemp() + "/run", progress=False)
    >>> sorted(path.name for path in run.iterdir())
    ['checkpoint', 'config.json', 'log.jsonl', 'model.safetensors']
    """
    out = Path(out)
    fabric = training.launch(config.precision)
    images = data.load(config.data, "train")
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

    digest = sha256("\n".join(images.ids).encode()).hexdigest()
    checkpoint = out / rundir.CHECKPOINT
    start = 0
    if resume and checkpoint.exists():
        start = training.load_checkpoint(checkpoint, model, optimizer, digest)
    if rank() == 0 and not resume:
        rundir.create(out, config)
        if images.skipped:
            lines = [f"{path}\t{reason}\n" for path, reason in images.skipped]
            rundir.write(out / rundir.SKIPPED, "".join(lines).encode())
            print(
                f"{len(lines)} of {len(lines) + len(images)} images cannot be read: {out / rundir.SKIPPED} lists them"
            )

    mine = training.share(config.batch_size)
    warmup = round(config.optimizer.warmup * per_epoch)
    advice = "try a lower --optimizer.lr or a longer --optimizer.warmup; the last checkpoint is kept"
    with training.Journal(
        out, config.recipe, start, steps, per_epoch, config.batch_size, progress, advice
    ) as journal:
        for step, indices in enumerate(
            training.batches(len(images), config.batch_size, config.seed, start, steps), start
        ):
            relaxation = training.cosine(step, steps, *config.latent.temperature)
            lr = training.warmup_cosine(step, steps, warmup, config.optimizer.lr)
            for group in optimizer.param_groups:
                group["lr"] = lr

            torch.manual_seed(training.number(config.seed, step, rank()))
            x = images.pixels[indices[mine]].to(fabric.device)
            embedded = network(*make_views(x, config.views), relaxation)
            value = loss(embedded, config)
            optimizer.zero_grad()
            fabric.backward(value)
            optimizer.step()

            journal.add(value)
            done = step + 1
            if observe:
                observe(done, model)
            if training.due(done, steps, config.log_every, config.checkpoint_every):
                journal.write(done, {"lr": lr, "relaxation": relaxation} | _active(model, embedded))
            if rank() == 0 and training.due(done, steps, config.checkpoint_every):
                training.save_checkpoint(checkpoint, done, model, optimizer, digest)
    if rank() == 0:
        calibrate(model, images.pixels, config)
        rundir.write_tensors(out / rundir.MODEL, model.state_dict())
    fabric.barrier()
    return out


CALIBRATION_IMAGES = 20_000


@torch.no_grad()
def calibrate(model: StochCon, pixels: Tensor, config: Config) -> None:
    """Extension: the standardised logits' running statistics, measured on plain images instead of views.

    Codes are made of plain images, and a bit is a logit's sign: its threshold should be their mean.
    """
    if not isinstance(model.pi, Standardised):
        return
    model.eval()
    device = next(model.parameters()).device
    step = -(-len(pixels) // CALIBRATION_IMAGES)
    logits = [
        model.pi.linear(model.backbone(eval_view(batch.to(device), config.views)))
        for batch in pixels[::step].split(512)
    ]
    model.pi.set_statistics(torch.cat(logits))
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
    return images // config.batch_size


def _active(model: StochCon, embedded: Embedded) -> dict[str, float]:
    """The share of ones among this batch's bits (section 4.3), of a latent that has bits."""
    bits = model.latent.bits(embedded.logits)
    return {} if bits is None else {"active": bits.float().mean().item()}
