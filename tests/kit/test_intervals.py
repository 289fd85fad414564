"""Intervals against numbers worked by hand, enumeration in plain Python, and their own sources."""

import itertools
import math

import numpy as np
import polars as pl
import pytest
from scipy import stats

from experiments.kit import intervals
from experiments.kit.per_seed import of_values

LAW = np.random.default_rng(0)


def test_students_interval_by_hand():
    """The mean of 1, 2, 4, 8 is 3.75, their variance 115 / 12 and t(0.975, 3) 3.18245."""
    estimate, low, high = intervals.students_t(np.array([1.0, 2, 4, 8]), 0.95)
    half = 3.182446305 * math.sqrt(115 / 12 / 4)
    assert (estimate, low, high) == pytest.approx((3.75, 3.75 - half, 3.75 + half))


def test_a_ratio_of_geometric_means_is_students_interval_of_the_log_ratio():
    interval = intervals.geometric(of_values(np.log([1.0, 2, 4, 8]))).at(0.9)
    logs = [math.log(2) * power for power in range(4)]
    half = 2.353363435 * np.std(logs, ddof=1) / 2
    middle = 1.5 * math.log(2)
    expected = [math.exp(x) for x in (middle, middle - half, middle + half)]
    assert interval[:3] == pytest.approx(expected)
    assert interval.estimate == pytest.approx(math.sqrt(8))
    assert "ratio of geometric means" in intervals.GEOMETRIC.words
    assert "Student's t" in intervals.GEOMETRIC.words


def enumerated(values, level):
    """The bootstrap-t interval, resample by resample, each of the n ** n with the same weight."""
    size, mean = len(values), sum(values) / len(values)
    error = math.sqrt(sum((x - mean) ** 2 for x in values) / (size - 1) / size)
    ts = []
    for resample in itertools.product(values, repeat=size):
        middle = sum(resample) / size
        own = math.sqrt(sum((x - middle) ** 2 for x in resample) / (size - 1) / size)
        t = (middle - mean) / own if own else math.copysign(math.inf, middle - mean) if middle != mean else 0.0
        ts.append(t)
    ts.sort()
    count = len(ts)
    lower, upper = (ts[math.ceil(share * count - 1e-9) - 1] for share in ((1 - level) / 2, (1 + level) / 2))
    return mean, mean - upper * error, mean - lower * error


@pytest.mark.parametrize("values", [[1.0, 2, 4, 8], [0.0, 0, 0, 1, 5], [3.0, -1, 0.5, 0.5, 9], [1.0, 2, 3]])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_the_bootstrap_t_of_few_seeds_is_that_of_all_resamples(values, level):
    with np.errstate(all="ignore"):
        found = intervals.bootstrap_t(np.array(values), level)
    assert found == pytest.approx(enumerated(values, level))


def test_eight_seeds_have_6435_resamples_and_nine_are_drawn():
    counts, weights = intervals._resamples(8, 5)
    assert counts.shape == (6435, 8)
    assert weights.sum() == pytest.approx(1)
    drawn, equal = intervals._resamples(9, 50)
    assert drawn.shape == (50, 9)
    assert equal is None
    assert set(drawn.sum(axis=1)) == {9}


def test_drawn_resamples_end_near_all_of_them(monkeypatch):
    values = LAW.exponential(size=8)
    exact = intervals.bootstrap_t(values, 0.95)
    monkeypatch.setattr(intervals, "ENUMERATED", 7)
    intervals._resamples.cache_clear()
    drawn = intervals.bootstrap_t(values, 0.95)
    intervals._resamples.cache_clear()
    assert drawn != exact
    assert np.array(drawn) == pytest.approx(np.array(exact), rel=0.05)


def test_the_bootstrap_t_is_the_same_each_time_and_follows_skewness():
    values = np.random.default_rng(1).lognormal(size=24)
    once = intervals.bootstrap_t(values, 0.95)
    intervals._resamples.cache_clear()
    assert intervals.bootstrap_t(values, 0.95) == once
    estimate, low, high = once
    assert high - estimate > 1.3 * (estimate - low) > 0
    mirrored = intervals.bootstrap_t(-values, 0.95)
    assert np.array(mirrored) == pytest.approx(-np.array([estimate, high, low]), rel=0.02)
    assert np.array(intervals.bootstrap_t(10 + 3 * values, 0.95)) == pytest.approx(10 + 3 * np.array(once))


def test_the_bootstrap_t_of_a_symmetric_sample_is_near_students():
    values = stats.norm.ppf((np.arange(40) + 0.5) / 40)
    near = np.array(intervals.students_t(values, 0.95))
    assert np.array(intervals.bootstrap_t(values, 0.95)) == pytest.approx(near, rel=0.08, abs=1e-2)


@pytest.mark.parametrize(
    ("values", "bounds"),
    [
        ([0.25] * 16, (0.25, 0.25)),  # no variance: the number itself
        ([0.1 + 0.2] * 20, (0.1 + 0.2, 0.1 + 0.2)),
        ([0.0] * 15 + [1.0], (None, math.nan)),  # too many resamples without the one
        ([1.0, 2.0], (math.nan, math.nan)),
        ([1.0], (math.nan, math.nan)),
        ([], (math.nan, math.nan)),
    ],
)
def test_samples_without_variance_or_seeds_have_their_bounds_or_none(values, bounds):
    interval = intervals.over_seeds(values)
    for found, bound in zip((interval.low, interval.high), bounds, strict=True):
        if bound is not None:
            assert found == pytest.approx(bound, nan_ok=True)
    assert interval.seeds == len(values)


def test_many_samples_at_once_are_as_one_by_one():
    values = LAW.exponential(size=(3, 12))
    for rule in (intervals.bootstrap_t, intervals.students_t, intervals.geometric_students_t):
        together = np.array(rule(values, 0.9))
        assert together == pytest.approx(np.array([rule(each, 0.9) for each in values]).T)
    pairs = 5 + LAW.normal(size=(3, 12, 2))
    assert np.array(intervals.fieller(pairs, 0.9)) == pytest.approx(
        np.array([intervals.fieller(each, 0.9) for each in pairs]).T
    )


def test_fieller_by_hand():
    """Above 2, 4, 6 and below 1, 2, 3 and a little: the roots of its quadratic in the ratio."""
    above, below = np.array([2.0, 4, 6]), np.array([1.0, 2.5, 2.5])
    found = intervals.fieller(np.stack([above, below], axis=-1), 0.5)
    t = stats.t.ppf(0.75, 2)
    for ratio in found[1:]:
        apart = above - ratio * below
        assert apart.mean() / (apart.std(ddof=1) / math.sqrt(3)) == pytest.approx(t if ratio == found[1] else -t)
    assert found[1] < found[0] == 2.0 < found[2]


@pytest.mark.parametrize("below", [[-1.0, 1, -1, 1], [5.0, -3, 0.1, -2]])
def test_a_ratio_over_what_may_be_0_has_no_bounds(below):
    interval = intervals.ratio_of_means(of_values([1.0, 2, 3, 4]), of_values(below)).at()
    assert np.isnan([interval.low, interval.high]).all()


def test_fieller_holds_a_sign_that_students_t_of_the_numerator_holds():
    above, below = np.array([0.3, 0.5, 0.1, 0.4]), np.array([1.0, 1.1, 0.9, 1.2])
    low = intervals.fieller(np.stack([above, below], axis=-1), 0.95)[1]
    assert np.sign(low) == np.sign(intervals.students_t(above, 0.95)[1])


def test_a_ratio_of_means_takes_the_seeds_that_have_both():
    above, below = of_values([2.0, 4, np.nan, 6]), of_values([1.0, 2, 3, np.inf])
    interval = intervals.ratio_of_means(above, below).at()
    assert (interval.estimate, interval.seeds, interval.failed) == (2.0, 2, 2)


def test_order_statistics_by_hand():
    """Of 24 numbers P(Bin(24, .8) <= 14) = .0199 and P(Bin(24, .8) <= 22) = .967: the 15th and the 24th of them."""
    values = LAW.permutation(np.arange(1.0, 25))
    assert intervals.percentile(values, 0.95) == (20.0, 15.0, 24.0)
    assert intervals.percentile(np.arange(1.0, 27), 0.95)[2] == 25.0  # one of 26 may be anything
    assert np.isnan(intervals.percentile(np.arange(16.0), 0.95)[2])
    low, high = stats.binom.cdf([14, 15], 24, 0.8)
    assert low <= 0.025 < high
    many = np.array(intervals.percentile(np.stack([values, 2 * values]), 0.95))
    np.testing.assert_array_equal(many, [[20, 40], [15, 30], [24, 48]])


def test_failed_seeds_are_counted_and_not_averaged():
    interval = intervals.over_seeds([1.0, np.nan, 3.0, np.inf])
    assert interval.estimate == 2.0
    assert (interval.seeds, interval.failed) == (2, 2)


def test_a_level_is_chosen_after_the_statistic_is_known():
    rows = pl.DataFrame({"seed": np.arange(20), "value": LAW.normal(size=20)})
    estimate = intervals.estimate(rows, pl.col("value").mean())
    usual, wider = estimate.at(), estimate.at(0.999)
    assert (usual.level, wider.level) == (0.95, 0.999)
    assert wider.low < usual.low < usual.estimate == wider.estimate < usual.high < wider.high
    assert (usual.low, usual.high) == intervals.bootstrap_t(rows["value"].to_numpy(), 0.95)[1:]
    assert usual.rows == 20


def test_a_rule_says_how_many_seeds_a_verdict_needs():
    for rule in (intervals.MEAN, intervals.GEOMETRIC, intervals.RATIO, intervals.MANY, intervals.PERCENTILE):
        assert rule.least >= 16
        assert intervals.Estimate(of_values([1.0, 2, 3]), rule).rule.least == rule.least
    assert intervals.change(of_values([1.0, 2, 3])).at().least == 32
    assert intervals.largest(of_values([1.0, 2, 3])).at().least == 17
    assert intervals.over_seeds([1.0, 2, 3]).least == intervals.MEAN.least
