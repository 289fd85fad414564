"""Regret against the online samples of the second stage, for equal classes and for simple reward models."""

from pathlib import Path

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.figure import Figure

from experiments.figures.style import BLACK, DPO, RLHF, curve, legend_below, style
from experiments.h1_information import sampled_curve
from experiments.statistics import by_seed, over_seeds
from gvgap_jax.sweep import load

CAPTIONS = {
    "h1_information": (
        "Regret of two-stage RLHF whose second stage sees so many sampled responses (blue), of the same reward model "
        "with an exact second stage that draws none (black), and of offline DPO (orange); bands and bars are 95 % "
        "intervals over seeds. Samples bring the blue curve to the black line and not beyond it."
    )
}


def draw(folder: str | Path) -> dict[str, Figure]:
    """One panel a class of reward models."""
    fits = load(folder, "fits")
    with style(2.8):
        figure, panels = plt.subplots(1, 2, sharey=True)
        for axis, equal in zip(panels, (True, False), strict=True):
            axis.set_xscale("log")
            axis.set_yscale("log")
            curve(axis, *sampled_curve(fits, equal, "regret"), "RLHF, sampled second stage", color=RLHF)
            here = fits.filter((pl.col("order") == pl.col("horizon")) == equal, responses=0)
            _level(axis, here, "regret_exact", "RLHF, exact second stage", BLACK, "--")
            _level(axis, here, "regret", "offline DPO", DPO, "-")
            axis.set_title("reward models as rich as policies" if equal else "simple reward models")
            axis.set_xlabel("online samples of the second stage")
        panels[0].set_ylabel("regret KL(π‖π*) [nats]")
        legend_below(figure)
    return {"h1_information": figure}


def _level(axis, rows: pl.DataFrame, column: str, label: str, colour: str, line: str) -> None:
    interval = over_seeds(by_seed(rows, pl.col(column).mean()))
    axis.axhline(interval.estimate, label=label, color=colour, linestyle=line, linewidth=1)
    axis.axhspan(interval.low, interval.high, color=colour, alpha=0.12, linewidth=0)
