"""Two and four processes, which torchrun starts on this very file, against one process on the whole batch."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stochcon.config import Backbone, Config, Latent
from stochcon.method.model import StochCon
from stochcon.parallel import gather, rank, synchronise_batch_norm, world_size
from stochcon.train.pretrain import loss

N = 8  # images, over all processes
TINY, TIMM = Backbone(width=4), Backbone(name="test_efficientnet", stem="standard")
LATENTS: dict[str, dict[str, Any]] = {
    "deterministic": {"kind": "deterministic"},
    "bernoulli-hard": {"kind": "bernoulli", "hard": True},
    "bernoulli-soft-top": {"kind": "bernoulli", "hard": False, "placement": "top"},
    "bernoulli-extended": {"kind": "bernoulli", "logit_scale": 2.0, "decorrelation": 0.1},
    "gaussian-own": {"kind": "gaussian", "variance": "own"},
    "gaussian-cross-top": {"kind": "gaussian", "variance": "cross", "placement": "top", "decorrelation": 0.1},
}
CASES = {
    f"{name}-{n_local}": (Config(backbone=TINY, latent=Latent(dim=8, **latent)), n_local)
    for name, latent in LATENTS.items()
    for n_local in (0, 3)
} | {"norms-with-activation": (Config(backbone=TIMM), 0)}


def step(config: Config, n_local: int) -> dict[str, Tensor]:
    """This process's share of one step: the loss of the whole batch, all gradients, all buffers."""
    torch.manual_seed(0)
    model = StochCon(config).double()
    views = torch.randn(2, N, 3, 16, 16).double(), torch.randn(n_local, N, 3, 8, 8).double()
    latent_views = 1 if n_local == 0 else 2 if config.latent.placement == "top" else n_local
    draw = torch.randn(latent_views, N, model.latent.dim).double()

    mine = slice(rank() * N // world_size(), (rank() + 1) * N // world_size())
    network: nn.Module = DistributedDataParallel(synchronise_batch_norm(model)) if world_size() > 1 else model
    value = loss(network(*(x[:, mine] for x in views), 0.5, draw=draw[:, mine]), config)
    value.backward()

    gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert len(gradients) == len(list(model.parameters()))
    return {"loss": gather(value.detach()).mean()} | gradients | dict(model.named_buffers())


def normalise_bf16() -> dict[str, Tensor]:
    """Batch norm of bf16 activations far from 0; output of this process's images only."""
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
    dist.init_process_group("gloo")
    results = {name: step(*case) for name, case in CASES.items()}
    results |= {"bf16": normalise_bf16(), "gather": gather_transposed()}
    flat = {
        f"{name}|{key}": x.detach().contiguous()
        for name, result in results.items()
        for key, x in result.items()
    }
    safetensors.torch.save_file(flat, out / f"{rank()}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))


Results = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module", params=[2, 4])
def processes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    """What each of the processes has left, by name of the case."""
    out = tmp_path_factory.mktemp("processes")
    world = [f"--nproc-per-node={request.param}"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", *world]
    run = subprocess.run(
        [*torchrun, __file__, str(out)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    left: list[Results] = []
    for i in range(request.param):
        results: Results = {}
        for name, x in safetensors.torch.load_file(out / f"{i}.safetensors").items():
            case, key = name.split("|")
            results.setdefault(case, {})[key] = x
        left.append(results)
    return left


@pytest.mark.parametrize("name", CASES)
def test_processes_have_the_loss_gradients_and_statistics_of_one(name: str, processes: list[Results]) -> None:
    one = step(*CASES[name])
    for process in processes:
        torch.testing.assert_close(process[name], one, rtol=1e-9, atol=1e-9)


def test_synchronised_batch_norm_is_exact_for_bf16(processes: list[Results]) -> None:
    one, each = normalise_bf16(), [dict(process["bf16"]) for process in processes]
    output = torch.cat([process.pop("output") for process in each])
    torch.testing.assert_close(output, one.pop("output").detach(), rtol=2**-7, atol=1e-3)
    assert output.dtype == torch.bfloat16
    for process in each:
        torch.testing.assert_close(process, one, rtol=1e-4, atol=0)


def test_gather_has_everyones_tensor_whatever_its_strides(processes: list[Results]) -> None:
    world = len(processes)
    tensors = torch.arange(6.0).view(2, 3) + 10 * torch.arange(world)[:, None, None]
    for i, process in enumerate(processes):
        assert process["gather"]["everyone"].equal(tensors.mT)
        assert process["gather"]["gradient"].equal(2 * world * tensors[i])  # all processes used it


def test_one_process_needs_no_torch_distributed() -> None:
    assert (world_size(), rank()) == (1, 0)
    assert gather(torch.ones(3)).shape == (1, 3)


def test_synchronising_keeps_parameters_statistics_and_mode() -> None:
    model = StochCon(CASES["bernoulli-extended-3"][0]).eval()
    state, parameters = model.state_dict(), list(model.parameters())
    synced = synchronise_batch_norm(model)
    assert all(a is b for a, b in zip(synced.parameters(), parameters, strict=True))
    torch.testing.assert_close(dict(synced.state_dict()), dict(state), rtol=0, atol=0)
    assert not any(module.training for module in synced.modules())
    assert not any(type(module) in (nn.BatchNorm1d, nn.BatchNorm2d) for module in synced.modules())
