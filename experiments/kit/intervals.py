"""Estimates of a statistic with intervals over seeds."""

from typing import NamedTuple

import numpy as np
import polars as pl
from scipy import stats

LEVEL = 0.95


class Interval(NamedTuple):
    """A mean over seeds with its two-sided 95 % interval; ``failed`` seeds gave no finite number and are not in it."""

    estimate: float
    low: float
    high: float
    seeds: int
    failed: int = 0


def over_seeds(values) -> Interval:
    """Student's t interval of the mean of one number a seed; NaN bounds with fewer than 2 finite seeds."""
    values = np.asarray(values, float)
    finite = values[np.isfinite(values)]
    failed = values.size - finite.size
    if finite.size < 2:
        estimate = float(finite.mean()) if finite.size else float("nan")
        return Interval(estimate, float("nan"), float("nan"), finite.size, failed)
    half = stats.t.ppf((1 + LEVEL) / 2, finite.size - 1) * finite.std(ddof=1) / np.sqrt(finite.size)
    return Interval(float(finite.mean()), float(finite.mean() - half), float(finite.mean() + half), finite.size, failed)


def by_seed(rows: pl.DataFrame, statistic: pl.Expr) -> np.ndarray:
    """One number a seed, computed from that seed's rows, in the order of the seeds."""
    return rows.group_by("seed").agg(statistic.alias("statistic")).sort("seed")["statistic"].to_numpy()


def estimate(rows: pl.DataFrame, statistic: pl.Expr) -> Interval:
    """Interval over seeds of a statistic that is computed from each seed's rows."""
    return over_seeds(by_seed(rows, statistic))


def curves_by_seed(rows: pl.DataFrame, x: str, statistic: pl.Expr) -> tuple[np.ndarray, np.ndarray]:
    """Values [x] of a column, ascending, and one number for each seed and value [seeds, x], from the rows of both."""
    cells = rows.group_by("seed", x).agg(statistic.alias("statistic")).sort("seed", x)
    values = cells[x].unique().sort().to_numpy()
    return values, cells["statistic"].to_numpy().reshape(-1, len(values))


def where_converged(value: pl.Expr) -> pl.Expr:
    """NaN for what did not converge: a failed seed, not a number to average."""
    return pl.when("converged").then(value).otherwise(float("nan"))


def ratio_over_seeds(log_ratios) -> Interval:
    """Interval of a geometric mean ratio from one log ratio a seed."""
    interval = over_seeds(log_ratios)
    return interval._replace(**{name: float(np.exp(getattr(interval, name))) for name in ("estimate", "low", "high")})


def ratio_of_means(numerators, denominators) -> Interval:
    """Interval of mean numerator over mean denominator, one of each a seed, by the delta method.

    Its bounds are NaN where the denominators' own interval holds 0: such a ratio is any number.
    """
    numerators, denominators = np.asarray(numerators, float), np.asarray(denominators, float)
    both = np.isfinite(numerators) & np.isfinite(denominators)
    below = over_seeds(np.where(both, denominators, np.nan))
    if not below.low * below.high > 0:
        return below._replace(estimate=float("nan"), low=float("nan"), high=float("nan"))
    ratio = numerators[both].mean() / below.estimate
    return over_seeds(ratio + (numerators - ratio * denominators) / below.estimate)
