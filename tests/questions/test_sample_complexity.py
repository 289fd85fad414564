"""Regret against the number of pairs: ratios that made-up records hold, and records of the tiny grid."""

import shutil

import numpy as np
import polars as pl
import pytest

from experiments.cli import main as command
from experiments.questions import sample_complexity
from gvgap_jax.sweep import load
from tests.questions.conftest import compiled_fast


def made_up_fits(dpo_needs: float):
    """Regret 1/n for RLHF and ``dpo_needs``/n for DPO, in every cell of a horizon-6 sweep with 32 seeds."""
    rows = [
        {
            "arm": arm, "horizon": 6, "gold_order": 2, "order": order, "pairs": pairs, "seed": seed, "penalty": 1.0,
            "regret": (dpo_needs if arm == "DPO" else 1.0) * (1 + seed) / pairs, "held_out_loss": abs(order - 2.0),
        }
        for arm, order in (("DPO", 6), ("RLHF", 1), ("RLHF", 2), ("restricted MLE", 2))
        for pairs in (64, 512, 4096)
        for seed in range(32)
    ]  # fmt: skip
    return pl.DataFrame(rows)


@pytest.mark.parametrize("times", [1.0, 3.0, 20.0])
def test_pair_ratio_recovers_a_known_ratio(times):
    interval = sample_complexity.pair_ratio(made_up_fits(times), "gold").at()
    assert interval.estimate == pytest.approx(times)
    assert sample_complexity.pair_ratio(made_up_fits(times), "held out").at().estimate == pytest.approx(times)
    ratio = sample_complexity.regret_ratio(made_up_fits(times).filter(pairs=512)).at()
    assert ratio.estimate == pytest.approx(1 / times)


def test_a_fit_without_a_number_is_a_failed_seed():
    fits = made_up_fits(2.0).with_columns(
        pl.when((pl.col("seed") == 1) & (pl.col("arm") == "DPO"))
        .then(np.nan)
        .otherwise(pl.col("regret"))
        .alias("regret")
    )
    interval = sample_complexity.pair_ratio(fits, "gold").at()
    assert (interval.seeds, interval.failed) == (31, 1)


@pytest.mark.slow("sample_complexity")
def test_lost_chunk_is_computed_again_to_the_same_bits(records, tmp_path):
    folder = shutil.copytree(records("sample_complexity"), tmp_path / "copy")
    before = load(folder, "fits")
    lost = sorted(folder.glob("fits-*.parquet"))[0]
    lost.unlink()
    with compiled_fast():  # as the records were: another compilation would round otherwise
        command.main(["run", "sample_complexity", "--preset", "tiny", "--out", str(folder)])
    assert load(folder, "fits").equals(before)


@pytest.mark.slow("sample_complexity")
def test_seeds_are_paired_across_arms(records):
    fits = load(records("sample_complexity"), "fits").filter(pl.col("gold_order") == pl.col("order"))
    # Two penalties may tie on the one held-out pair of the smallest data sets: compare equal problems.
    cell = ["gold_order", "pairs", "seed", "penalty"]
    both = fits.filter(arm="RLHF").join(fits.filter(arm="restricted MLE"), on=cell)
    assert len(both) >= len(fits.filter(arm="RLHF")) - 3
    np.testing.assert_allclose(both["regret"], both["regret_right"], rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "beta must be positive"),
        ({"temperature": -1.0}, "temperature must be positive"),
        ({"pairs": 2}, "at least 5"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        sample_complexity.Config(**settings)
