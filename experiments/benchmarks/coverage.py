"""How often intervals hold what they estimate: sets of seeds drawn again and again from a run of many.

A run of ``POPULATION`` seeds stands for all seeds there could be, so that what is estimated is known: its own
estimate. Sets of 8 to 64 of its seeds are drawn with replacement, and the rule of each kind of finding makes an
interval of each set. The share of the intervals that hold the estimate is their coverage; below it stands a lower
bound, of the binomial distribution (Clopper and Pearson, 1934), at 95 %.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from rich.progress import track
from scipy import stats

from experiments.benchmarks import tables
from experiments.benchmarks.report import machine
from experiments.benchmarks.tables import console, table, warn_if_busy
from experiments.kit import intervals
from experiments.kit.gap import LOG_DIMENSIONS, LOG_RATIO
from experiments.kit.intervals import LEVEL, Estimate
from experiments.kit.per_seed import by_seed
from experiments.kit.terminal import markdown
from experiments.questions import questions
from gvgap_jax.sweep import Grid, folder_at, load, make_plan, open_folder, run_plan

POPULATION = 1024  # seeds of the run
RESAMPLES = 999  # of a bootstrap, where findings have ten times as many: there are many sets
SETS = 10_000  # of seeds, drawn for each size
SIZES = (8, 16, 32, 64)
BLOCK = 250  # sets at once: their resamples are in memory together
ENOUGH = 0.925  # lower bound of the coverage that a verdict asks for
GRIDS = {  # a uniform reference policy, and one whose probabilities differ by orders of magnitude
    "uniform reference": Grid({"horizon": (1, 3), "gold_order": (1,), "pairs": (64, 256)}, seeds=POPULATION),
    "skewed reference": Grid(
        {"horizon": (3,), "gold_order": (1,), "pairs": (64, 256), "reference_scale": (1.0,)}, seeds=POPULATION
    ),
}


class Row(NamedTuple):
    """Coverage of one kind of finding at one number of seeds.

    Attributes:
      skewness: of the numbers of all seeds, how far their law is from a symmetric one.
      coverage: share of the sets whose interval holds the population's estimate; ``lower`` is its lower bound.
    """

    kind: str
    records: str
    rule: str
    skewness: float
    seeds: int
    coverage: float
    lower: float


def kinds(gaps: pl.DataFrame) -> Iterator[tuple[str, Estimate]]:
    """Findings of every kind that questions have, from records of the horizon experiment."""
    gap = pl.col("dpo_regret") - pl.col("rlhf_regret")
    longest = gaps.filter(horizon=gaps["horizon"].max())
    few, many = (longest.filter(pairs=pairs) for pairs in (64, 256))
    yield "difference of regrets, few pairs", intervals.estimate(few, gap.mean())
    yield "difference of regrets, many pairs", intervals.estimate(many, gap.mean())
    yield "change of a difference with pairs", intervals.change(by_seed(few, gap.mean()) - by_seed(many, gap.mean()))
    yield "ratio of geometric means", intervals.geometric(by_seed(longest, LOG_RATIO.mean()))
    regrets = (by_seed(longest, pl.col(f"{method}_regret").mean()) for method in ("rlhf", "dpo"))
    yield "ratio of means", intervals.ratio_of_means(*regrets)
    yield "share of points where RLHF is better", intervals.estimate(gaps, (gap > 0).mean())
    difference = (pl.col("restricted_regret") - pl.col("rlhf_regret")).abs().max()
    yield "largest difference of equal methods", intervals.largest(by_seed(longest, difference))
    if gaps["horizon"].n_unique() > 1:
        slope = pl.cov(LOG_DIMENSIONS, LOG_RATIO) / LOG_DIMENSIONS.var()
        yield "slope", intervals.estimate(gaps, slope)


def coverage(found: Estimate, seeds: int, sets: int, key: np.random.Generator) -> int:
    """How many of so many sets of seeds have an interval that holds the estimate of all."""
    values, bounds = found.sample.values, found.rule.bounds
    if bounds is intervals.bootstrap_t:
        bounds = partial(intervals.bootstrap_t, resamples=RESAMPLES)
    values = values[np.isfinite(values.reshape(len(values), -1)).all(axis=1)]
    with np.errstate(all="ignore"):
        truth, held = bounds(values, LEVEL)[0], 0
        for start in range(0, sets, BLOCK):
            drawn = values[key.integers(0, len(values), (min(BLOCK, sets - start), seeds))]
            _, low, high = bounds(drawn, LEVEL)
            # A bound that is not there excludes nothing.
            held += int(np.sum(~(low > truth) & ~(high < truth)))
    return held


def lower_bound(held: int, sets: int) -> float:
    """Lower 95 % bound of a share (Clopper and Pearson, 1934)."""
    return float(stats.beta.ppf(1 - LEVEL, held, sets - held + 1)) if held else 0.0


def measure(
    records: str, gaps: pl.DataFrame, sets: int = SETS, progress: Callable[[list], Iterable] = iter
) -> list[Row]:
    """Coverage of every kind of finding at every number of seeds."""
    rows, key = [], np.random.default_rng(0)
    for kind, found in progress(list(kinds(gaps))):
        values = found.sample.values.reshape(len(found.sample.values), -1)[:, 0]
        skewness = float(stats.skew(values[np.isfinite(values)]))
        for seeds in SIZES:
            held = coverage(found, seeds, sets, key)
            words = found.rule.words.format(unit="seeds")
            rows.append(Row(kind, records, words, skewness, seeds, held / sets, lower_bound(held, sets)))
    return rows


def main(out: Path) -> None:
    """Run both grids into ``out``, where they are found again, and write coverage.csv and coverage.md."""
    found, rows = machine(), []
    module: Any = questions()["h6b_horizon"]
    warn_if_busy(found)
    for records, grid in GRIDS.items():
        plan, folder = make_plan("h6b_horizon", module, grid), folder_at(out / records.replace(" ", "-"))
        for problem in open_folder(folder, plan):
            console.print(problem)
        run_plan(plan, folder)
        gaps = load(folder, "gaps")
        rows += measure(records, gaps, progress=lambda made, title=records: track(made, title))
    shown = table(f"coverage of 95 % intervals, {SETS:,} sets of seeds", "finding", "records", "skewness",
                  *(f"{seeds} seeds" for seeds in SIZES), words=("finding", "records"))  # fmt: skip
    for line in wide(rows):
        shown.add_row(*line)
    console.print(shown)
    console.print(f"in brackets the lower bound, which a verdict asks to be {ENOUGH} or more")
    tables.write(out, found, coverage=[row._asdict() for row in rows])
    (out / "coverage.md").write_text(documented(rows), encoding="utf-8")


def wide(rows: list[Row]) -> list[tuple[str, ...]]:
    """A line a kind and records: coverage and its lower bound at every number of seeds."""
    lines = {}
    for row in rows:
        line = lines.setdefault((row.kind, row.records), [row.kind, row.records, f"{row.skewness:.1f}"])
        line.append(f"{row.coverage:.3f} ({row.lower:.3f})")
    return [tuple(line) for line in lines.values()]


def documented(rows: list[Row]) -> str:
    """The table of the documentation."""
    return markdown(("finding", "records", "skewness", *(f"{seeds} seeds" for seeds in SIZES)), wide(rows)) + "\n"
