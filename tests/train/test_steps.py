"""Two and four processes, and chunks, against one process on the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from stochcon.method.model import StochCon
from stochcon.parallel import gather, rank, synchronise_batch_norm, world_size
from tests.train import steps
from tests.train.steps import CASES, step

Results = dict[str, dict[str, Tensor]]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=[2, 4])
def processes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    """What each of the processes has left, by name of the case."""
    out = tmp_path_factory.mktemp("processes")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [*torchrun, f"--nproc-per-node={request.param}", "-m", "tests.train.steps", str(out)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
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
    one, chunks = step(name), step(name, chunks=2, cached=False)
    for process in processes:
        torch.testing.assert_close(process[name], one, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(process[f"{name} in chunks"], chunks, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("chunks", [2, 4])
def test_chunks_have_the_loss_gradients_and_statistics_of_one_graph(name: str, chunks: int) -> None:
    torch.testing.assert_close(step(name, chunks), step(name, chunks, cached=False), rtol=1e-9, atol=1e-9)


def test_batch_norm_of_chunks_is_not_that_of_the_batch() -> None:
    """So the comparison above sees what a chunk is."""
    name = "bernoulli-soft-top-3"
    assert (step(name, chunks=2)["loss"] - step(name)["loss"]).abs() > 1e-3


def test_synchronised_batch_norm_is_exact_for_bf16(processes: list[Results]) -> None:
    one, each = steps.normalise_bf16(), [dict(process["bf16"]) for process in processes]
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
