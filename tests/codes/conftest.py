"""What is encoded and searched: a run that has learnt nothing, and a folder of pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.codes.made import untrained


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twenty pictures in folders and on top, one of them of no pixels."""
    root = tmp_path / "pictures"
    (root / "test").mkdir(parents=True)
    random = np.random.default_rng(0)
    for i in range(20):
        pixels = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / ("test" if i % 2 else ".") / f"{i:02}.png")
    (root / "10.png").write_bytes((root / "10.png").read_bytes()[:60])
    return root
