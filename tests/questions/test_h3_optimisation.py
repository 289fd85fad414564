"""Optimisation and prompts: which prompts have pairs, and the statistics on made-up records."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import polars as pl
import pytest

from experiments.questions import h3_optimisation as experiment
from gvgap_jax import TokenTree
from gvgap_jax.optimize import minimise

SEEDS = 32


@pytest.mark.parametrize(("vocabulary", "length"), [(2, 1), (3, 1), (3, 2), (2, 3)])
def test_prompts_without_pairs_are_those_whose_tokens_sum_to_a_multiple_of_the_vocabulary(vocabulary, length):
    found = experiment.with_pairs(TokenTree(vocabulary, 2, length)).tolist()
    covered = [sum(tokens) % vocabulary != 0 for tokens in itertools.product(range(vocabulary), repeat=length)]
    assert found == pytest.approx([here / sum(covered) for here in covered])
    assert 0 < sum(covered) < len(covered)


def test_a_number_of_steps_may_be_an_array():
    def descend(steps):
        return minimise(lambda x: jnp.sum((x - 3.0) ** 2), jnp.zeros(2), optax.sgd(0.1), steps).params

    for steps, found in zip((3, 7), jax.jit(jax.vmap(descend))(jnp.array([3, 7])), strict=True):
        np.testing.assert_allclose(found, 3 * (1 - 0.8**steps))


def records(gaps=(0.4, 0.3, 0.2), at_optimum=0.25, more_prompts=0.0, control=0.0):
    """RLHF's regret is 0.1, DPO's so much more after 25, 50 and 2,000 steps and at the optimum."""
    common = {
        "horizon": 3, "prompt_length": 2, "gold_order": 2, "policy_order": 4, "pairs": 512, "beta": 1.0,
        "temperature": 1.0, "reference_scale": 0.0, "penalty": 1.0,
    }  # fmt: skip
    rows = []
    for seed, (steps, gap) in itertools.product(range(SEEDS), zip((25, 50, 2000, 0), (*gaps, at_optimum), strict=True)):
        noise = 0.01 * seed
        row = common | {"seed": seed, "steps": steps, "solver": "newton" if steps == 0 else "adam"}
        arms = [("DPO", 4, 0, gap + noise, 0.0), ("RLHF", 2, 0, 0.0, 0.0), ("RLHF", 2, 1, 0.0, more_prompts)]
        if steps == 0:
            arms.append(("RLHF", 4, 1, gap + noise + control, 0.0))
        for arm, order, augmented, extra, fall in arms:
            regrets = {name: 0.1 + extra - fall for name in ("regret_without_pairs", "regret_all")}
            row_ = row | {"arm": arm, "reward_order": order, "augmented": augmented, "regret_with_pairs": 0.1 + extra}
            rows.append(row_ | regrets)
    return {"fits": pl.DataFrame(rows)}


def by_claim(found, words):
    (row,) = (row for row in found if words in row.claim)
    return row


def test_findings_recover_known_effects():
    found = experiment.findings(records(more_prompts=0.05))
    noise = 0.01 * (SEEDS - 1) / 2
    assert by_claim(found, "to its end in both arms").interval.estimate == pytest.approx(0.25 + noise)
    share = by_claim(found, "share of the gap of gradient descent (2,000 steps")
    assert share.interval.estimate == pytest.approx((0.25 + noise) / (0.2 + noise))
    assert share.verdict == "supported"
    assert by_claim(found, "50 steps instead of 25: fall").interval.estimate == pytest.approx(0.1)
    assert by_claim(found, "gradient descent, 2,000 steps: regret").interval.estimate == pytest.approx(0.2 + noise)
    augmentation = by_claim(found, "fall of regret, all prompts")
    assert augmentation.interval.estimate == pytest.approx(0.05)
    assert augmentation.verdict == "different: above"
    assert [row.verdict for row in found if row.control] == ["supported", "supported"]


def test_a_gap_that_optimisation_made_is_gone_at_the_optimum():
    found = experiment.findings(records(at_optimum=-0.01 * (SEEDS - 1) / 2))
    assert by_claim(found, "to its end in both arms").verdict == "undecided"
    assert by_claim(found, "share of the gap").verdict == "contradicted"


def test_equal_classes_that_end_apart_fail_the_control():
    assert not experiment.findings(records(control=0.01))[-1].passes


def test_transformers_trade_prompts_and_have_no_certified_optimum():
    fits = records(more_prompts=0.05)["fits"].with_columns(solver=pl.lit("adam"))
    moved = pl.col("regret_with_pairs") + 0.02 * pl.col("augmented") * (pl.col("reward_order") == 2)
    found = experiment.findings({"fits": fits.with_columns(regret_with_pairs=moved)})
    traded = by_claim(found, "fall of regret, prompts with pairs")
    assert traded.interval.estimate == pytest.approx(-0.02)
    assert not traded.control
    assert [row.bound for row in found if row.control] == [experiment.EQUAL["adam"]]


def test_findings_of_a_single_number_of_steps():
    made_up = records()["fits"].filter(pl.col("steps").is_in([0, 50]))
    found = experiment.findings({"fits": made_up})
    assert not any("instead of" in row.claim and "steps" in row.claim for row in found)
    assert by_claim(found, "share of the gap of gradient descent (50 steps").interval.seeds == SEEDS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt_length": 0}, "prompt_length must be at least 1"),
        ({"gold_order": 3, "policy_order": 2}, "policy_order must be between gold_order, 3, and the 5"),
        ({"policy_order": 6}, "policy_order must be between"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"pairs": 4}, "at least 5"),
        ({"vocabulary": 1}, "vocabulary must be at least 2"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        experiment.Config(**settings)
