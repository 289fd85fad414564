"""The generation-verification gap over horizons and orders: what its findings recover."""

import numpy as np
import polars as pl
import pytest

from experiments.kit import gap
from experiments.questions import h6b_horizon, h6c_verifier_order
from gvgap_jax.sweep import load


def made_up_gaps(points, power=0.5, at_closed=1.0, apart=1e-5):
    """DPO's regret is RLHF's times the ratio of dimensions to a power, and ``at_closed`` times more where order = H."""
    rows = []
    for horizon, order in points:
        dimension = 2.0 ** (horizon - order)
        for pairs in (64, 512):
            for seed in range(32):
                closed = at_closed if horizon == order else 1.0
                rlhf = (1 + seed) / pairs
                rows.append(
                    {
                        "vocabulary": 3, "horizon": horizon, "gold_order": order, "pairs": pairs, "seed": seed,
                        "dpo_dimension": 7 * dimension, "rlhf_dimension": 7.0,
                        "dpo_regret": rlhf * dimension**power * closed, "rlhf_regret": rlhf,
                        "restricted_regret": rlhf + apart, "dpo_penalty": 3.0,
                        "rlhf_penalty": 1.0, "restricted_penalty": 1.0,
                    }
                )  # fmt: skip
    return {"gaps": pl.DataFrame(rows)}


HORIZONS = [(1, 1), (2, 1), (5, 1)]
ORDERS = [(4, 1), (4, 2), (4, 4)]


@pytest.mark.parametrize(
    ("module", "points", "drift"), [(h6b_horizon, HORIZONS, 4), (h6c_verifier_order, ORDERS, 3)], ids=["h6b", "h6c"]
)
def test_findings_recover_a_known_gap(module, points, drift):
    far, *closed, rise, slope, last_slope, control, restricted = module.findings(made_up_gaps(points))
    assert far.interval.estimate == pytest.approx(2 ** (drift / 2))
    assert far.predicted == pytest.approx(2.0**drift)
    assert [(finding.direction, finding.interval.estimate) for finding in closed] == [("at", pytest.approx(1.0))] * 2
    assert rise.interval.estimate == pytest.approx(2 ** (drift / 2))
    assert slope.interval.estimate == pytest.approx(0.5)
    assert last_slope.interval.estimate == pytest.approx(0.5)
    assert "512 pairs" in last_slope.claim
    for finding in (control, restricted):
        assert finding.interval.estimate == pytest.approx(1e-5)
        assert finding.passes
    assert control.control
    assert restricted.control


@pytest.mark.parametrize(("module", "points"), [(h6b_horizon, HORIZONS), (h6c_verifier_order, ORDERS)])
def test_a_gap_that_does_not_close_is_an_effect(module, points):
    noisy = {"gaps": made_up_gaps(points, at_closed=2.0)["gaps"].with_columns(jitter("dpo_regret"))}
    closed = [finding for finding in module.findings(noisy) if finding.direction == "at"]
    assert [finding.verdict for finding in closed] == ["different: above"] * 2


def jitter(column):
    return (pl.col(column) * (1 + 1e-3 * pl.col("seed"))).alias(column)


def test_unequal_methods_fail_the_controls():
    gaps = {"gaps": made_up_gaps(HORIZONS, apart=0.1)["gaps"].with_columns(jitter("restricted_regret"))}
    controls = h6b_horizon.findings(gaps)[-2:]
    assert [finding.verdict for finding in controls] == ["contradicted"] * 2


def test_data_sets_of_another_penalty_are_no_part_of_the_control_but_are_counted():
    other = pl.when(pl.col("pairs") == 64).then(10.0).otherwise(pl.col("restricted_penalty"))
    wrong = pl.when(pl.col("pairs") == 64).then(9.0).otherwise(pl.col("restricted_regret"))
    gaps = made_up_gaps(HORIZONS)["gaps"].with_columns(
        other.alias("restricted_penalty"), wrong.alias("restricted_regret")
    )
    *_, control, _ = h6b_horizon.findings({"gaps": gaps})
    assert control.interval.estimate == pytest.approx(1e-5)
    assert "50.0% selected the same penalty" in control.claim


def test_a_fit_without_a_number_is_a_failed_seed():
    lost = pl.when((pl.col("seed") == 2) & (pl.col("horizon") == 5)).then(np.nan).otherwise(pl.col("dpo_regret"))
    gaps = made_up_gaps(HORIZONS)["gaps"].with_columns(lost.alias("dpo_regret"))
    gaps = gaps.with_columns(lost.alias("restricted_regret"))
    far, *closed, rise, slope, _, _, restricted = h6b_horizon.findings({"gaps": gaps})
    for finding in (far, rise, slope, restricted):
        assert (finding.interval.seeds, finding.interval.failed) == (31, 1)
    assert closed[0].interval.seeds == 32


@pytest.mark.parametrize("points", [[(1, 1)], [(5, 1)], [(4, 2), (5, 2)]], ids=["closed", "open", "no end"])
def test_any_grid_has_its_findings(points):
    for module in (h6b_horizon, h6c_verifier_order):
        directions = [finding.direction for finding in module.findings(made_up_gaps(points))]
        assert ("at" in directions) == any(horizon == order for horizon, order in points)
        assert ("above" in directions) == any(horizon > order for horizon, order in points)


@pytest.mark.slow("h6c_verifier_order")
def test_with_verifiers_as_complex_as_policies_only_the_penalty_is_left_between_the_methods(records):
    gaps = load(records("h6c_verifier_order"), "gaps")
    tables, additive = gaps.filter(gold_order=2), gaps.filter(gold_order=1)
    np.testing.assert_allclose(tables["dpo_dimension"], tables["rlhf_dimension"], rtol=1e-9)
    assert (additive["dpo_dimension"] / additive["rlhf_dimension"]).min() > 1.2
    assert np.abs(np.log(gaps["restricted_regret"] / gaps["rlhf_regret"])).max() < 1e-2
    assert np.abs(np.log(tables["dpo_regret"] / tables["rlhf_regret"])).min() > 1e-2


def test_a_point_above_the_horizon_is_no_cell():
    assert gap.cells(gap.Config(horizon=2, gold_order=3)) == []
    assert len(gap.cells(gap.Config(horizon=2, gold_order=2))) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocabulary": 1}, "vocabulary must be at least 2"),
        ({"gold_order": 0}, "gold_order must be at least 1"),
        ({"reference_scale": -1.0}, "reference_scale must be at least 0"),
        ({"beta": 0.0}, "beta must be positive"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        gap.Config(**settings)
