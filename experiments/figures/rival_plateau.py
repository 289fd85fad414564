"""KL to the target against the number of pairs, both ways, for a full table of rewards and for few features."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from experiments import rival_plateau as experiment
from experiments.figures.style import BLACK, DPO, FOURTH, PALE, RLHF, curve, legend_below, style
from experiments.setting import TRAINED
from experiments.statistics import curves_by_seed, over_seeds
from gvgap_jax.sweep import load

CAPTIONS = {
    "rival_plateau": (
        "KL between the learned policy and the target against the number of labelled pairs. One stage, two stages with "
        "an exact reverse KL, and preference distillation fall as 1/n (dashed: d_eff/(2n) of the rewards). A forward "
        "KL on a fixed sample of the second stage stops at a floor of its own, however simple the rewards; on a sample "
        "that grows it does not. With few features (right) two stages win by the ratio of the dimensions, but a fixed "
        "sample loses the advantage where labelled pairs are many."
    ),
}

_LOOK = {
    experiment.ONE: {"color": DPO, "marker": "s"},
    experiment.REVERSE: {"color": RLHF},
    experiment.DISTILLED: {"color": BLACK, "marker": "x", "linestyle": "none"},
    experiment.FIXED: {"color": FOURTH, "marker": "^"},
    experiment.GROWING: {"color": PALE, "marker": "v", "linestyle": "--"},
}
_WAYS = {"reverse_kl": "KL(π‖π*) [nats]", "forward_kl": "KL(π*‖π) [nats]"}
_TITLES = {experiment.TABLE: "rewards: full table", experiment.FEATURES: "rewards: few features"}


def draw(folder: str | Path) -> dict[str, Figure]:
    """Curves of the five arms with 95 % intervals over seeds: one row a direction of the KL, one column a class."""
    fits, dimensions = load(folder, "fits"), load(folder, "dimensions")
    with style(4.4):
        figure, grid = plt.subplots(len(_WAYS), len(_TITLES), squeeze=False, sharex=True, sharey=True)
        for axes, (way, label) in zip(grid, _WAYS.items(), strict=True):
            for axis, (rewards, title) in zip(axes, _TITLES.items(), strict=True):
                _panel(axis, fits.filter(rewards=rewards), dimensions.filter(rewards=rewards), way)
                axis.set_title(title if way == "reverse_kl" else "")
            axes[0].set_ylabel(label)
        for axis in grid[-1]:
            axis.set_xlabel("labelled pairs n")
        legend_below(figure)
    return {"rival_plateau": figure}


def _panel(axis, fits: pl.DataFrame, dimensions: pl.DataFrame, way: str) -> None:
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    pairs = np.array(sorted(fits["pairs"].unique()))
    for arm, look in _LOOK.items():
        curve(axis, *curves_by_seed(fits.filter(arm=arm), "pairs", pl.col(way).mean()), arm, **look)
    predicted = over_seeds(dimensions["effective_dimension"]).estimate / (2 * TRAINED * pairs)
    axis.plot(pairs, predicted, color="0.45", linestyle="--", linewidth=1, label=r"$d_\mathrm{eff}/(2n)$", zorder=1)
