"""training.png: the log of a run as curves."""

from pathlib import Path

from matplotlib.figure import Figure

from stochcon import report, runs
from stochcon.train.check import equation_1, nothing_learned

PICTURE = "training.png"
PANELS = {
    "loss": {"loss": "equation 1"},
    "top-1 (%)": {"knn.h": "kNN by h", "knn.bits": "kNN by bits"}
    | {"retrieval.h": "self-retrieval by h", "retrieval.bits": "self-retrieval by bits"},
    "RankMe of h": {"rank": "h"},
    "number of bits": {"dead": "dead", "doubled": "doubled"},
}
"""The curves of each panel, by their fields in the log."""


def draw(run: Path) -> Path:
    """Draw the log of a run; returns where the picture is."""
    chance = nothing_learned(runs.read_config(run))
    lines = [line | {"loss": equation_1(line)} for line in runs.read_log(run / runs.LOG)]
    panels = {name: fields for name, fields in PANELS.items() if any(fields.keys() & line.keys() for line in lines)}
    with report.styled():
        figure = Figure(figsize=(3.6 * len(panels), 3.2))
        for axis, (name, fields) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
            for field, label in fields.items():
                if known := [(line["epoch"], line[field]) for line in lines if field in line]:
                    axis.plot(*zip(*known, strict=True), label=label, marker="" if name == "loss" else None)
            if name == "loss":
                axis.axhline(chance, color="C2", linestyle=":", label="log(2N - 1): nothing told apart")
            else:
                axis.set_ylim(bottom=0)
                axis.yaxis.get_major_locator().set_params(integer=True)
            axis.set(xlabel="epoch", ylabel=name)
            axis.legend()
    return report.save(figure, run / PICTURE)
