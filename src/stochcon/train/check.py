"""Check: what the log of a training, ended or still going on, says about it, and what to change."""

import math
from pathlib import Path
from typing import Any, NamedTuple

from stochcon import runs
from stochcon.config import Config
from stochcon.method.latents import LATENTS

LINES = 5  # of the log: fewer cannot tell a trend from noise, and in the warm-up every loss is near its start
TWICE = 2  # lines must agree: at the first look batch norm's running statistics lag behind
WORSE = 1.03  # share of log(2N - 1) above which a network is worse than one that tells nothing apart
NOTHING = 0.98  # share from which on nothing is learned: failed runs stay within 1 %, sound ones leave it in an epoch
RANK = 2.0  # RankMe below which all h lie in about one direction; sound networks of 128 units have 40 and more
FAULTY = 0.1  # share of the bits that are dead or doubled; sound runs have at most one of 16
ALIKE = 0.9  # self-retrieval of pixels: 100 % without augmentation, 10 to 50 % with crops and jitter
VIEWS = "--views.global-scale 0.4 1 and --views.jitter 0.8"
IMPROVING = (
    0.1  # share of the gain that the second half brings: 2 to 8 % in long runs, 12 to 16 % in 5 to 10 epochs of digits
)


class Verdict(NamedTuple):
    """A `state`, healthy, collapsed, diverged, too easy, improving or unclear, and a `text` that says why."""

    state: str
    text: str


def check(run: Path | str) -> Verdict:
    """Say how a training goes, and what to change.

    Args:
        run: A run directory. The training may be finished, interrupted or still running, and of an earlier version.

    Returns:
        The verdict: its `state` is "healthy" if nothing is to be changed, and its `text` says what was found.

    Raises:
        ValueError: If the directory has no configuration or no log.

    Example:
        >>> import tempfile
        >>> from stochcon import pretrain, recipe
        >>> run = pretrain(recipe("digits", epochs=1), tempfile.mkdtemp() + "/run", progress=False)
        >>> check(run).state
        'unclear'
    """
    config = runs.read_config(Path(run))
    if not (Path(run) / runs.LOG).exists():
        raise ValueError(f"{run} has no {runs.LOG}: only a directory of stochcon pretrain can be checked")
    return judge(runs.read_log(Path(run) / runs.LOG), config)


def nothing_learned(config: Config) -> float:
    """Compute equation 1 of a network that tells nothing apart, log(2N - 1) for batches of N.

    Each pair of views has 2N candidates of its own, without the anchor itself. So the numbers of views, processes
    and chunks do not matter.
    """
    return math.log(2 * config.batch_size - 1)


def equation_1(line: dict[str, Any]) -> float:
    """Take the terms of extensions out of the loss of a line; those of earlier versions stay in it."""
    return math.inf if line["loss"] is None else line["loss"] - line.get("extensions", 0.0)


def judge(lines: list[dict[str, Any]], config: Config) -> Verdict:
    """Judge the lines of a log: `step`, `epoch` and `loss`, and in some also what `monitor.look` sees."""
    chance, last = nothing_learned(config), lines[-1] if lines else {"loss": 0.0, "epoch": 0.0, "step": 1}
    epochs = max(config.epochs, math.ceil(round(config.min_steps * last["epoch"] / last["step"], 6)))
    nothing = f"log(2N - 1) = {chance:.2f}, that of a network that tells nothing apart"
    steps = rate = f"a lower --optimizer.lr than {config.optimizer.lr:g}, or a longer --optimizer.warmup"
    spread, scale = "--latent.decorrelation 0.05", "--latent.logit-scale 4"
    if LATENTS[config.latent.kind].binary and not config.latent.logit_scale:  # the likelier reason
        steps, spread = f"{scale} and a --latent.decorrelation of at most 0.05, or a lower --optimizer.lr", scale
    if last["loss"] is None:
        return Verdict("diverged", f"The loss is not finite at step {last['step']}. Try {rate}.")
    if len(lines) < LINES or last["epoch"] <= config.optimizer.warmup:
        return Verdict("unclear", f"{len(lines)} lines of the log are too few to say anything. Train longer.")
    shares = {"share": [(line["step"], equation_1(line) / chance) for line in lines]}
    shares["flat"] = [(line["step"], 1 / line["rank"]) for line in lines if "rank" in line]
    shares["alike"] = [(line["step"], line["retrieval.pixels"] / 100) for line in lines if "rank" in line]
    shares |= {f: [(line["step"], line[f] / line["bits"]) for line in lines if f in line] for f in ("dead", "doubled")}
    for field, limit, state, finding, remedy in (
        ("share", WORSE, "diverged", f"the loss is above {nothing}", steps),
        ("share", NOTHING, "collapsed", f"the loss is at {nothing}", steps),
        ("flat", 1 / RANK, "collapsed", "the rank of h is near 1: all images look alike to it", steps),
        ("dead", FAULTY, "collapsed", f"more than {FAULTY:.0%} of the bits never change", spread),
        ("doubled", FAULTY, "collapsed", f"more than {FAULTY:.0%} of the bits repeat another one", spread),
        ("alike", ALIKE, "too easy", "the pixels alone of two views tell which are of one image", VIEWS),
    ):
        count = [*(share <= limit for _, share in reversed(shares[field])), True].index(True)  # of the last ones
        if count >= TWICE:
            return Verdict(state, f"Since step {shares[field][-count][0]} {finding}. Try {remedy}.")
    few, half = max(1, len(lines) // 10), len(lines) // 2
    middle, end = (sum(map(equation_1, some)) / few for some in (lines[half : half + few], lines[-few:]))
    if last["epoch"] >= epochs and middle - end > IMPROVING * (chance - end):
        found = f"The second half of the training still brought the loss from {middle:.2f} to {end:.2f}"
        return Verdict("improving", f"{found}. Train longer: --epochs {2 * epochs}.")
    found = (
        f"The training is healthy: after {last['epoch']:.3g} of {epochs} epochs the loss is {end:.2f}, below {nothing}"
    )
    return Verdict("healthy", f"{found}." + ("" if shares["flat"] else " The log has nothing else to judge by."))
