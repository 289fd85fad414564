"""Errors of estimates against the size of their batch, and where sampled runs end."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from experiments.figures.style import BLACK, DPO, FOURTH, PALE, RLHF, THIRD, curve, legend_below, style
from experiments.statistics import curves_by_seed, over_seeds
from gvgap_jax.sweep import load

LOOKS = {
    "RLOO": (RLHF, "o"),
    "PPO": (THIRD, "s"),
    "REBEL": (PALE, "v"),
    "online DPO": (DPO, "^"),
    "top against bottom": (FOURTH, "v"),
    "best of n": (BLACK, "D"),
}
CAPTIONS = {
    "estimators": (
        "Left: distance of a sampled estimate from the exact sum over responses, as a share of its size; the "
        "line falls as one over the root of the number of prompts. Right: KL from where a sampled run ends to "
        "the exact optimum of the same reward, against all responses that it drew."
    )
}


def draw(folder: str | Path) -> dict[str, Figure | pl.DataFrame]:
    """Both panels at the shortest horizon there is; bars are 95 % intervals over seeds."""
    estimates, runs = load(folder, "estimates"), load(folder, "runs")
    shortest = estimates["horizon"].min()
    with style(2.9):
        figure, (left, right) = plt.subplots(1, 2)
        for axis in (left, right):
            axis.set_xscale("log")
            axis.set_yscale("log")
        _curves(left, estimates.filter(horizon=shortest), "estimator", "prompts", "error")
        sizes = np.array(sorted(estimates["prompts"].unique()))
        left.plot(sizes, 2 * sizes**-0.5, color="0.45", linestyle="--", linewidth=1, label=r"$\propto 1/\sqrt{N}$")
        left.set(xlabel="prompts N of a batch", ylabel="relative error of the estimate")
        _curves(right, runs.filter(horizon=shortest), "road", "responses", "regret")
        right.set(xlabel="responses drawn by the run", ylabel="KL(π‖π*) at its end [nats]")
        legend_below(figure, 4)
    return {"estimators": figure, "estimators_bias_and_variance": bias_and_variance(estimates)}


def bias_and_variance(estimates: pl.DataFrame) -> pl.DataFrame:
    """By estimator and size: bias along what is estimated, and variance of one prompt's estimate over its square."""
    rows = []
    for (name, horizon, prompts), here in estimates.group_by("estimator", "horizon", "prompts", maintain_order=True):
        bias, variance = over_seeds(here["along"]), over_seeds(prompts * here["error"] ** 2)
        row = {"estimator": name, "horizon": horizon, "prompts": prompts, "seeds": bias.seeds}
        for what, interval in (("bias", bias), ("variance", variance)):
            row |= {what: interval.estimate, f"{what}_low": interval.low, f"{what}_high": interval.high}
        rows.append(row)
    return pl.DataFrame(rows)


def _curves(axis, records: pl.DataFrame, name: str, x: str, y: str) -> None:
    for each in records[name].unique(maintain_order=True):
        sizes, values = curves_by_seed(records.filter(pl.col(name) == each), x, pl.col(y).mean())
        curve(axis, sizes, values, each, LOOKS[each][1], color=LOOKS[each][0])
