"""Export a finished run for use elsewhere: one function for every form."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from stochcon.exporters.hub import to_hub
from stochcon.exporters.onnx import CHECK, Agreement, to_onnx


def export(
    run: Path | str, to: Literal["onnx", "hub"], out: Path | str | None = None, check: int | None = None
) -> tuple[Path, Agreement | None]:
    """Write the network of a finished run as an ONNX file or as a folder for the Hugging Face Hub.

    Args:
        run: The run directory.
        to: Which of the two.
        out: Where to write it; by default RUN/model.onnx, or hub/NAME with the name of the run.
        check: ONNX: on how many validation images to compare with PyTorch; by default 1000, 0 for none.

    Returns:
        The file or folder, and how the bits of an ONNX file compare with PyTorch's if they were compared.

    Raises:
        ValueError: As `to_onnx` and `to_hub` do.

    Example:
        >>> import tempfile, stochcon
        >>> config = stochcon.recipe("digits").model_copy(update={"epochs": 1})
        >>> run = stochcon.pretrain(config, tempfile.mkdtemp() + "/digits", progress=False)
        >>> export(run, "hub", tempfile.mkdtemp())[0].is_dir()
        True
    """
    if to == "onnx":
        return to_onnx(run, out, CHECK if check is None else check)
    if to != "hub":
        raise ValueError(f"--to is {to!r}; it must be onnx or hub")
    if check is not None:
        raise ValueError("--check is for --to onnx; a Hub folder has the run's own weights")
    return to_hub(run, out), None
