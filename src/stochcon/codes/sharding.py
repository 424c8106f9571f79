"""The files that hold one set of codes: a single file, or one shard for each process that encoded."""

from __future__ import annotations

import glob
from pathlib import Path


def shard(path: Path | str, rank: int, world: int) -> Path:
    """Name the file that one of several processes writes; `file.read` takes the name of the whole.

    Example:
        >>> shard("codes.parquet", 0, 2).name, shard("codes.parquet", 0, 1).name
        ('codes-00000-of-00002.parquet', 'codes.parquet')
    """
    path = Path(path)
    return path if world == 1 else path.with_name(f"{path.stem}-{rank:05}-of-{world:05}{path.suffix}")


def files(path: Path | str) -> list[Path]:
    """List the file of this name, or its shards in order, without opening any.

    Raises:
        ValueError: If there is neither, if shards are missing, or if there are files of another set too.
    """
    path = Path(path)
    found = _family(path)
    if not found:
        raise ValueError(f"{path} is missing; stochcon encode writes a file of codes")
    world = 1 if found[0] == path else int(found[0].stem[-5:])
    expected = [shard(path, rank, world) for rank in range(world)]
    for odd in sorted({*found} ^ {*expected}, reverse=True):
        raise ValueError(
            f"{odd} is missing beside {found[0].name}; wait until all processes have ended"
            if odd in expected
            else f"{odd} and {found[0].name} are not of one set; remove what you do not want"
        )
    return expected


def writable(path: Path | str, rank: int = 0, world: int = 1) -> Path:
    """Name the file that a process is to write.

    Raises:
        ValueError: If the path is a folder, or if files of another set are there.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; it must name a file of codes")
    mine = shard(path, rank, world)
    for other in _family(path):
        if other not in [shard(path, each, world) for each in range(world)]:
            raise ValueError(f"{other} is not of the same set as {mine.name}; remove it, or write elsewhere")
    return mine


def _family(path: Path) -> list[Path]:
    number = "[0-9]" * 5
    shards = path.parent.glob(f"{glob.escape(path.stem)}-{number}-of-{number}{glob.escape(path.suffix)}")
    return [path] * path.exists() + sorted(shards)
