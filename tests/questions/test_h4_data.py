"""Coverage and the gap: the coverage itself, and the statistics on made-up records."""

import numpy as np
import polars as pl
import pytest

from experiments.kit.findings import REGRET
from experiments.kit.intervals import ratio_of_means
from experiments.kit.per_seed import of_values
from experiments.kit.plots import slices
from experiments.kit.problems import TRAINED
from experiments.questions import h4_data as experiment

SEEDS, PAIRS = 32, (64, 512, 4096)


def records(tilts=(2.0, 1.0, 0.0, -1.0), rate=1.0, broad=0.0):
    """Regrets that fall as d_eff / n**rate, d_eff 10 for RLHF and 50 for DPO; tilt 0 adds ``broad`` to DPO's."""
    common = {"horizon": 4, "gold_order": 2, "beta": 1.0, "temperature": 1.0, "reference_scale": 1.0}
    fits = [
        common | {
            "arm": arm, "tilt": tilt, "pairs": pairs, "seed": seed, "penalty": 1.0,
            "regret": size * (1 + 0.1 * seed) / (2 * TRAINED * pairs**rate)
            + broad * (tilt == 0) * (arm == "DPO"),
        }
        for arm, size in (("DPO", 50), ("RLHF", 10), ("restricted MLE", 10))
        for tilt in tilts
        for pairs in PAIRS
        for seed in range(SEEDS)
    ]  # fmt: skip
    dimensions = [
        common | {"tilt": tilt, "seed": seed, "order": order, "effective_dimension": size * (1 + 0.1 * seed)}
        for order, size in ((2, 10.0), (4, 50.0))
        for tilt in tilts
        for seed in range(SEEDS)
    ]
    return {"fits": pl.DataFrame(fits), "dimensions": pl.DataFrame(dimensions)}


def by_claim(found, words):
    (row,) = (row for row in found if words in row.claim)
    return row


def test_findings_recover_a_gap_that_closes_as_predicted():
    found = experiment.findings(records())
    gap = by_claim(found, f"the reference: {REGRET} of DPO - RLHF")
    mean = np.mean([1 + 0.1 * seed for seed in range(SEEDS)])
    assert gap.interval.estimate == pytest.approx(40 * mean / (2 * TRAINED * 512))
    closure = by_claim(found, "the uniform law: gap at 4,096 pairs over the widest, at 64")
    assert closure.interval.estimate == pytest.approx(64 / 4096)
    assert closure.verdict == "supported"
    predicted = by_claim(found, "off its support): gap at 4,096 pairs over what effective dimensions")
    assert predicted.interval.estimate == pytest.approx(1.0)
    assert by_claim(found, "what breadth adds").interval.estimate == pytest.approx(0.0)
    assert found[-1].control
    assert found[-1].verdict == "supported"


def test_a_gap_that_stays_does_not_close():
    found = experiment.findings(records(rate=0.01))
    assert by_claim(found, "the reference: gap at 4,096 pairs over the widest").verdict == "contradicted"


def test_a_gap_that_is_widest_with_the_most_pairs_has_not_begun_to_close():
    row = by_claim(
        experiment.findings(records(rate=-1.0)), "the reference: gap at 4,096 pairs over the widest, at 4,096"
    )
    assert row.interval.estimate == 1.0
    assert row.verdict == "contradicted"


def test_what_breadth_adds_is_recovered():
    row = by_claim(experiment.findings(records(broad=0.3)), "what breadth adds")
    assert row.interval.estimate == pytest.approx(0.3)
    assert row.verdict == "supported"


def test_a_reward_model_of_the_policys_own_backbone_is_compared_where_there_is_one():
    made_up = records()
    own = made_up["fits"].filter(arm="DPO").with_columns(pl.lit(experiment.BACKBONE).alias("arm"))
    made_up["fits"] = pl.concat([made_up["fits"], own])
    found = experiment.findings(made_up)
    assert len(found) == len(experiment.findings(records())) + 4
    row = by_claim(
        found, f"the reference: {REGRET} of DPO - RLHF at 512 pairs, reward model of the policy's own backbone"
    )
    assert row.interval.estimate == 0.0
    assert row.direction == "at"


def test_methods_that_differ_over_one_class_fail_the_control():
    made_up = records()
    shifted = pl.when(pl.col("arm") == "restricted MLE").then(pl.col("regret") + 0.1).otherwise(pl.col("regret"))
    made_up["fits"] = made_up["fits"].with_columns(shifted.alias("regret"))
    assert not experiment.findings(made_up)[-1].passes


@pytest.mark.parametrize("tilts", [(1.0,), (2.0, 0.5)])
def test_findings_of_any_grid(tilts):
    made_up = records(tilts)
    made_up["fits"] = made_up["fits"].filter(pairs=512)
    found = experiment.findings(made_up)
    assert len(found) == 2 * len(tilts) + 1


def test_the_interval_of_a_ratio_of_means():
    numbers = np.random.default_rng(0)
    below = 1 + 0.1 * numbers.normal(size=4000)
    above = 0.3 * below + 0.1 * numbers.normal(size=4000)
    interval = ratio_of_means(of_values(above), of_values(below)).at()
    assert interval.low < 0.3 < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 0.1 / np.sqrt(4000), rel=0.1)


def test_a_grid_is_cut_into_a_figure_for_each_setting():
    rows = pl.DataFrame({"pairs": [64, 512, 64, 512], "beta": [1.0, 1.0, 0.5, 0.5], "order": [2, 2, 2, 2]})
    found = dict(slices(rows, ["pairs", "beta", "order"]))
    assert list(found) == ["_pairs64_beta0.5", "_pairs64_beta1", "_pairs512_beta0.5", "_pairs512_beta1"]
    assert found["_pairs512_beta1"].rows() == [(512, 1.0, 2)]
    assert [name for name, _ in slices(rows, ["order"])] == [""]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tilt": float("nan")}, "tilt must be a finite number"),
        ({"gold_order": 7}, "at most the horizon"),
        ({"pairs": 3}, "at least 5"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        experiment.Config(**settings)
