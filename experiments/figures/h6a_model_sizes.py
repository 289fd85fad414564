"""Win rate of best-of-n against the size of the policy, one curve a size of the reward model."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from experiments import h6a_model_sizes as experiment
from experiments.figures.style import BLACK, DPO, curve, legend_below, row_name, style
from experiments.statistics import curves_by_seed
from gvgap_jax.sweep import load

CAPTIONS = {
    "h6a_model_sizes": (
        "How often the best of n responses of a policy beats the human's, by the size of the policy (steps along a "
        "curve) and of the reward model that picks (curves). Dotted: a coin; crosses: no picking; orange: a reward "
        "model of labels by coin flips."
    ),
}


def draw(folder: str | Path) -> dict[str, Figure]:
    """One row a setting (gold reward, tree, human), one column a number of labelled pairs."""
    return {"h6a_model_sizes": _win_rates(load(folder, "fits"))}


def _win_rates(fits: pl.DataFrame) -> Figure:
    rows = fits.select(experiment.SETTING).unique(maintain_order=True).sort(experiment.SETTING).to_dicts()
    sizes, orders = (sorted(fits[name].unique()) for name in ("pairs", "verifier_order"))
    shades = plt.get_cmap("viridis")(np.linspace(0.85, 0.1, len(orders)))
    with style(1.7 * len(rows) + 0.6):
        figure, grid = plt.subplots(len(rows), len(sizes), squeeze=False, sharex=True, sharey="row")
        for row, axes in zip(rows, grid, strict=True):
            for axis, pairs in zip(axes, sizes, strict=True):
                here = fits.filter(pairs=pairs, **row)
                for order, shade in zip(orders, shades, strict=True):
                    chosen = here.filter(informed=1, verifier_order=order)
                    _curve(axis, chosen, "win_rate_best", f"reward model of order {order}", color=shade)
                look = {"color": DPO, "marker": "s", "linestyle": "--"}
                _curve(axis, here.filter(informed=0), "win_rate_best", "of coin-flip labels, any order", **look)
                _curve(axis, here, "win_rate_first", "one response, not picked", color=BLACK, marker="x")
                axis.axhline(50, color="0.4", linestyle=":", linewidth=0.8)
                axis.set_xticks(sorted(fits["policy_order"].unique()))
                axis.set_title(f"{pairs:,} labelled pairs")
            axes[0].set_ylabel(f"{row_name(row, rows)}\nwin rate of best of {row['samples']} [%]")
        for axis in grid[-1]:
            axis.set_xlabel("size of the policy: tokens it looks back on")
        legend_below(figure)
    return figure


def _curve(axis, fits: pl.DataFrame, column: str, label: str, **look) -> None:
    """Percentages by the order of the policy, the mean of all else within a seed."""
    if fits.is_empty():
        return
    orders, wins = curves_by_seed(fits, "policy_order", 100 * pl.col(column).mean())
    curve(axis, orders, wins, label, **look)
