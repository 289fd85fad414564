"""Share of the possible gain by arm, one panel a family of tasks."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from experiments import token_tasks as experiment
from experiments.figures.style import BLACK, DPO, PALE, RLHF, curve, legend_below, slices, style
from experiments.statistics import curves_by_seed
from experiments.token_families import FAMILIES
from gvgap_jax.sweep import load

CAPTIONS = {
    "token_tasks": (
        "What transformers gain from labelled pairs, as a share of the possible gain of J (0 is the reference policy, "
        "1 the best policy, both exact), by arm and number of pairs, one panel a family of tasks. Where checking is "
        "easy a small reward model can hold the gold reward. RL on the gold reward needs no pairs: what it misses, the "
        "second stage misses."
    ),
}
LOOKS = {
    experiment.DPO: {"color": DPO, "marker": "s"},
    experiment.SAME: {"color": PALE, "marker": "^"},
    experiment.SIMPLE: {"color": RLHF, "marker": "o"},
    experiment.GOLD: {"color": BLACK, "marker": "x"},
}
COLUMNS = 4


def draw(folder: str | Path) -> dict[str, Figure]:
    """One figure for each setting that is neither family nor pairs; bars are 95 % intervals over seeds."""
    table = experiment.shares(load(folder, "fits")).filter(informed=1)
    return {f"token_tasks{name}": _panels(rows) for name, rows in slices(table, [*experiment.SIZE, "beta"])}


def _panels(table: pl.DataFrame) -> Figure:
    families = [family for family in FAMILIES if family in table["family"]]
    rows, columns = -(-len(families) // COLUMNS), min(len(families), COLUMNS)
    with style(2.1 * rows + 0.6):
        figure, grid = plt.subplots(rows, columns, squeeze=False, sharey=True)
        for axis in grid.flat[len(families) :]:
            axis.set_axis_off()
        for axis, family in zip(grid.flat, families, strict=False):
            _panel(axis, table.filter(family=family))
            kind = "checking is easy" if FAMILIES[family].easy else "no simple verifier"
            axis.set_title(f"{family.replace('_', ' ')}\n({kind})")
        for axis in grid[:, 0]:
            axis.set_ylabel("share of the possible gain of J")
        legend_below(figure, columns=4)
    return figure


def _panel(axis, table: pl.DataFrame) -> None:
    for end in (0, 1):
        axis.axhline(end, color="0.6", linewidth=0.8, linestyle=":")
    for place, (arm, look) in enumerate(LOOKS.items()):
        pairs, by_seed = curves_by_seed(table.filter(arm=arm), "pairs", pl.col("share").mean())
        places = np.arange(len(pairs)) + 0.12 * (place - (len(LOOKS) - 1) / 2)
        curve(axis, places, by_seed, arm, **look)
        axis.set_xticks(range(len(pairs)), [f"{number:,}" for number in pairs])
    axis.set_xlim(-0.5, len(pairs) - 0.5)
    axis.set_xlabel("labelled pairs n")
