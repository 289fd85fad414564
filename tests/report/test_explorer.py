"""What the explorer says of a setting, against plain Python over made-up records."""

import itertools
import json
import math
import random
import statistics

import polars as pl
import pytest
from scipy import stats

from experiments.kit.intervals import Interval, over_seeds
from experiments.report import explorer, explorer_points
from experiments.report.explorer_points import Point, Setting

TASK = {"task": "interactions", "vocabulary": 3, "temperature": 1.0, "reference_scale": 0.0}
PAIRS, SEEDS = (64, 256, 1024), 20


def drawn(*place):
    """A made-up regret of a fit, the same whenever it is asked for."""
    return math.exp(random.Random(repr(place)).gauss(0, 0.3))


def fits(horizon, gold, beta):
    """Rows of both arms of tabular policies, and of their predictions."""
    found, known = [], []
    for seed in range(SEEDS):
        shared = TASK | {"horizon": horizon, "gold_order": gold, "beta": beta, "seed": seed, "status": "ok"}
        for order in (1, horizon):
            size = {"effective_dimension": 10.0 * order + seed, "floor": 0.01 * (order < gold), "reference_regret": 2.0}
            known.append(shared | size | {"verifier_order": order, "policy_order": horizon})
        for pairs in PAIRS:
            each = shared | {"policy": "tabular", "policy_order": horizon, "pairs": pairs}
            place = horizon, gold, beta, seed, pairs
            found.append(each | {"arm": "DPO", "verifier_order": 0, "regret": 60 / pairs * drawn("DPO", *place)})
            for order in (1, horizon):
                regret = 20 / pairs * drawn("RLHF", order, *place)
                found.append(each | {"arm": "RLHF", "verifier_order": order, "regret": regret})
    return found, known


def phase_diagram():
    """Records of two horizons, the longer one with more orders and values of beta."""
    points = [(2, 1, 1.0), *itertools.product([3], [1, 3], [0.5, 1.0])]
    made = [fits(*point) for point in points]
    tables = [list(itertools.chain(*rows)) for rows in zip(*made, strict=True)]
    return {name: pl.DataFrame(rows) for name, rows in zip(("fits", "dimensions"), tables, strict=True)}


@pytest.fixture(scope="module")
def records():
    return {"phase_diagram": phase_diagram()}


def of(rows, **values):
    """Rows of a list with these values."""
    return [row for row in rows if all(row[name] == value for name, value in values.items())]


def setting(found, **at):
    """The one setting with these values."""
    (there,) = [each for each in found if at.items() <= each.at.items()]
    return there


def test_every_setting_that_was_run_is_there_once_and_no_other(records):
    found = explorer_points.settings(records)
    there = [(each.at["horizon"], each.at["gold_order"], each.at["beta"], each.at["verifier_order"]) for each in found]
    ran = [(2, 1, 1.0), *itertools.product([3], [1, 3], [0.5, 1.0])]
    assert sorted(there) == sorted((*each, order) for each in ran for order in (1, each[0]))
    assert there[0] == (3, 1, 1.0, 1), "the longest responses and the simplest gold reward come first"


def test_numbers_are_those_of_the_records(records):
    rows = records["phase_diagram"]["fits"].to_dicts()
    shown = setting(explorer_points.settings(records), horizon=3, gold_order=3, beta=0.5, verifier_order=1)
    assert [point.pairs for point in shown.points] == list(PAIRS)
    for point in shown.points:
        here = of(rows, horizon=3, gold_order=3, beta=0.5, pairs=point.pairs)
        dpo, rlhf = ([row["regret"] for row in of(here, **arm)] for arm in ({"arm": "DPO"}, {"verifier_order": 1}))
        assert point.dpo.estimate == pytest.approx(statistics.fmean(dpo), rel=1e-12)
        assert point.rlhf.estimate == pytest.approx(statistics.fmean(rlhf), rel=1e-12)
        assert point.dpo == over_seeds(dpo)
        logs = [math.log(one / other) for one, other in zip(dpo, rlhf, strict=True)]
        half = stats.t.ppf(0.975, SEEDS - 1) * statistics.stdev(logs) / math.sqrt(SEEDS)
        expected = [math.exp(statistics.fmean(logs) + shift) for shift in (0, -half, half)]
        assert list(point.ratio[:3]) == pytest.approx(expected, rel=1e-12)
        assert point.ratio.seeds == SEEDS


def test_predictions_are_those_of_the_phase_diagram(records):
    shown = setting(explorer_points.settings(records), horizon=3, gold_order=3, beta=0.5, verifier_order=1)
    for point in shown.points:
        dpo = [min(2.0, (30.0 + seed) / (2 * 0.8 * point.pairs)) for seed in range(SEEDS)]
        rlhf = [min(2.0, 0.01 + (10.0 + seed) / (2 * 0.8 * point.pairs)) for seed in range(SEEDS)]
        ratio = math.exp(statistics.fmean(math.log(one / other) for one, other in zip(dpo, rlhf, strict=True)))
        assert point.predicted == pytest.approx((statistics.fmean(dpo), statistics.fmean(rlhf), ratio), rel=1e-12)


def test_a_seed_with_an_excluded_row_counts_in_neither_arm(records):
    tables = records["phase_diagram"]
    here = (pl.col("arm") == "RLHF") & (pl.col("seed") == 3) & (pl.col("pairs") == 256)
    status = pl.when(here).then(pl.lit("not converged")).otherwise(pl.col("status"))
    broken = tables | {"fits": tables["fits"].with_columns(status=status)}
    shown = setting(
        explorer_points.settings({"phase_diagram": broken}), horizon=3, gold_order=3, beta=0.5, verifier_order=3
    )
    rows = of(tables["fits"].to_dicts(), horizon=3, gold_order=3, beta=0.5, arm="DPO", pairs=256)
    kept = [row["regret"] for row in rows if row["seed"] != 3]
    assert [point.ratio.seeds for point in shown.points] == [SEEDS, SEEDS - 1, SEEDS]
    assert shown.points[1].dpo == over_seeds(kept)._replace(seeds=19, failed=1, rows=SEEDS, excluded=1)


def test_verifiers_of_a_curve_of_sample_complexity_share_its_dpo():
    common = {"horizon": 2, "gold_order": 1, "beta": 1.0, "temperature": 1.0, "reference_scale": 0.0, "status": "ok"}
    rows, known = [], []
    for seed in range(SEEDS):
        each = common | {"seed": seed, "pairs": 64}
        rows.append(each | {"arm": "DPO", "order": 2, "regret": 3.0 + seed})
        rows += [each | {"arm": "RLHF", "order": order, "regret": 1.0 + order} for order in (1, 2)]
        rows.append(each | {"arm": "restricted MLE", "order": 1, "regret": 9.0})
        known.append(common | {"seed": seed, "order": 2, "effective_dimension": 32.0})
    found = explorer_points.settings(
        {"sample_complexity": {"fits": pl.DataFrame(rows), "dimensions": pl.DataFrame(known)}}
    )
    (simple,), (full,) = (setting(found, verifier_order=order).points for order in (1, 2))
    assert (simple.dpo.estimate, simple.rlhf.estimate) == (12.5, 2.0)
    assert (full.dpo.estimate, full.rlhf.estimate) == (12.5, 3.0)
    assert full.predicted == pytest.approx((32 / (2 * 0.8 * 64),) * 2 + (1.0,))
    assert simple.predicted[0] == full.predicted[0]
    assert [math.isnan(value) for value in simple.predicted] == [False, True, True], "its dimension was not recorded"


def test_series_of_horizons_have_verifiers_of_the_gold_order():
    row = {"vocabulary": 3, "horizon": 2, "gold_order": 1, "pairs": 100, "beta": 1.0, "temperature": 1.0}
    row |= {"reference_scale": 0.0, "dpo_regret": 0.4, "rlhf_regret": 0.1, "dpo_dimension": 16.0, "rlhf_dimension": 4.0}
    gaps = pl.DataFrame([row | {"seed": seed, "status": "ok"} for seed in range(SEEDS)])
    (found,) = explorer_points.settings({"h6b_horizon-transformer": {"gaps": gaps}})
    assert found.at["verifier_order"] == 1
    assert found.at["policies"] == "transformers"
    assert found.at["experiment"] == "h6b horizon, transformers"
    (point,) = found.points
    assert (point.dpo.estimate, point.rlhf.estimate, point.ratio.estimate) == pytest.approx((0.4, 0.1, 4.0))
    assert point.predicted == pytest.approx((0.1, 0.025, 4.0))
    few = gaps.with_columns(dpo_dimension=81.0)  # of 100 pairs 80 are fitted
    (found,) = explorer_points.settings({"h6b_horizon": {"gaps": few}})
    assert [math.isnan(value) for value in found.points[0].predicted] == [True, False, True]


def made(*ratios, seeds=SEEDS):
    """A setting with these intervals of its ratio, from 64 pairs on, four times more for each next one."""
    one, nan = over_seeds([1.0, 2.0]), math.nan
    intervals = [Interval(math.sqrt(low * high), low, high, seeds) for low, high in ratios]
    return Setting({}, [Point(64 * 4**i, one, one, ratio, (nan, nan, nan)) for i, ratio in enumerate(intervals)])


WINS, LOSES, OPEN, SAME = (1.5, 2.0), (0.5, 0.7), (0.5, 2.0), (0.9, 1.1)
ANSWERS = {
    "all won": ([WINS] * 3, "Two-stage RLHF is better at every number of pairs that was measured, 64 to 1,024."),
    "from the third on": (
        [OPEN, OPEN, WINS, WINS],
        "Undecided up to 256 pairs; two-stage RLHF is better from 1,024 pairs on.",
    ),
    "one after the other": (
        [LOSES, OPEN, WINS],
        "DPO is better at 64 pairs; undecided at 256 pairs; two-stage RLHF is better at 1,024 pairs.",
    ),
    "a change back": (
        [WINS, LOSES, LOSES, SAME],
        "Two-stage RLHF is better at 64 pairs; DPO is better from 256 to 1,024 pairs; "
        "the two are equal within a factor of 1.25 at 4,096 pairs.",
    ),
    "a single number of pairs": ([LOSES], "DPO is better at 64 pairs."),
    "no finite interval": ([(math.nan, 2.0)], "Undecided at 64 pairs."),
    "an estimate far above 1 does not decide": ([(0.98, 9.0)], "Undecided at 64 pairs."),
    "above 1 by rounding alone": ([(1.0001, 1.0002)], "The two are equal within a factor of 1.25 at 64 pairs."),
    "a small difference that is sure": ([(1.02, 1.1)], "Two-stage RLHF is better at 64 pairs."),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_the_answer_follows_from_the_intervals(case):
    ratios, answer = ANSWERS[case]
    assert made(*ratios).answer == answer


def test_too_few_seeds_decide_nothing_and_say_so():
    assert made(WINS, seeds=15).answer == "Undecided at 64 pairs. There are 15 seeds; a verdict needs 16."
    assert made(WINS, seeds=16).answer == "Two-stage RLHF is better at 64 pairs."


def test_the_page_reads_each_setting_to_three_digits(records):
    found = explorer_points.settings(records)
    data = json.loads(json.dumps(explorer.content(found)))
    names = [control["name"] for control in data["controls"]]
    assert names == ["horizon", "gold_order", "verifier_order", "beta"]
    assert "temperature" not in names
    assert "noise of the labels: 1;" in data["fixed"]
    assert len(data["settings"]) == len(found)
    for shown, expected in zip(data["settings"], found, strict=True):
        at = [control["values"][place] for control, place in zip(data["controls"], shown["at"], strict=True)]
        assert at == [f"{expected.at[name]:g}" for name in names]
        assert data["parts"][shown["answer"]] == expected.answer
        assert data["parts"][shown["better"]] == [point.better for point in expected.points]
        for place, point in enumerate(expected.points):
            for arm, interval, predicted in zip(("DPO", "RLHF", "ratio"), point[1:4], point.predicted, strict=True):
                numbers = [float(f"{x:.3g}") for x in (*interval[:3], predicted)]
                assert data["parts"][shown[arm]][place] == numbers


def test_what_is_no_number_is_none():
    assert explorer._curve(Interval(1.0, math.nan, math.inf, 1), math.nan) == [1.0, None, None, None]


def test_no_records_make_no_explorer():
    assert explorer.explorer({}) == ""
    assert explorer.explorer({"equivalence": {}}) == ""
