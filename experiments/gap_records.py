"""What the records of the generation-verification gap say: regret ratios, and where they should be 1."""

import polars as pl

from experiments.statistics import Finding, Interval, by_seed, over_seeds, ratio_over_seeds

CLOSED = pl.col("gold_order") == pl.col("horizon")  # reward models are full tables: as hard to learn as policies
OPEN = pl.col("gold_order") < pl.col("horizon")
LOG_RATIO = (pl.col("dpo_regret") / pl.col("rlhf_regret")).log()
BACKBONE = "backbone_regret"  # of RLHF whose reward model has the policy's own backbone, where there is such an arm
LOG_DIMENSIONS = (pl.col("dpo_dimension") / pl.col("rlhf_dimension")).log()
EQUAL = 1e-4  # nats: solvers' tolerances and rounding. Not of log regret: with one token a regret can be rounding alone


def ratio(gaps: pl.DataFrame) -> Interval:
    """Regret of DPO over that of RLHF: the geometric mean over a seed's rows, then over seeds."""
    return ratio_over_seeds(by_seed(gaps, LOG_RATIO.mean()))


def dimension_ratio(gaps: pl.DataFrame) -> Interval:
    """d_eff of policies over that of reward models, which is what theory predicts for ``ratio``."""
    return ratio_over_seeds(by_seed(gaps, LOG_DIMENSIONS.mean()))


def slope(gaps: pl.DataFrame) -> Interval:
    """Least-squares slope, within each seed, of the log regret ratio on the log ratio of dimensions; theory says 1."""
    return over_seeds(by_seed(gaps, pl.cov(LOG_DIMENSIONS, LOG_RATIO) / LOG_DIMENSIONS.var()))


def rise(far: pl.DataFrame, near: pl.DataFrame) -> Interval:
    """The regret ratio in some rows over that in others, paired by seed."""
    return ratio_over_seeds(by_seed(far, LOG_RATIO.mean()) - by_seed(near, LOG_RATIO.mean()))


def series_findings(series: pl.DataFrame, far: pl.DataFrame, name: str, where: str) -> list[Finding]:
    """The gap at the ``far`` end of a series and at its closed end, the rise between them, and the slope of all.

    Args:
      series: records that differ in horizon or in order, not in both; where it lacks an end, so do the findings.
      far: its rows where verifiers are simplest compared with policies.
      name: words for the series.
      where: words for its far end.
    """
    near, rows = series.filter(CLOSED), []
    if len(far):
        claim = f"{name}, {where}: regret of DPO over RLHF's (d_eff: {dimension_ratio(far).estimate:.3g} times)"
        rows.append(Finding(claim, ratio(far), "times", 1.0, "above"))
        if BACKBONE in far.columns:
            claim = f"{name}, {where}, reward model of the policy's own backbone: the same ratio"
            log_ratio = (pl.col("dpo_regret") / pl.col(BACKBONE)).log()
            rows.append(Finding(claim, ratio_over_seeds(by_seed(far, log_ratio.mean())), "times", 1.0, "at"))
    for (pairs,), here in near.group_by("pairs", maintain_order=True):
        claim = f"{name}, order = H (one class, regularised in two ways), {pairs:,} pairs: the same ratio"
        rows.append(Finding(claim, ratio(here), "times", 1.0, "at"))
    if len(far) and len(near):
        claim = f"{name}: the ratio {where} over that where order = H"
        rows.append(Finding(claim, rise(far, near), "times", 1.0, "above"))
        claim = f"{name}: slope of its logarithm on log(d_eff of policies / of verifiers), 1 in the limit"
        rows.append(Finding(claim, slope(series), "", 0.0, "above"))
        most = series["pairs"].max()
        rows.append(
            Finding(f"{name}, {most:,} pairs: the same slope", slope(series.filter(pairs=most)), "", 0.0, "above")
        )
    return rows


def equality_findings(gaps: pl.DataFrame) -> list[Finding]:
    """Offline likelihood in the class, and with the penalty, of RLHF's verifiers: no gap, by Theorems 2.2 and 3.1.

    Where order = H that class holds every policy. Only data sets for which both roads selected the same penalty
    count, as held-out losses can tie to rounding; the claims say how many did.
    """
    same_penalty = pl.col("restricted_penalty") == pl.col("rlhf_penalty")
    difference = (pl.col("restricted_regret") - pl.col("rlhf_regret")).abs().nan_max()
    rows = []
    for claim, here, control in (
        ("order = H, policies penalised as verifiers are: offline likelihood against RLHF", gaps.filter(CLOSED), True),
        ("order < H, likelihood restricted to policies optimal for verifiers: against RLHF", gaps.filter(OPEN), False),
    ):
        same = here.filter(same_penalty)
        if len(here):
            claim = f"{claim}, largest difference of regret ({len(same) / len(here):.1%} selected the same penalty)"
            rows.append(Finding(claim, over_seeds(by_seed(same, difference)), "nats", EQUAL, "below", control))
    return rows
