"""Files of codes and runs that version 0.1 wrote: read with the same content, and encoded to the same codes."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from stochcon.codes.encoder import encode
from stochcon.codes.file import read_codes

GOLDEN = Path(__file__).parents[1] / "golden" / "version-0.1"
CONTENT = {
    "bernoulli": ("0650aca159abe645f9448c49134993f845107f4fdd132e095de48d97be77073e", 12, "931051c42ee3"),
    "shards": ("3f05ac69c6d80024f5fd72b0090df7b4a4315c722920673372b60c0bf553b57a", 12, "931051c42ee3"),
    "gaussian": ("19d18fece1cf7a27c4beec1457381d8f82b99d12e398db054eaf37d15ff53d6d", 6, "85b8d35f2e2c"),
}
"""SHA-256 of all arrays and ids as version 0.1 read them, the number of bits, and the model."""


@pytest.mark.parametrize("name", CONTENT)
def test_a_file_is_read_with_the_same_content(name: str) -> None:
    content, bits, model = CONTENT[name]
    codes = read_codes(GOLDEN / f"{name}.parquet")
    arrays = codes.packed, codes.uncertainty, codes.flips, *codes.moments.values()
    digest = sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))
    digest.update("\n".join(codes.ids).encode())
    assert digest.hexdigest() == content
    assert (len(codes), codes.bits, codes.model[:12], codes.size, codes.channels) == (360, bits, model, 16, 1)
    assert (codes.latent == "gaussian") == bool(codes.moments) == (name == "gaussian")


@pytest.mark.parametrize("name", ["bernoulli", "gaussian"])
def test_a_run_gives_the_same_codes(name: str, tmp_path: Path) -> None:
    before = read_codes(GOLDEN / f"{name}.parquet")
    encode(GOLDEN / name, "digits", tmp_path / "codes.parquet", split="test", progress=False)
    after = read_codes(tmp_path / "codes.parquet", model=before.model)
    assert after.ids.tolist() == before.ids.tolist()
    assert (after.packed == before.packed).all()
    assert (after.bits, after.latent, after.size, after.channels) == (before.bits, name, 16, 1)
    np.testing.assert_allclose(after.uncertainty, before.uncertainty, atol=1e-4)
    np.testing.assert_allclose(after.flips, before.flips, atol=1.01e-4)
    assert after.moments.keys() == before.moments.keys()
    for moment, values in after.moments.items():
        np.testing.assert_allclose(values, before.moments[moment], rtol=1e-3)
