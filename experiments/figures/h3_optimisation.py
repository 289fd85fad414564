"""Regret from few steps of gradient descent to the certified optimum, and with more prompts for the RL stage."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from experiments import h3_optimisation as experiment
from experiments.figures.style import DPO, PALE, RLHF, curve, legend_below, slices, style
from gvgap_jax.sweep import load

CAPTIONS = {
    "h3_optimisation": (
        "Left: regret on the prompts with pairs after few to many steps of gradient descent, and at the end of "
        "optimisation: a certified optimum of both arms on the tree, where neither was easier to optimise, and early "
        "stopping on held-out pairs for transformers. Right: regret at the end with the RL stage over the prompts "
        "with pairs, or over all prompts (prompt augmentation)."
    ),
}
JUDGED = {"with_pairs": "with\npairs", "without_pairs": "without\npairs", "all": "all"}


def draw(folder: str | Path) -> dict[str, Figure]:
    """One figure for each setting that is not the number of steps; bars are 95 % intervals over seeds."""
    fits = load(folder, "fits")
    return {f"h3_optimisation{name}": _panels(rows) for name, rows in slices(fits, experiment.CELL)}


def _panels(fits: pl.DataFrame) -> Figure:
    with style(2.8):
        figure, (left, right) = plt.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        without, with_more = (experiment.two_stage(fits, augmented) for augmented in (0, 1))
        offline = fits.filter(arm="DPO")
        arms = (
            ("offline DPO", offline, {"color": DPO, "marker": "s"}),
            ("two-stage RLHF, RL over prompts with pairs", without, {"color": RLHF, "marker": "o"}),
            ("two-stage RLHF, RL over all prompts", with_more, {"color": PALE, "marker": "^"}),
        )
        for place, (label, rows, look) in enumerate(arms):
            if place < 2:
                _steps(left, rows, label, look)
            _prompts(right, rows.filter(steps=experiment.OPTIMUM), label, look | {"place": place})
        left.set_yscale("log")
        left.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        left.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))
        left.set_ylabel("regret KL(π‖π*) [nats]")
        left.set_xlabel("steps of gradient descent")
        left.set_title("optimisation")
        right.set_xlabel("prompts judged")
        right.set_title("prompt augmentation, at the end")
        legend_below(figure, columns=2)
    return figure


def _steps(axis, rows: pl.DataFrame, label: str, look: dict) -> None:
    """Regret by the number of steps, the end of optimisation last."""
    numbers = [*sorted(set(rows["steps"].unique()) - {experiment.OPTIMUM}), experiment.OPTIMUM]
    by_seed = np.stack([experiment.of_seed(rows.filter(steps=number)) for number in numbers], axis=1)
    curve(axis, range(len(numbers)), by_seed, label, **look)
    end = "certified\noptimum" if "newton" in rows["solver"] else "to the\nend"
    axis.set_xticks(range(len(numbers)), [f"{number:,}" for number in numbers[:-1]] + [end])


def _prompts(axis, rows: pl.DataFrame, label: str, look: dict) -> None:
    by_seed = np.stack([experiment.of_seed(rows, prompts) for prompts in JUDGED], axis=1)
    places = np.arange(len(JUDGED)) + 0.15 * (look.pop("place") - 1)
    curve(axis, places, by_seed, label, linestyle="none", **look)
    axis.set_xticks(range(len(JUDGED)), list(JUDGED.values()))
