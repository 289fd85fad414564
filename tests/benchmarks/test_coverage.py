"""The benchmark of intervals: coverage that is known, and its bound by hand."""

import numpy as np
import polars as pl
import pytest
from scipy import stats

from experiments.benchmarks import coverage
from experiments.kit import intervals
from experiments.kit.per_seed import of_values

LAW = np.random.default_rng(0)


def held(values, rule, seeds=16, sets=500):
    found = intervals.Estimate(of_values(values), rule)
    return coverage.coverage(found, seeds, sets, np.random.default_rng(1)) / sets


def test_students_interval_of_a_normal_mean_holds_in_95_percent_and_of_a_skewed_one_in_fewer():
    assert held(LAW.normal(size=300), intervals.MANY) == pytest.approx(0.95, abs=0.03)
    skewed = LAW.lognormal(size=300)
    assert held(skewed, intervals.MANY) < 0.9 < held(skewed, intervals.MEAN) < 0.97


def test_an_interval_that_misses_is_seen_and_one_without_an_end_holds():
    numbers = LAW.normal(size=100)
    off = intervals.Rule("off", lambda values, level: (values.mean(-1), values.mean(-1) + 9, values.mean(-1) + 10))
    half = intervals.Rule(
        "half", lambda values, level: (values.mean(-1), values.mean(-1) - 9, values.mean(-1) * np.nan)
    )
    assert held(numbers, off, sets=600) == 0
    assert held(numbers, half, sets=600) == 1


def test_seeds_that_failed_are_no_part_of_the_population():
    numbers = np.append(LAW.normal(size=500), [np.nan] * 500)
    assert held(numbers, intervals.MANY) > 0.9


def test_the_lower_bound_by_hand():
    """The share at which so many or more of the sets hold with probability 5 %."""
    bound = coverage.lower_bound(940, 1000)
    assert stats.binom.sf(939, 1000, bound) == pytest.approx(0.05)
    assert coverage.lower_bound(1000, 1000) == pytest.approx(0.05 ** (1 / 1000))
    assert coverage.lower_bound(0, 1000) == 0


def made_up(seeds=64):
    """Records of the horizon experiment: regrets of DPO twice those of RLHF, with noise."""
    rows = [
        {"horizon": horizon, "gold_order": 1, "pairs": pairs, "seed": seed, "status": "ok",
         "dpo_regret": horizon * 2 / pairs * LAW.lognormal(), "rlhf_regret": 1 / pairs * LAW.lognormal(),
         "restricted_regret": 1 / pairs, "dpo_dimension": 2.0 * horizon, "rlhf_dimension": 1.0}
        for horizon in (1, 3) for pairs in (64, 256) for seed in range(seeds)
    ]  # fmt: skip
    return pl.DataFrame(rows)


def test_every_kind_of_rule_is_measured_at_every_number_of_seeds():
    rows = coverage.measure("made up", made_up(), sets=10)
    rules = intervals.MEAN, intervals.GEOMETRIC, intervals.RATIO, intervals.PERCENTILE
    assert {row.rule for row in rows} == {rule.words.format(unit="seeds") for rule in rules}
    assert {row.seeds for row in rows} == set(coverage.SIZES)
    assert len(rows) == 8 * len(coverage.SIZES)
    assert all(row.lower < row.coverage <= 1 for row in rows)
    lines = coverage.documented(rows).splitlines()
    assert lines[0].startswith("| finding | records | skewness | 8 seeds |")
    assert len(lines) == 2 + 8
    assert f"| {rows[3].coverage:.3f} ({rows[3].lower:.3f}) |" in lines[2]
