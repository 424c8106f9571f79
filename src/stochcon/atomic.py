"""The one way in which stochcon writes a file: whole, or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` when the block ends without an error.

    A crash, an interruption or a disk that refuses leaves `path` as it was. Missing folders are made.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(path := Path(folder) / "new" / "greeting.txt", b"hello")
    ...     print(path.read_text(), [each.name for each in path.parent.iterdir()])
    hello ['greeting.txt']
    """
    partial = path.with_name(f"{path.name}.{uuid4().hex[:8]}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:  # an interruption too
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:
            raise OSError(error.errno, f"{error.strerror}; {path} is left as it was", str(path)) from None
        raise


def write(path: Path, content: bytes) -> None:
    """Write a file whole, as `replacing` does."""
    with replacing(path) as file:
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, as `replacing` does."""
    write(path, (json.dumps(value, indent=2) + "\n").encode())
