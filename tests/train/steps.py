"""One step of training with given views and noise, on one process or several, in one piece or in chunks.

torchrun starts this file on two or four processes: python -m torch.distributed.run ... tests/train/steps.py OUT
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from lightning_fabric.plugins.precision import DoublePrecision
from torch import Tensor, nn

from stochcon.config import Backbone, Config, Latent
from stochcon.method.algorithm1 import Algorithm1, Embeddings, Objective
from stochcon.parallel import gather, rank, synchronise_batch_norm, world_size
from stochcon.train import gradcache
from stochcon.train.loop import launch
from stochcon.train.objective import build_objective
from tests.method.replay import replay

N = 8  # images, over all processes
LATENTS: dict[str, dict[str, Any]] = {
    "deterministic": {"kind": "deterministic"},
    "bernoulli-hard": {"kind": "bernoulli", "hard": True},
    "bernoulli-soft-top": {"kind": "bernoulli", "hard": False, "placement": "top"},
    "bernoulli-extended": {"kind": "bernoulli", "logit_scale": 2.0, "decorrelation": 0.1},
    "gaussian-own": {"kind": "gaussian", "variance": "own"},
    "gaussian-cross-top": {"kind": "gaussian", "variance": "cross", "placement": "top", "decorrelation": 0.1},
    "bernoulli-contrast": {"kind": "bernoulli", "hard": False, "contrast": 0.5},
    "gaussian-contrast-top": {"kind": "gaussian", "placement": "top", "contrast": 2.0},
}
CASES = {
    f"{name}-{n_local}": (Config(backbone=Backbone(width=4), latent=Latent(dim=8, **latent)), n_local)
    for name, latent in LATENTS.items()
    for n_local in (0, 3)
} | {"norms-with-activation": (Config(backbone=Backbone(name="test_efficientnet", stem="standard")), 0)}


def step(name: str, chunks: int = 1, cached: bool = True) -> dict[str, Tensor]:
    """The loss of the whole batch, all gradients and all buffers; `cached` off: all chunks in one graph."""
    DoublePrecision.convert_output = lambda self, data: data  # type: ignore[method-assign]  # Fabric would round to float32
    config, n_local = CASES[name]
    fabric = launch("64-true")
    torch.manual_seed(0)
    model = Algorithm1(config)
    top, bottom = torch.randn(2, N, 3, 16, 16), torch.randn(n_local, N, 3, 8, 8)
    if not n_local:
        top, bottom = top.split(1)
    x, x_prime = (bottom, top) if config.latent.placement == "top" else (top, bottom)
    noise, latent = torch.randn(max(len(x), len(x_prime)), N, model.latent.dim).double(), model.latent
    objective = build_objective(config, latent, {})
    if world_size() > 1:
        synchronise_batch_norm(model)
    network = fabric.setup(model)
    order = torch.arange(N).view(chunks, world_size(), -1)[:, rank()]  # chunk k of all processes is one block

    def run(k: int, objective: Objective) -> Tensor:
        model.latent = replay(latent, noise[:, order[k]])
        value: Tensor = network(x[:, order[k]], x_prime[:, order[k]], 0.5, objective)
        return value

    if chunks > 1 and cached:
        value = gradcache.backward(fabric, network, run, chunks, objective)
    else:
        parts: list[Embeddings] = []

        def keep(embeddings: Embeddings) -> Tensor:
            parts.append(embeddings)
            return embeddings.v.sum()

        for k in range(chunks):
            run(k, keep)
        value = objective(Embeddings(*(torch.cat(x, 1) for x in zip(*parts, strict=True))))
        fabric.backward(value)
    gradients = {f"gradient of {key}": p.grad for key, p in model.named_parameters() if p.grad is not None}
    assert len(gradients) == len(list(model.parameters()))
    return {"loss": gather(value.detach()).mean()} | gradients | dict(model.named_buffers())


def normalise_bf16() -> dict[str, Tensor]:
    """Batch norm of bf16 activations far from 0; the output is of this process's images only."""
    torch.manual_seed(0)
    x = (100 + torch.randn(64, 2, 8, 8)).bfloat16().chunk(world_size())[rank()]
    norm: nn.Module = nn.BatchNorm2d(2)
    if world_size() > 1:
        norm = synchronise_batch_norm(norm)
    return {"output": norm(x)} | dict(norm.named_buffers())


def gather_transposed() -> dict[str, Tensor]:
    mine = (torch.arange(6.0).view(2, 3) + 10 * rank()).requires_grad_()
    everyone = gather(mine.T)
    everyone.square().sum().backward()
    assert mine.grad is not None
    return {"everyone": everyone.detach(), "gradient": mine.grad}


def main(out: Path) -> None:
    launch()
    results = {name: step(name) for name in CASES}
    results |= {f"{name} in chunks": step(name, chunks=2) for name in CASES}
    results |= {"bf16": normalise_bf16(), "gather": gather_transposed()}
    flat = {f"{name}|{key}": x.detach().contiguous() for name, result in results.items() for key, x in result.items()}
    safetensors.torch.save_file(flat, out / f"{rank()}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
