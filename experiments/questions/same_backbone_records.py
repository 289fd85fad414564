"""Statistics of ``same_backbone``: who has less regret at a point, what a factor changes, and what theory says."""

from collections.abc import Iterator

import polars as pl

from experiments.kit.intervals import Estimate, geometric, mean
from experiments.kit.per_seed import OK, PerSeed, by_seed
from experiments.kit.problems import OF
from experiments.questions.same_backbone_arms import DPO, FINAL, SUM, TABLE_RLHF

POINT = ["text_scale", "gold", "gold_order", "start", "trained", "pairs"]  # settings, the first ones first in words
BASE = {"start": "text", "trained": "all", "gold": "interactions", "gold_order": 1, "pairs": 512}
LAW, AFTER = "law", "law_after"
TOLD = (DPO, FINAL, SUM)  # arms that theory speaks of
OTHER = {TABLE_RLHF: "DPO, tables"}  # the arm that another than DPO is compared with


def of(arm: str, name: str = "regret") -> pl.Expr:
    """A column of an arm."""
    return pl.col(f"{arm}{OF}{name}")


def points(fits: pl.DataFrame) -> Iterator[tuple[dict, pl.DataFrame]]:
    """Settings and records of every point, the base cells' first."""
    off = sum((pl.col(name) != value).cast(pl.Int32) for name, value in BASE.items())
    rows = fits.with_columns(off=off).sort("off", pl.col("text_scale").neg(), *POINT[1:], maintain_order=True)
    for values, here in rows.drop("off").group_by(POINT, maintain_order=True):
        yield dict(zip(POINT, values, strict=True)), here


def at(fits: pl.DataFrame, **changes) -> pl.DataFrame:
    """Records of one point: a base cell's but for ``changes``; of all values of a field that is None."""
    wanted = {name: value for name, value in (BASE | changes).items() if value is not None}
    return fits.filter(**wanted)


def log_ratio(arm: str, name: str = "regret") -> pl.Expr:
    """Log of DPO's regret over an arm's, or of what theory says of them; null where it says nothing of one."""
    other = OTHER.get(arm, DPO)
    known = (of(other, name) > 0) & (of(arm, name) > 0)
    return pl.when(known).then(of(other, name).log() - of(arm, name).log())


def per_seed(rows: pl.DataFrame, arm: str, name: str = "regret") -> PerSeed:
    """The log ratio of every seed, over those of its rows that have one."""
    return by_seed(rows, log_ratio(arm, name).mean())


def ratio(rows: pl.DataFrame, arm: str, name: str = "regret") -> Estimate:
    """Regret of DPO over that of an arm on the same pairs: the ratio of geometric means."""
    return geometric(per_seed(rows, arm, name))


def predicted(rows: pl.DataFrame, arm: str, name: str = LAW) -> float:
    """The ratio that theory says; NaN where it speaks of less than half of the seeds."""
    said = ratio(rows, arm, name).at()
    return said.estimate if said.seeds > said.failed else float("nan")


def rise(far: pl.DataFrame, near: pl.DataFrame, arm: str, name: str = "regret") -> Estimate:
    """The ratio of regrets in some rows over that in others, paired by seed."""
    return geometric(per_seed(far, arm, name) - per_seed(near, arm, name))


def slope(series: pl.DataFrame, arm: str, name: str = "regret") -> Estimate:
    """Slope, within each seed, of the log ratio on the log number of pairs: above 0 the ratio grows with pairs."""
    return mean(by_seed(series, pl.cov(pl.col("pairs").log(), log_ratio(arm, name)) / pl.col("pairs").log().var()))


def removed(rows: pl.DataFrame, arm: str) -> Estimate:
    """Share of the reference policy's regret that an arm removes."""
    return mean(by_seed(rows, (1 - of(arm) / pl.col("reference_regret")).mean()))


def replicated(fits: pl.DataFrame) -> pl.DataFrame:
    """One row a network's arm and data set, of points that have several: its log regret, theory's, and the noise.

    ``noise`` is an unbiased estimate of the variance of log regret between data sets of one task.
    """
    arms = [
        _several(fits).select(
            *POINT, "seed", "replicate", "status", pl.lit(arm).alias("arm"), log_regret=of(arm).log(),
            **{name: pl.when(of(arm, name) > 0).then(of(arm, name)).log() for name in (LAW, AFTER)},
        )
        for arm in TOLD
    ]  # fmt: skip
    table = pl.concat(arms).with_columns(log_regret=pl.when(OK).then("log_regret"))
    return table.with_columns(noise=pl.col("log_regret").var().over([*POINT, "seed", "arm"]))


def signs(fits: pl.DataFrame, name: str) -> pl.DataFrame:
    """One row a reward model and data set, of points that have several: whether DPO's regret is higher, and theory's.

    ``share`` of the data sets of one task agree with their majority; ``higher`` is null where theory says nothing.
    """
    arms = [
        _several(fits).select(
            *POINT, "seed", "replicate", "status", pl.lit(arm).alias("arm"), higher=log_ratio(arm) > 0,
            **{name: log_ratio(arm, name) > 0},
        )
        for arm in TOLD[1:]
    ]  # fmt: skip
    table = pl.concat(arms).with_columns(higher=pl.when(OK & pl.col(name).is_not_null()).then("higher"))
    often = pl.col("higher").mean().over([*POINT, "seed", "arm"])
    return table.with_columns(share=pl.max_horizontal(often, 1 - often))


def _several(fits: pl.DataFrame) -> pl.DataFrame:
    """Records of the points that have several data sets of a task."""
    return fits.filter(pl.col("replicate").n_unique().over([*POINT, "seed"]) > 1)
