"""Held-out likelihood in and out of distribution against the number of pairs, and gold reward of the best of n."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from experiments import h5_generalisation as experiment
from experiments.figures.style import BLACK, DPO, RLHF, THIRD, curve, legend_below, row_name, style
from experiments.statistics import curves_by_seed, over_seeds
from gvgap_jax.sweep import load

LOOKS = {"global": (RLHF, "o"), "local": (THIRD, "^"), "DPO": (DPO, "s")}
TITLES = {"reference": "in distribution", "optimal": "soft-optimal policy", "rare": "inverse reference"}

CAPTIONS = {
    "h5_generalisation": (
        "Exact likelihood of labels that a reward model was not fitted to, for pairs of responses of the reference "
        "policy, which the training pairs come from, and of two other laws. Dashed: the gold reward itself; dotted: "
        "a coin."
    ),
    "h5_best_of_n": (
        "Gold reward of the best of n responses of the reference policy, chosen by each reward model. Dashed: chosen "
        "by the gold reward."
    ),
}


def draw(folder: str | Path) -> dict[str, Figure]:
    """One row a setting (gold reward, size, tree), one column a law, and one column a number of pairs."""
    fits, gold = load(folder, "fits").filter(initialisation=0), load(folder, "gold")
    return {"h5_generalisation": _likelihoods(fits, gold), "h5_best_of_n": _best_of_n(fits, gold)}


def _rows(fits: pl.DataFrame) -> list[dict]:
    return fits.select(experiment.SETTING).unique(maintain_order=True).sort(experiment.SETTING).to_dicts()


def _likelihoods(fits: pl.DataFrame, gold: pl.DataFrame) -> Figure:
    rows = _rows(fits)
    with style(1.7 * len(rows) + 0.6):
        figure, grid = plt.subplots(len(rows), len(TITLES), squeeze=False, sharex=True, sharey="row")
        for row, axes in zip(rows, grid, strict=True):
            for axis, (law, title) in zip(axes, TITLES.items(), strict=True):
                axis.set_xscale("log", base=2)
                for model, (colour, marker) in LOOKS.items():
                    chosen = fits.filter(model=model, **row)
                    pairs, values = curves_by_seed(chosen, "pairs", pl.col(f"likelihood_{law}").mean())
                    curve(axis, pairs, values, model, marker=marker, color=colour)
                ceiling = over_seeds(_of_gold(gold, row)[f"likelihood_{law}"]).estimate
                axis.axhline(ceiling, color=BLACK, linestyle="--", linewidth=0.8, label="gold reward")
                axis.axhline(0.5, color="0.4", linestyle=":", linewidth=0.8, label="coin")
                shift = over_seeds(_of_gold(gold, row)[f"shift_{law}"]).estimate
                axis.set_title(title if law == "reference" else f"{title}, {shift:.1f} nats away")
            axes[0].set_ylabel(f"{row_name(row, rows)}\nlikelihood of a label")
        for axis in grid[-1]:
            axis.set_xlabel("labelled pairs n")
        legend_below(figure, 5)
    return figure


def _best_of_n(fits: pl.DataFrame, gold: pl.DataFrame) -> Figure:
    rows, sizes = _rows(fits), sorted(fits["pairs"].unique())
    columns, n = [f"best_of_{n}" for n in experiment.BEST_OF], np.array(experiment.BEST_OF)
    with style(1.7 * len(rows) + 0.6):
        figure, grid = plt.subplots(len(rows), len(sizes), squeeze=False, sharex=True, sharey="row")
        for row, axes in zip(rows, grid, strict=True):
            for axis, pairs in zip(axes, sizes, strict=True):
                axis.set_xscale("log", base=2)
                for model, (colour, marker) in LOOKS.items():
                    values = fits.filter(model=model, pairs=pairs, **row).select(columns).to_numpy()
                    curve(axis, n, values, model, marker=marker, color=colour)
                best = [over_seeds(_of_gold(gold, row)[column]).estimate for column in columns]
                axis.plot(n, best, color=BLACK, linestyle="--", linewidth=0.8, label="gold reward")
                axis.set_title(f"{pairs:,} labelled pairs")
            axes[0].set_ylabel(f"{row_name(row, rows)}\ngold reward")
        for axis in grid[-1]:
            axis.set_xlabel("best of n responses")
        legend_below(figure, 4)
    return figure


def _of_gold(gold: pl.DataFrame, row: dict) -> pl.DataFrame:
    return gold.filter(**{name: value for name, value in row.items() if name != "width"})
