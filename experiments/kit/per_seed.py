"""One number a seed, from that seed's records: which rows count, and which frames are refused.

A row whose ``status`` is not ``ok`` (it did not converge, or is not finite) is excluded from every statistic. A seed
counts in a statistic with all of its rows or not at all, so that what is left is paired across arms and is taken over
the same settings in every seed; where the rows of a seed are points that stand for themselves, the point alone is left
out (``points=True``). A frame in which rows are missing is refused: they would shift the others.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from experiments.kit.fields import AXES, WORDS

CHOSEN = {"penalty", "steps"}  # settings of some experiments, which fits choose in others

OK = pl.all_horizontal(pl.col("^status.*$") == "ok").fill_null(False)  # of one arm's row, or of several joined ones


class PerSeed(NamedTuple):
    """A statistic of every seed.

    Attributes:
      seeds: their numbers [S], ascending.
      values: [S], or [S, K] for K numbers a seed; NaN for a seed that is left out.
      rows, excluded: records that the statistic asked for, and those of them that are not ``ok``.
      axes: settings of the rows, with their values: what the statistic is taken over where there are several, and none
        where it does not depend on the setting.
      unit: what is independent of each other: ``seeds``, or ``prompts`` where there is one seed.
    """

    seeds: np.ndarray
    values: np.ndarray
    rows: int
    excluded: int
    axes: dict[str, tuple]
    unit: str = "seeds"

    def map(self, function: Callable[[np.ndarray], ArrayLike]) -> "PerSeed":
        """Another statistic of the same seeds, computed from ``values``."""
        return together(function, self)

    def __sub__(self, other: "PerSeed") -> "PerSeed":  # pyright: ignore
        """The difference within each seed; ValueError where the seeds are not the same."""
        return together(np.subtract, self, other)


def together(function: Callable[..., ArrayLike], *parts: PerSeed) -> PerSeed:
    """What ``function`` makes of the values of several statistics; ValueError where their seeds are not the same."""
    first = parts[0]
    for part in parts:
        if not np.array_equal(part.seeds, first.seeds):
            raise ValueError(_missing(sorted(set(first.seeds.tolist()) ^ set(part.seeds.tolist()))))
    known = [part.axes for part in parts]
    axes = {name: tuple(sorted(set().union(*(each.get(name, ()) for each in known)))) for name in set().union(*known)}
    axes = {name: there for name, there in axes.items() if there or all(name in each for each in known)}
    values = np.asarray(function(*(part.values for part in parts)), float)
    rows, excluded = (sum(getattr(part, name) for part in parts) for name in ("rows", "excluded"))
    return PerSeed(first.seeds, values, rows, excluded, axes, first.unit)


def of_values(values, unit: str = "seeds") -> PerSeed:
    """Numbers that are there already, one a seed (or what else ``unit`` says); NaN is a row that is excluded."""
    values = np.asarray(values, float)
    return PerSeed(np.arange(len(values)), values, len(values), int(np.sum(~np.isfinite(values))), {}, unit)


def by_seed(rows: pl.DataFrame, *statistics: pl.Expr, where: pl.Expr | None = None, points: bool = False) -> PerSeed:
    """One number a seed, or one of each statistic, computed from that seed's rows, in the order of the seeds.

    Args:
      rows: all of them, also those that are excluded.
      statistics: aggregates of a seed's rows.
      where: what must have been measured of a row for it to count; seeds may then differ in how many do.
      points: leave out an excluded row alone, and not its seed; seeds may differ in their rows.

    Raises:
      ValueError: the seeds have different numbers of rows.
    """
    looked = marked(rows if points else _complete(rows, ["seed"]))
    seeds = looked["seed"].unique().sort()
    if where is not None:
        looked = looked.filter(where | ~pl.col("ok"))
    counts = pl.lit(True) if points else pl.col("ok").all().over("seed")
    named = [statistic.cast(pl.Float64).alias(str(number)) for number, statistic in enumerate(statistics)]
    found = looked.filter(counts, pl.col("ok")).group_by("seed").agg(named)
    values = pl.DataFrame({"seed": seeds}).join(found, on="seed", how="left").sort("seed").drop("seed")
    excluded = len(looked) - int(looked["ok"].sum())
    numbers = values.fill_null(float("nan")).to_numpy()
    return PerSeed(seeds.to_numpy(), numbers[:, 0] if len(named) == 1 else numbers, len(looked), excluded, _axes(rows))


def each_seed(rows: pl.DataFrame, statistic: Callable[[pl.DataFrame], float]) -> PerSeed:
    """One number a seed, computed by a function of that seed's rows; as ``by_seed`` where no expression says it."""
    whole = by_seed(rows, pl.lit(0.0).first())
    parts = {seed: part for (seed,), part in rows.group_by("seed", maintain_order=True)}
    values = [statistic(parts[seed]) if value == 0 else float("nan") for seed, value in zip(*whole[:2], strict=True)]
    return whole._replace(values=np.array(values, float))


def curves_by_seed(rows: pl.DataFrame, x: str, statistic: pl.Expr) -> tuple[np.ndarray, PerSeed]:
    """Values [K] of a column, ascending, and one number for each seed and value [S, K], from the rows of both.

    The number is NaN where one of those rows is excluded.

    Raises:
      ValueError: a seed has no rows, or fewer than others, at one of the values.
    """
    looked = marked(_complete(rows, ["seed", x]))
    value = pl.when(pl.col("ok").all()).then(statistic.cast(pl.Float64)).otherwise(float("nan"))
    cells = looked.group_by("seed", x).agg(value.alias("value")).sort("seed", x)
    seeds, at = (cells[name].unique().sort().to_numpy() for name in ("seed", x))
    excluded = len(looked) - int(looked["ok"].sum())
    axes = {name: values for name, values in _axes(rows).items() if name != x}
    values = cells["value"].fill_null(float("nan")).to_numpy().reshape(len(seeds), len(at))
    return at, PerSeed(seeds, values, len(looked), excluded, axes)


def paired(
    rows: pl.DataFrame, others: pl.DataFrame, on: Sequence[str], suffix: str, shared: bool = False
) -> pl.DataFrame:
    """Each row of one arm beside that of another on the same data; columns of the other arm end in ``suffix``.

    The pair is excluded where either row is. With ``shared`` several rows may have the same one beside them.

    Raises:
      ValueError: a row has none beside it, or several.
    """
    both = rows.join(others, on=on, suffix=suffix, maintain_order="left")
    if len(both) != len(rows) or not (shared or len(rows) == len(others)):
        alone = pl.concat([rows.join(others, on=on, how="anti")["seed"], others.join(rows, on=on, how="anti")["seed"]])
        raise ValueError(_missing(alone.unique().sort().to_list()))
    return both


def side_by_side(rows: pl.DataFrame, arms: Sequence[str], value: str, on: Sequence[str]) -> pl.DataFrame:
    """A column of every arm's ``value``, one row a data set, excluded where the row of one of the arms is.

    Raises:
      ValueError: an arm has not the same data sets as the others.
    """
    status = pl.when("ok").then(pl.lit("ok")).otherwise(pl.lit("excluded"))
    first, *others = (
        marked(rows.filter(arm=arm)).select(*on, pl.col(value).alias(arm), status.alias("status")) for arm in arms
    )
    for number, other in enumerate(others):
        first = paired(first, other, on, f"_{number}")
    return first


def usable(value: pl.Expr) -> pl.Expr:
    """A column of records with NaN in the rows that are excluded."""
    return pl.when(OK).then(value).otherwise(float("nan"))


def marked(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with the column ``ok``, whether they count; made-up rows without a status all do."""
    there = any(name.startswith("status") for name in rows.columns)
    return rows.with_columns(ok=OK if there else pl.lit(True))


def _complete(rows: pl.DataFrame, cell: list[str]) -> pl.DataFrame:
    """The rows; ValueError where a seed, or a seed at one of the values, has fewer of them than others."""
    counts = rows.group_by(cell).len()
    whole = int(np.prod([rows[name].n_unique() for name in cell])) if len(rows) else 0
    if len(counts) < whole or counts["len"].n_unique() > 1:
        fewer = counts.group_by("seed").agg(pl.col("len").sum()).filter(pl.col("len") < pl.col("len").max())
        raise ValueError(_missing(fewer["seed"].sort().to_list()))
    return rows


def _missing(seeds: list) -> str:
    named = ", ".join(map(str, seeds[:5])) + (", …" if len(seeds) > 5 else "")
    return f"records are missing, of seed {named}: every seed must have the same rows. Run the same grid again."


def _axes(rows: pl.DataFrame) -> dict[str, tuple]:
    """Settings of the rows; what fits chose, such as their penalty, has other values in every seed."""
    names = [name for name in rows.columns if name in AXES or (name in WORDS and rows[name].dtype == pl.String)]
    values = {name: tuple(rows[name].drop_nulls().unique().sort()) for name in names}
    chosen = [name for name in CHOSEN.intersection(values) if _differs_by_seed(rows, name)]
    return {name: there for name, there in values.items() if name not in chosen}


def _differs_by_seed(rows: pl.DataFrame, name: str) -> bool:
    return len(set(map(tuple, rows.group_by("seed").agg(pl.col(name).unique().sort())[name].to_list()))) > 1
