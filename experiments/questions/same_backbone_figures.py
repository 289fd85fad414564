"""Figures of ``same_backbone``: the ratio of regrets over pairs, by factor, and against what theory says."""

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from experiments.kit.intervals import Interval, ratio_over_seeds
from experiments.kit.per_seed import curves_by_seed
from experiments.kit.plots import RLHF, THIRD, curve, entitle, legend_below, means, name_axes, panels
from experiments.questions.same_backbone_arms import FINAL, SUM, TABLE_RLHF
from experiments.questions.same_backbone_records import (
    AFTER,
    BASE,
    LAW,
    at,
    log_ratio,
    points,
    predicted,
    ratio,
)

CAPTIONS = {
    "same_backbone": (
        "Regret (KL to the optimal policy) of DPO over that of two-stage RLHF whose reward model starts at the "
        "policy's own network, against the number of labelled pairs; above 1 RLHF wins. Blue: the reward model reads "
        "the state after the last token; green: the sum over tokens; grey: both methods over tables, without a "
        "network. Dashed: the law of few pairs for tangent features at the common start. Points are geometric means "
        "over seeds, bars 95 % intervals. The s.d. is that of the logits of the Markov chains that write the texts."
    ),
    "same_backbone_factors": (
        "The same ratio at 512 pairs, one factor at a time varied around a base cell (first row of each panel: a "
        "network that has read texts which go on past the response, all of it trained, a gold reward of order 1). "
        "Crosses: the law of few pairs at the common start. Points are geometric means over seeds, bars 95 % intervals."
    ),
    "same_backbone_law": (
        "The same ratio, measured against predicted by the law of few pairs, a point for every point of the sweep and "
        "read-out: for tangent features at the common start (left), and where the fits ended (right). Dotted: as "
        "predicted. Bars are 95 % intervals over seeds."
    ),
}
LOOKS = {FINAL: {"color": RLHF, "marker": "o"}, SUM: {"color": THIRD, "marker": "^"}}
NAMES = {FINAL: "reward model reads the final state", SUM: "reward model sums over tokens"}
POINTS = {"linestyle": "none", "markersize": 3, "elinewidth": 0.6}
TABLES = {"color": "0.6", "marker": "x"}


def draw(records: dict[str, pl.DataFrame]) -> dict[str, Figure | pl.DataFrame]:
    """Ratios over pairs, by factor and against theory; and all of them as a table with intervals."""
    fits = records["fits"].filter(labels="gold")
    if not len(fits):
        return {}
    fits = fits.filter(pl.col("replicate") == pl.col("replicate").min())
    drawn = {"same_backbone_factors": _factors(fits), "same_backbone_law": _law(fits)}
    crossed = at(fits, gold_order=None, pairs=None)
    first = {"same_backbone": _over_pairs(crossed)} if len(crossed) else {}
    return first | drawn | {"same_backbone_numbers": numbers(fits)}


def numbers(fits: pl.DataFrame) -> pl.DataFrame:
    """Every point's ratios with their intervals, what theory says, and the regret that arises after rare prefixes."""
    rows = []
    for point, here in points(fits):
        for arm in (FINAL, SUM, TABLE_RLHF):
            shown = ratio(here, arm).at()
            row = point | {"arm": arm, "ratio": shown.estimate, "low": shown.low, "high": shown.high}
            told = {} if arm == TABLE_RLHF else {name: predicted(here, arm, name) for name in (LAW, AFTER)}
            rare = {"rare": ratio(here, arm, "rare_regret").at().estimate}
            rows.append(row | {LAW: float("nan"), AFTER: float("nan")} | told | rare)
    return pl.DataFrame(rows)


def _over_pairs(fits: pl.DataFrame) -> Figure:
    scales = sorted(fits["text_scale"].unique(), reverse=True)
    orders = [
        order for order in sorted(fits["gold_order"].unique()) if fits.filter(gold_order=order)["pairs"].n_unique() > 1
    ] or sorted(fits["gold_order"].unique())
    figure, grid = panels(len(scales), len(orders), 1.8)
    for axes, scale in zip(grid, scales, strict=True):
        for axis, order in zip(axes, orders, strict=True):
            here = fits.filter(text_scale=scale, gold_order=order)
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.axhline(1, color="0.4", linewidth=0.6, zorder=1)
            for arm, look in LOOKS.items():
                _curve(axis, here, arm, NAMES[arm], **look)
                pairs, said = curves_by_seed(here, "pairs", log_ratio(arm, LAW).mean())
                axis.plot(pairs, np.exp(means(said.values)), color=look["color"], linestyle="--", linewidth=1, zorder=1)
            _curve(axis, here, TABLE_RLHF, "both over tables", **TABLES)
            axis.plot([], [], color="0.4", linestyle="--", linewidth=1, label="the law of few pairs, in each colour")
            entitle(axis, f"texts of s.d. {scale:g}, order {order} of {here['horizon'][0]}", here)
    name_axes(grid, "labels n [pairs]", "DPO / RLHF regret [times]")
    legend_below(figure)
    return figure


def _curve(axis, rows: pl.DataFrame, arm: str, label: str, **look) -> None:
    pairs, curves = curves_by_seed(rows, "pairs", log_ratio(arm).mean())
    curve(axis, pairs, curves.values, label, interval=ratio_over_seeds, **look)


def _factors(fits: pl.DataFrame) -> Figure:
    here = fits.filter(pairs=BASE["pairs"]) if BASE["pairs"] in fits["pairs"] else fits
    scales = sorted(here["text_scale"].unique(), reverse=True)
    shown = {scale: list(points(here.filter(text_scale=scale))) for scale in scales}
    longest = max(map(len, shown.values()))
    figure, grid = panels(1, len(scales), max(1.7, 0.7 + 0.24 * longest), sharey="none", ratios=(1,) * len(scales))
    for axis, (scale, rows) in zip(grid[0], shown.items(), strict=True):
        axis.set_xscale("log")
        axis.axvline(1, color="0.4", linewidth=0.6, zorder=1)
        for arm, look in LOOKS.items():
            place = np.arange(len(rows)) + (0.13 if arm == SUM else -0.13)
            centre, around = _bars([ratio(row, arm).at() for _, row in rows])
            axis.errorbar(centre, -place, xerr=around, label=NAMES[arm], **POINTS, **look)
            axis.plot(
                [predicted(row, arm) for _, row in rows], -place, "x", color=look["color"], markersize=4, alpha=0.6
            )
        axis.plot([], [], "x", color="0.4", label="the law of few pairs, in each colour")
        axis.set_yticks(-np.arange(len(rows)), [_short(point) for point, _ in rows])
        entitle(axis, f"texts of s.d. {scale:g}", here.filter(text_scale=scale))
    name_axes(grid, "DPO / RLHF regret [times]", "varied [name]")
    legend_below(figure)
    return figure


def _short(point: dict) -> str:
    """What differs from the base cell."""
    names = {name: value for name, value in point.items() if name in BASE and value != BASE[name] and name != "pairs"}
    if not names:
        return "base"
    if "gold" in names:
        return str(names["gold"]).replace("_", " ")
    words = {"gold_order": "order {}", "start": "{}", "trained": "{} trained"}
    text = ", ".join(words[name].format(value) for name, value in names.items())
    return text.replace("random", "random start")


def _law(fits: pl.DataFrame) -> Figure:
    figure, grid = panels(1, 2, 2.6, sharex="none", sharey="all")
    kinds = ((LAW, "at the common start"), (AFTER, "where the fits ended"))
    for axis, (name, words) in zip(grid[0], kinds, strict=True):
        axis.set_xscale("log")
        axis.set_yscale("log")
        ends = [1.0]
        for arm, look in LOOKS.items():
            said = np.array([predicted(here, arm, name) for _, here in points(fits)])
            centre, around = _bars([ratio(here, arm).at() for _, here in points(fits)])
            axis.errorbar(said, centre, yerr=around, label=NAMES[arm], **POINTS, **look)
            ends += [*said[np.isfinite(said)], *centre[np.isfinite(centre)]]
        axis.plot([min(ends), max(ends)], [min(ends), max(ends)], color="0.3", linestyle=":", label="as predicted")
        entitle(axis, f"tangent features {words}", fits)
    name_axes(grid, "predicted DPO / RLHF regret [times]", "measured [times]")
    legend_below(figure)
    return figure


def _bars(intervals: list[Interval]) -> tuple[np.ndarray, np.ndarray]:
    """Estimates, and how far their intervals reach below and above."""
    centre, low, high = (np.array([getattr(each, name) for each in intervals]) for name in ("estimate", "low", "high"))
    return centre, np.vstack([centre - low, high - centre])
