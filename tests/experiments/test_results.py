"""The tidy frame of results, the choice of a length, and the verdicts on claims."""

import json
import math
from pathlib import Path
from statistics import mean, stdev

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stochcon.experiments import claims, figure3, figure4, results
from stochcon.experiments.plans import SIMCLR, bernoulli, gaussian
from tests.experiments.toy import TOY, fake, seeds


def test_the_frame_has_a_row_for_each_metric_of_each_run(empty: Path) -> None:
    probe, pretraining = seeds(1).probe(SIMCLR)[0], seeds(1).cells(bernoulli())[0]
    fake(probe, **{"linear.h": 90})
    fake(pretraining, loss=2, active=[{"step": 1, "epoch": 0.5, "train": 51, "test": 49}])
    fake(seeds(1).classify(SIMCLR, "frozen", 1.0, 2)[0], **{"test.top1": 80})
    frame = results.load().fillna(-1)
    assert [tuple(row) for row in frame.itertuples(index=False)] == [
        ("toy-digits", "bernoulli-soft-top-full", "pretrain", -1, -1, 0, "loss", 2),
        ("toy-digits", "bernoulli-soft-top-full", "pretrain", -1, 0.5, 0, "active.train", 51),
        ("toy-digits", "bernoulli-soft-top-full", "pretrain", -1, 0.5, 0, "active.test", 49),
        ("toy-digits", "simclr", "frozen", 1, 2, 0, "test.top1", 80),
        ("toy-digits", "simclr", "probe", -1, -1, 0, "linear.h", 90),
    ]


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"metrics": {}})])
def test_a_file_that_is_no_result_is_named(content: str, empty: Path) -> None:
    path = empty / "results/paper/toy-digits/simclr/broken.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(ValueError, match=r"broken\.json is not the result of a run"):
        results.load()


def test_the_length_is_chosen_on_validation(empty: Path) -> None:
    plan = seeds(2)
    short, long = (plan.classify(SIMCLR, "finetune", 1.0, epochs) for epochs in (1, 2))
    fake(short[0], **{"validation.top1": 80, "test.top1": 70})
    fake(long[0], **{"validation.top1": 79, "test.top1": 90})
    fake(short[1], **{"validation.top1": 99, "test.top1": 99})  # the other length has not run
    assert results.best(plan, results.load(), SIMCLR, "finetune", 1.0).to_dict() == {0: 70}


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=3))
def test_the_interval_is_students(values: list[float]) -> None:
    centre, half, n = results.interval(pd.Series(values))
    assert n == 3
    assert centre == pytest.approx(mean(values))
    # 4.302653 is the 97.5 % quantile of the t distribution with 2 degrees of freedom
    assert half == pytest.approx(4.302653 * stdev(values) / math.sqrt(3), rel=1e-6)


@pytest.mark.parametrize(("simclr", "verdict"), [(60.0, "held"), (90.0, "not held"), (81.0, "too small to tell")])
def test_verdicts_from_results(simclr: float, verdict: str, empty: Path) -> None:
    for model, top1 in ((bernoulli(), 81.0), (SIMCLR, simclr)):
        for cell in seeds(3).choices(model, "finetune", 1.0):
            wobble = cell.config.seed * (-1 if model == SIMCLR else 1)
            fake(cell, **{"validation.top1": top1, "test.top1": top1 + wobble})
    table = claims.table(seeds(3), results.load())
    row = table[table["the paper says"].str.contains("beats SimCLR")].iloc[0]
    mean = 81.0 - simclr + 2
    assert row["mean"] == f"{mean:.{2 if abs(mean) < 10 else 1}f}"
    assert (row["n"], row["verdict"]) == (3, verdict)


def test_few_seeds_tell_little() -> None:
    assert claims.verdict(pd.Series([50.0]), 0) == "too small to tell"
    assert claims.verdict(pd.Series(dtype=float), 0) == "not run yet"


def test_without_results_every_claim_is_not_run_yet(empty: Path) -> None:
    table = claims.table(seeds(3), results.load())
    assert {*table["verdict"]} == {"not run yet"}
    assert {*table["n"]} == {0}


def test_active_bits_and_variance_claims(empty: Path) -> None:
    plan = seeds(3)
    for model in figure4.models(plan).values():
        for cell in plan.cells(model):
            looks = [{"step": 1, "epoch": 0.1, "train": 50, "test": 49 + cell.config.seed / 10}]
            fake(cell, active=[*looks, {"step": 4, "epoch": 2.0, "train": 20, "test": 20}])
    for variance, noise in (("own", 1e-4), ("cross", 1.0)):
        for dim in (TOY.narrow, None):
            for cell in plan.probe(gaussian(dim, variance), forest=variance == "cross"):
                fake(cell, variance=noise * (1 + 0.1 * cell.config.seed) * (3 if dim else 1), spread=1.0)
    found = results.load()
    table = claims.table(plan, found)
    verdicts = dict(zip(table["the paper says"], table["verdict"], strict=True))
    assert verdicts["Active bits start near a half"] == "held"
    assert verdicts["… and fall"] == "held"
    assert verdicts["… but stay at a half in a narrow bottleneck"] == "not held"
    assert verdicts["Own variance collapses"] == "held"
    assert verdicts["The opposing view's variance does not collapse"] == "held"
    assert figure3.relative(found, gaussian(None, "own"))[0] == pytest.approx(1e-4)
