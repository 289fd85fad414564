"""Questions, and findings: what an interval over seeds says of a claim."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import polars as pl
from scipy import stats

from experiments.kit.intervals import LEVEL, POWER, Estimate, Interval, largest
from experiments.kit.per_seed import by_seed

REGRET = "regret (KL to the optimal policy)"  # where a claim says it first
# What the solvers' tolerances and rounding leave between two methods that must end at one policy:
EQUAL = 1e-4  # nats, of a regret
EQUAL_LOG = 0.01  # of the logarithm of a regret, where none is so small that rounding is all of it
# Margins within which a claim counts two things as equal, stated before any run:
EQUAL_TIMES = 1.25  # a factor: the customary margin of bioequivalence
EQUAL_NATS = 0.02  # of regret: by Pinsker's inequality no more than a tenth of total variation from the optimal policy
EQUAL_REWARD = 0.1  # a twentieth of the gold reward's standard deviation over responses
EQUAL_POINTS = 2.0  # of win rate: a third of the smallest gap that arXiv 2503.01067 calls one, 6.4 points
EQUAL_SHARE = EQUAL_POINTS / 100  # the same of a probability
SIMULTANEOUS = (
    "The primary finding and the controls have 95 % intervals. The others explore: their intervals are wider, so that "
    "all of an experiment's hold together with 95 %. Of several points, the primary finding is that of the defaults, "
    "or of the first."
)
DECIDED_NONE = "These records decide none of the experiment's claims: they need more points."
DOUBTFUL = 0.01  # share of a finding's records that may be excluded without a word


LAST = 1000  # place of a question that states none


class Question(NamedTuple):
    """What an experiment is for, in words that stand beside its numbers.

    Attributes:
      label: short name of the place in the argument: ``H2``, ``rival``, ``theorem 2.2``.
      claim: the sentence under scrutiny.
      reported: what its authors reported, with the source.
      figure: what of the paper the figure stands for; empty where the paper has no such figure.
      place: where lists and the report have it: the hypotheses from 10, the main table 70, the rivals from 80, the
        theorems from 90; what states none comes last, as an experiment of a reader's own.
      axes: fields of its ``Config`` whose values its findings take together, compare or sweep; within each point of
        the others the findings are computed anew (see ``kit.points``).
    """

    label: str
    claim: str
    reported: str
    figure: str = ""
    place: int = LAST
    axes: tuple[str, ...] = ()

    @property
    def counts(self) -> bool:
        """Whether it has a place in the argument, so that its findings are among those of the report."""
        return self.place < LAST


class Finding(NamedTuple):
    """One row of an experiment's result.

    Attributes:
      claim: the sentence under test.
      estimate: the statistic that decides it, with its unit.
      bound, direction: the claim holds where the statistic is ``above`` or ``below`` the bound, or ``at`` it.
      control: a row that speaks for the instrument and not for the question: where the effect must vanish, or an
        equality must break.
      margin: how far from the bound still is ``at`` it: a difference, or a factor where the unit is ``times``.
      level: of the interval that is shown and decides.
      primary: the finding that answers the question; the others explore.
      predicted: what theory says the statistic is, without any fit; NaN where it says nothing.
      point: the settings that it is of, in the words that its claim begins with; empty where there are no others.
    """

    claim: str
    estimate: Estimate
    unit: str
    bound: float
    direction: str
    control: bool = False
    margin: float = 0.0
    level: float = LEVEL
    primary: bool = False
    predicted: float = math.nan
    point: str = ""

    @property
    def interval(self) -> Interval:
        """What the verdict follows from."""
        return self.estimate.at(self.level)

    @property
    def limits(self) -> tuple[float, float]:
        """The bound, twice; around one that must be met, the ends of its margin."""
        if self.direction != "at":
            return self.bound, self.bound
        if self.unit == "times":
            return self.bound / self.margin, self.bound * self.margin
        return self.bound - self.margin, self.bound + self.margin

    @property
    def passes(self) -> bool:
        """Whether the interval speaks for the claim, as it must for a control: one that is undecided has not passed."""
        return self.verdict.startswith(("supported", "equal"))

    @property
    def undecided(self) -> bool:
        """Whether the interval speaks neither for nor against the claim."""
        return self.verdict.startswith("undecided")

    @property
    def verdict(self) -> str:
        """What the interval says: supported, contradicted, equal, different or undecided (see ``verdict``)."""
        margin = f" a factor of {self.margin:g}" if self.unit == "times" else f" {self.margin:g} {self.unit}".rstrip()
        return verdict(self.interval, *self.limits, self.direction).replace("equal", f"equal within{margin}")

    @property
    def smallest_effect(self) -> float:
        """The smallest effect that so many seeds show with probability ``POWER``: a difference, or a factor.

        As Bloom (1995, Evaluation Review 19) takes it from the standard error: the interval's half-width times
        1 + t(POWER) / t((1 + level) / 2). NaN where the interval has no ends.
        """
        ends = self.interval.low, self.interval.high
        multiplies = self.estimate.rule.multiplies
        low, high = (math.log(end) if multiplies and end > 0 else end for end in ends)
        freedom = max(self.interval.seeds - 1, 1)
        times = 1 + stats.t.ppf(POWER, freedom) / stats.t.ppf((1 + self.level) / 2, freedom)
        effect = float((high - low) / 2 * times)
        return math.exp(effect) if multiplies else effect

    @property
    def theory(self) -> str:
        """What theory says the estimate is; nothing where it says nothing."""
        return f"theory says {self.predicted:.3g} {self.unit}".rstrip() if math.isfinite(self.predicted) else ""

    @property
    def remark(self) -> str:
        """What a reader must know beside the verdict: records left out, and what an undecided finding could show."""
        seen, words = self.interval, []
        if seen.excluded > DOUBTFUL * seen.rows:
            words.append(f"{seen.excluded / seen.rows:.1%} of its records excluded")
        if self.undecided and math.isfinite(self.smallest_effect):
            effect = f"a factor of {self.smallest_effect:.3g}" if self.estimate.rule.multiplies else (
                f"{self.smallest_effect:.3g} {self.unit}".rstrip()
            )  # fmt: skip
            words.append(f"smallest effect that {seen.seeds} {seen.unit} show with {POWER:.0%} power: {effect}")
        return "; ".join(words)

    @property
    def estimand(self) -> str:
        """What is estimated, and over which settings it is taken within a seed."""
        several = {name: values for name, values in self.estimate.sample.axes.items() if len(values) > 1}
        # Sorted, because the axes of statistics that were put together are in the order of a set.
        axes = (f"{name.replace('_', ' ')} {_listed(values)}" for name, values in sorted(several.items()))
        over = ", ".join(axes)
        return self.estimate.rule.words.format(unit=self.interval.unit) + (
            f"; within a seed over {over}" if over else ""
        )


def _listed(values: Sequence) -> str:
    shown = [
        f"{value:,g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
        for value in values
    ]
    return ", ".join(shown) if len(shown) <= 3 else f"{shown[0]} to {shown[-1]}"


def verdict(interval: Interval, low: float, high: float, direction: str) -> str:
    """What an interval says of a claim, and nothing else does.

    ``above`` or ``below`` a bound (``low`` is ``high``): supported or contradicted where all of the interval is on one
    side. ``at`` a bound with a margin: equal where all of it is between the margin's ends, which are two one-sided
    tests (Schuirmann, 1987) at half of what the level leaves each, different where it is outside of them. Undecided
    else, and with fewer seeds than a verdict needs.
    """
    if interval.seeds < interval.least:
        return f"undecided: {interval.seeds} {interval.unit}, a verdict needs {interval.least}"
    if not math.isfinite(interval.low + interval.high):
        return "undecided: no finite interval"
    above, below = interval.low > high, interval.high < low
    if direction == "at":
        inside = low < interval.low and interval.high < high
        return "equal" if inside else "different: above" if above else "different: below" if below else "undecided"
    if not above and not below:
        return "undecided"
    return "supported" if above == (direction == "above") else "contradicted"


def equality(
    claim: str,
    rows: pl.DataFrame,
    difference: pl.Expr,
    bound: float = EQUAL,
    unit: str = "nats",
    where: pl.Expr | None = None,
) -> Finding:
    """The control of two methods that must end at one policy: the largest absolute difference of each seed.

    Such differences span orders of magnitude, and a few seeds are all of their mean: what is estimated is the size that
    80 % of the seeds stay below. With up to 25 seeds all of them must be below the bound for the control to pass.
    """
    found = largest(by_seed(rows, difference.abs().nan_max(), where=where))
    return Finding(claim, found, unit, bound, "below", control=True)


def decided(findings: Sequence[Finding]) -> list[Finding]:
    """The findings of one question, each at its level; the first that is no control is the primary one.

    The primary finding has an interval of ``LEVEL``. The m others that are no controls explore: theirs are
    simultaneous, all of them hold with probability ``LEVEL`` or more, as each is of level 1 - (1 - LEVEL) / m
    (Bonferroni; Dunn, 1961). Controls are not widened: an experiment stands only if all of them pass, and such an
    intersection-union test keeps the level of each (Berger, 1982).
    """
    claims = [finding for finding in findings if not finding.control]
    level = 1 - (1 - LEVEL) / max(len(claims) - 1, 1)
    return [
        finding
        if finding.control
        else finding._replace(primary=finding is claims[0], level=LEVEL if finding is claims[0] else level)
        for finding in findings
    ]


def matched(one: Sequence[Finding], other: Sequence[Finding]) -> list[tuple[str, Finding | None, Finding | None]]:
    """Findings by their claims, in the order of the first ones; what one side alone claims has None on the other."""
    left, right = ({finding.claim: finding for finding in findings} for findings in (one, other))
    return [(claim, left.get(claim), right.get(claim)) for claim in left | right]


def tally(controls: Sequence[Finding]) -> str:
    """How many controls passed, failed and are undecided, in words: ``3 passed, 1 undecided``."""
    undecided, passed = sum(each.undecided for each in controls), sum(each.passes for each in controls)
    failed = len(controls) - passed - undecided
    counts = {"passed": passed, "failed": failed, "undecided": undecided}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count or name == "passed")


def answered(findings: list[Finding]) -> list[Finding]:
    """Those of the findings that some record speaks to; a grid need not have the points of all."""
    return [finding for finding in findings if len(finding.estimate.sample.seeds)]


def doubtful(records: dict[str, pl.DataFrame]) -> list[str]:
    """How many records are not ``ok``, a sentence for each table and status."""
    return [
        f"{count:,} of {len(frame):,} records of {title!r}: status '{status}'."
        for title, frame in records.items()
        for status, count in frame.filter(pl.col("status") != "ok")["status"].value_counts().sort("status").rows()
    ]
