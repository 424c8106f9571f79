"""Cached gradients against the same batch in one piece, in float64; in one process and in the two that torchrun starts."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from stochcon import runs
from stochcon.cli import main
from stochcon.config import Backbone, Config, Data, Latent, Views
from stochcon.method import objective
from stochcon.method.model import Embedded, StochCon
from stochcon.views import make_views
from stochcon.parallel import gather, rank, synchronise_batch_norm, world_size
from stochcon.train import gradcache as cached
from stochcon.train import loop as training
from stochcon.train.pretrain import backward, loss

N, CHUNKS = 8, 2  # images and chunks of them, over all processes, of which there are at most 2
TIMM = Backbone(name="test_efficientnet", stem="standard")
LATENTS: dict[str, dict[str, Any]] = {
    "deterministic": {"kind": "deterministic"},
    "bernoulli-hard": {"kind": "bernoulli", "hard": True},
    "bernoulli-soft": {"kind": "bernoulli", "hard": False},
    "bernoulli-extended": {"kind": "bernoulli", "logit_scale": 2.0, "decorrelation": 0.1},
    "gaussian-own": {"kind": "gaussian", "variance": "own"},
    "gaussian-cross": {"kind": "gaussian", "variance": "cross", "decorrelation": 0.1},
}
CASES = {
    f"{name}-{placement}-{n_local}": (
        Config(
            backbone=Backbone(width=4),
            latent=Latent.model_validate(latent | {"dim": 8, "placement": placement}),
            precision="64-true",
        ),
        n_local,
    )
    for name, latent in LATENTS.items()
    for placement in ("top", "bottom")
    for n_local in (0, 3)
} | {"norms-with-activation": (Config(backbone=TIMM, latent=Latent(dim=8), precision="64-true"), 0)}


def step(config: Config, n_local: int, exact: bool, split: bool = True) -> dict[str, Tensor]:
    """This process's share of one step: the loss, all gradients and all buffers.

    Not split: all are in one graph, in which each chunk still has its own batch norm, unless exact.
    """
    fabric = training.launch("64-true")
    torch.set_default_dtype(torch.float64)  # what a network returns, Fabric turns into this
    torch.manual_seed(0)
    model = StochCon(config)
    views = torch.randn(2, N, 3, 8, 8), torch.randn(n_local, N, 3, 4, 4)
    latent_views = 1 if n_local == 0 else 2 if config.latent.placement == "top" else n_local
    draw = torch.randn(latent_views, N, model.latent.dim)
    if world_size() > 1:
        synchronise_batch_norm(model)
    network = fabric.setup(model)

    # The chunk k of all processes together are images k N / CHUNKS ...
    order = torch.arange(N).view(CHUNKS, world_size(), -1)[:, rank()]

    def embed(indices: Tensor) -> Embedded:
        return network(*(x[:, indices] for x in views), 0.5, draw=draw[:, indices])

    if split:
        value, embedded = cached.backward(
            fabric, network, lambda k: embed(order[k]), CHUNKS, lambda x: loss(x, config), exact
        )
    else:
        parts = [embed(order.flatten())] if exact else [embed(indices) for indices in order]
        embedded = Embedded(*(torch.cat(part, 1) for part in zip(*parts, strict=True)))
        value = loss(embedded, config)
        fabric.backward(value)
        value = value.detach()
    gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert len(gradients) == len(list(model.parameters()))
    outputs = {name: x.detach() for name, x in embedded._asdict().items()} if world_size() == 1 else {}
    torch.set_default_dtype(torch.float32)
    return {"loss": gather(value).mean()} | gradients | dict(model.named_buffers()) | outputs


@pytest.mark.parametrize(
    ("name", "exact"),
    [(name, False) for name in CASES]
    + [(name, True) for name, (_, n_local) in CASES.items() if n_local or "norms" in name],
)
def test_chunks_have_the_loss_gradients_and_statistics_of_the_whole(name: str, exact: bool) -> None:
    made = step(*CASES[name], exact=exact)
    whole = step(*CASES[name], exact=exact, split=False)
    torch.testing.assert_close(made, whole, rtol=1e-9, atol=1e-9)


def test_batch_norm_of_chunks_is_not_that_of_the_batch() -> None:
    """So the exact mode is a difference that the comparison sees."""
    name = "bernoulli-soft-top-3"
    chunks, exact = (step(*CASES[name], exact)["loss"] for exact in (False, True))
    assert (chunks - exact).abs() > 1e-3


@pytest.mark.parametrize("n_local", [0, 3])
def test_a_loss_in_blocks_is_that_in_one_piece(monkeypatch: pytest.MonkeyPatch, n_local: int) -> None:
    torch.manual_seed(0)
    views = torch.randn(2 + n_local, 7, 5).double()
    results = []
    for block in (objective.BLOCK, 3 * (1 if n_local == 0 else 2) * len(views) * 7, 1):
        monkeypatch.setattr(objective, "BLOCK", block)
        leaf = views.clone().requires_grad_()
        n_top = 2 if n_local else 1
        value = 3 * objective.multi_crop_info_nce(leaf[:n_top], leaf[n_top:], 0.2)
        results.append([value.detach(), *torch.autograd.grad(value, leaf)])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-12, atol=1e-12)


def test_views_and_noise_of_a_chunk_come_twice_the_same() -> None:
    """pretraining's own step, which draws them, against its parts in one graph."""
    config = Config(
        data=Data(size=16),
        views=Views(global_size=16, local_size=8, local_views=2),
        backbone=Backbone(width=4),
        latent=Latent(dim=8),
        precision="64-true",
        chunk=4,
    )
    images = torch.randint(256, (N, 3, 16, 16), dtype=torch.uint8)
    fabric = training.launch("64-true")
    results = []
    for split in (True, False):
        torch.manual_seed(0)
        model = StochCon(config)
        network = fabric.setup(model)
        if split:
            value, _ = backward(fabric, network, images, 5, 0.5, config)
        else:
            parts: list[Embedded] = []
            for k, part in enumerate(images.split(4)):
                torch.manual_seed(training.number(config.seed, 5, 0, k))
                parts.append(network(*make_views(part, config.views), 0.5))
            value = loss(Embedded(*(torch.cat(x, 1) for x in zip(*parts, strict=True))), config)
            value.backward()
        results.append([value.detach(), *(p.grad for p in model.parameters()), *model.buffers()])
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


TINY = [
    "digits", "--data.limit=64", "--batch-size=16", "--epochs=1", "--backbone.width=4", "--head.hidden=16",
    "--head.dim=8", "--checkpoint-every=2", "--log-every=2", "--views.local-views=2", "--quiet",
]  # fmt: skip


@pytest.mark.parametrize("mode", ["chunk", "exact"])
def test_pretrains_in_chunks(mode: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["pretrain", *TINY, "--chunk=8", f"--chunk-batch-norm={mode}", f"--out={run}"]) == 0
    assert (run / runs.MODEL).exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--chunk=5"], "chunk is 5; it must divide the 16 images a step of each process"),
        (["--chunk=1"], "chunk: 1 is not right: input should be greater than or equal to 2"),
        (["--compile", "--chunk-batch-norm=exact"], "chunk_batch_norm: exact needs a network that is not compiled, --no-compile"),
    ],
)  # fmt: skip
def test_what_cannot_be_gets_one_line(
    options: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", *TINY, *options, f"--out={tmp_path / 'run'}"]) == 2
    assert capsys.readouterr().err == f"stochcon: error: {line}\n"


# --- Two processes -------------------------------------------------------------------------------------

TWO = ["bernoulli-extended-top-3", "gaussian-cross-bottom-3", "norms-with-activation"]
Results = dict[str, dict[str, Tensor]]


def run(out: Path) -> None:
    results: Results = {}
    for name in TWO:
        results[f"{name}|exact"] = step(*CASES[name], exact=True)
        objective.BLOCK = 1  # an anchor at a time
        results[f"{name}|chunk"] = step(*CASES[name], exact=False)
    flat = {
        f"{name}|{key}": x.detach().contiguous() for name, made in results.items() for key, x in made.items()
    }
    safetensors.torch.save_file(flat, out / f"{rank()}.safetensors")


if __name__ == "__main__":
    run(Path(sys.argv[1]))


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    out = tmp_path_factory.mktemp("two")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    made = subprocess.run([*torchrun, __file__, str(out)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    processes: list[Results] = []
    for i in range(2):
        results: Results = {}
        for name, x in safetensors.torch.load_file(out / f"{i}.safetensors").items():
            case, key = name.rsplit("|", 1)
            results.setdefault(case, {})[key] = x
        processes.append(results)
    return processes


@pytest.mark.parametrize("mode", ["chunk", "exact"])
@pytest.mark.parametrize("name", TWO)
def test_chunks_of_two_processes_have_the_gradients_of_the_whole(
    name: str, mode: str, two_processes: list[Results]
) -> None:
    one = step(*CASES[name], exact=mode == "exact", split=False)
    for process in two_processes:
        made = process[f"{name}|{mode}"]
        torch.testing.assert_close(made, {key: one[key] for key in made}, rtol=1e-9, atol=1e-9)
