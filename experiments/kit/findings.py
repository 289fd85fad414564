"""Questions, and findings: what an interval over seeds says of a claim."""

from typing import NamedTuple

import numpy as np
import polars as pl

from experiments.kit.intervals import Interval, estimate

REGRET = "regret (KL to the optimal policy)"  # where a claim says it first
# What the solvers' tolerances and rounding leave between two methods that must end at one policy:
EQUAL = 1e-4  # nats, of a regret
EQUAL_LOG = 0.01  # of the logarithm of a regret, where none is so small that rounding is all of it


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
