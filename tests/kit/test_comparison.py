"""Two sets of records: cells, differences and their intervals, against plain Python and SciPy."""

import math

import numpy as np
import polars as pl
import pytest
from scipy import stats

from experiments.kit.comparison import EFFORT, compared, numbers_of, tolerance, unlike

SETTINGS = ["arm", "pairs"]


def records(seeds, cells=(("DPO", 8), ("DPO", 64), ("RLHF", 8)), shift=0.0, noise=1.0, salt=0):
    """A row a cell and seed: regret is normal around the cell's number, gradient_norm and steps say what it cost."""
    made = []
    for number, (arm, pairs) in enumerate(cells):
        for seed in seeds:
            value = np.random.default_rng((number, seed)).normal() + np.random.default_rng(
                (number, seed, salt, 1)
            ).normal() * (0.1 if salt else 0)
            row = {"arm": arm, "pairs": pairs, "seed": seed, "regret": 5.0 + noise * value + shift * (arm == "DPO")}
            made.append(row | {"steps": 10 + salt, "status": "ok"})
    return pl.DataFrame(made)


def test_the_same_records_do_not_differ():
    cells, (found,) = compared("fits", records(range(8)), records(range(8)), SETTINGS)
    assert cells == ("fits", 0, 0, 3, True)
    assert (found.number, found.cells, found.beyond) == ("regret", 3, 0)
    assert (found.low, found.high) == (0, 0)


def test_within_seeds_the_interval_is_students_of_the_differences():
    one, other = records(range(8)), records(range(2, 10), shift=1.0, salt=1)
    cells, (found,) = compared("fits", one, other, SETTINGS)
    assert cells.paired
    assert found.beyond == 2
    assert found.where["arm"] == "DPO"
    both = one.filter(**found.where).join(other.filter(**found.where), on="seed", suffix="_b")
    apart = (both["regret_b"].cast(pl.Float32) - both["regret"].cast(pl.Float32)).to_numpy()
    assert len(apart) == 6
    interval = stats.ttest_1samp(apart, 0).confidence_interval(1 - 0.05 / 3)
    assert (found.low, found.high) == pytest.approx(interval, rel=1e-4)
    assert found.other - found.one == pytest.approx(apart.mean(), rel=1e-4)


def test_between_seeds_the_interval_is_welchs():
    one, other = records(range(8)), records(range(100, 112), shift=5.0)
    cells, (found,) = compared("fits", one, other, SETTINGS)
    assert not cells.paired
    assert found.beyond == 2
    left, right = (frame.filter(**found.where)["regret"].to_numpy() for frame in (one, other))
    interval = stats.ttest_ind(right, left, equal_var=False).confidence_interval(1 - 0.05 / 3)
    assert (found.low, found.high) == pytest.approx(interval, rel=1e-4)


def test_noise_alone_is_within_noise():
    beyond = [
        compared("fits", records(range(8 * n, 8 * n + 8)), records(range(1000 + 8 * n, 1008 + 8 * n)), SETTINGS)[1][0]
        for n in range(100)
    ]
    assert sum(each.beyond > 0 for each in beyond) <= 12  # 5 % each, together over their cells


def test_a_difference_that_solvers_leave_is_within_noise_however_certain():
    one = records(range(8))
    small = one.with_columns(regret=pl.col("regret") + 0.5 * tolerance(pl.col("regret")))
    large = one.with_columns(regret=pl.col("regret") + 3 * tolerance(pl.col("regret").max()))
    assert compared("fits", one, small, SETTINGS)[1][0].beyond == 0
    assert compared("fits", one, large, SETTINGS)[1][0].beyond == 3


def test_cells_of_one_alone_are_counted_and_not_compared():
    one = records(range(4), cells=[("DPO", 8), ("DPO", 64)])
    other = records(range(4), cells=[("DPO", 8), ("RLHF", 8), ("RLHF", 64)])
    cells, (found,) = compared("fits", one, other, SETTINGS)
    assert cells == ("fits", 1, 2, 1, True)
    assert found.cells == 1
    cells, none = compared("fits", one.filter(pairs=64), other, SETTINGS)
    assert (cells.both, none) == (0, [])


def test_rows_that_are_not_ok_do_not_count():
    one, other = records(range(8)), records(range(8))
    wild = pl.when((pl.col("seed") == 3) & (pl.col("arm") == "RLHF"))
    other = other.with_columns(
        regret=wild.then(1e6).otherwise("regret"), status=wild.then(pl.lit("not converged")).otherwise("status")
    )
    assert compared("fits", one, other, SETTINGS)[1][0].beyond == 0


def test_one_seed_has_no_interval_and_is_not_beyond():
    _, (found,) = compared("fits", records([1]), records([1], shift=4), SETTINGS)
    assert found.beyond == 0
    assert math.isnan(found.low)


def test_settings_that_a_cell_does_not_depend_on_are_a_setting_too():
    one, other = (records(range(4)).with_columns(width=pl.lit(None, pl.Int32)) for _ in range(2))
    cells, (found,) = compared("fits", one, other, [*SETTINGS, "width"])
    assert (cells.both, found.cells) == (3, 3)


def test_what_a_fit_cost_is_not_compared():
    frame = pl.DataFrame({"steps": [1], "DPO: flops": [1.0], "dpo_steps": [1], "regret": [1.0], "seed": [1]})
    assert numbers_of(frame, []) == ["regret"]
    assert EFFORT.endswith("$")


@pytest.mark.parametrize(
    ("column", "value", "phrase"),
    [
        ("regret", 9.0, "regret is 9 and not "),
        ("regret", math.nan, "regret is nan and not "),
        ("pairs", 9, "pairs is [9"),
        ("seed", 9, "seed is [9"),
        ("status", "not finite", "status is ['not finite'"),
        ("steps", 99, ""),
    ],
)
def test_rows_computed_again_must_be_the_same(column, value, phrase):
    stored = records(range(3))
    new = pl.when(pl.int_range(pl.len()) == 0).then(pl.lit(value)).otherwise(column).cast(stored[column].dtype)
    assert unlike(stored, stored, SETTINGS) == []
    found = unlike(stored.with_columns(new.alias(column)), stored, SETTINGS)
    assert len(found) == bool(phrase)
    assert not phrase or found[0].startswith(phrase)


def test_rounding_and_rows_that_nobody_trusts_are_no_difference():
    stored = records(range(3)).with_columns(status=pl.lit("not converged"))
    assert unlike(stored.with_columns(regret=pl.col("regret") + 1), stored, SETTINGS) == []
    trusted = records(range(3))
    assert unlike(trusted.with_columns(regret=pl.col("regret") * 1.001), trusted, SETTINGS) == []


def test_of_networks_means_are_compared_and_not_rows():
    """Other noise in every row is no difference; a shift of all rows is, and so is another setting."""
    stored, again = records(range(8)), records(range(8), salt=1)
    assert unlike(again, stored, SETTINGS, by_row=False) == []
    assert unlike(again, stored, SETTINGS)
    shifted = again.with_columns(regret=pl.col("regret") + 0.5)
    (found,) = unlike(shifted, stored, SETTINGS, by_row=False)
    assert found.startswith("regret is 5.")
    assert found.endswith("means over 24 rows")
    other = again.with_columns(pairs=pl.col("pairs") + 1)
    assert any(each.startswith("pairs is") for each in unlike(other, stored, SETTINGS, by_row=False))
    half = stored.with_columns(status=pl.when(pl.col("seed") < 4).then(pl.lit("ok")).otherwise(pl.lit("not converged")))
    assert unlike(half, stored, SETTINGS, by_row=False) == []
    none = stored.with_columns(regret=pl.lit(float("nan"), stored["regret"].dtype))
    assert any(each.endswith("rows have a number, and not 24") for each in unlike(none, stored, SETTINGS, by_row=False))
    assert unlike(none, none, SETTINGS, by_row=False) == []
    first = pl.when(pl.int_range(pl.len()) == 0).then(float("nan")).otherwise(pl.col("regret"))
    assert unlike(stored.with_columns(regret=first), stored, SETTINGS, by_row=False) == []
