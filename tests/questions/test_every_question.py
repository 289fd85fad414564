"""The experiments' statistics, command line, records and figures, on tiny settings."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy import stats

from experiments.cli import arguments, runner
from experiments.cli import main as command
from experiments.kit import findings
from experiments.questions import equivalence, questions, sample_complexity
from gvgap_jax.sweep import Grid, load, make_plan
from tests.questions.tiny import TINY


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """A folder of records of every experiment, made through the command line."""
    folder = tmp_path_factory.mktemp("records")
    for name, options in TINY.items():
        command.main(["run", name, "--out", str(folder / name), *options])
    return folder


def fails_with(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


def test_interval_is_students_t():
    values = [1.0, 2.0, 4.0, 8.0]
    interval = findings.over_seeds(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert interval.estimate == pytest.approx(3.75)
    assert (interval.low, interval.high) == pytest.approx((low, high))


def test_failed_seeds_are_counted_and_not_averaged():
    interval = findings.over_seeds([1.0, np.nan, 3.0, np.inf])
    assert interval.estimate == 2.0
    assert (interval.seeds, interval.failed) == (2, 2)


def test_ratio_is_geometric():
    interval = findings.ratio_over_seeds(np.log([2.0, 8.0]))
    assert interval.estimate == pytest.approx(4.0)
    assert interval.low * interval.high == pytest.approx(16.0)


def test_numbers_of_each_seed_come_in_the_order_of_the_seeds():
    rows = pl.DataFrame({"seed": [2, 0, 1, 0, 2, 1], "n": [8, 4, 4, 8, 4, 8], "value": [6.0, 1, np.nan, 3, 4, 5]})
    np.testing.assert_array_equal(findings.by_seed(rows, pl.col("value").max()), [3, 5, 6])
    sizes, curves = findings.curves_by_seed(rows, "n", 2 * pl.col("value").mean())
    np.testing.assert_array_equal(sizes, [4, 8])
    np.testing.assert_array_equal(curves, [[2, 6], [np.nan, 10], [8, 12]])


def test_what_did_not_converge_is_a_failed_seed():
    rows = pl.DataFrame({"seed": [0, 1, 2], "value": [1.0, 2.0, 3.0], "converged": [True, False, True]})
    values = findings.by_seed(rows, findings.where_converged(pl.col("value")).mean())
    assert findings.over_seeds(values)[-2:] == (2, 1)


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
    interval = findings.Interval((low + high) / 2, low, high, 5)
    assert findings.Finding("claim", interval, "times", 1.0, direction).verdict == verdict


def made_up_fits(dpo_needs: float):
    """Regret 1/n for RLHF and ``dpo_needs``/n for DPO, in every cell of a horizon-6 sweep with two seeds."""
    rows = [
        {
            "arm": arm, "horizon": 6, "gold_order": 2, "order": order, "pairs": pairs, "seed": seed, "penalty": 1.0,
            "regret": (dpo_needs if arm == "DPO" else 1.0) * (1 + seed) / pairs, "held_out_loss": abs(order - 2.0),
        }
        for arm, order in (("DPO", 6), ("RLHF", 1), ("RLHF", 2), ("restricted MLE", 2))
        for pairs in (64, 512, 4096)
        for seed in (0, 1)
    ]  # fmt: skip
    return pl.DataFrame(rows)


@pytest.mark.parametrize("times", [1.0, 3.0, 20.0])
def test_pair_ratio_recovers_a_known_ratio(times):
    interval = sample_complexity.pair_ratio(made_up_fits(times), "gold")
    assert interval.estimate == pytest.approx(times)
    assert sample_complexity.pair_ratio(made_up_fits(times), "held out") == interval
    assert sample_complexity.regret_ratio(made_up_fits(times).filter(pairs=512)).estimate == pytest.approx(1 / times)


def test_a_fit_without_a_number_is_a_failed_seed():
    fits = made_up_fits(2.0).with_columns(
        pl.when((pl.col("seed") == 1) & (pl.col("arm") == "DPO"))
        .then(np.nan)
        .otherwise(pl.col("regret"))
        .alias("regret")
    )
    interval = sample_complexity.pair_ratio(fits, "gold")
    assert (interval.seeds, interval.failed) == (1, 1)


@pytest.mark.parametrize("name", list(questions()))
def test_records_are_tidy_and_complete(records, name):
    module = questions()[name]
    grid = json.loads((records / name / "manifest.json").read_text())["grid"]
    plan = make_plan(name, module, Grid(grid["axes"], tuple(grid["zipped"]), grid["seeds"]))
    frames = {chunk.batch.table: load(records / name, chunk.batch.table) for chunk in plan.chunks}
    for table, frame in frames.items():
        assert len(frame) == sum(chunk.size for chunk in plan.chunks if chunk.batch.table == table)
        assert frame.is_duplicated().sum() == 0
        assert set(frame["status"]) == {"ok"}
    assert module.findings(frames)


def test_manifest_names_what_made_the_records(records):
    manifest = json.loads((records / "equivalence" / "manifest.json").read_text())
    assert {
        "experiment",
        "meaning",
        "grid",
        "chunks",
        "versions",
        "device",
        "devices",
        "revision",
        "python",
    } <= manifest.keys()


def test_a_second_run_computes_nothing_and_changes_nothing(records, capsys):
    before = load(records / "equivalence", "distances")
    command.main(["run", "equivalence", "--out", str(records / "equivalence"), *TINY["equivalence"]])
    assert "0 cells computed" in " ".join(capsys.readouterr().out.split())
    assert load(records / "equivalence", "distances").equals(before)


def test_lost_chunk_is_computed_again_to_the_same_bits(records):
    folder = records / "sample_complexity"
    before = load(folder, "fits")
    lost = sorted(folder.glob("fits-*.parquet"))[0]
    lost.unlink()
    command.main(["run", "sample_complexity", "--out", str(folder), *TINY["sample_complexity"]])
    assert load(folder, "fits").equals(before)


def test_equal_classes_end_at_the_same_policy(records):
    distances = load(records / "equivalence", "distances")
    same = distances.filter(pl.col("policy_order") == pl.col("verifier_order"))
    apart = distances.filter(pl.col("policy_order") != pl.col("verifier_order"))
    assert same["kl"].max() < 1e-9
    assert apart["kl"].min() > 1e-3


def test_with_verifiers_as_complex_as_policies_only_the_penalty_is_left_between_the_methods(records):
    gaps = load(records / "h6c_verifier_order", "gaps")
    tables, additive = gaps.filter(gold_order=2), gaps.filter(gold_order=1)
    np.testing.assert_allclose(tables["dpo_dimension"], tables["rlhf_dimension"], rtol=1e-9)
    assert (additive["dpo_dimension"] / additive["rlhf_dimension"]).min() > 1.2
    assert np.abs(np.log(gaps["restricted_regret"] / gaps["rlhf_regret"])).max() < 1e-2
    assert np.abs(np.log(tables["dpo_regret"] / tables["rlhf_regret"])).min() > 1e-2


def test_seeds_are_paired_across_arms(records):
    fits = load(records / "sample_complexity", "fits").filter(pl.col("gold_order") == pl.col("order"))
    # Two penalties may tie on the one held-out pair of the smallest data sets: compare equal problems.
    cell = ["gold_order", "pairs", "seed", "penalty"]
    both = fits.filter(arm="RLHF").join(fits.filter(arm="restricted MLE"), on=cell)
    assert len(both) >= len(fits.filter(arm="RLHF")) - 3
    np.testing.assert_allclose(both["regret"], both["regret_right"], rtol=1e-3)


@pytest.mark.parametrize("name", list(questions()))
def test_figures_are_drawn_from_records_alone(records, name, tmp_path, monkeypatch):
    monkeypatch.setattr(questions()[name], "run", None)
    paths = command.draw(name, records / name, tmp_path)
    assert {path.suffix for path in paths} - {".csv"} == {".png", ".pdf"}
    assert all(path.stat().st_size > 5000 for path in paths if path.suffix != ".csv")


def test_list_names_every_experiment(capsys):
    command.main(["list"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in questions())


def test_presets_change_the_defaults():
    assert arguments.preset_in(["run", "equivalence", "--preset", "paper"]) == "paper"
    assert arguments.preset_in(["run", "equivalence", "--preset=full"]) == "full"
    assert arguments.preset_in(["run", "equivalence"]) == "quick"
    options = arguments.options_of("equivalence", equivalence, "full")()
    assert replace(arguments.grid_of(options), axes={}) == replace(equivalence.PRESETS["full"], axes={})
    assert equivalence.PRESETS["full"].axes.items() <= arguments.grid_of(options).axes.items()


def test_unknown_experiment_names_the_nearest(capsys):
    assert "Did you mean 'equivalence'?" in fails_with(capsys, ["run", "equivalense"])


def test_unknown_field_names_the_nearest(capsys):
    assert "--seeds" in fails_with(capsys, ["run", "equivalence", "--seed", "3"])


def test_folder_of_another_configuration_is_refused(records, capsys):
    message = fails_with(capsys, ["run", "equivalence", "--out", str(records / "equivalence"), "--seeds", "3"])
    assert "another plan (seeds 2 there, 3 now" in message
    assert "Choose another --out" in message


def test_figures_without_records_say_what_to_run(capsys, tmp_path):
    assert "Run the experiment first" in fails_with(capsys, ["figures", "equivalence", "--records", str(tmp_path)])


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (sample_complexity.Config, {"beta": 0.0}, "beta must be positive"),
        (sample_complexity.Config, {"temperature": -1.0}, "temperature must be positive"),
        (sample_complexity.Config, {"pairs": 2}, "at least 5"),
        (equivalence.Config, {"penalty": 0.0}, "penalty must be positive"),
        (equivalence.Config, {"pairs": 0}, "at least 1"),
    ],
)
def test_bad_settings_are_refused_at_the_edge(config, settings, message):
    with pytest.raises(ValueError, match=message):
        config(**settings)


def test_doubtful_fits_are_reported(capsys):
    statuses = ["ok", "not converged", "not finite", "not finite"]
    runner.show("made up", [], {"fits": pl.DataFrame({"status": statuses})})
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 of 4 records of 'fits': status 'not converged'" in printed
    assert "2 of 4 records of 'fits': status 'not finite'" in printed
