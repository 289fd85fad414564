"""Frontiers of gold reward against distance from the reference, and the gap in what is maximised, by regulariser."""

from pathlib import Path

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, StrMethodFormatter

from experiments import h2_regularisation as experiment
from experiments.figures.style import BLACK, DPO, RLHF, THIRD, curve, legend_below, slices, style
from experiments.statistics import curves_by_seed, over_seeds
from gvgap_jax.sweep import load

CAPTIONS = {
    "h2_regularisation": (
        "Offline preference learning (orange) and two-stage RLHF (blue) under one regulariser and one beta. Top: gold "
        "reward against the distance from the reference policy, one point a beta. Bottom: how much more of the "
        "regularised objective RLHF attains; above 0 the gap persists though regularisation is matched. Green: the "
        "same difference where both arms have the same class, which must be 0."
    ),
}
LOOKS = {"DPO": ("offline (DPO, f-DPO), all policies", DPO, "s"), "RLHF": ("two-stage RLHF, simple rewards", RLHF, "o")}
TITLES = {"none": "none to the reference (entropy)"}
GAPS = {
    "DPO": ("J of RLHF less J of offline, all policies", BLACK, "o"),
    "DPO, simple class": ("control: the same, both over the simple class", THIRD, "x"),
}


def draw(folder: str | Path) -> dict[str, Figure]:
    """One figure for each setting that is not beta; bars are 95 % intervals over seeds."""
    fits = load(folder, "fits")
    settings = [column for column in experiment.CELL if column != "regulariser"]
    return {f"h2_regularisation{name}": _panels(rows) for name, rows in slices(fits, settings)}


def _panels(fits: pl.DataFrame) -> Figure:
    with style(4.2):
        figure, grid = plt.subplots(2, len(experiment.REGULARISERS), sharex="row", sharey="row", squeeze=False)
        for column, regulariser in zip(grid.T, experiment.REGULARISERS, strict=True):
            here = fits.filter(regulariser=regulariser)
            column[0].set_title(TITLES.get(regulariser, regulariser))
            column[0].set_xlabel("√KL(π‖π_ref) [√nats]")
            column[1].set_xlabel("beta [reward per nat]")
            _frontiers(column[0], here)
            _gaps(column[1], here)
        grid[0, 0].set_xlim(left=0)
        grid[0, 0].set_ylabel("gold reward E r")
        grid[1, 0].set_ylabel("difference of J [reward]")
        legend_below(figure, columns=2)
    return figure


def _frontiers(axis, fits: pl.DataFrame) -> None:
    for arm, (label, colour, marker) in LOOKS.items():
        points = fits.filter(arm=arm).with_columns(distance=pl.col("kl_to_reference").sqrt()).sort("beta")
        across, up = (
            [over_seeds(of_beta[name]) for _, of_beta in points.group_by("beta", maintain_order=True)]
            for name in ("distance", "gold_reward")
        )
        axis.errorbar(
            [i.estimate for i in across],
            [i.estimate for i in up],
            xerr=_bars(across),
            yerr=_bars(up),
            label=label,
            color=colour,
            marker=marker,
            markersize=2.5,
            linewidth=1,
            elinewidth=0.6,
        )


def _bars(intervals) -> list[list[float]]:
    return [[i.estimate - i.low for i in intervals], [i.high - i.estimate for i in intervals]]


def _gaps(axis, fits: pl.DataFrame) -> None:
    betas = sorted(fits["beta"].unique())
    axis.set_xscale("log", base=2)
    axis.set_xticks(betas)
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:.3g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.axhline(0, color="0.6", linewidth=0.8)
    for arm, (label, colour, marker) in GAPS.items():
        _, gaps = curves_by_seed(experiment.gaps(fits, arm), "beta", pl.col("gap").mean())
        curve(axis, betas, gaps, label, marker=marker, color=colour)
