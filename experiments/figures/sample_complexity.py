"""Regret against the number of pairs, one panel a horizon and gold order."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from experiments import sample_complexity as experiment
from experiments.figures.style import BLACK, DPO, curve, legend_below, style
from gvgap_jax.sweep import load

CAPTIONS = {
    "sample_complexity": (
        "Regret against the number of labelled pairs. With a simple gold reward two-stage RLHF with a simple "
        "verifier needs far fewer pairs than offline DPO; as the gold reward grows as complex as a policy the gap "
        "closes."
    ),
}


def draw(folder: str | Path) -> dict[str, Figure]:
    """Regret curves of all arms with 95 % intervals over seeds, and the predicted d_eff / (2n)."""
    fits, dimensions = load(folder, "fits"), load(folder, "dimensions")
    return {"sample_complexity": _regret_curves(fits, dimensions)}


def _regret_curves(fits: pl.DataFrame, dimensions: pl.DataFrame) -> Figure:
    horizons = sorted(fits["horizon"].unique())
    columns = max(len(experiment.gold_orders(horizon)) for horizon in horizons)
    with style(1.9 * len(horizons) + 0.9):
        figure, grid = plt.subplots(len(horizons), columns, squeeze=False, sharex=True, sharey="row")
        for row, horizon in zip(grid, horizons, strict=True):
            for axis in row[len(experiment.gold_orders(horizon)) :]:
                axis.set_axis_off()
            panels = experiment.gold_orders(horizon).items()
            for axis, (gold, name) in zip(row, panels, strict=False):
                _panel(axis, fits, dimensions, horizon, gold)
                axis.set_title(f"H = {horizon}: {name} gold, order {gold}")
            row[0].set_ylabel("regret KL(π‖π*) [nats]")
        for axis in grid[-1]:
            axis.set_xlabel("labelled pairs n")
        legend_below(figure)
    return figure


def _panel(axis, fits: pl.DataFrame, dimensions: pl.DataFrame, horizon: int, gold: int) -> None:
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    shades = plt.get_cmap("viridis")(np.linspace(0.85, 0.1, horizon))
    for order, shade in enumerate(shades, start=1):
        _curve(axis, fits, ("RLHF", horizon, gold, order), f"two-stage RLHF, verifier order {order}", color=shade)
    _curve(axis, fits, ("DPO", horizon, gold, horizon), "offline DPO, tabular policy", color=DPO, marker="s")
    restricted = ("restricted MLE", horizon, gold, gold)
    _curve(axis, fits, restricted, "restricted MLE, gold order", color=BLACK, linestyle="none", marker="x")
    pairs = np.array(sorted(fits["pairs"].unique()))
    for order, linestyle in ((gold, "--"), (horizon, ":")):
        predicted = experiment.predicted_regret(dimensions, horizon, gold, order, pairs)
        which = "of the gold order" if linestyle == "--" else "of the full table"
        axis.plot(
            pairs,
            predicted,
            color="0.45",
            linestyle=linestyle,
            linewidth=1,
            label=rf"$d_\mathrm{{eff}}/(2n)$ {which}",
            zorder=1,
        )
    shown = fits.filter(horizon=horizon)["regret"]
    axis.set_ylim(0.5 * np.nanquantile(shown, 0.01), 2 * np.nanmax(shown))


def _curve(axis, fits: pl.DataFrame, arm: tuple, label: str, **look) -> None:
    pairs, regrets = experiment.curves(fits, *arm)
    curve(axis, pairs, regrets, label, **look)
