"""Estimates with intervals over seeds, and the verdicts that follow from them."""

from typing import NamedTuple

import numpy as np
import polars as pl
from scipy import stats

LEVEL = 0.95
REGRET = "regret (KL to the optimal policy)"  # where a claim says it first
# What the solvers' tolerances and rounding leave between two methods that must end at one policy:
EQUAL = 1e-4  # nats, of a regret
EQUAL_LOG = 0.01  # of the logarithm of a regret, where none is so small that rounding is all of it


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


class Question(NamedTuple):
    """What an experiment is for, in words that stand beside its numbers.

    Attributes:
      label: short name of the place in the argument: ``H2``, ``rival``, ``theorem 2.2``.
      claim: the sentence under scrutiny.
      reported: what its authors reported, with the source.
      figure: what of the paper the figure stands for; empty where the paper has no such figure.
      place: where lists and the report have it: the hypotheses from 10, the main table 70, the rivals from 80, the
        theorems from 90; what states none comes last.
    """

    label: str
    claim: str
    reported: str
    figure: str = ""
    place: int = 1000


class Finding(NamedTuple):
    """One row of an experiment's result.

    Attributes:
      claim: the sentence under test.
      interval: the statistic that decides it, with its unit.
      bound, direction: the claim holds where the statistic is ``above`` or ``below`` the bound, or ``at`` it.
      control: a row that speaks for the instrument and not for the question: where the effect must vanish, or an
        equality must break.
    """

    claim: str
    interval: Interval
    unit: str
    bound: float
    direction: str
    control: bool = False

    @property
    def passes(self) -> bool:
        """Whether the interval does not speak against the claim; what a control must do."""
        return self.verdict in ("supported", "undecided", "no effect")

    @property
    def verdict(self) -> str:
        """Computed from the interval: supported, contradicted, undecided, or ``at`` a bound no effect or effect."""
        low, high = self.interval.low, self.interval.high
        if not np.isfinite(low + high):
            return "undecided: too few finite seeds"
        if self.direction == "at":
            return "no effect" if low <= self.bound <= high else f"effect, {'above' if low > self.bound else 'below'}"
        above = low > self.bound
        below = high < self.bound
        if not above and not below:
            return "undecided"
        return "supported" if above == (self.direction == "above") else "contradicted"


def equality(claim: str, rows: pl.DataFrame, difference: pl.Expr, bound: float = EQUAL, unit: str = "nats") -> Finding:
    """The control of two methods that must end at one policy: the largest absolute difference of each seed."""
    return Finding(claim, estimate(rows, difference.abs().nan_max()), unit, bound, "below", control=True)


def answered(findings: list[Finding]) -> list[Finding]:
    """Those of the findings that some record speaks to; a grid need not have the points of all."""
    return [finding for finding in findings if finding.interval.seeds + finding.interval.failed]


def doubtful(records: dict[str, pl.DataFrame]) -> list[str]:
    """How many records are not ``ok``, a sentence for each table and status."""
    return [
        f"{count:,} of {len(frame):,} records of {title!r}: status '{status}'."
        for title, frame in records.items()
        for status, count in frame.filter(pl.col("status") != "ok")["status"].value_counts().sort("status").rows()
    ]
