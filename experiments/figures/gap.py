"""Panels that the figures of the generation-verification gap share: regrets, their ratio, and the ratio in theory."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from experiments.figures.style import BLACK, DPO, RLHF, THIRD, curve, legend_below, style
from experiments.gap_records import LOG_DIMENSIONS, LOG_RATIO
from experiments.statistics import curves_by_seed, over_seeds, ratio_over_seeds

LOOKS = tuple(
    {"marker": marker, "linestyle": line} for marker, line in zip("osD^v", ("-", "--", "-.", ":", "-"), strict=True)
)
ARMS = {
    "dpo_regret": ("offline DPO, tabular policies", {"color": DPO}),
    "rlhf_regret": ("two-stage RLHF, verifiers of the gold order", {"color": RLHF}),
    "restricted_regret": (
        "restricted MLE",
        {"color": BLACK, "marker": "x", "linestyle": "none", "ecolor": "none", "zorder": 3},
    ),
}


def draw_series(gaps: pl.DataFrame, fixed: str, varied: str, words: dict[str, str]) -> Figure:
    """A row of panels for every value of ``fixed``, over ``varied``; ``words`` name the two columns."""
    rows = gaps.sort(fixed, "pairs").partition_by(fixed, maintain_order=True)
    looks = dict(zip(gaps["pairs"].unique().sort(), itertools.cycle(LOOKS), strict=False))
    with style(1.8 * len(rows) + 0.8):
        figure, grid = plt.subplots(len(rows), 3, squeeze=False, sharex="col", sharey="col")
        for panels, series in zip(grid, rows, strict=True):
            for (pairs,), here in series.group_by("pairs", maintain_order=True):
                _draw(panels, here, varied, f"{pairs:,} pairs", looks[pairs])
            _name(panels, f"{words[fixed]} {series[fixed][0]}")
            span = [1.0, max(panels[2].get_xlim()[1], 2.0)]
            panels[2].plot(span, span, color="0.4", linestyle=":", label="theory: equal ratios", zorder=1)
        for axis in grid[-1, :2]:
            axis.set_xlabel(words[varied])
            axis.set_xticks(gaps[varied].unique().sort().to_list())
        grid[-1, 2].set_xlabel(r"$d_\mathrm{eff}$ of policies / of verifiers")
        legend_below(figure)
    return figure


def _name(panels, title: str) -> None:
    names = ("regret KL(π‖π*) [nats]", "regret of DPO / of RLHF", "regret of DPO / of RLHF")
    for axis, name in zip(panels, names, strict=True):
        axis.set_title(title)
        axis.set_ylabel(name)
        axis.set_yscale("log")
    for axis in panels[1:]:
        axis.axhline(1, color=BLACK, linewidth=0.6, zorder=1)
    panels[2].set_xscale("log")


def _draw(panels, here: pl.DataFrame, varied: str, label: str, look: dict[str, str]) -> None:
    """The curves of one number of pairs."""
    for name, (arm, own) in ARMS.items():
        along, regrets = curves_by_seed(here, varied, pl.col(name).log().mean())
        curve(panels[0], along, regrets, arm, interval=ratio_over_seeds, **(look | own))
    along, log_ratios = curves_by_seed(here, varied, LOG_RATIO.mean())
    _, log_dimensions = curves_by_seed(here, varied, LOG_DIMENSIONS.mean())
    theory = np.exp([over_seeds(column).estimate for column in log_dimensions.T])
    for axis, x in ((panels[1], along), (panels[2], theory)):
        curve(axis, x, log_ratios, label, interval=ratio_over_seeds, color=THIRD, **look)
