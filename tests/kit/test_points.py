"""Points: what is computed apart, what is told once, and what is refused."""

from dataclasses import dataclass
from types import SimpleNamespace

import matplotlib.pyplot as plt
import polars as pl
import pytest
from matplotlib.figure import Figure

from experiments.kit import points
from experiments.kit.findings import Finding, Question
from experiments.kit.intervals import estimate, mean
from experiments.kit.per_seed import of_values

SEEDS = 4


@dataclass(frozen=True)
class Config:
    """Settings of one point."""

    pairs: int = 64
    beta: float = 1.0
    labels: str = "gold"
    vocabulary: int = 3


def table(*settings: dict, **columns) -> pl.DataFrame:
    """A row for every seed of these settings; its value is their number and the seed's."""
    rows = [
        {"seed": seed, "value": 10.0 * number + seed, **each} for number, each in enumerate(settings)
        for seed in range(SEEDS)
    ]  # fmt: skip
    return pl.DataFrame(rows).with_columns(status=pl.lit("ok"), **columns)


def findings(records):
    """The mean of every table, and a control."""
    means = [
        Finding(title, estimate(rows, pl.col("value").mean()), "", 0.0, "above") for title, rows in records.items()
    ]
    return [*means, Finding("control", mean(of_values([0.0] * SEEDS)), "", 0.0, "at", control=True, margin=1.0)]


def question(*axes: str, **changes) -> SimpleNamespace:
    parts = {"Config": Config, "QUESTION": Question("", "", "", axes=axes), "findings": findings}
    return SimpleNamespace(**parts | changes)


def claims(module, **records) -> list[str]:
    return [each.claim for each in points.findings(module, records) if not each.control]


def test_a_field_that_findings_do_not_take_themselves_is_told_apart_and_the_default_comes_first():
    fits = table({"beta": 0.25, "pairs": 8}, {"beta": 1.0, "pairs": 8}, {"beta": 4.0, "pairs": 16})
    assert claims(question("beta", "pairs"), fits=fits) == ["fits"]
    assert claims(question("pairs"), fits=fits) == ["beta 1: fits", "beta 0.25: fits", "beta 4: fits"]
    found = points.findings(question("pairs"), {"fits": fits})
    assert [each.primary for each in found] == [True, *5 * [False]]
    assert [each.level for each in found if not each.control] == [0.95, 0.975, 0.975]
    assert [each.estimate.at().estimate for each in found if not each.control] == [11.5, 1.5, 21.5]


def test_points_of_zipped_axes_are_the_combinations_that_occur():
    fits = table({"beta": 0.25, "pairs": 8}, {"beta": 4.0, "pairs": 16})
    assert claims(question(), fits=fits) == ["pairs 8, beta 0.25: fits", "pairs 16, beta 4: fits"]


def test_rows_that_do_not_depend_on_a_field_belong_to_all_of_its_points_and_are_told_once():
    fits = table({"beta": 0.25}, {"beta": 1.0})
    limits = table({"beta": None}, beta=pl.lit(None, pl.Float64))
    assert claims(question(), fits=fits, limits=limits) == ["beta 1: fits", "limits", "beta 0.25: fits"]
    both = {"fits": fits, "limits": limits}
    assert [point.records["limits"].height for point in points.points(question(), both)] == [SEEDS, SEEDS]


def test_tables_with_fields_of_their_own_are_told_apart_by_those():
    tokens = table({"vocabulary": 3}, {"vocabulary": 4}, beta=pl.lit(None, pl.Float64))
    cycles = table({"beta": 0.5}, {"beta": 1.0}, vocabulary=pl.lit(None, pl.Int64))
    wanted = ["vocabulary 3: tokens", "beta 1: cycles", "vocabulary 4: tokens", "beta 0.5: cycles"]
    assert claims(question(), tokens=tokens, cycles=cycles) == wanted
    assert len(points.points(question(), {"tokens": tokens, "cycles": cycles})) == 4


def test_what_a_finding_rests_on_is_named_unless_it_is_known_not_to_matter():
    fits = table({"beta": 0.25}, {"beta": 1.0})
    named = [each.claim for each in points.findings(question(), {"fits": fits}) if each.control]
    assert named == ["beta 1: control", "beta 0.25: control"]  # numbers that are there already say nothing of records
    empty = question(findings=lambda records: findings({"none": records["fits"].clear()}))
    assert claims(empty, fits=fits) == ["beta 1: none", "beta 0.25: none"]


def test_a_setting_is_the_same_in_single_and_in_double_precision():
    settings = [{"beta": 0.1}, {"beta": 0.3}]
    fits = table(*settings).with_columns(pl.col("beta").cast(pl.Float32))
    assert claims(question(), fits=fits, limits=table(*settings)) == [
        "beta 0.1: fits", "beta 0.1: limits", "beta 0.3: fits", "beta 0.3: limits",
    ]  # fmt: skip
    default = question(
        Config=dataclass(frozen=True)(type("Config", (), {"__annotations__": {"beta": float}, "beta": 0.3}))
    )
    assert claims(default, fits=fits)[0] == "beta 0.3: fits"


def test_a_point_without_rows_of_a_table_is_as_where_it_is_run_alone():
    arms, fits = table({"vocabulary": 2}, {"vocabulary": 3}), table({"vocabulary": 3})
    assert claims(question(), arms=arms, fits=fits) == [
        "vocabulary 3: arms",
        "vocabulary 3: fits",
        "vocabulary 2: arms",
    ]
    fits = table({"pairs": 8, "beta": 0.25}, {"pairs": 16, "beta": 1.0})
    arms = table({"pairs": 16}, {"pairs": 32}, beta=pl.lit(None, pl.Float64))
    wanted = ["pairs 8, beta 0.25: fits", "pairs 16, beta 1: fits", "pairs 16: arms", "pairs 32: arms"]
    assert claims(question(), fits=fits, arms=arms) == wanted


def test_settings_that_differ_between_seeds_are_refused():
    chosen = table({"pairs": 8}).with_columns(beta=pl.col("seed") / 2)
    with pytest.raises(ValueError, match="beta 1: the table 'fits' has records of 1 of its 4 seeds there"):
        points.findings(question(), {"fits": chosen})


def test_every_point_has_a_figure_that_names_it():
    def draw(records):
        figure = plt.figure(figsize=(2, 1))
        figure.suptitle("regret")
        return {"fits": figure, "numbers": records["fits"].select(pl.col("value").mean())}

    fits = table({"labels": "gold", "beta": 0.25}, {"labels": "coin", "beta": 0.25})
    drawn = list(points.figures(question(draw=draw), {"fits": fits}))
    plt.close("all")
    names = [(title, each.get_suptitle() if isinstance(each, Figure) else each.item()) for title, each in drawn]
    assert names == [
        ("fits_labelsgold", "labels gold: regret"), ("numbers_labelsgold", 1.5),
        ("fits_labelscoin", "labels coin: regret"), ("numbers_labelscoin", 11.5),
    ]  # fmt: skip
    ((title, _),) = points.figures(question("labels", draw=lambda _: {"one": plt.figure()}), {"fits": fits})
    plt.close("all")
    assert title == "one"


def test_a_reference_policy_is_named_by_what_it_is():
    assert points.words({"gold_order": 2, "beta": 0.25, "reference_scale": 0.0}) == (
        "gold order 2, beta 0.25, uniform reference"
    )
    assert points.words({"reference_scale": 1.5}) == "reference of s.d. 1.5"
