"""Export a finished run as a folder for the Hugging Face Hub, and load such a folder or a repository."""

import json
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from jinja2 import Template

from stochcon import atomic, runs
from stochcon.codes.encoder import Encoder
from stochcon.config import Config
from stochcon.data.sets import LISTS
from stochcon.evaluation.evaluate import table
from stochcon.method import backbones
from stochcon.method.model import StochCon
from stochcon.report import markdown

CARD = "README.md"
EXPECTED = {runs.MODEL, runs.CONFIG, runs.METRICS, CARD, ".git", ".gitattributes"}
"""Files that the folder may hold already: an earlier export, or a clone of a repository on the Hub."""
MARK = "\n<!-- stochcon export replaces this card only if nobody has edited it: "
"""How the last line of a card begins; a hash of what is above it follows."""


def to_hub(directory: Path | str, out: Path | str | None = None) -> Path:
    """Write a finished run as a folder to upload to the Hub: weights, configuration, metrics, model card.

    Args:
        directory: The run directory.
        out: The folder; by default hub/NAME, where NAME is that of the run. An earlier export is replaced.

    Returns:
        The folder, which `from_hub` loads. Complete its README.md before you publish it.

    Raises:
        ValueError: If the run is not finished, or if the folder holds a file that is no part of an export or a
            README.md that somebody has edited.

    Example:
        >>> import tempfile, stochcon
        >>> config = stochcon.recipe("digits", epochs=1)
        >>> run = stochcon.pretrain(config, tempfile.mkdtemp() + "/digits", progress=False)
        >>> folder = to_hub(run, tempfile.mkdtemp())
        >>> sorted(path.name for path in folder.iterdir())
        ['README.md', 'config.json', 'model.safetensors']
        >>> from_hub(folder).config.latent.dim
        16
    """
    directory = Path(directory)
    out = Path(out or Path("hub") / directory.resolve().name)
    model, config = runs.load_model(directory)
    if out.is_file():
        raise ValueError(f"{out} is a file; it must name a folder")
    for name in sorted({path.name for path in out.glob("*")} - EXPECTED):
        raise ValueError(f"{out} holds {name}, which is no part of a Hub folder: choose another --out")

    old = (out / CARD).read_text(encoding="utf-8") if (out / CARD).exists() else None
    if old is not None and old != _marked(old.rpartition(MARK)[0]):
        raise ValueError(f"{out / CARD} has been edited and is not replaced: move it away, or choose another --out")

    # The publisher may not want to tell where the images lay on the disk.
    config = config.model_copy(update={"data": config.data.model_copy(update={"root": None})})
    scored = directory / runs.METRICS
    metrics = json.loads(scored.read_bytes()) if scored.is_file() else {}
    atomic.write(out / runs.MODEL, (directory / runs.MODEL).read_bytes())
    atomic.write(out / CARD, _marked(_model_card(out.resolve().name, model, config, metrics)).encode())
    if metrics:
        atomic.write_json(out / runs.METRICS, metrics)
    else:
        (out / runs.METRICS).unlink(missing_ok=True)
    runs.write_config(out, config)  # last, since nothing loads a folder without it
    return out


def _marked(card: str) -> str:
    return f"{card}{MARK}{sha256(card.encode()).hexdigest()} -->\n"


def _model_card(name: str, model: StochCon, config: Config, metrics: dict[str, float]) -> str:
    """Fill in model_card.md. The card names no licence, which is the publisher's to give."""
    template = Path(__file__).with_name("model_card.md").read_text(encoding="utf-8")
    return Template(template, keep_trailing_newline=True).render(
        name=name,
        version=version("stochcon"),
        config=config,
        metrics=metrics,
        scores=markdown(table(metrics)) if metrics else "",
        latent=model.latent,
        width=backbones.width(model.backbone),
        parameters=sum(p.numel() for part in (model.backbone, model.pi) for p in part.parameters()),
        description=" ".join((LISTS[config.data.name].__doc__ or "").split()),
    )


def from_hub(name: Path | str) -> Encoder:
    """Load the encoder in a folder that `to_hub` wrote, or in a repository on the Hub.

    Args:
        name: The folder, or the id of the repository. A repository is downloaded once; with HF_HUB_OFFLINE=1
            in the environment, never.

    Raises:
        ValueError: If there is no such folder, and the Hub does not give the repository.

    Example:
        >>> from_hub("no/such/folder")
        Traceback (most recent call last):
            ...
        ValueError: no/such/folder is no folder, and the Hub does not give it: ...
    """
    if Path(name).is_dir():
        return Encoder(name)
    try:
        return Encoder(snapshot_download(str(name), allow_patterns=[runs.MODEL, runs.CONFIG]))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{name} is no folder, and the Hub does not give it: {reason}") from None
