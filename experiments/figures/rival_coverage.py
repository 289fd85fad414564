"""Mass on withheld responses, regret and gold reward, against the share of responses withheld."""

from pathlib import Path

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.figure import Figure

from experiments import rival_coverage as experiment
from experiments.figures.style import DPO, PALE, RLHF, curve, legend_below, style
from experiments.statistics import curves_by_seed
from gvgap_jax.sweep import load

CAPTIONS = {
    "rival_coverage": (
        "Mass on responses that no pair mentions beyond that of the optimal policy, regret, and gold reward, against "
        "the share of responses withheld (at 0: the mass on a random 30 % that are mentioned). Coverage explains a gap "
        "that opens with that share, and DPO's mass above 0; simple verifiers one that is there at 0."
    ),
}
ARMS = {
    "DPO": ("offline DPO, tabular policy", DPO, "s"),
    "RLHF simple": ("two-stage RLHF, simple verifier", RLHF, "o"),
    "RLHF table": ("two-stage RLHF, full-table verifier", PALE, "^"),
}
COLUMNS = {
    "excess": "mass on the unseen\nbeyond that of π*",
    "regret": "regret KL(π‖π*) [nats]",
    "gold_reward": "gold reward",
}


def draw(folder: str | Path) -> dict[str, Figure]:
    """A row a penalty, for the fewest and the most pairs; a figure for each horizon, gold order and beta."""
    fits, task, figures = experiment.arms(load(folder, "fits")), ["horizon", "gold_order", "beta"], {}
    points = fits.select(task).unique().sort(task).to_dicts()
    for point in points:
        suffix = "" if len(points) == 1 else "_" + "_".join(f"{name}_{value:g}" for name, value in point.items())
        figures[f"rival_coverage{suffix}"] = _panels(fits.filter(**point))
    return figures


def _panels(fits: pl.DataFrame) -> Figure:
    sizes = sorted(fits["pairs"].unique())
    rows = [(penalty, pairs) for penalty in experiment.PENALTIES for pairs in (sizes[0], sizes[-1])[: len(sizes)]]
    with style(1.45 * len(rows) + 0.6):
        figure, grid = plt.subplots(len(rows), len(COLUMNS), squeeze=False, sharex=True)
        for row, (penalty, pairs) in zip(grid, rows, strict=True):
            here = fits.filter(penalties=penalty, pairs=pairs)
            for axis, (name, label) in zip(row, COLUMNS.items(), strict=True):
                _panel(axis, here, name)
                axis.set_ylabel(label)
            row[1].set_title(f"{pairs:,} pairs, penalty {penalty}")
        for axis in grid[-1]:
            axis.set_xlabel("share of responses withheld")
        legend_below(figure)
    return figure


def _panel(axis, fits: pl.DataFrame, name: str) -> None:
    if name == "excess":
        axis.axhline(0, color="0.45", linewidth=0.6)
    for arm, (label, colour, marker) in ARMS.items():
        here = fits.filter(arm=arm)
        if len(here):
            shares, values = curves_by_seed(here, "unseen", pl.col(name).mean())
            curve(axis, shares, values, label, marker=marker, color=colour)
