"""Regret against the number of pairs under narrow to off-support coverage, and the gap beside its prediction."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from experiments import h4_data as experiment
from experiments.figures.style import BLACK, DPO, RLHF, curve, legend_below, slices, style
from experiments.statistics import by_seed, curves_by_seed, over_seeds
from gvgap_jax.sweep import load

CAPTIONS = {
    "h4_data": (
        "Regret against the number of labelled pairs, both arms on the same pairs, from narrow to off-support coverage "
        "(panels). Dashed: d_eff/(2n) under that coverage. If reward models won because they can use broader data, "
        "the gap would vanish with pairs from the reference policy."
    ),
    "h4_data_gap": (
        "The gap itself against the number of pairs, one curve a coverage; dotted: the gap that d_eff foretells. "
        "It opens where pairs begin to tell the simple reward apart and closes once they tell policies apart."
    ),
}
LOOKS = {
    "DPO": ("offline DPO, all policies", DPO, "s"),
    "RLHF": ("two-stage RLHF, simple rewards", RLHF, "o"),
    "restricted MLE": ("control: DPO over RLHF's class", BLACK, "x"),
}


def draw(folder: str | Path) -> dict[str, Figure]:
    """Two figures for each setting that is neither coverage nor pairs; bars are 95 % intervals over seeds."""
    fits, dimensions = load(folder, "fits"), load(folder, "dimensions")
    figures = {}
    for name, rows in slices(fits, experiment.CELL):
        paired = experiment.gaps({"fits": rows, "dimensions": dimensions})
        figures |= {f"h4_data{name}": _regrets(rows, paired), f"h4_data_gap{name}": _gaps(paired)}
    return figures


def _tilts(rows: pl.DataFrame) -> list[float]:
    return sorted(rows["tilt"].unique(), reverse=True)


def _by_seed(rows: pl.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Pairs [n], and the column [seeds, n]."""
    return curves_by_seed(rows, "pairs", pl.col(column).mean())


def _regrets(fits: pl.DataFrame, paired: pl.DataFrame) -> Figure:
    tilts = _tilts(fits)
    columns = min(len(tilts), 4)
    rows = -(-len(tilts) // columns)
    with style(2.1 * rows + 0.6):
        figure, grid = plt.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axis in grid.flat[len(tilts) :]:
            axis.set_axis_off()
        for axis, tilt in zip(grid.flat, tilts, strict=False):
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.set_title(_title(tilt))
            axis.set_xlabel("labelled pairs n")
            _panel(axis, fits.filter(tilt=tilt), paired.filter(tilt=tilt))
        shown = fits["regret"].to_numpy()
        grid[0, 0].set_ylim(0.5 * np.nanquantile(shown, 0.01), 2 * np.nanmax(shown))
        for axis in grid[:, 0]:
            axis.set_ylabel("regret KL(π‖π*) [nats]")
        legend_below(figure, columns=2)
    return figure


def _title(tilt: float) -> str:
    words = {1.0: "from π_ref", 0.0: "uniform"}
    kind = "narrow" if tilt > 1 else "flattened" if tilt > 0 else "off-support"
    return words.get(tilt, rf"{kind}, ∝ π_ref$^{{{tilt:g}}}$")


def _panel(axis, fits: pl.DataFrame, paired: pl.DataFrame) -> None:
    for arm, (label, colour, marker) in LOOKS.items():
        linestyle = "none" if arm == "restricted MLE" else "-"
        curve(axis, *_by_seed(fits.filter(arm=arm), "regret"), label, marker=marker, color=colour, linestyle=linestyle)
    pairs = np.array(sorted(paired["pairs"].unique()))
    for column, colour in (("effective_dimension", DPO), ("effective_dimension_rlhf", RLHF)):
        mean = over_seeds(by_seed(paired, pl.col(column).first())).estimate
        predicted = mean / (2 * experiment.TRAINED * pairs)
        axis.plot(pairs, predicted, color=colour, linestyle="--", linewidth=0.8, zorder=1)
    axis.plot([], [], color="0.4", linestyle="--", linewidth=0.8, label=r"$d_\mathrm{eff}/(2n)$ of either arm")


def _gaps(paired: pl.DataFrame) -> Figure:
    tilts = _tilts(paired)
    with style(2.9):
        figure, axis = plt.subplots()
        axis.set_xscale("log", base=2)
        axis.axhline(0, color="0.6", linewidth=0.8)
        shades = plt.get_cmap("viridis")(np.linspace(0.0, 0.85, len(tilts)))
        for tilt, shade, marker in zip(tilts, shades, _markers(len(tilts)), strict=True):
            here = paired.filter(tilt=tilt)
            curve(axis, *_by_seed(here, "gap"), _title(tilt), marker=marker, color=shade)
            pairs, predicted = _by_seed(here, "predicted_gap")
            axis.plot(pairs, np.nanmean(predicted, axis=0), color=shade, linestyle=":", linewidth=1, zorder=1)
        measured = paired.group_by("tilt", "pairs").agg(pl.col("gap").mean())["gap"].to_numpy()
        axis.set_ylim(min(-0.05, 1.3 * np.nanmin(measured)), 1.4 * np.nanmax(measured))
        axis.plot([], [], color="0.4", linestyle=":", linewidth=1, label=r"$\Delta d_\mathrm{eff}/(2n)$")
        axis.set_xlabel("labelled pairs n")
        axis.set_ylabel("regret of DPO less RLHF's [nats]")
        legend_below(figure, columns=5)
    return figure


def _markers(count: int) -> list[str]:
    return [("o", "s", "^", "D", "v", "P", "X", "*")[index % 8] for index in range(count)]
