"""Gold reward over three arms, and the gap in regret on trees, against pairs; dashed what infinitely many lead to."""

from pathlib import Path

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.figure import Figure

from experiments import rival_misspecification as experiment
from experiments.figures.style import BLACK, DPO, FOURTH, PALE, RLHF, THIRD, curve, legend_below, style
from experiments.statistics import curves_by_seed, over_seeds
from gvgap_jax.sweep import folder_at, load
from gvgap_jax.sweep.records import folder_tables

CAPTIONS = {
    "rival_misspecification_arms": (
        "Gold reward against the number of pairs, in three arms. With one parameter DPO depends on which arms were "
        "compared how often, and may end below the reference, however many pairs there are; two-stage RLHF does not. "
        "With every policy the two are one."
    ),
    "rival_misspecification_orders": (
        "Regret of DPO less that of two-stage RLHF against the number of pairs; above 0 RLHF is better. Dashed: "
        "infinitely many pairs. Classes too small for the gold reward leave a gap that stays and whose sign is that "
        "of the class that is too small; where both hold it, simple reward models win while pairs are few."
    ),
}
CASES = {  # whether policies and reward models hold the gold reward
    (False, True): "policies\ntoo small",
    (True, False): "reward models\ntoo small",
    (True, True): "both hold\nthe gold reward",
    (False, False): "both\ntoo small",
}
COLOURS = (THIRD, FOURTH, PALE, BLACK)
MARKERS = "osv^D"


def draw(folder: str | Path) -> dict[str, Figure]:
    """One figure for the arms and one for the trees, as far as there are records of them."""
    tables, figures = folder_tables(folder_at(folder)), {}
    if "arms" in tables:
        figures["rival_misspecification_arms"] = _arms(load(folder, "arms"))
    if "fits" in tables:
        figures["rival_misspecification_orders"] = _orders(load(folder, "fits"), load(folder, "limits"))
    return figures


def _by_seed(rows: pl.DataFrame, name: str):
    """Pairs [n] and one column of the records, [seeds, n]."""
    return curves_by_seed(rows, "pairs", pl.col(name).mean())


def _arms(arms: pl.DataFrame) -> Figure:
    betas = sorted(arms["beta"].unique())
    panels = [(free, skew) for free in experiment.POLICIES for skew in sorted(arms["skew"].unique())]
    with style(1.7 * len(betas) + 0.6):
        figure, grid = plt.subplots(len(betas), len(panels), squeeze=False, sharex=True, sharey=True)
        for row, beta in zip(grid, betas, strict=True):
            for axis, (free, skew) in zip(row, panels, strict=True):
                here = arms.filter(pl.col("skew") == skew, pl.col("beta") == beta, free=free)
                axis.set_xscale("log", base=2)
                curve(axis, *_by_seed(here, "gold_reward_dpo"), "offline DPO", color=DPO, marker="s")
                curve(axis, *_by_seed(here, "gold_reward_rlhf"), "two-stage RLHF", color=RLHF, linestyle="--")
                axis.axhline(experiment.REFERENCE_REWARD, color="0.45", linestyle=":", label="reference policy")
                axis.set_title(f"{experiment.POLICIES[free]}\ncompared (1, 1, {skew:g}) times")
            row[0].set_ylabel("gold reward" + (f", β = {beta:g}" if len(betas) > 1 else ""))
        for axis in grid[-1]:
            axis.set_xlabel("labelled pairs n")
        legend_below(figure)
    return figure


def _orders(fits: pl.DataFrame, limits: pl.DataFrame) -> Figure:
    fits, limits = experiment.gaps(fits), experiment.gaps(limits)
    task = ["vocabulary", "horizon", "gold_order", "beta"]
    tasks = fits.select(task).unique().sort(task).to_dicts()
    found = set(fits.select("holds_policy", "holds_reward").iter_rows())
    cases = [case for case in CASES if case in found]
    with style(2.4 * len(tasks) + 0.4):
        figure, grid = plt.subplots(len(tasks), len(cases), squeeze=False, sharex=True, sharey="row")
        for row, point in zip(grid, tasks, strict=True):
            for axis, case in zip(row, cases, strict=True):
                which = point | dict(zip(("holds_policy", "holds_reward"), case, strict=True))
                _panel(axis, fits.filter(**which), limits.filter(**which))
                axis.set_title(CASES[case])
            about = f"H = {point['horizon']}, gold order {point['gold_order']}"
            row[0].set_ylabel(f"regret of DPO - RLHF [nats]\n{about}, β = {point['beta']:g}")
        for axis in grid[-1]:
            axis.set_xlabel("labelled pairs n")
    return figure


def _panel(axis, fits: pl.DataFrame, limits: pl.DataFrame) -> None:
    axis.set_xscale("log", base=2)
    axis.axhline(0, color="0.45", linewidth=0.6)
    orders = sorted(fits.select("policy_order", "verifier_order").unique().iter_rows())
    for index, (policy, verifier) in enumerate(orders):
        point = {"policy_order": policy, "verifier_order": verifier}
        look = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
        curve(axis, *_by_seed(fits.filter(**point), "gap"), f"{policy}, {verifier}", **look)
        limit = over_seeds(limits.filter(**point)["gap"]).estimate
        axis.axhline(limit, color=look["color"], linestyle="--", linewidth=0.8)
    if orders:
        axis.legend(title="orders: policy, reward", fontsize=5, title_fontsize=5, ncols=1 + len(orders) // 4)
