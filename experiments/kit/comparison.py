"""Two sets of records of one question: which cells both have, and by how much their numbers differ beyond noise."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
import polars.selectors as cs
from scipy import stats

from experiments.kit.findings import EQUAL, EQUAL_LOG
from experiments.kit.intervals import LEVEL
from experiments.kit.per_seed import usable
from gvgap_jax.sweep.plan import Plan

CHANCE = 1e-4  # of a false alarm, for each number that is compared as a mean
EFFORT = r"(^|[_ ])(steps|flops)$"  # results that say what a fit cost, and not what it found


class Difference(NamedTuple):
    """How one number of a table differs between two sets of records, B less A, over the cells that both have.

    Attributes:
      table, number: the column.
      cells, beyond: cells that were compared, and those whose difference is beyond noise.
      where: the cell with the largest difference, of those that are beyond noise if there are any, by the settings that
        differ between cells.
      one, other: means over the seeds of that cell, in A and in B.
      low, high: interval of the difference there; NaN with fewer than 2 seeds.
    """

    table: str
    number: str
    cells: int
    beyond: int
    where: dict
    one: float
    other: float
    low: float
    high: float


class Cells(NamedTuple):
    """How many cells of a table are in A alone, in B alone and in both, and how the seeds of those are compared."""

    table: str
    only_one: int
    only_other: int
    both: int
    paired: bool


def tolerance(values):
    """What the solvers' tolerances and rounding leave of a number: two fits of one problem may differ by so much."""
    return EQUAL + EQUAL_LOG * abs(values)


def settings_of(plan: Plan, table: str, columns: Sequence[str]) -> list[str]:
    """Columns of a table that say what was run, but for the seed: the others are results."""
    asked = set(plan.grid.axes)
    for batch in plan.batches:
        if batch.table == table:
            asked |= {*batch.labels, *batch.numbers}
    return [name for name in columns if name in asked - {"seed"}]


def numbers_of(frame: pl.DataFrame, settings: Sequence[str]) -> list[str]:
    """Columns that are results and numbers, but for those of effort."""
    return frame.select(cs.numeric() - cs.by_name(*settings, "seed", require_all=False) - cs.matches(EFFORT)).columns


def unlike(computed: pl.DataFrame, stored: pl.DataFrame, settings: Sequence[str], by_row: bool = True) -> list[str]:
    """What differs between rows and the same rows computed again, a phrase for each column; results by ``tolerance``.

    Numbers of rows that are not ``ok`` in both are not compared: nothing rests on them. Of networks no row can be
    expected again (not ``by_row``): hundreds of steps of Adam make a difference of rounding, which is another with as
    many rows at once or on another processor, as large as one between seeds. Of them the mean over rows is compared,
    and differs where its paired t interval says so at ``CHANCE``.
    """
    phrases = []
    for name in [*settings, "seed", *(["status"] if by_row else [])]:
        if not (computed[name] == stored[name]).all():
            phrases.append(f"{name} is {computed[name].to_list()} and not {stored[name].to_list()}")
    trusted = (computed["status"] == "ok") & (stored["status"] == "ok")
    for name in numbers_of(computed, settings):
        again, there = (frame.filter(trusted)[name].to_numpy().astype(float) for frame in (computed, stored))
        phrases += [f"{name} is {phrase}" for phrase in (_rows_apart if by_row else _means_apart)(again, there)]
    return phrases


def _rows_apart(again: np.ndarray, there: np.ndarray) -> list[str]:
    apart = ~((np.abs(again - there) <= tolerance(there)) | (np.isnan(again) & np.isnan(there)))
    if not apart.any():
        return []
    row = int(np.argmax(apart))
    return [f"{again[row]:.6g} and not {there[row]:.6g}, in {apart.sum()} of {len(apart)} rows"]


def _means_apart(again: np.ndarray, there: np.ndarray) -> list[str]:
    """The t interval is at a level that hundreds of comparisons need."""
    known = np.isfinite(again), np.isfinite(there)
    if known[0].any() != known[1].any():
        return [f"{known[0].sum()} of {len(again)} rows have a number, and not {known[1].sum()}"]
    again, there = (values[known[0] & known[1]] for values in (again, there))
    count, differences = len(again), again - there
    if count < 2:
        return []
    chance = stats.t.ppf(1 - CHANCE / 2, count - 1) * np.std(differences, ddof=1) / np.sqrt(count)
    if abs(np.mean(differences)) > chance + tolerance(np.mean(there)):
        return [f"{again.mean():.6g} and not {there.mean():.6g}, means over {count} rows"]
    return []


def compared(
    table: str, one: pl.DataFrame, other: pl.DataFrame, settings: Sequence[str]
) -> tuple[Cells, list[Difference]]:
    """The cells of a table in A (``one``) and B, and how each of its numbers differs over those that both have.

    Differences are taken within the seeds that both have, if they share any, else between all seeds of each. Their
    intervals are Student's, or Welch's, and hold for all cells and numbers of the table together. A difference is
    beyond noise if its interval is on one side of 0 and if it is more than ``tolerance``.
    """
    one, other = (frame.with_columns(cs.float().cast(pl.Float32)) for frame in (one, other))
    cells = [frame.select(settings).unique() for frame in (one, other)]
    both = cells[0].join(cells[1], on=settings, nulls_equal=True, maintain_order="left").sort(settings)
    paired = not set(one["seed"]).isdisjoint(other["seed"])
    seen = Cells(table, len(cells[0]) - len(both), len(cells[1]) - len(both), len(both), paired)
    numbers = [name for name in numbers_of(one, settings) if name in numbers_of(other, settings)]
    if not len(both) or not numbers:
        return seen, []
    level = 1 - (1 - LEVEL) / (len(both) * len(numbers))
    summed = _paired(one, other, settings, numbers) if paired else _unpaired(one, other, settings, numbers)
    summed = both.join(summed, on=settings, nulls_equal=True, how="left", maintain_order="left")
    varied = [name for name in settings if both[name].n_unique() > 1]
    return seen, [_difference(table, name, summed, varied, level) for name in numbers]


def _paired(one: pl.DataFrame, other: pl.DataFrame, settings: Sequence[str], numbers: list[str]) -> pl.DataFrame:
    """Of every cell and number: means in both, the difference's standard error, and its degrees of freedom."""
    keys = [*settings, "seed"]
    values = [_trusted(frame, keys, numbers) for frame in (one, other)]
    joined = values[0].join(values[1], on=keys, suffix=" B", nulls_equal=True)
    statistics = []
    for name in numbers:
        first, second = pl.col(name), pl.col(f"{name} B")
        there = first.is_not_null() & second.is_not_null()
        apart, count = (second - first).filter(there), there.sum()
        statistics += [
            first.filter(there).mean().alias(f"{name} one"),
            second.filter(there).mean().alias(f"{name} other"),
            (apart.std() / count.sqrt()).alias(f"{name} error"),
            (count - 1).cast(pl.Float64).alias(f"{name} free"),
        ]
    return joined.group_by(settings).agg(statistics)


def _unpaired(one: pl.DataFrame, other: pl.DataFrame, settings: Sequence[str], numbers: list[str]) -> pl.DataFrame:
    """The same of two samples (Welch, 1947)."""
    sides = []
    for side, frame in (("one", one), ("other", other)):
        statistics = [
            made
            for name in numbers
            for made in (
                pl.col(name).mean().alias(f"{name} {side}"),
                (pl.col(name).var() / pl.col(name).count()).alias(f"{name} {side} square"),
                (pl.col(name).count() - 1).cast(pl.Float64).alias(f"{name} {side} free"),
            )
        ]
        sides.append(_trusted(frame, [*settings, "seed"], numbers).group_by(settings).agg(statistics))
    joined = sides[0].join(sides[1], on=settings, nulls_equal=True)
    for name in numbers:
        squares = [pl.col(f"{name} {side} square") for side in ("one", "other")]
        each = [pl.col(f"{name} {side} square") ** 2 / pl.col(f"{name} {side} free") for side in ("one", "other")]
        joined = joined.with_columns(
            (squares[0] + squares[1]).sqrt().alias(f"{name} error"),
            ((squares[0] + squares[1]) ** 2 / (each[0] + each[1])).alias(f"{name} free"),
        )
    return joined


def _trusted(frame: pl.DataFrame, keys: Sequence[str], numbers: list[str]) -> pl.DataFrame:
    """The numbers of rows that are ``ok``; null elsewhere."""
    values = (usable(pl.col(name).cast(pl.Float64)).fill_nan(None).alias(name) for name in numbers)
    return frame.select(*keys, *values)


def _difference(table: str, name: str, summed: pl.DataFrame, varied: Sequence[str], level: float) -> Difference:
    one, other, error, free = (
        summed[f"{name} {what}"].cast(pl.Float64).fill_null(np.nan).to_numpy()
        for what in ("one", "other", "error", "free")
    )
    apart = other - one
    with np.errstate(invalid="ignore"):
        half = np.where(error == 0, 0, stats.t.ppf((1 + level) / 2, free) * error)
        beyond = (np.abs(apart) > half) & (np.abs(apart) > tolerance(np.maximum(np.abs(one), np.abs(other))))
    size = np.where(np.isnan(apart), -1, np.abs(apart)) + np.where(beyond, np.nanmax(np.abs(apart), initial=0) + 1, 0)
    at = int(np.argmax(size))
    where = {setting: summed[setting][at] for setting in varied}
    bounds = (float(apart[at] - half[at]), float(apart[at] + half[at]))
    cells = int(np.isfinite(apart).sum())
    return Difference(table, name, cells, int(beyond.sum()), where, float(one[at]), float(other[at]), *bounds)
