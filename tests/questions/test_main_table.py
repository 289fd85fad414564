"""The main table's shape, its paired differences on made-up records, and what an arm costs by hand."""

import numpy as np
import polars as pl
import pytest

from experiments.questions import main_table
from experiments.questions.main_table_costs import Cost
from gvgap_jax.online import Sizes

WINS = {"SFT": 0.3, "DPO": 0.5, "DPO, 2 epochs": 0.52, "online DPO from SFT": 0.56, "online DPO from DPO": 0.59}
WINS |= {"online DPO, soft labels": 0.56, "online DPO, iterated": 0.55, "online DPO, iterated, soft labels": 0.6}
WINS |= {"RLHF, RLOO": 0.6, "RLHF, PPO": 0.4, "RLHF, exact": 0.6, "best of n": 0.7, "DPO, optimum": 0.62}
WINS |= {"RLHF, optimum": 0.66, "restricted MLE, optimum": 0.66}


def made_up_tables(seeds: int = 32) -> pl.DataFrame:
    """Win rates as above with noise that all arms of a seed share."""
    noise = np.random.default_rng(0).normal(scale=0.1, size=seeds)
    columns = {"horizon": 4, "pairs": 1280, "gold_order": 2, "verifier_order": 2, "beta": 1.0}
    return pl.DataFrame(
        [
            columns
            | {"seed": seed}
            | {f"{arm}: {name}": wins + noise[seed] for arm, wins in WINS.items() for name in main_table.MEASURED}
            for seed in range(seeds)
        ]
    )


def test_one_row_an_arm():
    table = main_table.by_arm(made_up_tables(2))
    assert table["arm"].unique(maintain_order=True).to_list() == list(WINS)
    assert set(table.columns) == {
        "arm",
        "horizon",
        "pairs",
        "gold_order",
        "verifier_order",
        "beta",
        "seed",
        *main_table.MEASURED,
    }
    assert len(table) == 2 * len(WINS)


def test_differences_are_paired_by_seed():
    found = {finding.claim: finding for finding in main_table.findings({"tables": made_up_tables()})}
    gains = {
        claim.split("win rate of ")[1].split(", 1,280")[0]: found[claim] for claim in found if "less that" in claim
    }
    online = gains["online DPO from SFT less that of DPO"]
    assert online.interval.estimate == pytest.approx(6)
    assert online.interval.high - online.interval.low < 1e-9  # the noise that arms share is gone
    assert online.verdict == "supported"
    assert gains["RLHF, PPO less that of DPO"].verdict == "contradicted"
    (control,) = (finding for finding in found.values() if finding.control)
    assert control.verdict == "supported"


def test_a_control_that_fails_is_seen():
    tables = made_up_tables().with_columns(pl.col("restricted MLE, optimum: win_rate") + 0.01)
    (control,) = (finding for finding in main_table.findings({"tables": tables}) if finding.control)
    assert control.verdict == "contradicted"


def test_no_nan_hides_in_a_largest_difference():
    lost = (
        pl.when(pl.col("seed") == 0, pl.col("pairs") == 320).then(np.nan).otherwise(pl.col("RLHF, optimum: win_rate"))
    )
    tables = pl.concat([made_up_tables(), made_up_tables().with_columns(pairs=pl.lit(320))], how="vertical_relaxed")
    found = main_table.findings({"tables": tables.with_columns(lost.alias("RLHF, optimum: win_rate"))})
    (control,) = (finding for finding in found if finding.control)
    assert (control.interval.seeds, control.interval.failed) == (31, 1)


def test_costs_by_hand():
    parameters, verifier, tokens = 10, 3, 4
    dpo = Cost.of_dpo(pairs=5, epochs=2)
    assert dpo.flops(parameters, verifier, tokens) == 5 * 2 * tokens * parameters * (2 + 2 * 6)
    reward = Cost.of_reward_model(pairs=5)
    assert reward.flops(parameters, verifier, tokens) == 5 * 2 * tokens * verifier * 6
    drawn = Cost.of_samples(7)
    assert drawn.flops(parameters, verifier, tokens) == 7 * tokens * 2 * (parameters + verifier)
    assert (dpo + reward + drawn).drawn == 7
    assert (dpo + reward).flops(1, 1, 1) == dpo.flops(1, 1, 1) + reward.flops(1, 1, 1)
    sizes = Sizes(rounds=3, prompts=2, samples=4, steps=5)
    assert Cost.of_steps(sizes).flops(1, 1, 1) == 24 * (2 + 5 * 6)
    assert Cost.of_passes(5, 3, on_rewards=True).flops(0, 1, 1) == 6 * 10 * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"pairs": 79}, "a batch of 64"), ({"candidates": 1}, "at least 2"), ({"beta": -1.0}, "beta must be positive")],
)
def test_tables_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        main_table.Config(**settings)
