"""The command line: one verb per row of the README, and no logic."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from stochcon import recipes
from stochcon.config import Config, changes, explain

USAGE = """\
usage: stochcon VERB ...

  pretrain RECIPE     learn a representation without labels; --resume DIR goes on with a run
  evaluate DIR        what a run's features and bits are worth, beside the baselines; --curve: by number of bits
  encode DIR IMAGES   codes of a folder's, archive's or data set's images, as a Parquet file
  search CODES QUERY  the images of a file of codes that are nearest to some
  export DIR          the network as an ONNX file, or as a Hugging Face Hub folder
  classify DIR        fine-tuned, frozen or from nothing, with all labels or few (A.3)
  paper FIGURE        the paper's table1, figure2 ... figure5 or all: run, drawn, beside its numbers
  demo                the main job, shortened, with a table and a picture
  recipes             what can be pretrained, at what cost, with what result

`stochcon VERB --help` says more; `stochcon pretrain RECIPE --help` lists every option."""

T = TypeVar("T")


def pretrain(arguments: list[str]) -> None:
    from stochcon import rundir

    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    directory = _value(arguments, "--resume")
    if name is None and directory is None and not {"-h", "--help"} & {*arguments}:
        raise ValueError(f"pretrain needs a recipe ({', '.join(recipes.RECIPES)}) or --resume DIR")
    base = rundir.read_config(Path(directory)) if directory else recipes.recipe(name or "photographs")
    if directory and name not in (None, base.recipe):
        raise ValueError(f"{directory} is a run of the recipe {base.recipe}, not of {name}")

    def options(
        config: Annotated[Config, tyro.conf.arg(name="")] = base,
        out: Path | None = None,
        resume: Path | None = None,
        quiet: bool = False,
    ) -> tuple[Config, Path | None, bool]:
        """Pretrain a network without labels, as the recipe says and the options change it.

        Args:
            config: The configuration.
            out: The run directory; by default runs/RECIPE-LATENT-SEED.
            resume: Go on with the interrupted run in this directory, as it was configured.
            quiet: Show no progress bar.
        """
        return config, out, quiet

    config, out, quiet = _parse(options, arguments, f"stochcon pretrain {name or 'RECIPE'}")
    if directory:
        for field, (old, new) in changes(base, config).items():
            raise ValueError(
                f"cannot resume with {field} = {new}: {directory} was started with {field} = {old}"
            )
        if out and out != Path(directory):
            raise ValueError(f"--resume {directory} goes on in that directory; leave --out {out} away")
        out = Path(directory)
    out = out or Path("runs") / f"{config.recipe}-{config.latent.kind}-{config.seed}"

    from stochcon.distributed import rank, resumable
    from stochcon.pretraining import pretrain

    with resumable(f"stochcon pretrain --resume {out} goes on from the last checkpoint"):
        pretrain(config, out, resume=directory is not None, progress=not quiet)
    if rank() == 0:
        print(f"The model is in {out}. Next: stochcon evaluate {out}")


def evaluate(arguments: list[str]) -> None:
    def options(
        directories: tyro.conf.Positional[tuple[Path, ...]],
        split: Literal["test", "validation"] = "test",
        curve: bool = False,
        twin: Path | None = None,
        quiet: bool = False,
    ) -> tuple[tuple[Path, ...], Literal["test", "validation"], bool, Path | None, bool]:
        """Linear probe, kNN and retrieval with a run's features and bits and the baselines; writes metrics.json.

        Args:
            directories: A finished run; with --curve also several, of different numbers of bits.
            split: The images to classify. Make choices on validation; read test once, at the end.
            curve: Score against the number of bits instead; writes curve.json and curve.png.
            twin: The run whose h the curve's other codes quantise, say of SimCLR; by default the run itself.
            quiet: Show no progress.
        """
        return directories, split, curve, twin, quiet

    directories, split, curve, twin, quiet = _parse(options, arguments, "stochcon evaluate")
    if not directories or (not curve and (len(directories) > 1 or twin)):
        raise ValueError("evaluate needs the directory of one run; several, and --twin, are for --curve")
    if curve:
        from stochcon import curves
        from stochcon.evaluation import of_split

        print(curves.table(curves.curve(directories, twin, split, progress=not quiet)))
        print(f"\nThe picture is {directories[0] / of_split(curves.PICTURE, split)}")
        return
    from stochcon.evaluation import evaluate, show

    metrics = evaluate(directories[0], split, progress=not quiet)
    show(metrics, f"{directories[0]}, {split} images")


def encode(arguments: list[str]) -> None:
    def options(
        directory: tyro.conf.Positional[Path],
        images: tyro.conf.Positional[str],
        out: Path = Path("codes.parquet"),
        split: Literal["train", "validation", "test"] | None = None,
        batch_size: int = 512,
        quiet: bool = False,
    ) -> tuple[Path, str, Path, Literal["train", "validation", "test"] | None, int, bool]:
        """Write the codes of images, packed bits and an uncertainty for each, to a Parquet file.

        When interrupted, the same command goes on. Under torchrun each process writes a shard.

        Args:
            directory: A finished run with a Bernoulli or Gaussian latent.
            images: A folder, a .tar or .zip archive, or the name of a data set.
            out: The file of codes.
            split: Only the images of this split; by default all.
            batch_size: Images at once; an interruption loses at most so many.
            quiet: Show no progress bar.
        """
        return directory, images, out, split, batch_size, quiet

    directory, images, out, split, batch_size, quiet = _parse(options, arguments, "stochcon encode")
    from stochcon.distributed import resumable
    from stochcon.encoding import encode

    with resumable("the same command again goes on"):
        file, count, skipped = encode(directory, images, out, split, batch_size, progress=not quiet)
    if skipped:
        print(f"Some images cannot be read: {skipped} lists them")
    print(f"{count} codes are in {file}. Next: stochcon search {out} ID")


def search(arguments: list[str]) -> None:
    def options(
        codes: tyro.conf.Positional[Path],
        queries: tyro.conf.Positional[tuple[str, ...]],
        k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10,
        run: Path | None = None,
        weighted: bool = False,
        approximate: bool = False,
        images: str | None = None,
        picture: Path | None = None,
    ) -> tuple[Path, tuple[str, ...], dict[str, Any], str | None, Path | None]:
        """List, and draw, the images whose codes differ from that of each query in the fewest bits.

        Args:
            codes: A file that stochcon encode wrote.
            queries: Ids in that file, or image files.
            k: How many to list for each.
            run: The run that made the codes; needed to encode an image file.
            weighted: Count each bit by how informative and how certain it is.
            approximate: Look only where near codes are likely; an index is built once, in CODES.index.
            images: What was encoded, a folder, an archive or a data set; the results are drawn from it.
            picture: Where they are drawn; by default CODES.search.png.
        """
        how = {"k": k, "run": run, "weighted": weighted, "approximate": approximate}
        return codes, queries, how, images, picture

    codes, queries, how, images, picture = _parse(options, arguments, "stochcon search")
    if picture and images is None:
        raise ValueError(f"--picture {picture} needs --images, what was encoded")
    from stochcon.search import search, show

    results = search(codes, queries, **how, say=print)
    show(results)
    if images is not None:
        from stochcon.gallery import save

        print(f"The picture is {save(results, images, picture or codes.with_suffix('.search.png'))}")


def export(arguments: list[str]) -> None:
    def options(
        directory: tyro.conf.Positional[Path],
        to: Literal["onnx", "hub"],
        out: Path | None = None,
        check: int | None = None,
    ) -> tuple[Path, Literal["onnx", "hub"], Path | None, int | None]:
        """Write a run's network for use elsewhere: from uint8 images to packed bits, or with a model card.

        Args:
            directory: A finished run.
            to: An ONNX file, for onnxruntime without stochcon; or a Hugging Face Hub folder.
            out: By default DIR/model.onnx, or hub/ and the run's name.
            check: ONNX: validation images to compare its bits with PyTorch's on; by default 1000, 0 for none.
        """
        return directory, to, out, check

    directory, to, out, check = _parse(options, arguments, "stochcon export")
    if to == "onnx":
        from stochcon.export import CHECKED, to_onnx

        file, agreement = to_onnx(directory, out, CHECKED if check is None else check)
        print(f"{file}: {agreement or 'not compared with PyTorch'}")
    elif check is not None:
        raise ValueError("--check is for --to onnx; a Hub folder has the run's own weights")
    else:
        from stochcon.hub import to_hub

        folder = to_hub(directory, out)
        print(f"{folder} is ready. Before you publish it, read its README.md: data, limits, licence")


def classify(arguments: list[str]) -> None:
    def options(
        source: tyro.conf.Positional[str],
        mode: Literal["finetune", "frozen", "supervised", "supervised-bernoulli"],
        labels: float = 1.0,
        epochs: tuple[int, ...] = (10,),
        lr: tuple[float, ...] = (3e-4,),
        weight_decay: tuple[float, ...] = (0.0,),
        crop: tuple[float, float] = (0.08, 1.0),
        batch_size: int | None = None,
        seed: int | None = None,
        out: Path | None = None,
        quiet: bool = False,
    ) -> tuple[str, Literal["finetune", "frozen", "supervised", "supervised-bernoulli"], dict[str, Any]]:
        """Train a linear head on a run, the network with it or not; or the same network from nothing.

        After an interruption the same command goes on.

        Args:
            source: A finished run; in the supervised modes a recipe will do.
            mode: Which part is trained; supervised-bernoulli has appendix A.2's layer.
            labels: Share of the training labels to use, the same of every class.
            epochs: Lengths to try; the best on validation is tested.
            lr: Learning rates to try, with each length; a tenth of it from 80 % of training on.
            weight_decay: Weight decays to try, with each of these.
            crop: Smallest and largest share of the image's area that a random crop covers.
            batch_size: Images a step; by default the run's.
            seed: By default the run's.
            out: Where classify-MODE-LABELS.json and the trials go; by default the run's directory.
            quiet: Show no progress bar.
        """
        tried = {"epochs": epochs, "lr": lr, "weight_decay": weight_decay}
        training = {"labels": labels, "crop": crop, "batch_size": batch_size, "seed": seed}
        return source, mode, tried | training | {"out": out, "progress": not quiet}

    source, mode, training = _parse(options, arguments, "stochcon classify")
    from stochcon.classify import classify
    from stochcon.distributed import rank, resumable

    with resumable("the same command again goes on from the last checkpoint"):
        result = classify(source, mode, **training)
    if rank() == 0:
        scores = ", ".join(f"{name} {value:.1f} %" for name, value in result["test"].items())
        print(f"{mode}, {result['images']} labels, {result['chosen']} epochs, on test images: {scores}")


def paper(arguments: list[str]) -> None:
    def options(
        what: tyro.conf.Positional[Literal["table1", "figure2", "figure3", "figure4", "figure5", "all"]],
        tier: str = "cpu",
        seeds: int = 3,
        data: str | None = None,
        jobs: int = 1,
        redraw: bool = False,
        dry_run: bool = False,
        gpus: int = 8,
        utilisation: float = 0.1,
        dollars: float = 3.0,
    ) -> tuple[str, dict[str, Any], dict[str, float]]:
        """Run a table or figure of the paper, what is done already excepted; draw it, and fill docs/replication.md.

        Args:
            what: Which one.
            tier: cpu, some minutes a run, or paper, the size of the paper, for GPUs.
            seeds: How many of every run.
            data: Only this data set; by default those that the tier has for the figure.
            jobs: Runs at a time, each with one thread if more than one.
            redraw: Run nothing: pictures and tables from the results that are there.
            dry_run: Only say what would run and what it would cost.
            gpus: Of the paper's tier, for --dry-run.
            utilisation: Share of a GPU's peak in use, for --dry-run.
            dollars: For one GPU and hour, for --dry-run.
        """
        grid = {
            "tier": tier,
            "seeds": seeds,
            "data": data,
            "jobs": jobs,
            "redraw": redraw,
            "dry_run": dry_run,
        }
        return what, grid, {"gpus": gpus, "utilisation": utilisation, "dollars": dollars}

    what, grid, machine = _parse(options, arguments, "stochcon paper")
    from stochcon.paper.cost import Machine
    from stochcon.paper.report import paper

    paper(what, machine=Machine(**machine), **grid)  # type: ignore[arg-type]


def demo(arguments: list[str]) -> None:
    def options(out: Path = Path("runs/demo"), epochs: int | None = None) -> tuple[Path, int | None]:
        """Pretrain a Bernoulli StochCon and its SimCLR twin on photographs, compare, and draw the bits.

        Args:
            out: Where the runs, the table and the picture go.
            epochs: Passes over the images; by default what takes some five minutes on two cores.
        """
        return out, epochs

    out, epochs = _parse(options, arguments, "stochcon demo")
    from stochcon.demo import demo, shortened

    demo(out, shortened(epochs) if epochs else None)


def list_recipes(arguments: list[str]) -> None:
    def options() -> None:
        """List the recipes with their cost and measured result."""

    _parse(options, arguments, "stochcon recipes")
    table = Table("recipe", "what it is, what it costs, what was measured", show_lines=True)
    for name, function in recipes.RECIPES.items():
        lines = [line.strip() for line in (function.__doc__ or "").strip().splitlines()]
        table.add_row(name, "\n".join(lines))
    Console().print(table)


VERBS: dict[str, Callable[[list[str]], None]] = {
    "pretrain": pretrain,
    "evaluate": evaluate,
    "classify": classify,
    "encode": encode,
    "search": search,
    "export": export,
    "paper": paper,
    "demo": demo,
    "recipes": list_recipes,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit status: 0, or 2 after one line about what was wrong, or 130 when interrupted."""
    verb, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if verb in ("-h", "--help"):
        print(USAGE)
        return 0
    try:
        if verb not in VERBS:
            raise ValueError(f"there is no verb {verb!r}; there are {', '.join(VERBS)}")
        VERBS[verb](rest)
        return 0
    except ValidationError as error:
        message = explain(error)
    except (ValueError, OSError, FloatingPointError) as error:
        message = str(error)
    except KeyboardInterrupt as stop:
        print(f"stochcon: {'; '.join(['interrupted', *map(str, stop.args)])}", file=sys.stderr)
        return 130
    print(f"stochcon: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _value(arguments: list[str], option: str) -> str | None:
    """The value of an option that decides what the other options' defaults are."""
    for argument, following in zip(arguments, [*arguments, None][1:], strict=True):
        if argument == option:
            if following is None:
                raise ValueError(f"{option} needs the directory of a run")
            return following
        if argument.startswith(f"{option}="):
            return argument.split("=", 1)[1]
    return None


def _parse(options: Callable[..., T], arguments: list[str], prog: str) -> T:
    """The options as tyro reads them, with its errors in one line."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(options, args=arguments, prog=prog)
    except SystemExit as stop:
        if not stop.code:
            raise
    # tyro says it in a box: a title, a rule, the message, a rule, where to find help
    message = re.split(r"[─-]{4,}", re.sub(r"[╭╮╰╯│|+]", " ", said.getvalue()))
    text = " ".join(message[1 if len(message) > 1 else 0].split())
    inner = re.search(
        r"Error parsing config\.(\w+): .*? for \w+ (?:Value error, (.*?)|(\S+) (.*?)) \[type=", text
    )
    if inner:
        group, whole, field, why = inner.groups()
        text = whole or f"{group}.{field}: {why[0].lower()}{why[1:]}"
    raise ValueError(text)
