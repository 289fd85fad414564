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
SIZES = {"policy_order": "tokens it looks back on", "policy_width": "width of the transformer"}


def draw(folder: str | Path) -> dict[str, Figure]:
    """One row a setting (gold reward, tree, human), one column a number of labelled pairs."""
    return {"h6a_model_sizes": _win_rates(load(folder, "fits"))}


def _win_rates(fits: pl.DataFrame) -> Figure:
    rows = fits.select(experiment.SETTING).unique(maintain_order=True).sort(experiment.SETTING).to_dicts()
    policy_size, verifier_size = experiment.sizes(fits)
    sizes, orders = (sorted(fits[name].unique()) for name in ("pairs", verifier_size))
    shades = plt.get_cmap("viridis")(np.linspace(0.85, 0.1, len(orders)))
    with style(1.7 * len(rows) + 0.6):
        figure, grid = plt.subplots(len(rows), len(sizes), squeeze=False, sharex=True, sharey="row")
        for row, axes in zip(rows, grid, strict=True):
            for axis, pairs in zip(axes, sizes, strict=True):
                here = fits.filter(pairs=pairs, **row)
                for order, shade in zip(orders, shades, strict=True):
                    chosen = here.filter(pl.col(verifier_size) == order, informed=1)
                    label = f"reward model of {verifier_size.removeprefix('verifier_')} {order}"
                    _curve(axis, chosen, "win_rate_best", label, color=shade)
                look = {"color": DPO, "marker": "s", "linestyle": "--"}
                _curve(axis, here.filter(informed=0), "win_rate_best", "of coin-flip labels, any size", **look)
                _curve(axis, here, "win_rate_first", "one response, not picked", color=BLACK, marker="x")
                axis.axhline(50, color="0.4", linestyle=":", linewidth=0.8)
                if policy_size == "policy_width":
                    axis.set_xscale("log", base=2)
                axis.set_xticks(sorted(fits[policy_size].unique()))
                axis.set_title(f"{pairs:,} labelled pairs")
            axes[0].set_ylabel(f"{row_name(row, rows)}\nwin rate of best of {row['samples']} [%]")
        for axis in grid[-1]:
            axis.set_xlabel(f"size of the policy: {SIZES[policy_size]}")
        legend_below(figure)
    return figure


def _curve(axis, fits: pl.DataFrame, column: str, label: str, **look) -> None:
    """Percentages by the size of the policy, the mean of all else within a seed."""
    if fits.is_empty():
        return
    orders, wins = curves_by_seed(fits, experiment.sizes(fits)[0], 100 * pl.col(column).mean())
    curve(axis, orders, wins, label, **look)
