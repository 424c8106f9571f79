"""Every public call leaves the process as it found it: generators, threads, warnings, signals and styles."""

import os
import random
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import matplotlib
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import stochcon
from stochcon.codes.search import search
from stochcon.config import Config, Latent
from stochcon.train.classify import classify
from tests.shared import tiny_digits


def tiny(bits: int = 8) -> Config:
    """A configuration that is pretrained in a moment."""
    return tiny_digits(latent=Latent(dim=bits), **{"data.limit": 256, "backbone.width": 2})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, `8` and `4` by their bits, and the codes of the first."""
    folder = tmp_path_factory.mktemp("state")
    for bits in (8, 4):
        stochcon.pretrain(tiny(bits), folder / str(bits), progress=False)
    stochcon.encode(folder / "8", "digits", folder / "codes.parquet", "test", progress=False)
    return folder


def state() -> dict[str, Any]:
    """Read the state of the process that a library has no business to change."""
    return {
        "torch's generator": torch.random.get_rng_state().tolist(),
        "NumPy's generator": repr(np.random.get_state()),  # noqa: NPY002
        "Python's generator": random.getstate(),
        "torch's threads": torch.get_num_threads(),
        "torch's default type": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "warning filters": [*warnings.filters],
        "scheduler's policy": os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else None,
        "signal handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "matplotlib's style": dict(matplotlib.rcParams),
        "faiss' threads": faiss.omp_get_max_threads(),
    }


def fit_and_transform(folder: Path) -> None:
    X = load_digits().images[:64]
    stochcon.StochConTransformer(tiny()).fit(X).transform(X)


def load_and_extract(folder: Path) -> None:
    model, config = stochcon.load_model(folder / "8")
    pixels = stochcon.load_data(config.data, "test").pixels
    stochcon.load(folder / "8")
    stochcon.extract(model, pixels, config.views)


def searched(**how: Any) -> Callable[[Path], object]:
    def call(folder: Path) -> object:
        queries = stochcon.read_codes(folder / "codes.parquet").ids[:2].tolist()  # fewer than the threads
        return search(folder / "codes.parquet", queries, **how)

    return call


CALLS: dict[str, Callable[[Path], object]] = {
    "transformer": fit_and_transform,
    "pretrain": lambda folder: stochcon.pretrain(tiny(), folder / "new", progress=False),
    "rebit": lambda folder: stochcon.rebit(folder / "8", folder / "again", progress=False),
    "load and extract": load_and_extract,
    "classify": lambda folder: classify(folder / "8", "finetune", epochs=(1,), progress=False),
    "evaluate": lambda folder: stochcon.evaluate(folder / "8", "validation", progress=False),
    "curve": lambda folder: stochcon.curve([folder / "8", folder / "4"], split="validation", progress=False),
    "encode": lambda folder: stochcon.encode(folder / "8", "digits", folder / "new.parquet", progress=False),
    "search": searched(),
    "weighted search": searched(weighted=True),
    "approximate search": searched(approximate=True),
    "to_onnx": lambda folder: stochcon.to_onnx(folder / "8", check=8),
    "to_hub": lambda folder: stochcon.from_hub(stochcon.to_hub(folder / "8", folder / "hub")),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_leaves_the_process_as_it_was(call: Callable[[Path], object], folder: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # neither the default of this machine's tests nor one
    faiss.omp_set_num_threads(3)
    torch.random.manual_seed(1234)
    torch.rand(3)  # a generator in the midst of its stream
    if hasattr(os, "sched_setscheduler"):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # another test may have run a command
    try:
        before = state()
        call(folder)
        after = state()
    finally:
        torch.set_num_threads(threads)
        faiss.omp_set_num_threads(1)
    assert [name for name, value in before.items() if after[name] != value] == []
