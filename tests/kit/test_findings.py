"""Verdicts, which follow from the interval that is shown, and the findings of one question together."""

import numpy as np
import polars as pl
import pytest
from scipy import stats

from experiments.kit import findings, intervals
from experiments.kit.findings import Finding, decided, tally, verdict
from experiments.kit.per_seed import of_values
from tests.kit.fixed import fixed

NAN = float("nan")


def interval(low, high, seeds=16, least=16):
    return intervals.Interval((low + high) / 2, low, high, seeds, least=least)


@pytest.mark.parametrize(
    ("direction", "low", "high", "expected"),
    [
        ("above", 1.1, 2.0, "supported"),
        ("above", 0.5, 2.0, "undecided"),
        ("above", 0.1, 0.9, "contradicted"),
        ("above", 1.0, 2.0, "undecided"),
        ("below", 0.1, 0.9, "supported"),
        ("below", 0.1, 1.0, "undecided"),
        ("below", 1.1, 2.0, "contradicted"),
        ("above", NAN, NAN, "undecided: no finite interval"),
        ("below", 0.1, NAN, "undecided: no finite interval"),
    ],
)
def test_a_bound_has_the_interval_on_one_side(direction, low, high, expected):
    assert verdict(interval(low, high), 1.0, 1.0, direction) == expected
    few = verdict(interval(low, high, seeds=15), 1.0, 1.0, direction)
    assert few == "undecided: 15 seeds, a verdict needs 16"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.9, 1.1, "equal"),
        (1.01, 1.1, "equal"),  # told from the bound, and within the margin
        (0.8, 1.1, "undecided"),
        (0.9, 1.2, "undecided"),
        (0.1, 9.0, "undecided"),  # wide: no evidence of no effect
        (1.1, 1.3, "undecided"),
        (1.21, 1.3, "different: above"),
        (0.1, 0.79, "different: below"),
    ],
)
def test_equal_needs_the_interval_inside_the_margin(low, high, expected):
    assert verdict(interval(low, high), 0.8, 1.2, "at") == expected
    assert verdict(interval(low, high, seeds=15), 0.8, 1.2, "at").startswith("undecided: 15 seeds")


@pytest.mark.parametrize(
    ("unit", "bound", "margin", "limits", "words"),
    [
        ("nats", 0.5, 0.1, (0.4, 0.6), "equal within 0.1 nats"),
        ("", 0.5, 0.1, (0.4, 0.6), "equal within 0.1"),
        ("times", 1.0, 1.25, (0.8, 1.25), "equal within a factor of 1.25"),
        ("times", 2.0, 1.25, (1.6, 2.5), "equal within a factor of 1.25"),
    ],
)
def test_a_margin_is_a_difference_or_a_factor(unit, bound, margin, limits, words):
    found = Finding("a claim", fixed(bound * 0.99, bound * 1.01), unit, bound, "at", margin=margin)
    assert found.limits == pytest.approx(limits)
    assert found.verdict == words
    assert found.passes
    outside = found._replace(estimate=fixed(limits[1] * 1.01, limits[1] * 2))
    assert (outside.verdict, outside.passes, outside.undecided) == ("different: above", False, False)


@pytest.mark.parametrize(
    ("low", "high", "direction", "passes"),
    [
        (0.0, 0.9, "below", True),
        (0.5, 1.5, "below", False),  # undecided
        (1.1, 1.5, "below", False),
        (-0.1, 0.1, "at", False),
        (0.9, 1.1, "at", True),
        (0.7, 1.1, "at", False),  # undecided
    ],
)
def test_a_control_that_is_undecided_has_not_passed(low, high, direction, passes):
    control = Finding("a control", fixed(low, high), "", 1.0, direction, control=True, margin=0.2)
    assert control.passes == passes
    assert not control._replace(estimate=fixed(low, high, seeds=15)).passes


def control(low, high):
    return Finding("", fixed(low, high), "", 0.0, "at", control=True, margin=1.0)


PASSED, FAILED, OPEN = control(-0.5, 0.5), control(2, 3), control(-2, 2)


@pytest.mark.parametrize(
    ("controls", "words"),
    [
        ([PASSED] * 3 + [OPEN], "3 passed, 1 undecided"),
        ([FAILED, OPEN, PASSED], "1 passed, 1 failed, 1 undecided"),
        ([FAILED], "0 passed, 1 failed"),
        ([PASSED] * 2, "2 passed"),
        ([], "0 passed"),
    ],
)
def test_controls_are_counted_by_how_they_came_out(controls, words):
    assert tally(controls) == words


def sample(claim, control=False):
    values = np.random.default_rng(len(claim)).exponential(size=24)
    return Finding(claim, intervals.mean(of_values(values)), "", 0.0, "above", control=control)


def test_the_first_claim_is_primary_and_the_others_are_simultaneous():
    given = [sample("c", control=True), sample("first"), sample("second"), sample("third"), sample("c2", control=True)]
    found = decided(given)
    assert [finding.claim for finding in found] == [finding.claim for finding in given]
    assert [finding.primary for finding in found] == [False, True, False, False, False]
    assert [finding.level for finding in found] == pytest.approx([0.95, 0.95, 0.975, 0.975, 0.95])
    for finding, before in zip(found, given, strict=True):
        assert finding.interval == before.estimate.at(finding.level)
    assert found[2].interval.high > given[2].interval.high


@pytest.mark.parametrize(("claims", "level"), [(1, None), (2, 0.95), (6, 0.99), (51, 0.999)])
def test_the_more_findings_the_wider(claims, level):
    levels = [finding.level for finding in decided([sample(str(number)) for number in range(claims)])[1:]]
    assert levels == pytest.approx([level] * (claims - 1))


def test_simultaneous_intervals_hold_together():
    """Of 20 true means, 95 % intervals all hold in 36 % of questions, simultaneous ones in 95 %."""
    claims = decided([sample(str(number)) for number in range(21)])
    law, hold = np.random.default_rng(3), {claims[0].level: 0, claims[1].level: 0}
    for _ in range(300):
        values = law.normal(size=(20, 24))
        for level in hold:
            _, low, high = intervals.students_t(values, level)
            hold[level] += bool(np.all((low < 0) & (high > 0)))
    alone, together = (count / 300 for count in hold.values())
    assert alone < 0.5
    assert together > 0.92


def test_what_is_undecided_says_what_it_could_have_shown():
    """With a standard error of 1 and 16 seeds the smallest effect is t(.8, 15) + t(.975, 15) = 0.8662 + 2.1314."""
    half = stats.t.ppf(0.975, 15)
    open_question = Finding("", fixed(0.1 - half, 0.1 + half, seeds=16), "nats", 0.0, "above")
    assert open_question.smallest_effect == pytest.approx(0.86624 + 2.13145, abs=1e-4)
    assert open_question.remark == "smallest effect that 16 seeds show with 80% power: 3 nats"
    factor = Finding("", fixed(0.5, 2.0, seeds=16, multiplies=True), "times", 1.0, "above")
    assert factor.smallest_effect == pytest.approx(np.exp(np.log(2) * (1 + 0.86624 / 2.13145)), rel=1e-4)
    assert "a factor of 2.65" in factor.remark
    assert Finding("", fixed(1, 2), "nats", 0.0, "above").remark == ""
    assert Finding("", fixed(NAN, NAN), "nats", 0.0, "above").remark == ""


def test_the_smallest_effect_is_shown_with_80_percent_power():
    law = np.random.default_rng(5)
    effect = (stats.t.ppf(0.8, 23) + stats.t.ppf(0.975, 23)) / np.sqrt(24)
    _, low, _ = intervals.students_t(effect + law.normal(size=(4000, 24)), 0.95)
    assert np.mean(low > 0) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(("excluded", "said"), [(0, False), (10, False), (11, True), (500, True)])
def test_more_than_one_percent_excluded_is_said(excluded, said):
    found = Finding("", fixed(1, 2, excluded=excluded), "nats", 0.0, "above")
    assert (f"{excluded / 1000:.1%} of its records excluded" in found.remark) == said
    assert found.interval.excluded == excluded


def test_the_estimand_names_what_is_averaged_and_over_what():
    rows = pl.DataFrame({"seed": [0, 0, 1, 1], "beta": [0.5, 2.0, 0.5, 2.0], "pairs": 4 * [8], "value": 4 * [1.0]})
    found = Finding("", intervals.estimate(rows, pl.col("value").mean()), "", 0.0, "above")
    assert found.estimand == "mean over seeds, bootstrap-t interval; within a seed over beta 0.5, 2"
    alone = found._replace(estimate=intervals.estimate(rows.filter(beta=2.0), pl.col("value").mean()))
    assert alone.estimand == "mean over seeds, bootstrap-t interval"
    ratio = found._replace(estimate=intervals.geometric(of_values([0.0, 1.0])))
    assert ratio.estimand.startswith("ratio of geometric means over seeds, Student's t")
    prompts = found._replace(estimate=intervals.Estimate(of_values([0.0, 1.0], "prompts"), intervals.MANY))
    assert prompts.estimand.startswith("mean over prompts")
    assert prompts.verdict == "undecided: 2 prompts, a verdict needs 16"


def test_equality_is_of_the_largest_difference_of_each_seed():
    rows = pl.DataFrame({"seed": [0, 0, 1, 1], "gap": [1e-5, -9e-5, 1e-6, 0.0], "same": [True, True, True, False]})
    found = findings.equality("a control", rows, pl.col("gap"))
    np.testing.assert_allclose(found.estimate.sample.values, [9e-5, 1e-6])
    assert (found.bound, found.direction, found.control) == (findings.EQUAL, "below", True)
    chosen = findings.equality("a control", rows.with_columns(gap=2.0), pl.col("gap"), where=pl.col("same"))
    assert chosen.interval.rows == 3
    poisoned = rows.with_columns(gap=pl.when(pl.col("gap") == 0).then(NAN).otherwise("gap"))
    assert np.isnan(findings.equality("a control", poisoned, pl.col("gap")).estimate.sample.values[1])


def test_equality_is_decided_by_what_most_seeds_stay_below():
    """The mean of differences that span orders of magnitude is that of a single seed."""
    sizes = np.append(np.full(23, 1e-7), 5e-5)

    def found(sizes):
        rows = pl.DataFrame({"seed": np.arange(len(sizes)), "gap": sizes})
        return findings.equality("a control", rows, pl.col("gap"))

    assert found(sizes).verdict == "supported"
    assert found(np.append(sizes[:-1], 2e-4)).verdict == "undecided"
    assert found(np.full(24, 2e-4)).verdict == "contradicted"
    assert found(sizes[8:]).verdict == "undecided: 16 seeds, a verdict needs 17"


def test_findings_without_a_record_are_left_out():
    rows = pl.DataFrame({"seed": [0], "value": [1.0]})
    there, none = (
        Finding("", intervals.estimate(frame, pl.col("value").mean()), "", 0.0, "above")
        for frame in (rows, rows.clear())
    )
    assert findings.answered([none, there]) == [there]
