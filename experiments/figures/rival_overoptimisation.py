"""Gold and proxy reward against the distance from the reference, under best-of-n and under RL."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from experiments import rival_overoptimisation as experiment
from experiments.figures.style import BLACK, DPO, PALE, RLHF, curve, legend_below, style
from gvgap_jax.sweep import load

CAPTIONS = {
    "rival_overoptimisation": (
        "Reward beyond the reference's against d = sqrt(KL to the reference), as a fitted reward model is optimised "
        "harder (points: means over seeds at one strength; dashed: the reward model's own score; dotted: the form of "
        "Gao et al. fitted to the gold reward). Over-optimisation is a gold reward that turns down while the proxy "
        "goes on rising. Black: the gold reward as its own proxy."
    ),
}
MODELS = {"simple verifier": ("gold_order", RLHF, "o"), "full-table verifier": ("horizon", PALE, "^")}


def draw(folder: str | Path) -> dict[str, Figure]:
    """A column a number of pairs, a row a method; a figure for each horizon and order of the gold reward."""
    records = {table: load(folder, table) for table in ("frontiers", "dpo", "gold")}
    task, figures = ["horizon", "gold_order"], {}
    tasks = records["frontiers"].select(task).unique().sort(task).to_dicts()
    for point in tasks:
        suffix = "" if len(tasks) == 1 else "_" + "_".join(f"{name}_{value:g}" for name, value in point.items())
        chosen = {table: rows.filter(**point) for table, rows in records.items()}
        figures[f"rival_overoptimisation{suffix}"] = _panels(chosen)
    return figures


def _panels(records: dict[str, pl.DataFrame]) -> Figure:
    sizes = sorted(records["frontiers"]["pairs"].unique())
    with style(4.6):
        figure, grid = plt.subplots(2, len(sizes), squeeze=False, sharex=True, sharey=True)
        for row, method in zip(grid, experiment.STRENGTHS, strict=True):
            for axis, pairs in zip(row, sizes, strict=True):
                here = {table: rows.filter(pairs=pairs) for table, rows in records.items() if table != "gold"}
                _panel(axis, method, here, records["gold"])
                axis.set_title(f"{method}, {pairs:,} pairs")
            row[0].set_ylabel("reward beyond the reference's")
        for axis in grid[-1]:
            axis.set_xlabel("d = √KL(π‖reference) [√nats]")
        gold = experiment.points(records["gold"], "RL", "gold")
        grid[0, 0].set_ylim(-0.3, 1.25 * np.nanmax(gold.mean(0)))
        legend_below(figure)
    return figure


def _panel(axis, method: str, records: dict[str, pl.DataFrame], gold: pl.DataFrame) -> None:
    def shown(rows: pl.DataFrame, name: str):
        return experiment.points(rows.sort("seed"), method, name)

    axis.plot(_distances(shown(gold, "kl")), shown(gold, "gold").mean(0), color=BLACK, label="gold reward itself")
    for label, (order, colour, marker) in MODELS.items():
        model = records["frontiers"].filter(pl.col("order") == pl.col(order))
        if not len(model):
            continue
        distances, values = _distances(shown(model, "kl")), shown(model, "gold")
        curve(axis, distances, values, f"{label}: gold reward", color=colour, marker=marker, linestyle="none")
        columns = experiment.FORMS[method](distances)
        means = np.nanmean(values, axis=0)
        axis.plot(distances, columns @ np.linalg.lstsq(columns, means)[0], color=colour, linestyle=":")
        axis.plot(distances, np.nanmean(shown(model, "proxy"), axis=0), color=colour, linestyle="--", linewidth=0.8)
    if method == "RL" and len(records["dpo"]):
        distances = _distances(experiment.dpo_points(records["dpo"], "kl"))
        curve(axis, distances, experiment.dpo_points(records["dpo"], "gold"), "offline DPO", color=DPO, marker="s")


def _distances(nats: np.ndarray) -> np.ndarray:
    """Mean over seeds of sqrt(KL) at each strength."""
    return np.nanmean(np.sqrt(nats), axis=0)
