"""Estimates over seeds, their intervals and verdicts."""

import numpy as np
import polars as pl
import pytest
from scipy import stats

from experiments.kit import findings, intervals


def test_interval_is_students_t():
    values = [1.0, 2.0, 4.0, 8.0]
    interval = intervals.over_seeds(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert interval.estimate == pytest.approx(3.75)
    assert (interval.low, interval.high) == pytest.approx((low, high))


def test_failed_seeds_are_counted_and_not_averaged():
    interval = intervals.over_seeds([1.0, np.nan, 3.0, np.inf])
    assert interval.estimate == 2.0
    assert (interval.seeds, interval.failed) == (2, 2)


def test_ratio_is_geometric():
    interval = intervals.ratio_over_seeds(np.log([2.0, 8.0]))
    assert interval.estimate == pytest.approx(4.0)
    assert interval.low * interval.high == pytest.approx(16.0)


def test_numbers_of_each_seed_come_in_the_order_of_the_seeds():
    rows = pl.DataFrame({"seed": [2, 0, 1, 0, 2, 1], "n": [8, 4, 4, 8, 4, 8], "value": [6.0, 1, np.nan, 3, 4, 5]})
    np.testing.assert_array_equal(intervals.by_seed(rows, pl.col("value").max()), [3, 5, 6])
    sizes, curves = intervals.curves_by_seed(rows, "n", 2 * pl.col("value").mean())
    np.testing.assert_array_equal(sizes, [4, 8])
    np.testing.assert_array_equal(curves, [[2, 6], [np.nan, 10], [8, 12]])


def test_what_did_not_converge_is_a_failed_seed():
    rows = pl.DataFrame({"seed": [0, 1, 2], "value": [1.0, 2.0, 3.0], "converged": [True, False, True]})
    values = intervals.by_seed(rows, intervals.where_converged(pl.col("value")).mean())
    assert intervals.over_seeds(values)[-2:] == (2, 1)


@pytest.mark.parametrize(
    ("direction", "low", "high", "verdict"),
    [
        ("above", 1.1, 2.0, "supported"),
        ("above", 0.5, 2.0, "undecided"),
        ("above", 0.1, 0.9, "contradicted"),
        ("below", 0.1, 0.9, "supported"),
        ("below", 1.1, 2.0, "contradicted"),
        ("at", 0.5, 2.0, "no effect"),
        ("at", 1.1, 2.0, "effect, above"),
        ("at", 0.1, 0.9, "effect, below"),
        ("above", float("nan"), float("nan"), "undecided: too few finite seeds"),
    ],
)
def test_verdicts_come_from_intervals(direction, low, high, verdict):
    interval = intervals.Interval((low + high) / 2, low, high, 5)
    assert findings.Finding("claim", interval, "times", 1.0, direction).verdict == verdict
