"""Codes for tests, random and complete in every field, and runs that make some."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from stochcon.codes.packed import Codes
from stochcon.config import Latent
from stochcon.recipebook import recipe
from tests.shared import write_run

BITS = 13
sizes = st.integers(1, 4096) | st.integers(1, 70)


def random_bits(n: int, d: int, seed: int = 0) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random((n, d)) < 0.5


def make(n: int, d: int, seed: int = 0, **about: Any) -> Codes:
    random = np.random.default_rng(seed)
    uncertainty, flips = random.random(n) * d / 2, (random.random(d) / 2).round(4)
    ids = [f"Zürich/{seed}/{i}.jpg" for i in range(n)]
    given: dict[str, Any] = {"model": "a" * 64, "size": 32, "channels": 3} | about
    return Codes.pack(random_bits(n, d, seed), ids, uncertainty, flips, **given)


def make_gaussian(n: int, d: int, seed: int = 0) -> Codes:
    mean, variance = np.random.default_rng(seed).normal(size=(2, n, d)).astype(np.float16)
    made = make(n, d, seed, latent="gaussian", mean=mean, variance=variance**2)
    return replace(made, packed=Codes.pack(mean > 0, made.ids.tolist()).packed)


def untrained(directory: Path, seed: int = 0, **latent: Any) -> Path:
    return write_run(directory, recipe("digits", latent=Latent(**{"dim": BITS} | latent)), seed)


def same(a: Codes, b: Codes) -> bool:
    """Whether codes are equal in every field, to the bit."""
    return all(
        x.tolist() == y.tolist() and x.dtype == y.dtype if isinstance(x, np.ndarray) else x == y
        for x, y in ((getattr(a, field.name), getattr(b, field.name)) for field in fields(Codes))
    )
