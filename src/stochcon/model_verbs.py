"""The verbs that make models and measure them. No logic: options in, one call, one line out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from stochcon import recipebook as recipes
from stochcon.config import Config, changes
from stochcon.options import parse, value_of


def pretrain(arguments: list[str]) -> None:
    from stochcon import runs

    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    directory = value_of(arguments, "--resume")
    if name is None and directory is None and not {"-h", "--help"} & {*arguments}:
        raise ValueError(f"pretrain needs a recipe ({', '.join(recipes.RECIPES)}) or --resume DIR")
    base = runs.read_config(Path(directory)) if directory else recipes.recipe(name or "photographs")
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

    config, out, quiet = parse(options, arguments, f"stochcon pretrain {name or 'RECIPE'}")
    if directory:
        for field, (old, new) in changes(base, config).items():
            raise ValueError(
                f"cannot resume with {field} = {new}: {directory} was started with {field} = {old}"
            )
        if out and out != Path(directory):
            raise ValueError(f"--resume {directory} goes on in that directory; leave --out {out} away")
        out = Path(directory)
    out = out or Path("runs") / f"{config.recipe}-{config.latent.kind}-{config.seed}"

    from stochcon.parallel import rank
    from stochcon.program import resumable
    from stochcon.train.pretrain import pretrain

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

    directories, split, curve, twin, quiet = parse(options, arguments, "stochcon evaluate")
    if not directories or (not curve and (len(directories) > 1 or twin)):
        raise ValueError("evaluate needs the directory of one run; several, and --twin, are for --curve")
    if curve:
        from stochcon.evaluation import curve as curves
        from stochcon.evaluation.evaluate import of_split

        print(curves.table(curves.curve(directories, twin, split, progress=not quiet)))
        print(f"\nThe picture is {directories[0] / of_split(curves.PICTURE, split)}")
        return
    from stochcon.evaluation.evaluate import evaluate, show

    metrics = evaluate(directories[0], split, progress=not quiet)
    show(metrics, f"{directories[0]}, {split} images")


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

    source, mode, training = parse(options, arguments, "stochcon classify")
    from stochcon.parallel import rank
    from stochcon.program import resumable
    from stochcon.train.classify import classify

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
    ) -> tuple[str, dict[str, Any]]:
        """Run a table or figure of the paper, what is done already excepted; draw it, and fill docs/replication.md.

        Args:
            what: Which one.
            tier: cpu, some minutes a run, or paper, the size of the paper, for GPUs.
            seeds: How many of every run.
            data: Only this data set; by default those that the tier has for the figure.
            jobs: Runs at a time, each with one thread if more than one.
            redraw: Run nothing: pictures and tables from the results that are there.
            dry_run: Only say what would run.
        """
        grid = {
            "tier": tier,
            "seeds": seeds,
            "data": data,
            "jobs": jobs,
            "redraw": redraw,
            "dry_run": dry_run,
        }
        return what, grid

    what, grid = parse(options, arguments, "stochcon paper")
    from stochcon.experiments.paper import paper

    paper(what, **grid)


def demo(arguments: list[str]) -> None:
    def options(out: Path = Path("runs/demo"), epochs: int | None = None) -> tuple[Path, int | None]:
        """Pretrain a Bernoulli StochCon and its SimCLR twin on photographs, compare, and draw the bits.

        Args:
            out: Where the runs, the table and the picture go.
            epochs: Passes over the images; by default what takes some five minutes on two cores.
        """
        return out, epochs

    out, epochs = parse(options, arguments, "stochcon demo")
    from stochcon.experiments.demo import demo, shortened

    demo(out, shortened(epochs) if epochs else None)


def list_recipes(arguments: list[str]) -> None:
    def options() -> None:
        """List the recipes with their cost and measured result."""

    parse(options, arguments, "stochcon recipes")
    table = Table("recipe", "what it is, what it costs, what was measured", show_lines=True)
    for name, function in recipes.RECIPES.items():
        lines = [line.strip() for line in (function.__doc__ or "").strip().splitlines()]
        table.add_row(name, "\n".join(lines))
    Console().print(table)
