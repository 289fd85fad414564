"""Estimates and pairs from samples, against the exact sums of a tree."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from gvgap_jax import metrics, policies, rollouts, tasks


def setting(tree, task):
    policy = policies.tabular(tree)
    params = policy.from_log_probs(jax.nn.log_softmax(0.5 * task.optimal + 0.2 * task.reference))
    return (
        policy,
        params,
        tasks.environment(tree, task.known, lambda prompts, responses: tree.at(task.reward, prompts, responses)),
    )


def test_estimates_are_within_their_errors_of_the_exact_values(tree, task):
    policy, params, environment = setting(tree, task)
    exact = metrics.evaluate(policy.leaf_log_probs(params), task)

    @jax.jit
    def standardised(key):
        found = rollouts.evaluate(key, policy, params, environment, 200, 2)
        names = ("objective", "gold_reward", "kl_to_reference")
        return jnp.stack([(getattr(found, n).mean - getattr(exact, n)) / getattr(found, n).error for n in names])

    z = np.asarray(jax.lax.map(standardised, jax.random.split(jax.random.key(0), 300)))
    assert np.abs(z.mean(axis=0)).max() < 4 / np.sqrt(300), "unbiased"
    assert np.abs(z.std(axis=0) - 1).max() < 0.15, "the errors are as large as they say"


def test_errors_count_prompts_and_not_responses():
    values = jnp.repeat(jnp.array([[1.0], [2.0], [6.0]]), 50, axis=1)
    found = rollouts.over_prompts(values)
    np.testing.assert_allclose(found, (3.0, np.std([1, 2, 6], ddof=1) / np.sqrt(3)))


def test_pairs_follow_their_law(tree, task):
    policy, params, environment = setting(tree, task)
    number = 40_000
    pairs = rollouts.pairs(jax.random.key(1), policy, params, environment, number)
    prompt, won, lost = tree.prompt_index(pairs.prompts), tree.leaf_index(pairs.chosen), tree.leaf_index(pairs.rejected)
    counts = np.zeros((3, 9, 9))
    np.add.at(counts, (prompt, won, lost), 1)
    law = np.exp(policy.leaf_log_probs(params))
    odds = task.reward[:, :, None] - task.reward[:, None, :]
    expected = 2 * law[:, :, None] * law[:, None, :] / (1 + np.exp(-odds / task.temperature))
    expected = number * np.asarray(task.prompt_probs)[:, None, None] * expected
    assert stats.chisquare(counts.reshape(-1), expected.reshape(-1)).pvalue > 1e-3
    shuffled = stats.chisquare(counts.reshape(-1), expected.swapaxes(1, 2).reshape(-1)).pvalue
    assert shuffled < 1e-6, "labels the other way round would be seen"
    reference = task.reference[prompt, won] - task.reference[prompt, lost]
    np.testing.assert_allclose(pairs.reference_margin, reference, atol=1e-12)


def test_prompts_and_responses_are_drawn_with_keys_of_their_own(tree, task):
    """With one key for both, a prompt would say which response comes."""
    used = {}
    policy = policies.tabular(tree, tree.conditionals(task.reference))
    environment = tasks.environment(tree, task.known, lambda prompts, responses: jnp.zeros(len(prompts)))

    def remembered(name, draw):
        def drawn(key, *rest):
            used[name] = tuple(jax.random.key_data(key).tolist())
            return draw(key, *rest)

        return drawn

    watched = dataclasses.replace(policy, sample=remembered("responses", policy.sample))
    environment = environment._replace(prompts=remembered("prompts", environment.prompts))
    key = jax.random.key(3)
    rollouts.roll_out(key, watched, policy.init(key), environment, 4, 2)
    assert len({*used.values(), tuple(jax.random.key_data(key).tolist())}) == 3
