"""Win rates of every arm, and what each arm cost."""

from pathlib import Path

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.figure import Figure

from experiments.figures.style import BLACK, DPO, RLHF, THIRD, style
from experiments.main_table import by_arm
from experiments.statistics import over_seeds
from gvgap_jax.sweep import load

CAPTIONS = {
    "main_table": (
        "Left: probability that a response of each arm has more gold reward than a human one, ties one half "
        "(bars: 95 % intervals over seeds). Right: the same against the floating-point operations spent. Orange: "
        "offline; blue: two-stage RL; green: online DPO. Arms marked optimum are solved to a certified gradient norm; "
        "numbers name the same arms on both sides."
    )
}
MEASURED = ("win_rate", "objective", "gold_reward", "kl_to_reference", "regret", "responses", "flops")


def draw(folder: str | Path) -> dict[str, Figure | pl.DataFrame]:
    """The figure at the middling number of pairs, and the whole table with intervals."""
    table = by_arm(load(folder, "tables"))
    sizes = sorted(table["pairs"].unique())
    return {"main_table": _win_rates(table.filter(pairs=sizes[len(sizes) // 2])), "main_table_numbers": numbers(table)}


def numbers(table: pl.DataFrame) -> pl.DataFrame:
    """Mean and interval over seeds of everything measured, one row a cell."""
    cell = [
        name for name in table.columns if name in ("arm", "horizon", "pairs", "gold_order", "verifier_order", "beta")
    ]
    rows = []
    for values, here in table.group_by(cell, maintain_order=True):
        row = dict(zip(cell, values, strict=True))
        for name in MEASURED:
            interval = over_seeds(here[name])
            row |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
        rows.append(row)
    return pl.DataFrame(rows)


def _colour(arm: str) -> str:
    if arm.startswith("online"):
        return THIRD
    return DPO if arm.startswith("DPO") else BLACK if arm == "SFT" else RLHF


def _win_rates(table: pl.DataFrame) -> Figure:
    arms = table["arm"].unique(maintain_order=True).to_list()
    ranks = table.group_by("arm").agg(pl.col("win_rate").mean()).sort("win_rate", "arm")["arm"].to_list()
    with style(3.4):
        figure, (left, right) = plt.subplots(1, 2, width_ratios=(1.5, 1), sharex=False)
        for number, arm in enumerate(arms, start=1):
            here = table.filter(arm=arm)
            wins, flops = over_seeds(100 * here["win_rate"]), here["flops"].mean()
            spread = [[wins.estimate - wins.low], [wins.high - wins.estimate]]
            left.errorbar(wins.estimate, -number, xerr=spread, color=_colour(arm), marker="o", markersize=4)
            if flops:
                right.errorbar(flops, wins.estimate, yerr=spread, color=_colour(arm), marker="o", markersize=4)
                right.annotate(
                    number,
                    (flops, wins.estimate),
                    xytext=(4 if ranks.index(arm) % 2 else -9, 2),
                    textcoords="offset points",
                    fontsize=6,
                )
        left.set_yticks(
            [-number for number in range(1, len(arms) + 1)], [f"{arm}  {number}" for number, arm in enumerate(arms, 1)]
        )
        left.axvline(50, color="0.45", linestyle="--", linewidth=1)
        left.set_xlabel("win rate against human responses [%]")
        right.set_xscale("log")
        right.set(xlabel="floating-point operations", ylabel="win rate [%]")
    return figure
