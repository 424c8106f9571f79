"""Twenty steps of every kind of training, in float64: what tests/golden/losses.json holds was recorded by version 0.1.

python tests/golden/losses.py OUT [CASE ...]    # also under torchrun, whose cases are those named "two ..."
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.precision import DoublePrecision

from stochcon import pretrain
from stochcon.config import Config
from stochcon.recipebook import changed

STEPS = 20
TINY: dict[str, Any] = {
    "recipe": "golden",
    "data": {"name": "digits", "size": 16, "channels": 3, "limit": 80},
    "views": {"global_size": 16, "local_size": 8, "local_views": 3, "global_scale": (0.6, 1.0)},
    "backbone": {"width": 4},
    "head": {"hidden": 16, "dim": 8},
    "batch_size": 16,
    "epochs": 4,
    "precision": "64-true",
    "log_every": 1,
}
LATENTS: dict[str, dict[str, Any]] = {
    "deterministic": {"kind": "deterministic"},
    "bernoulli-hard": {"kind": "bernoulli", "hard": True, "dim": 8},
    "bernoulli-soft-top": {"kind": "bernoulli", "hard": False, "dim": 8, "placement": "top"},
    "bernoulli-full": {"kind": "bernoulli", "hard": False},
    "bernoulli-extended-top": {
        "kind": "bernoulli",
        "hard": False,
        "dim": 8,
        "placement": "top",
        "logit_scale": 4.0,
        "decorrelation": 0.05,
    },
    "gaussian-own": {"kind": "gaussian", "variance": "own", "dim": 8},
    "gaussian-cross": {"kind": "gaussian", "variance": "cross", "dim": 8},
    "gaussian-cross-top": {"kind": "gaussian", "variance": "cross", "dim": 8, "placement": "top"},
    "gaussian-decorrelated": {"kind": "gaussian", "variance": "cross", "dim": 8, "decorrelation": 0.1},
}


def merged(base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A nested dictionary with some of its values, or of its dictionaries' values, changed."""
    return base | {k: base[k] | v if isinstance(base.get(k), dict) else v for k, v in changes.items()}


CASES: dict[str, dict[str, Any]] = {}
for _name, _latent in LATENTS.items():
    CASES[f"{_name} multi-crop"] = merged(TINY, latent=_latent)
    CASES[f"{_name} a pair of views"] = merged(TINY, latent=_latent, views={"local_views": 0})
    CASES[f"{_name} in chunks"] = merged(TINY, latent=_latent, chunk=4)
    CASES[f"two {_name} multi-crop"] = merged(TINY, latent=_latent)
CASES["two bernoulli-extended-top in chunks"] = merged(TINY, latent=LATENTS["bernoulli-extended-top"], chunk=4)
CASES["two gaussian-cross a pair of views"] = merged(TINY, latent=LATENTS["gaussian-cross"], views={"local_views": 0})
CASES["two without synchronised batch norm"] = merged(TINY, latent=LATENTS["bernoulli-hard"], sync_batch_norm=False)
CASES["lars on a timm network"] = merged(
    TINY,
    latent=LATENTS["bernoulli-hard"],
    backbone={"name": "test_efficientnet", "stem": "standard"},
    optimizer={"name": "lars", "lr": 0.5},
)
CASES["photographs, a hundred bits"] = merged(
    TINY,
    data={"name": "photographs"},
    latent=LATENTS["bernoulli-soft-top"] | {"dim": 100},
    views={"global_scale": (0.2, 1.0), "local_views": 2},
)


def losses(case: str) -> list[float]:
    """The loss of each step, as log.jsonl has it."""
    with tempfile.TemporaryDirectory() as folder:
        # all processes of a run share its directory
        run = Path(os.environ.get("GOLDEN_FOLDER", folder)) / case.replace(" ", "-")
        pretrain(changed(Config.model_validate(CASES[case]), {"latent.initial_spread": 0}), run, progress=False)
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert len(lines) == STEPS
    return [line["loss"] for line in lines]


def main(out: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    DoublePrecision.convert_output = lambda self, data: data  # type: ignore[method-assign]  # Fabric would round to float32
    two = int(os.environ.get("WORLD_SIZE", 1)) == 2
    chosen = [name for name in names or CASES if name.startswith("two ") == two]
    results = {name: losses(name) for name in chosen}
    if int(os.environ.get("RANK", 0)) == 0:
        out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
