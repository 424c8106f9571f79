"""The files that several tests of the data make."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from PIL import Image

from stochcon.config import Data
from stochcon.data.images import Split
from stochcon.data.sets import load_data


def picture(path: Path, colour: str = "red", size: tuple[int, int] = (20, 14)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def only_train(root: Path) -> Path:
    """The folder `train` of a new data set, from which no other split takes its share."""
    picture(root / "val" / "class" / "0.png")
    picture(root / "test" / "class" / "0.png")
    (root / "train").mkdir()
    return root / "train"


def jpeg(i: int) -> bytes:
    """A picture that is like no other: its means tell i."""
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (i % 16 * 16, i // 16 % 16 * 16, i // 256 * 16)).save(buffer, "jpeg")
    return buffer.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def folder(root: Path, **changes: object) -> Data:
    return Data.model_validate({"name": "folder", "root": root, "size": 8, **changes})


def refusal(config: Data, split: Split = "train") -> str:
    """The one line that a user sees."""
    with pytest.raises(ValueError) as error:
        load_data(config, split)
    assert "\n" not in str(error.value)
    return str(error.value)
