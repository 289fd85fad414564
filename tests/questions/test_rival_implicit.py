"""Implicit reward models: the setting against enumeration, verdicts on made-up records."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from experiments.questions import rival_implicit, rival_implicit_worlds
from gvgap_jax import TokenTree, complexity
from gvgap_jax.tasks import make_task


def test_embeddings_have_the_cosines_they_promise():
    group, _ = rival_implicit_worlds.groups(8)
    vectors = np.asarray(rival_implicit_worlds.embeddings(group, 0.3))
    for first, second in itertools.product(range(8), repeat=2):
        expected = 1.0 if first == second else 0.3 if first % 2 == second % 2 else -0.3
        assert sum(vectors[first] * vectors[second]) == pytest.approx(expected)
    np.testing.assert_allclose(rival_implicit_worlds.embeddings(group, 0.0), np.eye(8), atol=1e-12)


def test_both_halves_have_both_groups():
    group, tested = rival_implicit_worlds.groups(4)
    assert set(zip(np.asarray(group).tolist(), np.asarray(tested).tolist(), strict=True)) == {
        (sign, half) for sign in (1.0, -1.0) for half in (False, True)
    }


def test_hamiltonian_cycles_by_enumeration():
    order, tree = [2, 0, 3, 1], TokenTree(4, 4)
    edges = {frozenset((order[i], order[(i + 1) % 4])) for i in range(4)}
    expected = [
        len(set(walk)) == 4 and all(frozenset((walk[i], walk[(i + 1) % 4])) in edges for i in range(4))
        for walk in itertools.product(range(4), repeat=4)
    ]
    assert sum(expected) == 8
    assert np.asarray(rival_implicit_worlds.hamiltonian(tree, jnp.array(order))).tolist() == expected


def test_accuracy_by_enumeration():
    numbers = np.random.default_rng(0)
    tree = TokenTree(4, 1, prompt_length=1)
    reward = numbers.integers(0, 3, (4, 4)).astype(float)
    score = numbers.integers(0, 3, (4, 4)) + 1e-6 * numbers.normal(size=(4, 4))
    judged = np.array([True, False, True, True])
    right = [
        0.5 if abs(score[x, i] - score[x, j]) < 1e-3 else float(score[x, i] > score[x, j])
        for x, i, j in itertools.product(range(4), repeat=3)
        if judged[i] and judged[j] and reward[x, i] > reward[x, j]
    ]
    found = rival_implicit_worlds.accuracy(jnp.array(score), make_task(tree, reward), jnp.array(judged))
    assert float(found) == pytest.approx(np.mean(right))


def test_heads_of_the_same_rewards_have_the_policys_effective_dimension_and_a_smaller_head_has_not():
    tree = TokenTree(4, 1, prompt_length=1)
    task, prompts = rival_implicit_worlds.single_tokens({"seed": 3, "margin": 2.0}, tree, 2)
    group, tested = rival_implicit_worlds.groups(4)
    coverage = jnp.tile(jnp.where(tested, -jnp.inf, jnp.log(0.5))[None], (4, 1))

    def dimensions(similarity):
        gradients = rival_implicit_worlds.hidden(prompts, rival_implicit_worlds.embeddings(group, similarity))
        return jnp.stack([complexity.effective_dimension(gradients, task, law) for law in (task.reference, coverage)])

    policy, head, small = np.asarray(jax.jit(jax.vmap(dimensions))(jnp.array([0.0, 0.6, 1.0])))
    assert head[0] == pytest.approx(policy[0])
    assert policy[1] == head[1] == float("inf")
    assert small[0] < policy[0]
    assert np.isfinite(small[1])


def made_up(policy_unseen: float, written: float):
    """Records of 32 seeds: the policy's accuracy on unseen tokens, and how often DPO writes a cycle."""
    arms = (("implicit", 0.0), ("explicit", 0.0), ("explicit", 0.5), ("explicit", 1.0))
    tokens = [
        {
            "arm": arm, "similarity": similarity, "vocabulary": 8, "features": 3, "test_share": share, "pairs": pairs,
            "margin": 4.0, "seed": seed, "effective_dimension_trained": 6.0 if similarity == 1 else 28.0,
            "accuracy_tested": policy_unseen + 1e-4 * seed if similarity == 0 and share < 0.5 else 0.95 + 1e-3 * seed,
        }
        for arm, similarity in arms for share in (0.0, 0.5) for pairs in (32, 1024) for seed in range(32)
    ]  # fmt: skip
    cycles = [
        {
            "arm": arm, "reference_mass": mass, "beta": beta, "pairs": 1024, "seed": seed, "accuracy": 1.0,
            "mass": 0.99 if mass == 0.5 else written * (1 + 0.01 * seed) * (1 if beta == 1 else 10),
            "mass_gold": 1e-5,
        }
        for arm in ("DPO", "RLHF") for mass in (1e-6, 0.5) for beta in (0.25, 1.0) for seed in range(32)
    ]  # fmt: skip
    return {"tokens": pl.DataFrame(tokens), "cycles": pl.DataFrame(cycles)}


def verdict(records, words):
    (finding,) = (finding for finding in rival_implicit.findings(records) if words in finding.claim)
    return finding.verdict


@pytest.mark.parametrize(("policy_unseen", "expected"), [(0.5, "supported"), (0.94, "contradicted")])
def test_token_cues_are_told_from_the_gap(policy_unseen, expected):
    assert verdict(made_up(policy_unseen, 1e-5), "the gap says no") == expected


def test_transformers_are_compared_with_reward_models_of_their_own_backbone():
    records = made_up(0.5, 1e-5)
    of_transformers = pl.col("similarity").is_in([0.0, 0.5]) & ~(
        (pl.col("arm") == "explicit") & (pl.col("similarity") == 0)
    )
    records["tokens"] = records["tokens"].filter(of_transformers).drop("similarity", "effective_dimension_trained")
    found = {row.claim: row for row in rival_implicit.findings(records)}
    gained = found["unseen tokens, 1,024 pairs, explicit reward model of the policy's own backbone: accuracy gained"]
    assert gained.interval.estimate == pytest.approx(0.9655 - 0.50155)
    assert [row.passes for row in found.values() if row.control] == [True, True]


@pytest.mark.parametrize(("written", "expected"), [(1e-5, "supported"), (0.05, "contradicted")])
def test_a_policy_that_writes_cycles_is_seen(written, expected):
    assert verdict(made_up(0.5, written), "that this policy writes") == expected


def test_controls_pass_and_a_grid_without_their_points_leaves_them_out():
    records = made_up(0.5, 1e-5)
    controls = [finding for finding in rival_implicit.findings(records) if finding.control]
    assert len(controls) == 4
    assert all(finding.passes for finding in controls)
    few = {
        "tokens": records["tokens"].filter(pl.col("test_share") == 0),
        "cycles": records["cycles"].filter(pl.col("reference_mass") < 0.5, pl.col("beta") == 1),
    }
    assert len(rival_implicit.findings(few)) == 9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocabulary": 6}, "multiple of 4"),
        ({"reference_mass": 1.0}, "reference_mass must be between"),
        ({"test_share": -0.1}, "test_share must be between"),
        ({"vertices": 2}, "at least 3"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        rival_implicit.Config(**settings)
