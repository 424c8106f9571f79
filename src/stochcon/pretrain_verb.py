"""The verbs `pretrain` and `rebit`, in which every field of a configuration is an option."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff, Positional, Suppress
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

import stochcon
from stochcon.config import WHOLE, Backbone, Config, Data, Frozen, Latent, Rebit, changes
from stochcon.program import computing, say_once
from stochcon.recipebook import RECIPES, changed, recipe, suited

T = TypeVar("T")
Flag = Annotated[FlagCreatePairsOff[bool], tyro.conf.arg(help_behavior_hint="")]
Maybe = Annotated[DisallowNone[T | None], tyro.conf.arg(help_behavior_hint="")]
"""An option without a default value. The help does not say `(default: None)`."""
EVERYDAY: dict[str, dict[type[Frozen], set[str]]] = {
    "pretrain": {
        Config: {"epochs", "batch_size", "seed", "data", "latent", "backbone"},
        Data: {"root"},
        Latent: {"kind", "dim"},
        Backbone: {"name"},
    },
    "rebit": {Config: {"seed", "latent", "rebit"}, Latent: {"dim"}, Rebit: {"steps", "neighbours", "decorrelation"}},
}
"""The fields that a verb's --help shows; --help-all shows every field."""


def pretrain(default: Config, found: Sequence[str] = ()) -> Callable[..., None]:
    """Make the verb `pretrain` for the configuration that its options change, and what was `found` in a folder."""

    def verb(
        recipe: Positional[Maybe[str]] = None,
        fields: Annotated[Config, tyro.conf.arg(name="")] = default,
        config: Maybe[Path] = None,
        out: Maybe[Path] = None,
        resume: Maybe[Path] = None,
        logger: Annotated[Maybe[Literal["tensorboard", "wandb", "trackio"]], tyro.conf.arg(metavar="NAME")] = None,
        quiet: Flag = False,
    ) -> None:
        """Learn a representation without labels, as a recipe says and the options change it.

        Every field of the configuration is an option: --help-all lists them, with the recipe's values.

        Args:
            recipe: A folder of images; or the recipe to start from, which `stochcon recipes` lists.
            fields: The configuration.
            config: A JSON file of fields to change: a run's config.json, or a part of it.
            out: The run directory; by default runs/NAME-LATENT-SEED, after the recipe or the folder.
            resume: Go on with the interrupted run in this directory.
            logger: Where the lines of log.jsonl go too: tensorboard, wandb or trackio.
            quiet: Show no progress bar, nor what was found.
        """
        chosen = changed(fields, {"recipe": recipe} if recipe in RECIPES else {})
        name = chosen.data.root.resolve().name if chosen.data.name == "folder" and chosen.data.root else chosen.recipe
        directory = resume or out or Path("runs") / f"{name}-{chosen.latent.kind}-{chosen.seed}"
        if resume:
            from stochcon.runs import read_config

            for field, (old, new) in changes(read_config(resume), chosen).items():
                raise ValueError(f"cannot resume with {field} = {new}: {resume} was started with {field} = {old}")
            if out and out != resume:
                raise ValueError(f"--resume {resume} goes on in that directory; leave --out {out} away")
        from stochcon.runs import how_to_go_on, refuse_taken

        with computing(lambda: how_to_go_on(directory)):
            from stochcon.evaluation.self_retrieval import held_out, verdict
            from stochcon.parallel import launched_rank, rank, restarted
            from stochcon.train.pretrain import plan

            if not (resume or restarted() or launched_rank()):
                refuse_taken(directory)
            if not (resume or quiet):
                for line in (*found, plan(chosen)):
                    say_once(line)
            stochcon.pretrain(chosen, directory, resume=resume is not None, progress=not quiet, logger=logger)
            if rank() == 0:
                print(verdict(stochcon.self_retrieval(directory, held_out(chosen.data), not quiet)))
        say_once(f"The model is in {directory}. Next: stochcon evaluate {directory}")

    return verb


def rebit(default: Config) -> Callable[..., None]:
    """Make the verb `rebit` for the configuration that its options change."""

    def verb(
        run: Positional[Path],
        fields: Annotated[Config, tyro.conf.arg(name="")] = default,
        out: Maybe[Path] = None,
        quiet: Flag = False,
    ) -> None:
        """Learn the bits of a finished run again, in about a minute: more or fewer, or for another use.

        The network stays as it is. The options start from the run's own configuration; --help-all lists them.

        Args:
            run: Any finished run, of SimCLR too.
            fields: The configuration.
            out: The new run directory; by default that of the run, and the number of bits.
            quiet: Show no progress bar.
        """
        chosen = changed(fields, {})
        directory = out or run.with_name(f"{run.name}-{chosen.latent.dim}bits")
        with computing("the same command again goes on from the last checkpoint, if there is one"):
            stochcon.rebit(run, directory, chosen, progress=not quiet)
        say_once(f"The model is in {directory}. Next: stochcon evaluate {directory}")

    return verb


def run_to_rebit(run: str) -> Config:
    """The configuration whose fields the options of `rebit` change."""
    from stochcon.train.rebit import rebit_config

    return rebit_config(run)


def starting_point(options: list[str], asks: bool) -> tuple[Config, list[str]]:
    """Find the configuration that the options after `pretrain` change, and what was found in a folder of images.

    Who `asks` for help need not name a recipe.
    """

    def sources(
        config: Path | None = None,
        resume: Path | None = None,
        root: Annotated[Path | None, tyro.conf.arg(name="data.root")] = None,
    ) -> tuple[Path | None, Path | None, Path | None]:
        return config, resume, root

    (file, resume, root), _ = tyro.cli(
        sources, prog="stochcon pretrain", args=options, return_unknown_args=True, add_help=False
    )
    fields = _read(file) if file else {}
    if resume:
        from stochcon.runs import read_config

        return changed(read_config(resume), fields), []
    named = options[0] if options and not options[0].startswith("-") else fields.get("recipe")
    if named not in RECIPES and named is not None and Path(named).is_dir():
        named, root = "folder", Path(named)
    if fields.get("recipe", named) != named:
        raise ValueError(f"{file} is of the recipe {fields['recipe']}, not of {named}")
    if named is None and not asks:
        raise ValueError(f"pretrain needs a folder of images, or a recipe: {', '.join(RECIPES)}; or --resume DIR")
    try:
        if fields.keys() >= WHOLE:  # of a run, perhaps of an earlier version: what it lacks is off
            return Config.model_validate(fields), []
        config = recipe(named or "photographs", **fields)
    except ValueError as error:
        raise ValueError(f"{file}: {error}" if file else str(error)) from None
    if named != "folder" or root is None or asks:
        return config, []
    from stochcon.data.survey import survey

    found = survey(config.data.model_copy(update={"root": root}))
    chosen, reasons = suited(changed(config, {"data.root": root}), found.splits["train"], found.grey)
    return chosen, [*found.lines(), *reasons]


def _read(file: Path) -> dict[str, Any]:
    try:
        fields = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{file} must hold a JSON object, as the config.json of a run does")
    return fields


def fields_as_options(everyday: dict[type[Frozen], set[str]] | None) -> ConstructorRegistry:
    """Tell tyro how to make options of all fields, or of the everyday ones. It leaves the validation to `changed`."""
    registry = ConstructorRegistry()

    @registry.struct_rule
    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        if not (isinstance(info.type, type) and issubclass(info.type, Frozen)):
            return None
        group: type[Frozen] = info.type
        shown = {*group.model_fields} - {"recipe"} if everyday is None else everyday.get(group, set())

        def build(**values: Any) -> Frozen:
            return group.model_construct(**values)

        build.__doc__ = group.__doc__ if everyday is None else ""
        fields = []
        for name, field in group.model_fields.items():
            kind: Any = field.annotation if name in shown else Annotated[field.annotation, Suppress]
            fields.append(StructFieldSpec(name, kind, getattr(info.default, name), field.description))
        return StructConstructorSpec(instantiate=build, fields=tuple(fields))

    return registry
