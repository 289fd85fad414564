"""What the records of misspecified classes say, and their figures: gold reward over three arms, regret on trees."""

import polars as pl
from matplotlib.figure import Figure

from experiments.kit.findings import REGRET, Finding, answered, equality
from experiments.kit.intervals import change, estimate
from experiments.kit.per_seed import by_seed, paired
from experiments.kit.plots import (
    BLACK,
    DPO,
    FOURTH,
    PALE,
    RLHF,
    THIRD,
    curve_of,
    entitle,
    legend_below,
    name_axes,
    panels,
)

POLICIES = {0: "one parameter", 1: "every policy"}  # over three arms, by the number ``free``
REFERENCE_REWARD = 1.0  # mean reward of the three arms
FEWER = 16  # times fewer pairs, where a gap of sample size was that many times wider
EQUAL = 1e-3  # wider than elsewhere: of gold reward too, which is not in nats


def findings(records: dict[str, pl.DataFrame]) -> list[Finding]:
    """Three arms, then token trees; each with the points where misspecification and simple verifiers part."""
    rows = _arm_findings(gaps(records["arms"])) if "arms" in records else []
    rows += _tree_findings(gaps(records["fits"]), gaps(records["limits"])) if "fits" in records else []
    return answered(rows)


def gaps(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with ``gap``, how much better RLHF is: regret DPO - RLHF in nats, of arms gold reward RLHF - DPO.

    On trees also ``holds_policy`` and ``holds_reward``: the class holds the gold reward.
    """
    gap = pl.col("regret_dpo") - pl.col("regret_rlhf")
    if "free" in rows.columns:
        gap = pl.col("gold_reward_rlhf") - pl.col("gold_reward_dpo")
    else:
        rows = rows.with_columns(
            holds_policy=pl.col("policy_order") >= pl.col("gold_order"),
            holds_reward=pl.col("verifier_order") >= pl.col("gold_order"),
        )
    return rows.with_columns(gap=gap)


def _arm_findings(arms: pl.DataFrame) -> list[Finding]:
    one, most, gap = arms.filter(free=0), arms["pairs"].max(), pl.col("gap").mean()
    skew = one["skew"].max()
    here = one.filter(pl.col("skew") == skew)
    last, where = here.filter(pairs=most), f"three arms, one parameter, compared (1, 1, {skew:g}) times, {most:,} pairs"
    claim = f"{where}: gold reward of DPO; the reference's is 1"
    rows = [Finding(claim, estimate(last, pl.col("gold_reward_dpo").mean()), "reward", REFERENCE_REWARD, "below")]
    claim = f"{where}: gold reward of RLHF - DPO; DPO fits 1 dimension, RLHF 2, so that simplicity favours DPO"
    rows.append(Finding(claim, estimate(last, gap), "reward", 0.0, "above"))
    rows += _left(here, "three arms, the same gap", "reward", "above")
    even = one.filter(pl.col("skew") == 1.0, pl.col("pairs") == most)
    if len(even) and even["skew"][0] != skew:
        both = paired(last, even, ["beta", "seed"], "_even")
        more = by_seed(both, (pl.col("gap") - pl.col("gap_even")).mean())
        claim = f"three arms, {most:,} pairs: how much wider the gap is than where all are compared equally often"
        rows.append(Finding(claim, change(more), "reward", 0.0, "above"))
    claim = "three arms, every policy, same penalty: largest difference of gold reward"
    same = pl.col("penalty_dpo") == pl.col("penalty_rlhf")
    return [*rows, equality(claim, arms.filter(free=1), pl.col("gap"), EQUAL, "reward", where=same)]


def _tree_findings(fits: pl.DataFrame, limits: pl.DataFrame) -> list[Finding]:
    small_policy = pl.col("holds_reward") & ~pl.col("holds_policy")
    small_reward = pl.col("holds_policy") & ~pl.col("holds_reward")
    simple = pl.col("holds_policy") & pl.col("holds_reward") & (pl.col("verifier_order") < pl.col("policy_order"))
    fewest, most, gap = min(fits["pairs"].to_list()), max(fits["pairs"].to_list()), pl.col("gap").mean()
    rows = []
    for which, name, infinite, few in (
        (small_policy, "policies too small, reward models hold the gold", "above", "below"),
        (small_reward, "reward models too small, policies hold the gold", "below", "above"),
    ):
        claim = f"{name}, infinitely many pairs: {REGRET} of DPO - RLHF"
        rows.append(Finding(claim, estimate(limits.filter(which), gap), "nats", 0.0, infinite))
        claim = f"{name}, {most:,} pairs: the same"
        rows.append(Finding(claim, estimate(fits.filter(which, pairs=most), gap), "nats", 0.0, infinite))
        if fewest < most:
            claim = f"{name}, {fewest:,} pairs: the same, where the simpler class should win"
            rows.append(Finding(claim, estimate(fits.filter(which, pairs=fewest), gap), "nats", 0.0, few))
    simpler = "both hold the gold, reward models simpler"
    if fewest < most:
        claim = f"{simpler}, {fewest:,} pairs: regret of DPO - RLHF, which misspecification says is 0"
        rows.append(Finding(claim, estimate(fits.filter(simple, pairs=fewest), gap), "nats", 0.0, "above"))
    rows += _left(fits.filter(simple), simpler, "nats", "below")
    claim = "both hold the gold, infinitely many pairs: largest difference of regret"
    both = limits.filter("holds_policy", "holds_reward")
    rows.append(equality(claim, both, pl.col("gap"), EQUAL))
    claim = "same class and penalty in both methods, any number of pairs: largest difference of regret"
    equal = fits.filter(pl.col("policy_order") == pl.col("verifier_order"))
    same = pl.col("penalty_dpo") == pl.col("penalty_rlhf")
    return [*rows, equality(claim, equal, pl.col("gap"), EQUAL, where=same)]


def _left(rows: pl.DataFrame, name: str, unit: str, direction: str) -> list[Finding]:
    """Whether more (``above``) or less than half of the gap with ``FEWER`` times fewer pairs is left with the most."""
    most = max(rows["pairs"].to_list(), default=0)
    fewer = rows.filter(pl.col("pairs") * FEWER == most)
    if not len(fewer):
        return []
    with_most, with_fewer = (by_seed(here, pl.col("gap").mean()) for here in (rows.filter(pairs=most), fewer))
    share = "more" if direction == "above" else "less"
    claim = f"{name}: with {most:,} pairs less half of it with {most // FEWER:,}; {share} than half is left"
    return [Finding(claim, change(with_most - with_fewer.map(lambda gap: gap / 2)), unit, 0.0, direction)]


CAPTIONS = {
    "rival_misspecification_arms": (
        "Gold reward against the number of pairs, in three arms. With one parameter DPO depends on which arms were "
        "compared how often, and may end below the reference, however many pairs there are; two-stage RLHF does not. "
        "With every policy the two are one. Points are means over seeds, bars 95 % intervals."
    ),
    "rival_misspecification_orders": (
        "Regret (KL to the best of all policies) of DPO less that of two-stage RLHF against the number of pairs; "
        "above 0 RLHF is better. Dashed: infinitely many pairs. Classes too small for the gold reward leave a gap "
        "that stays and whose sign is that of the class that is too small; where both hold it, simple reward models "
        "win while pairs are few. Points are means over seeds, bars 95 % intervals."
    ),
}
CASES = {  # whether policies and reward models hold the gold reward
    (False, True): "policies too small",
    (True, False): "reward models too small",
    (True, True): "both hold the gold reward",
    (False, False): "both too small",
}
COLOURS = (THIRD, FOURTH, PALE, BLACK)
MARKERS = "osv^D"


def draw(records: dict[str, pl.DataFrame]) -> dict[str, Figure]:
    """One figure for the arms and one for the trees, as far as there are records of them."""
    figures = {}
    if "arms" in records:
        figures["rival_misspecification_arms"] = _arms(records["arms"])
    if "fits" in records:
        figures["rival_misspecification_orders"] = _orders(records["fits"], records["limits"])
    return figures


def _arms(arms: pl.DataFrame) -> Figure:
    betas = sorted(arms["beta"].unique())
    shown = [(free, skew) for free in POLICIES for skew in sorted(arms["skew"].unique())]
    figure, grid = panels(len(betas), len(shown))
    for row, beta in zip(grid, betas, strict=True):
        for axis, (free, skew) in zip(row, shown, strict=True):
            here = arms.filter(pl.col("skew") == skew, pl.col("beta") == beta, free=free)
            axis.set_xscale("log", base=2)
            curve_of(axis, here, "pairs", "gold_reward_dpo", "offline DPO", color=DPO, marker="s")
            curve_of(axis, here, "pairs", "gold_reward_rlhf", "two-stage RLHF", color=RLHF, linestyle="--")
            axis.axhline(REFERENCE_REWARD, color="0.45", linestyle=":", label="reference policy")
            entitle(axis, f"{POLICIES[free]}, compared (1, 1, {skew:g}) times", here)
    name_axes(grid, "labels n [pairs]", [f"gold reward, β = {beta:g} [reward]" for beta in betas])
    legend_below(figure)
    return figure


def _orders(fits: pl.DataFrame, limits: pl.DataFrame) -> Figure:
    fits, limits = gaps(fits), gaps(limits)
    task = ["vocabulary", "horizon", "gold_order", "beta"]
    tasks = fits.select(task).unique().sort(task).to_dicts()
    present = set(fits.select("holds_policy", "holds_reward").iter_rows())
    cases = [case for case in CASES if case in present]
    orders = sorted(fits.select("policy_order", "verifier_order").unique().iter_rows())
    figure, grid = panels(len(tasks), len(cases), 2.0, sharey="row")
    for row, point in zip(grid, tasks, strict=True):
        for axis, case in zip(row, cases, strict=True):
            which = point | dict(zip(("holds_policy", "holds_reward"), case, strict=True))
            _panel(axis, fits.filter(**which), limits.filter(**which), orders)
            entitle(axis, CASES[case], fits.filter(**which))
    about = [f"H = {each['horizon']}, gold order {each['gold_order']}, β = {each['beta']:g}" for each in tasks]
    name_axes(grid, "labels n [pairs]", [f"{each}\nregret of DPO - RLHF [nats]" for each in about])
    legend_below(figure)
    return figure


def _panel(axis, fits: pl.DataFrame, limits: pl.DataFrame, orders: list[tuple[int, int]]) -> None:
    """The curves of a case; ``orders`` of policies and reward models that any case has, so that looks are the same."""
    axis.set_xscale("log", base=2)
    axis.axhline(0, color="0.45", linewidth=0.6)
    for index, (policy, verifier) in enumerate(orders):
        point = {"policy_order": policy, "verifier_order": verifier}
        if not len(fits.filter(**point)):
            continue
        look = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
        label = f"policies of order {policy}, reward models of {verifier}"
        curve_of(axis, fits.filter(**point), "pairs", "gap", label, **look)
        limit = estimate(limits.filter(**point), pl.col("gap").mean()).at().estimate
        axis.axhline(limit, color=look["color"], linestyle="--", linewidth=0.8)
