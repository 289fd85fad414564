"""Fits beside their predictions: how much of the variance of log regret, and how many signs, each law explains.

A replicate is another data set of the same task. What replicates of one setting differ by is noise that no prediction
made before the pairs were drawn can explain; the rest is the ceiling.
"""

import polars as pl

from experiments.kit.intervals import Estimate, mean, ratio_of_means
from experiments.kit.per_seed import OK, PerSeed, by_seed, paired, usable
from experiments.kit.problems import TRAINED

TASK = ["horizon", "gold_order", "beta", "temperature", "reference_scale"]
SETTING = [*TASK, "arm", "order", "pairs"]  # what replicates share, beside the seed
LAW, TODAY, LEADING = "law", "least", "leading"  # columns of log regrets that are predicted
LAWS = {
    LAW: "law of few pairs",
    TODAY: r"least of reference and floor + $d_\mathrm{eff}/(2n)$",
    LEADING: r"$d_\mathrm{eff}/(2n)$",
}
HOLDS = pl.col("order") >= pl.col("gold_order")
RLHF = pl.col("arm") == "RLHF"
PARTS = {  # fits, by what is said of them
    "": pl.lit(True),
    "DPO": ~RLHF,
    "RLHF whose reward models hold the gold reward": RLHF & HOLDS,
    "RLHF whose reward models are too small": ~HOLDS,
}


def beside(records: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """One row a fit, with log_regret, the log regrets that LAWS say, whether the first trusts itself, and its noise.

    ``noise`` is an unbiased estimate of the variance of log regret between replicates of its setting, from all of them.
    """
    predictions = records["predictions"].select(*SETTING, "seed", "typical", "trusted", status_law="status")
    classes = records["classes"].select(
        *TASK, "order", "seed", *(usable(pl.col(name)) for name in ("effective_dimension", "floor", "reference_regret"))
    )
    fits = records["fits"].join(predictions, on=[*SETTING, "seed"], how="left", maintain_order="left")
    fits = fits.join(classes, on=[*TASK, "order", "seed"], how="left", maintain_order="left")
    leading = pl.col("effective_dimension") / (2 * TRAINED * pl.col("pairs"))  # not finite where pairs are blind
    replicates = [*SETTING, "seed"]
    log_regret = pl.when(OK).then(pl.col("regret").log())
    return fits.with_columns(
        log_regret=log_regret,
        law=usable(pl.col("typical")).log(),
        least=pl.min_horizontal("reference_regret", (pl.col("floor") + leading).fill_nan(None)).log(),
        leading=leading.log(),
        noise=log_regret.var().over(replicates),
    )


def explained(rows: pl.DataFrame, law: str) -> PerSeed:
    """Share of the variance of log regret that a law explains, R², and its ceiling: two numbers a seed, of its fits.

    The ceiling is the share that a law would explain that knew the mean of each setting: all but the replicates' noise.
    Fits of which the law says no finite number are left out.
    """
    whole = ((pl.col("log_regret") - pl.col("log_regret").mean()) ** 2).sum()
    left = ((pl.col("log_regret") - pl.col(law)) ** 2).sum(), pl.col("noise").sum()
    return by_seed(rows, *(1 - each / whole for each in left), where=pl.col(law).is_finite(), points=True)


def share_of_ceiling(rows: pl.DataFrame, law: str) -> Estimate:
    """How much a law explains of what can be explained."""
    both = explained(rows, law)
    return ratio_of_means(*(both.map(lambda values, k=k: values[:, k]) for k in (0, 1)))


def lost_with_another_task(rows: pl.DataFrame) -> Estimate:
    """What the law explains less, of the same fits, with the tasks of the next seed."""
    own, other = (explained(each, LAW) for each in (rows, of_another_task(rows)))
    return mean((own - other).map(lambda values: values[:, 0]))


def of_another_task(fits: pl.DataFrame) -> pl.DataFrame:
    """The same fits beside the law of the next seed's tasks."""
    seeds = fits["seed"].unique().sort()
    after = pl.DataFrame({"seed": seeds.gather([*range(1, len(seeds)), 0]), "before": seeds})
    laws = fits.select(*SETTING, "seed", "law").unique(maintain_order=True).join(after, on="seed", how="left")
    laws = laws.drop("seed").rename({"before": "seed"})
    return fits.drop("law").join(laws, on=[*SETTING, "seed"], how="left", maintain_order="left")


def signs(fits: pl.DataFrame) -> pl.DataFrame:
    """One row a pair of arms on the same data: whose regret is higher, what each law says, and the replicates' share.

    Columns beside those of the settings: higher (DPO's is), and for each law whether it says so; ``share`` of the
    replicates of this pair of arms whose sign is that of their majority.
    """
    both = paired(fits.filter(RLHF), fits.filter(~RLHF), [*TASK, "pairs", "replicate", "seed"], "_dpo", shared=True)
    higher = pl.when(OK).then(pl.col("log_regret_dpo") > pl.col("log_regret"))
    both = both.with_columns(higher=higher, **{law: pl.col(f"{law}_dpo") > pl.col(law) for law in LAWS})
    often = pl.col("higher").mean().over([*TASK, "order", "pairs", "seed"])
    return both.with_columns(share=pl.max_horizontal(often, 1 - often))


def share_of_signs(both: pl.DataFrame, law: str) -> Estimate:
    """How often a law names the sign, over how often the majority of a setting's replicates does."""
    right = by_seed(both, (pl.col(law) == pl.col("higher")).mean(), points=True)
    return ratio_of_means(right, by_seed(both, pl.col("share").mean(), points=True))
