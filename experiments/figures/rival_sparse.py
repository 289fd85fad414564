"""Regret against pairs by sparsity, and the price of finding the support."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from experiments import rival_sparse as experiment
from experiments.figures.style import DPO, FOURTH, RLHF, THIRD, curve, legend_below, style
from experiments.setting import TRAINED
from experiments.statistics import curves_by_seed, over_seeds
from gvgap_jax.sweep import load

CAPTIONS = {
    "rival_sparse": (
        "Regret against the number of labelled pairs, by the number of interactions in the gold reward. A reward model "
        "over all interactions (green) is no better than DPO; one that looks for few (blue) needs fewer pairs where "
        "the gold reward is sparse. What it pays above the one that is told which they are (purple) is the price of "
        "the search, small where pairs are many; d_eff/(2n) (dashed) does not know it, nor the price of choosing a "
        "penalty, which keeps purple above it where there is little else to learn."
    ),
}

_LOOK = {
    "DPO": ("offline DPO", {"color": DPO, "marker": "s"}),
    "dense": ("RLHF, all interactions", {"color": THIRD, "linestyle": "--"}),
    "sparse": ("RLHF, few interactions, chosen on held-out pairs", {"color": RLHF}),
    "known": ("RLHF, the true interactions", {"color": FOURTH, "marker": "^"}),
}


def draw(folder: str | Path) -> dict[str, Figure]:
    """Regret curves of the four arms with 95 % intervals over seeds, one panel a number of terms, one row a horizon."""
    return {"rival_sparse": _curves(load(folder, "fits"), load(folder, "dimensions"))}


def _curves(fits: pl.DataFrame, dimensions: pl.DataFrame) -> Figure:
    rows = [fits.filter(horizon=horizon) for horizon in sorted(fits["horizon"].unique())]
    columns = max(len(row["terms"].unique()) for row in rows)
    with style(1.9 * len(rows) + 0.9):
        figure, grid = plt.subplots(len(rows), columns, squeeze=False, sharex=True, sharey=True)
        for axes, row in zip(grid, rows, strict=True):
            terms = sorted(row["terms"].unique())
            for axis in axes[len(terms) :]:
                axis.set_axis_off()
            for axis, count in zip(axes, terms, strict=False):
                _panel(axis, row.filter(terms=count), dimensions.filter(horizon=row["horizon"][0], terms=count))
                axis.set_title(f"{count} of {row['interactions'][0]} terms")
            axes[0].set_ylabel("regret KL(π‖π*) [nats]")
        for axis in grid[-1]:
            axis.set_xlabel("labelled pairs n")
        legend_below(figure)
    return figure


def _panel(axis, fits: pl.DataFrame, dimensions: pl.DataFrame) -> None:
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    pairs = np.array(sorted(fits["pairs"].unique()))
    for arm in experiment.ARMS:
        label, look = _LOOK[arm]
        curve(axis, *curves_by_seed(fits.filter(arm=arm), "pairs", pl.col("regret").mean()), label, **look)
    predicted = over_seeds(dimensions.filter(known=1)["effective_dimension"]).estimate / (2 * TRAINED * pairs)
    axis.plot(pairs, predicted, color="0.45", linestyle="--", linewidth=1, zorder=1,
              label=r"$d_\mathrm{eff}/(2n)$ of the true interactions")  # fmt: skip
