"""Matched regularisation: f-DPO on every policy, and the statistics on made-up records."""

import jax
import numpy as np
import polars as pl
import pytest

from experiments.questions import h2_regularisation as experiment
from gvgap_jax import HeldOut, algorithms, policies, preferences, soft_rl, verifiers
from gvgap_jax.algorithms import Classes, Problem, Settings

KEY = jax.random.key(0)


def test_without_sampling_noise_f_dpo_with_forward_kl_is_its_optimum(tree, task):
    pairs = preferences.population(tree, task)
    policy = policies.tabular(tree, tree.conditionals(task.reference))
    local = verifiers.implicit_verifier(policy, policy, policy.init(KEY), task.beta, soft_rl.FORWARD_KL)
    settings = Settings(penalties=(0.1, 0.0), tolerance=1e-9, newton_steps=100)
    problem = Problem(task.known, pairs, HeldOut(pairs))
    fit = jax.jit(lambda: algorithms.reward_model(KEY, Classes(policy, local), problem, settings))()
    expected = soft_rl.forward_optimal_policy(task.reward, task.reference, task.beta)
    assert fit.converged
    np.testing.assert_allclose(policy.leaf_log_probs(fit.params), expected, atol=1e-6)
    assert np.abs(expected - task.optimal).max() > 0.05, "another regulariser, another optimum"


def fits(advantage: float, control: float = 0.0):
    """Gold reward 3 sqrt(KL) for DPO, and ``advantage`` more for RLHF, over four betas and three seeds."""
    arms = [("DPO", 0.0, 1.0), ("RLHF", advantage, 1.5), ("DPO, simple class", advantage + control, 1.0)]
    rows = [
        {
            "arm": arm, "regulariser": regulariser, "horizon": 4, "gold_order": 2, "pairs": 64, "temperature": 1.0,
            "reference_scale": 1.0, "beta": beta, "seed": seed, "penalty": 1.0, "kl_to_reference": (reach / beta) ** 2,
            "gold_reward": 3 * reach / beta + extra, "objective": seed + extra,
        }
        for regulariser in experiment.REGULARISERS
        for arm, extra, reach in arms
        for beta in (0.5, 1.0, 2.0, 4.0)
        for seed in range(32)
    ]  # fmt: skip
    return pl.DataFrame(rows)


@pytest.mark.parametrize("advantage", [0.0, 0.4])
def test_findings_recover_a_known_gap(advantage):
    found = experiment.findings({"fits": fits(advantage)})
    assert len(found) == 9
    for gap, frontier in zip(found[0:6:2], found[1:6:2], strict=True):
        assert gap.interval.estimate == pytest.approx(advantage)
        assert frontier.interval.estimate == pytest.approx(advantage)
    assert [row.control for row in found] == [False] * 6 + [True] * 3
    assert {row.verdict for row in found[6:]} == {"supported"}


def test_a_reward_model_of_the_policys_own_backbone_is_compared_where_there_is_one():
    own = fits(0.4).filter(arm="DPO", regulariser="reverse KL")
    own = own.with_columns(pl.lit(experiment.BACKBONE).alias("arm"), objective=pl.col("objective") + 0.1)
    found = experiment.findings({"fits": pl.concat([fits(0.4), own])})
    (row,) = (row for row in found if "own backbone" in row.claim)
    assert "reverse KL" in row.claim
    assert row.interval.estimate == pytest.approx(0.1)
    assert found[0].interval.estimate == pytest.approx(0.4)


def test_a_gap_between_equal_classes_fails_the_control():
    assert {row.passes for row in experiment.findings({"fits": fits(0.4, control=0.1)})[6:]} == {False}


def test_another_penalty_is_no_evidence_against_the_control():
    other = fits(0.4, control=0.1).with_columns(penalty=pl.col("arm").str.len_chars().cast(float))
    assert all(np.isnan(row.interval.estimate) for row in experiment.findings({"fits": other})[6:])


def test_a_fit_without_a_number_is_a_failed_seed():
    broken = pl.when((pl.col("seed") == 1) & (pl.col("arm") == "DPO")).then(np.nan)
    records = fits(0.4).with_columns(
        broken.otherwise(pl.col(name)).alias(name) for name in ("objective", "gold_reward")
    )
    gap, frontier = (row.interval for row in experiment.findings({"fits": records})[:2])
    assert (gap.seeds, gap.failed) == (frontier.seeds, frontier.failed) == (31, 1)


def test_a_single_beta_needs_no_frontier():
    found = experiment.findings({"fits": fits(0.4).filter(beta=1.0)})
    assert found[0].interval.estimate == pytest.approx(0.4)
    assert found[1].verdict.startswith("undecided")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gold_order": 5}, "at most the horizon, 4, got 5"),
        ({"beta": 0.0}, "beta must be positive"),
        ({"pairs": 2}, "at least 5"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        experiment.Config(**settings)


def test_no_regularisation_is_the_program_of_reverse_kl():
    programs = {cell.program for cell in experiment.cells(experiment.Config())}
    assert len(programs) == 2 * len(experiment.ARMS)
