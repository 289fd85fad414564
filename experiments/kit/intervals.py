"""Intervals over seeds: what a statistic of every seed says of the whole, by rules with their sources.

``experiments bench coverage`` measures how often each of these intervals holds what it estimates.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy import stats

from experiments.kit.per_seed import PerSeed, by_seed, of_values, together

LEVEL = 0.95
RESAMPLES = 10_000
ROUNDING = 1e-12  # spread, in units of 1 or of the largest number, and share of a variance, that is none
ENUMERATED = 8  # seeds up to which every resample is listed, 6,435 of 8 seeds
LEAST = 16  # seeds that a verdict needs
SHARE = 0.8  # of the seeds that are below what is said of the largest difference
POWER = 0.8  # with which the smallest effect is found that so many seeds can show


class Interval(NamedTuple):
    """An estimate with its two-sided interval; a bound is NaN where so few seeds give none.

    Attributes:
      seeds, failed: seeds that are in it, and those that have no number because a row is excluded or none is there.
      level: probability with which such an interval holds what it estimates.
      least: seeds that a verdict needs.
      rows, excluded: records that were asked for, and those of them that did not converge or are not finite.
      unit: what ``seeds`` counts.
    """

    estimate: float
    low: float
    high: float
    seeds: int
    failed: int = 0
    level: float = LEVEL
    least: int = LEAST
    rows: int = 0
    excluded: int = 0
    unit: str = "seeds"


class Rule(NamedTuple):
    """How an interval is made.

    Attributes:
      words: what it estimates and how, as it is shown.
      bounds: numbers [..., S], or [..., S, K], and a level -> estimates, lower and upper bounds [...].
      least: seeds that a verdict needs, by the measured coverage.
      multiplies: it is a ratio, whose effects multiply.
    """

    words: str
    bounds: Callable[[np.ndarray, float], tuple[np.ndarray, np.ndarray, np.ndarray]]
    least: int = LEAST
    multiplies: bool = False


class Estimate(NamedTuple):
    """A statistic of every seed with the rule that makes an interval of it, at a level that is chosen later."""

    sample: PerSeed
    rule: Rule

    def at(self, level: float = LEVEL) -> Interval:
        """The interval at a level."""
        values, sample = self.sample.values, self.sample
        finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        kept = int(finite.sum())
        estimate = low = high = float("nan")
        if kept:
            estimate, low, high = _bounds(self.rule, values[finite].tobytes(), (kept, *values.shape[1:]), level)
        counts = level, self.rule.least, sample.rows, sample.excluded, sample.unit
        return Interval(estimate, low, high, kept, len(values) - kept, *counts)


@functools.lru_cache(4096)
def _bounds(rule: Rule, values: bytes, shape: tuple[int, ...], level: float) -> tuple[float, float, float]:
    """Bounds, made once for each sample: findings are asked for them again and again."""
    with np.errstate(all="ignore"):
        estimate, low, high = (float(x) for x in rule.bounds(np.frombuffer(values).reshape(shape), level))
    return estimate, low if math.isfinite(low) else math.nan, high if math.isfinite(high) else math.nan


def students_t(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Student's interval of a mean (1908); NaN bounds for one number."""
    size = values.shape[-1]
    mean = values.mean(-1)
    if size < 2:
        return mean, mean * np.nan, mean * np.nan
    half = stats.t.ppf((1 + level) / 2, size - 1) * values.std(-1, ddof=1) / np.sqrt(size)
    return mean, mean - half, mean + half


def geometric_students_t(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of logarithms of ratios: their mean and Student's interval, as ratios."""
    estimate, low, high = students_t(values, level)
    return np.exp(estimate), np.exp(low), np.exp(high)


def bootstrap_t(
    values: np.ndarray, level: float, resamples: int = RESAMPLES
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bootstrap-t interval of a mean (Efron and Tibshirani, 1993, section 12.5), which follows its skewness.

    Resamples are all there are, with their probabilities, of up to ``ENUMERATED`` numbers, else so many of a fixed
    seed. One whose numbers are all the same has a t of infinity; where those are too many for the level, a bound
    is infinite. Numbers that are all the same, up to rounding, have their mean as their interval.
    """
    size = values.shape[-1]
    mean = values.mean(-1)
    if size < 2:
        return mean, mean * np.nan, mean * np.nan
    counts, weights = _resamples(size, resamples)
    centred = values - mean[..., None]
    largest = np.max(centred**2, axis=-1)
    means = centred @ counts.T / size
    variances = centred**2 @ counts.T / size - means**2
    variances[variances <= ROUNDING * largest[..., None]] = 0
    means[means**2 <= ROUNDING * largest[..., None]] = 0
    with np.errstate(all="ignore"):
        t = np.where(means == 0, 0, means / np.sqrt(variances / (size - 1)))
    error = values.std(-1, ddof=1) / np.sqrt(size)
    low, high = (_quantile(t, weights, p) for p in ((1 - level) / 2, (1 + level) / 2))
    with np.errstate(invalid="ignore"):
        bounds = mean - high * error, mean - low * error
    same = np.ptp(values, axis=-1) <= ROUNDING * np.maximum(np.max(np.abs(values), axis=-1), 1)
    return mean, *(np.where(same, mean, bound) for bound in bounds)


@functools.lru_cache(8)
def _resamples(size: int, resamples: int) -> tuple[np.ndarray, np.ndarray | None]:
    """How often each number is in each resample [R, S], and the resamples' probabilities [R]; None where equal."""
    if size > ENUMERATED:
        draws = np.random.default_rng(size).multinomial(size, np.full(size, 1 / size), resamples)
        return draws.astype(float), None
    multisets = [
        np.bincount(each, minlength=size) for each in itertools.combinations_with_replacement(range(size), size)
    ]
    orders = [math.factorial(size) / math.prod(map(math.factorial, counts.tolist())) for counts in multisets]
    return np.array(multisets, float), np.array(orders) / size**size


def _quantile(t: np.ndarray, weights: np.ndarray | None, share: float) -> np.ndarray:
    """The smallest number [...] with at least this share of the resamples [..., R] at or below it."""
    if weights is None:
        rank = min(max(math.ceil(share * t.shape[-1] - 1e-9), 1), t.shape[-1]) - 1
        return np.partition(t, rank, axis=-1)[..., rank]
    order = np.argsort(t, axis=-1)
    reached = np.cumsum(weights[order], axis=-1) >= share - 1e-12
    return np.take_along_axis(t, np.take_along_axis(order, reached.argmax(-1)[..., None], -1), -1)[..., 0]


def fieller(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ratio of two means, of numbers [..., S, 2], with the interval of Fieller (1954).

    It holds the ratios r for which numerator less r times denominator has a mean that Student's t does not tell
    from 0. Its bounds are NaN where the denominators' mean is not told from 0: such a ratio is any number.
    """
    size = values.shape[-2]
    above, below = values.mean(-2)[..., 0], values.mean(-2)[..., 1]
    ratio = above / below
    if size < 2:
        return ratio, ratio * np.nan, ratio * np.nan
    centred = values - values.mean(-2, keepdims=True)
    factor = stats.t.ppf((1 + level) / 2, size - 1) ** 2 / (size * (size - 1))
    one, two = (factor * np.sum(centred[..., k] ** 2, -1) for k in (0, 1))
    both = factor * np.sum(centred[..., 0] * centred[..., 1], -1)
    # The ratios r with (above - r below)^2 <= one - 2 r both + r^2 two.
    a, b, c = below**2 - two, above * below - both, above**2 - one
    root = np.sqrt(np.where(a > 0, np.maximum(b**2 - a * c, 0), np.nan))
    return ratio, (b - root) / a, (b + root) / a


def percentile(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ``SHARE`` quantile with the interval of order statistics, which no law is assumed for (Thompson, 1936).

    So many of n numbers are below a quantile by the binomial distribution. NaN where so few numbers give no bound.
    """
    size, ordered = values.shape[-1], np.sort(values, axis=-1)
    low, high = (int(stats.binom.ppf(p, size, SHARE)) for p in ((1 - level) / 2, (1 + level) / 2))
    none = np.full(values.shape[:-1], np.nan)
    middle = ordered[..., math.ceil(SHARE * size) - 1]
    return middle, ordered[..., low - 1] if low else none, ordered[..., high] if high < size else none


MANY = Rule("mean over {unit}, Student's t interval", students_t)  # of so many that skewness no longer matters
MEAN = Rule("mean over {unit}, bootstrap-t interval", bootstrap_t)
GEOMETRIC = Rule(
    "ratio of geometric means over {unit}, Student's t interval of the paired log ratio",
    geometric_students_t,
    multiplies=True,
)
CHANGE = MEAN._replace(least=32)  # of a difference, whose tails are the heaviest
PERCENTILE = Rule("80th percentile over {unit}, interval of order statistics", percentile, least=17)
RATIO = Rule("ratio of means over {unit}, Fieller's interval", fieller)


def mean(sample: PerSeed) -> Estimate:
    """The mean over seeds of one number a seed."""
    return Estimate(sample, MEAN)


def estimate(rows: pl.DataFrame, statistic: pl.Expr, where: pl.Expr | None = None, points: bool = False) -> Estimate:
    """The mean over seeds of a statistic that is computed from each seed's rows (see ``by_seed``)."""
    return mean(by_seed(rows, statistic, where=where, points=points))


def change(sample: PerSeed) -> Estimate:
    """The mean over seeds of how much a difference changes."""
    return Estimate(sample, CHANGE)


def largest(sample: PerSeed) -> Estimate:
    """What is largest in a seed: the size that 80 % of the seeds stay below, as a single seed may be all of a mean."""
    return Estimate(sample, PERCENTILE)


def geometric(log_ratios: PerSeed) -> Estimate:
    """The ratio of geometric means, from one log ratio a seed."""
    return Estimate(log_ratios, GEOMETRIC)


def ratio_of_means(numerators: PerSeed, denominators: PerSeed) -> Estimate:
    """The mean of the numerators over that of the denominators, one of each a seed."""
    return Estimate(together(lambda *two: np.stack(two, axis=-1), numerators, denominators), RATIO)


def over_seeds(values) -> Interval:
    """The mean of one number a seed, with its interval, of numbers that are there already."""
    return mean(of_values(values)).at()


def ratio_over_seeds(log_ratios) -> Interval:
    """The ratio of geometric means with its interval, of log ratios that are there already."""
    return geometric(of_values(log_ratios)).at()
