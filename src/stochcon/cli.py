"""The command line: one typed function a verb, whose docstring is its help."""

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from difflib import get_close_matches
from json import dumps
from math import inf
from pathlib import Path
from textwrap import indent
from typing import Annotated, Any, Literal

import tyro
from pydantic import ValidationError
from tabulate import tabulate
from tyro.conf import Positional, PositionalMetavarFromFieldName
from tyro.extras import SubcommandApp

import stochcon
from stochcon import report
from stochcon.config import Config, explain
from stochcon.pretrain_verb import (
    EVERYDAY,
    Flag,
    Maybe,
    fields_as_options,
    pretrain,
    rebit,
    run_to_rebit,
    starting_point,
)
from stochcon.program import computing, only_json, say_once

READINGS = {
    "top1": "as it learned: a sample of bits, a mean, or h",
    "mean": "the probabilities of the bits",
    "bits": "the stored bits",
    "h": "h, by a second head that leaves the network be",
}
"""The head of `classify` reads this for each of its scores, in the order of the table."""


def check(run: Positional[Path]) -> None:
    """Say how a training goes or went, and what to change; the exit status is 1 unless it is healthy.

    Args:
        run: A run directory, also of an interrupted or a running training.
    """
    verdict = stochcon.check(run)
    print(verdict.text)
    if verdict.state != "healthy":
        raise SystemExit(1)


def evaluate(
    directories: Positional[tuple[Path, ...]],
    split: Literal["test", "validation"] = "test",
    curve: Flag = False,
    baseline: Maybe[Path] = None,
    hashing: Flag = False,
    json: Flag = False,
    quiet: Flag = False,
) -> None:
    """Measure what a run's features and bits are worth, beside the baselines.

    Images in a folder search for copies of themselves; labelled images are also classified and retrieved by class.

    Args:
        directories: A finished run; with --curve also several, of different numbers of bits.
        split: The images to classify. Make choices on validation; read test once, at the end.
        curve: Score against the number of bits instead; writes curve.json and curve.png.
        baseline: The run whose h the curve's other codes quantise, say of SimCLR; by default the run itself.
        hashing: Also mAP@1000 and mAP@All of all images as queries, as the literature on hashing has them.
        json: Print the scores as JSON, and everything else on standard error.
        quiet: Show no progress.
    """
    if not directories or (not curve and (len(directories) > 1 or baseline)):
        raise ValueError("evaluate needs the directory of one run; several, and --baseline, are for --curve")
    with computing(), only_json(json):
        from stochcon.evaluation import curve as curves
        from stochcon.evaluation import evaluate as scoring
        from stochcon.evaluation import self_retrieval

        if curve:
            scores = stochcon.curve(directories, baseline, split, progress=not quiet)
            found: object = scores.dropna().to_dict("records")
            if not json:
                curves.show(scores)
            print(f"\nThe picture is {scoring.file_of_split(directories[0], curves.PICTURE, split)}")
        else:
            labelled, folder = scoring.described(directories[0])
            found = metrics = dict[str, float]()
            if labelled or not folder:
                metrics |= stochcon.evaluate(directories[0], split, not quiet, hashing)
                scoring.show(metrics, f"{directories[0]}, {split} images")
            if folder:
                copies = stochcon.self_retrieval(directories[0], split, not quiet)
                metrics |= copies
                self_retrieval.show(copies)
    if json:
        print(dumps(found, indent=2))


def classify(
    source: Positional[str],
    mode: Literal["finetune", "finetune-h", "frozen", "supervised", "supervised-bernoulli"],
    labels: float = 1.0,
    epochs: tuple[int, ...] = (10,),
    lr: tuple[float, ...] = (3e-4,),
    head_lr: tuple[float, ...] = (1.0,),
    weight_decay: tuple[float, ...] = (0.0,),
    crop: tuple[float, float] = (0.08, 1.0),
    batch_size: Maybe[int] = None,
    seed: Maybe[int] = None,
    out: Maybe[Path] = None,
    json: Flag = False,
    quiet: Flag = False,
) -> None:
    """Train a linear head on a run, with or without its network; or train the same network from nothing.

    After an interruption the same command goes on.

    Args:
        source: A finished run; in the supervised modes a recipe will do.
        mode: The part to train; finetune-h leaves the latent out, supervised-bernoulli has the layer of appendix A.2.
        labels: Share of the training labels to use, the same of every class.
        epochs: Lengths to try; the best on validation is tested.
        lr: Learning rates to try with each length; the last 20 % of the steps use a tenth of it.
        head_lr: How many times as high the head's learning rate is, to try with each of these.
        weight_decay: Weight decays to try with each of these.
        crop: Smallest and largest share of the image's area that a random crop covers.
        batch_size: Images a step; by default the run's.
        seed: By default the run's.
        out: Where classify-MODE-LABELS.json and the trials go; by default the run's directory.
        json: Print the result as JSON, and everything else on standard error.
        quiet: Show no progress bar.
    """
    settings: dict[str, Any] = {"labels": labels, "epochs": epochs, "lr": lr, "head_lr": head_lr}
    settings |= {"weight_decay": weight_decay, "crop": crop, "batch_size": batch_size, "seed": seed, "out": out}
    with computing("the same command again goes on from the last checkpoint, if there is one"), only_json(json):
        result = stochcon.classify(source, mode, **settings, progress=not quiet)
    if json:
        say_once(dumps(result, indent=2))
        return
    rows = [(name, what, result["test"][name]) for name, what in READINGS.items() if name in result["test"]]
    head = "score", "what the head reads", "top-1 (%)"
    title = f"{mode}, {result['images']} labels, {result['chosen']} epochs, on test images"
    say_once(f"{title}\n{tabulate(rows, head, 'rounded_outline', floatfmt='.1f')}")


def encode(
    directory: Positional[Path],
    images: Positional[str],
    out: Path = Path("codes.parquet"),
    split: Maybe[Literal["train", "validation", "test"]] = None,
    batch_size: int = 512,
    quiet: Flag = False,
) -> None:
    """Write the codes of images, packed bits and an uncertainty for each, to a Parquet file.

    After an interruption the same command goes on. Under torchrun each process writes a shard.

    Args:
        directory: A finished run whose latent has a code.
        images: A folder of images or of shards, a .tar or .zip archive, or the name of a data set.
        out: The file of codes.
        split: Only the images of this split; by default all.
        batch_size: Images at once; an interruption loses at most this many.
        quiet: Show no progress bar.
    """
    with computing("the same command again goes on"):
        file, count, skipped = stochcon.encode(directory, images, out, split, batch_size, progress=not quiet)
    if skipped:
        print(f"Some images cannot be read: {skipped} lists them")
    print(f"{count} codes are in {file}. Next: stochcon search {out} ID, or an image file")


def search(
    codes: Positional[Path],
    queries: Positional[tuple[str, ...]],
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10,
    run: Maybe[Path] = None,
    weighted: Flag = False,
    approximate: Flag = False,
    asymmetric: Flag = False,
    images: Maybe[str] = None,
    picture: Maybe[Path] = None,
    json: Flag = False,
) -> None:
    """List, and draw, the images whose codes differ from the code of each query in the fewest bits.

    Args:
        codes: A file that stochcon encode wrote.
        queries: Ids in that file, or image files.
        k: How many to list for each.
        run: The run that made the codes, which encodes an image file; by default the one that CODES names.
        weighted: Count each bit by how informative and how certain it is.
        approximate: Look only where near codes are likely; the lists are built once, in CODES.index.
        asymmetric: Compare stored bits with the query's probabilities: no ties, and a better ranking for image files.
        images: The folder, archive or data set that was encoded, to draw from; by default the one that CODES names.
        picture: Where they are drawn; by default CODES.search.png.
        json: Print ids and distances as JSON, and everything else on standard error.
    """
    from stochcon.codes import file, inverted_lists
    from stochcon.codes.search import show

    with only_json(json):
        if approximate and not (weighted or asymmetric) and inverted_lists.load(codes) is None:
            print(f"Building inverted lists in {codes}.index, which later searches read")
            index, recall = inverted_lists.build_beside(codes)
            print(f"A search reads {index.nprobe:,} of {index.nlist:,} lists (recall {recall:.3f})")
        results = stochcon.search(codes, queries, k, run, weighted, approximate, asymmetric)
        if not json:
            show(results, weighted, asymmetric)
        images = images or (None if json and not picture else file.made_of(codes).get("images"))
        if picture and images is None:
            raise ValueError(f"--picture {picture} needs --images, what was encoded")
        if images is not None:
            from stochcon.codes.mosaic import draw, left_out

            path = report.save(draw(results, images), picture or codes.with_suffix(".search.png"))
            print(f"The picture is {path}{left_out(results)}")
    if json:
        print(dumps([asdict(found) for found in results], indent=2))


def export(
    directory: Positional[Path], to: Literal["onnx", "hub"], out: Maybe[Path] = None, check: Maybe[int] = None
) -> None:
    """Write a run's network for use elsewhere: from uint8 images to packed bits, or with a model card.

    Args:
        directory: A finished run.
        to: An ONNX file, for onnxruntime without stochcon; or a Hugging Face Hub folder.
        out: By default DIR/model.onnx, or hub/ and the run's name.
        check: ONNX: validation images to compare its bits with PyTorch's on; by default 1000, 0 for none.
    """
    path, agreement = stochcon.export(directory, to, out, check)
    if to == "onnx":
        print(f"{path}: {agreement or 'not compared with PyTorch'}")
    else:
        print(f"{path} is ready. Before you publish it, complete its README.md: data, limits, licence")


def paper(
    what: Positional[Literal["table1", "figure2", "figure3", "figure4", "figure5", "all"]],
    tier: str = "cpu",
    seeds: int = 5,
    data: Maybe[str] = None,
    jobs: int = 1,
    minutes: float = inf,
    redraw: Flag = False,
    dry_run: Flag = False,
) -> None:
    """Run what is missing of a table or figure of the paper, draw it, and fill docs/replication.md.

    Args:
        what: The table or figure.
        tier: cpu, some minutes a run; or paper, the sizes of the paper, for GPUs.
        seeds: How many of the central models' runs; of all others at most three.
        data: Only this data set; by default those that the tier has for the figure.
        jobs: Runs at a time, each with one thread if more than one.
        minutes: No run begins later than so many minutes from now.
        redraw: Run nothing: pictures and tables from the results that are there.
        dry_run: Only print what would run.
    """
    with computing("the same command again goes on"):
        stochcon.paper(what, tier, seeds, data, jobs, minutes, redraw, dry_run)


def demo(
    out: Path = Path("runs/demo"), epochs: int = 6, root: Annotated[Maybe[Path], tyro.conf.arg(name="data.root")] = None
) -> None:
    """Pretrain bits on photographs, compare them with other codes, and draw what they see.

    With a folder of images: say whether bits of these images are worth their training, in about as long.

    Args:
        out: Where the runs, the scores and the picture go.
        epochs: Passes over the photographs; 6 take about three minutes on two cores.
        root: A folder of images in place of the photographs.
    """
    with computing():
        stochcon.demo(out, epochs, root)


def recipes() -> None:
    """List what can be pretrained, at what cost, with what result."""
    for name, text in stochcon.recipes().items():
        print(f"{name}\n{indent(text, '    ')}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        The exit status: 0, 1 if `check` found something to change, 2 after a line about what was wrong, 130 if
        interrupted, 141 if nobody reads on.
    """
    given = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    try:
        try:
            _run(given)
            status = 0
        except SystemExit as stop:  # tyro has printed its help, or what it cannot read
            status = int(stop.code or 0)
        print(end="", flush=True)
        return status
    except BrokenPipeError:  # the reader has seen enough, as in `stochcon recipes | head -3`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's flush at exit complains
        return 141
    except ValidationError as error:
        message = explain(error)
    except (ValueError, OSError, FloatingPointError) as error:
        message = str(error)
    except KeyboardInterrupt as stop:
        print(f"stochcon: {'; '.join(['interrupted', *map(str, stop.args)])}", file=sys.stderr)
        return 130
    print(f"stochcon: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _run(arguments: list[str]) -> None:
    if arguments == ["--version"]:
        print(f"stochcon {stochcon.__version__}")
        return
    verb, *options = arguments
    asks = {"-h", "--help", "--help-all"} & {*arguments}
    default, found = Config(), list[str]()
    if verb == "pretrain":
        default, found = starting_point(options, bool(asks))
    elif verb == "rebit" and options and not options[0].startswith("-"):
        default = run_to_rebit(options[0])
    app = SubcommandApp()
    verbs = {"pretrain": pretrain(default, found), "rebit": rebit(default)} | {
        function.__name__: function
        for function in (check, evaluate, classify, encode, search, export, paper, demo, recipes)
    }
    if verb not in verbs and not verb.startswith("-"):
        near = "".join(f"did you mean {name}? There are " for name in get_close_matches(verb, verbs, 1))
        raise ValueError(f"there is no command {verb!r}; {near or 'there are '}{', '.join(verbs)}")
    for name, function in verbs.items():
        summary = (function.__doc__ or "").partition("\n")[0]
        app.command(name=name, help=summary if verb in asks else None)(function)
    app.cli(
        prog="stochcon",
        description="Images to short, interpretable, uncertain codes, learned without labels.",
        args=["--help" if argument == "--help-all" else argument for argument in arguments],
        config=(PositionalMetavarFromFieldName,),
        registry=fields_as_options(EVERYDAY.get(verb) if asks and "--help-all" not in asks else None),
    )
