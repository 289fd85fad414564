"""One number a seed: which rows count, and frames that are refused."""

import numpy as np
import polars as pl
import pytest

from experiments.kit import per_seed
from experiments.kit.per_seed import by_seed, curves_by_seed, each_seed, paired, side_by_side, together

VALUE = pl.col("value")


def rows(status=None, **columns):
    """Two numbers of pairs for each of three seeds, in no order; ``status`` of the rows by (seed, pairs)."""
    points = [(2, 8), (0, 4), (1, 4), (0, 8), (2, 4), (1, 8)]
    frame = pl.DataFrame({"seed": [s for s, _ in points], "pairs": [n for _, n in points]})
    words = pl.Series([(status or {}).get(point, "ok") for point in points])
    return frame.with_columns(value=10.0 * pl.col("seed") + pl.col("pairs"), status=words).with_columns(**columns)


def test_numbers_come_in_the_order_of_the_seeds():
    found = by_seed(rows(), VALUE.max())
    np.testing.assert_array_equal(found.seeds, [0, 1, 2])
    np.testing.assert_array_equal(found.values, [8, 18, 28])
    assert (found.rows, found.excluded, found.axes) == (6, 0, {"pairs": (4, 8)})


def test_what_a_fit_chose_is_no_axis_and_what_was_asked_for_is_one():
    asked = rows(penalty=pl.col("pairs") / 4)
    assert by_seed(asked, VALUE.max()).axes == {"pairs": (4, 8), "penalty": (1, 2)}
    chosen = rows(penalty=pl.col("pairs") / 4 + pl.col("seed"), steps=pl.col("seed") * pl.col("pairs"))
    assert by_seed(chosen, VALUE.max()).axes == {"pairs": (4, 8)}


def test_several_numbers_a_seed_are_columns():
    np.testing.assert_array_equal(by_seed(rows(), VALUE.min(), VALUE.sum()).values, [[4, 12], [14, 32], [24, 52]])


def test_curves_have_a_row_a_seed_and_a_column_a_value():
    at, found = curves_by_seed(rows(), "pairs", 2 * VALUE.mean())
    np.testing.assert_array_equal(at, [4, 8])
    np.testing.assert_array_equal(found.values, [[8, 16], [28, 36], [48, 56]])
    assert found.axes == {}


@pytest.mark.parametrize("status", ["not converged", "not finite", "excluded"])
def test_a_seed_counts_with_all_of_its_rows_or_not_at_all(status):
    frame = rows({(1, 8): status})
    found = by_seed(frame, VALUE.max())
    np.testing.assert_array_equal(found.values, [8, np.nan, 28])
    assert (found.rows, found.excluded) == (6, 1)
    np.testing.assert_array_equal(by_seed(frame, VALUE.max(), points=True).values, [8, 14, 28])
    np.testing.assert_array_equal(each_seed(frame, lambda here: here["value"].max()).values, [8, np.nan, 28])
    _, curves = curves_by_seed(frame, "pairs", VALUE.mean())
    np.testing.assert_array_equal(curves.values, [[4, 8], [14, np.nan], [24, 28]])
    assert (curves.rows, curves.excluded) == (6, 1)
    np.testing.assert_array_equal(frame.select(per_seed.usable(VALUE))["value"].is_nan(), frame["status"] != "ok")


def test_rows_are_chosen_by_what_was_measured_of_them():
    found = by_seed(rows({(0, 8): "not finite"}), VALUE.sum(), where=VALUE > 15)
    np.testing.assert_array_equal(found.values, [np.nan, 18, 52])
    assert (found.rows, found.excluded) == (4, 1)  # of what is excluded nobody knows what was measured


def test_a_pair_is_excluded_where_either_row_is():
    one, other = rows(), rows({(2, 4): "not converged"})
    both = paired(one, other, ["seed", "pairs"], "_other")
    np.testing.assert_array_equal(by_seed(both, (VALUE - pl.col("value_other")).mean()).values, [0, 0, np.nan])
    both = paired(rows({(0, 4): "not finite"}), other, ["seed", "pairs"], "_other")
    assert by_seed(both, VALUE.mean()).excluded == 2


def test_arms_stand_side_by_side_with_the_status_of_each():
    arms = pl.concat([rows({(2, 4): "not finite"}, arm=pl.lit("a")), rows(arm=pl.lit("b"), value=-VALUE)])
    both = side_by_side(arms, ("a", "b"), "value", ["seed", "pairs"])
    np.testing.assert_array_equal(by_seed(both, (pl.col("a") + pl.col("b")).sum()).values, [0, 0, np.nan])
    np.testing.assert_array_equal(by_seed(both.select("b", "seed"), pl.col("b").sum()).values, [-12, -32, -52])


def test_a_difference_is_within_each_seed_and_counts_both():
    less = by_seed(rows({(1, 4): "not finite"}), VALUE.max()) - by_seed(rows(), VALUE.min())
    np.testing.assert_array_equal(less.values, [4, np.nan, 4])
    assert (less.rows, less.excluded, less.axes) == (12, 1, {"pairs": (4, 8)})
    np.testing.assert_array_equal(less.map(np.abs).seeds, [0, 1, 2])
    three = together(lambda a, b, c: a + b * c, *3 * [by_seed(rows().filter(pairs=4), VALUE.max())])
    np.testing.assert_array_equal(three.values, [4 + 16, 14 + 196, 24 + 576])


WITHOUT_A_ROW = rows().filter(~((pl.col("seed") == 1) & (pl.col("pairs") == 8)))
WITHOUT_A_SEED = rows().filter(pl.col("seed") != 1)
SHORT = {  # one row less of every seed, each at another place: as many rows as there should be of two values
    "seed": [0, 0, 1, 1, 2, 2], "pairs": [4, 8, 8, 16, 4, 16], "value": 6 * [1.0],
}  # fmt: skip


@pytest.mark.parametrize(
    "scrambled",
    [
        lambda: by_seed(WITHOUT_A_ROW, VALUE.mean()),
        lambda: each_seed(WITHOUT_A_ROW, lambda here: 0.0),
        lambda: curves_by_seed(WITHOUT_A_ROW, "pairs", VALUE.mean()),
        lambda: curves_by_seed(pl.DataFrame(SHORT), "pairs", VALUE.mean()),
        lambda: curves_by_seed(pl.concat([rows(), rows().filter(seed=1, pairs=8)]), "pairs", VALUE.mean()),
        lambda: by_seed(rows(), VALUE.mean()) - by_seed(WITHOUT_A_SEED, VALUE.mean()),
        lambda: paired(rows(), WITHOUT_A_ROW, ["seed", "pairs"], "_other"),
        lambda: paired(WITHOUT_A_ROW, rows(), ["seed", "pairs"], "_other"),
        lambda: paired(rows(), WITHOUT_A_SEED, ["seed", "pairs"], "_other", shared=True),
        lambda: side_by_side(
            pl.concat([rows(arm=pl.lit("a")), WITHOUT_A_ROW.with_columns(arm=pl.lit("b"))]),
            ("a", "b"),
            "value",
            ["seed", "pairs"],
        ),
    ],
)
def test_frames_with_missing_rows_are_refused(scrambled):
    with pytest.raises(ValueError, match=r"^records are missing, of seed .*Run the same grid again\.$"):
        scrambled()


def test_the_missing_seeds_are_named():
    with pytest.raises(ValueError, match="of seed 1: every seed"):
        by_seed(rows(), VALUE.mean()) - by_seed(WITHOUT_A_SEED, VALUE.mean())
    with pytest.raises(ValueError, match="of seed 1: every seed"):
        curves_by_seed(WITHOUT_A_ROW, "pairs", VALUE.mean())


def test_a_row_may_be_beside_several_where_it_is_shared():
    seeds = pl.DataFrame({"seed": [0, 1, 2], "size": [1.0, 2, 3], "status": ["ok", "not finite", "ok"]})
    both = paired(rows(), seeds, ["seed"], "_seed", shared=True)
    np.testing.assert_array_equal(by_seed(both, pl.col("size").sum()).values, [2, np.nan, 6])


def test_no_rows_are_no_seeds():
    assert len(by_seed(rows().clear(), VALUE.mean()).seeds) == 0
