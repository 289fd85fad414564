"""Arms of the experiment on priors: which fits each chooses among on held-out pairs, and their regrets side by side."""

import polars as pl

from experiments.kit.findings import EQUAL_LOG, Finding, equality
from experiments.kit.intervals import Estimate, geometric, ratio_of_means
from experiments.kit.per_seed import PerSeed, by_seed, paired, side_by_side

USUAL = "logits"  # the geometry of tabular DPO: a ridge on logits of the next token after each prefix
INTERACTIONS = "interactions"  # coordinates of all other geometries
DEGREE, TOKENS, RANDOM = "degree", "token sums", "random features"
RESTRICTED = 0.0  # the limit of decays: no policy but those of sums over single tokens
DATA = ["horizon", "gold_order", "reference_scale", "pairs", "seed"]  # what tells data sets apart

# Arms, by their names in claims.
DPO_USUAL, DPO_FLAT, DPO_DEGREE = "DPO with its usual ridge", "DPO with a flat ridge", "DPO with a degree ridge"
DPO_TOKENS, DPO_RANDOM = "DPO with a token-sum ridge", "DPO with a random-feature ridge"
RLHF_GOLD = "RLHF with verifiers of the gold order"
RLHF_ORDER = "RLHF with verifiers of an order chosen on held-out pairs"

is_dpo, is_flat, is_degree = pl.col("method") == "DPO", pl.col("decay") == 1, pl.col("geometry") == DEGREE
CANDIDATES: dict[str, pl.Expr] = {  # the fits among which an arm has the one of the lowest held-out loss
    DPO_USUAL: is_dpo & (pl.col("geometry") == USUAL),
    DPO_FLAT: is_dpo & is_degree & is_flat,
    DPO_DEGREE: is_dpo & is_degree & (pl.col("decay") > RESTRICTED),
    DPO_TOKENS: is_dpo & (pl.col("geometry") == TOKENS),
    DPO_RANDOM: is_dpo & (pl.col("geometry") == RANDOM),
    RLHF_GOLD: ~is_dpo & is_flat & (pl.col("order") == pl.col("gold_order")),
    RLHF_ORDER: ~is_dpo & is_flat,
}


def chosen(fits: pl.DataFrame) -> pl.DataFrame:
    """One fit of every arm on every data set, with the column ``arm``; the flatter and the simpler one of a tie.

    It is excluded where any of its candidates is, which could have been the one.
    """
    ordered = fits.sort("held_out_loss", pl.col("decay").neg(), "order")
    status = pl.col("status").filter(pl.col("status") != "ok").first().fill_null("ok")
    return pl.concat(
        ordered.filter(rule)
        .group_by(DATA, maintain_order=True)
        .agg(pl.exclude(*DATA, "status").first(), status, pl.lit(arm).alias("arm"))
        for arm, rule in CANDIDATES.items()
    )


MEASURED, TYPICAL = pl.col("regret"), pl.when("trusted").then("typical").otherwise(float("nan"))


def log_ratio(rows: pl.DataFrame, one: str, other: str, value: pl.Expr = MEASURED) -> PerSeed:
    """Log of one arm's value less that of another on the same data, a number a seed."""
    both = side_by_side(rows.with_columns(value=value), (one, other), "value", DATA)
    return by_seed(both, (pl.col(one).log() - pl.col(other).log()).mean())


def regret_ratio(rows: pl.DataFrame, one: str, other: str, value: pl.Expr = MEASURED) -> Estimate:
    """Geometric mean ratio of two arms' regrets, paired by seed."""
    return geometric(log_ratio(rows, one, other, value))


def share_closed(rows: pl.DataFrame, value: pl.Expr = MEASURED) -> Estimate:
    """How far DPO's log regret comes down to that of RLHF with the gold order, if its ridge grows with degree."""
    return ratio_of_means(log_ratio(rows, DPO_USUAL, DPO_DEGREE, value), log_ratio(rows, DPO_USUAL, RLHF_GOLD, value))


def equalities(fits: pl.DataFrame) -> list[Finding]:
    """One prior in both methods, a flat one that is turned, and the limit of decays: two fits of one problem each."""
    dpo, rlhf = fits.filter(is_dpo, is_degree), fits.filter(~is_dpo)
    whole = rlhf.filter(pl.col("order") == pl.col("horizon"))
    turned = fits.filter(is_flat, geometry=RANDOM)
    return [
        _equal("one degree ridge in DPO and in RLHF", dpo.filter(pl.col("decay") > RESTRICTED), whole),
        _equal("decay 0 in DPO, and RLHF of order 1", dpo.filter(decay=RESTRICTED), rlhf.filter(is_flat, order=1), []),
        _equal("a flat ridge along random features, and along interactions", turned, dpo.filter(is_flat)),
    ]


def _equal(words: str, one: pl.DataFrame, other: pl.DataFrame, on=("decay",)) -> Finding:
    both = paired(one, other, [*DATA, *on], "_other")
    difference = pl.col("regret").log() - pl.col("regret_other").log()
    same = pl.col("penalty") == pl.col("penalty_other")  # held-out losses can tie to rounding
    return equality(f"{words}, same penalty: largest difference of log regret", both, difference, EQUAL_LOG, where=same)
