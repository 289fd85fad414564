"""What each policy class can represent."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvgap_jax import TokenTree, policies
from gvgap_jax.tasks import random_reference
from tests.helpers import completions, walk


def random_like(params, seed=0):
    numbers = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(numbers.normal(size=leaf.shape)), params)


def test_tabular_parameters_are_logits_added_to_the_base(tree):
    base = tree.conditionals(random_reference(jax.random.key(0), tree, 1.0))
    policy = policies.tabular(tree, base)
    params = random_like(policy.init(jax.random.key(0)))
    levels = [level + b for level, b in zip(params, base, strict=True)]
    probabilities = jnp.exp(policy.leaf_log_probs(params)).tolist()
    for prompt in range(tree.prompts):
        for number, response in enumerate(completions(tree.vocabulary, tree.horizon)):
            assert probabilities[prompt][number] == pytest.approx(walk(levels, tree.vocabulary, prompt, response))


@pytest.mark.parametrize("order", [0, 1, 2])
def test_markov_reads_the_position_and_the_last_tokens(order):
    """Prefixes share their logits if and only if they end in the same tokens."""
    tree = TokenTree(2, 3, 1)
    policy = policies.markov(tree, order)
    leaf_log_probs = policy.leaf_log_probs(random_like(policy.init(jax.random.key(0))))
    for depth, level in enumerate(tree.conditionals(leaf_log_probs)):
        rows = dict(zip(completions(2, 1 + depth), np.round(level.reshape(-1, 2), 9).tolist(), strict=True))
        for first, second in itertools.product(rows, repeat=2):
            contexts = [tokens[max(0, len(tokens) - order) :] for tokens in (first, second)]
            assert (rows[first] == rows[second]) == (contexts[0] == contexts[1])


def test_nested_markov_of_any_order_is_markov_of_that_order():
    tree = TokenTree(2, 3, 1)
    stored = random_like(policies.nested_markov(tree, 0).init(jax.random.key(0)))
    base = tree.conditionals(random_reference(jax.random.key(1), tree, 1.0))
    nested = jax.vmap(lambda order: policies.nested_markov(tree, order, base).leaf_log_probs(stored))(jnp.arange(5))
    for order, found in enumerate(nested):
        policy = policies.markov(tree, order, base)
        shapes = policy.init(jax.random.key(0))
        params = tuple(table[: rows.shape[0]] for table, rows in zip(stored, shapes, strict=True))
        np.testing.assert_allclose(found, policy.leaf_log_probs(params), atol=1e-12)
        assert policies.nested_markov(tree, order).num_parameters == policy.num_parameters


def test_markov_of_the_full_order_holds_every_policy():
    tree = TokenTree(2, 2, 1)
    target = random_reference(jax.random.key(1), tree, 1.0)
    policy = policies.markov(tree, 2)
    contexts = tuple(level.reshape(-1, 2) for level in tree.conditionals(target))
    np.testing.assert_allclose(policy.leaf_log_probs(contexts), target, atol=1e-12)


def test_linear_logits_are_features_times_parameters(tree):
    numbers = np.random.default_rng(0)
    levels = tuple(jnp.asarray(numbers.normal(size=(*shape, 2))) for shape in tree.level_shapes)
    policy = policies.linear(tree, levels)
    params = jnp.array([0.3, -2.0])
    logits = tuple(0.3 * level[..., 0] - 2 * level[..., 1] for level in levels)
    np.testing.assert_allclose(policy.leaf_log_probs(params), tree.leaf_log_probs(logits), atol=1e-12)


def test_mlp_logits_read_the_one_hot_prefix(tree):
    policy = policies.mlp_policy(tree, 4)
    params = random_like(policy.init(jax.random.key(0)))
    hidden, readout = (jax.tree.map(np.asarray, params[layer]) for layer in ("hidden", "readout"))

    def logits(prompt, prefix):
        code = np.zeros(9)
        for position, token in enumerate((*prompt, *prefix)):
            code[3 * position + token] = 1
        return np.tanh(code @ hidden["kernel"] + hidden["bias"]) @ readout["kernel"] + readout["bias"]

    levels = [
        np.array([[logits(prompt, prefix) for prefix in completions(3, depth)] for prompt in completions(3, 1)])
        for depth in range(2)
    ]
    np.testing.assert_allclose(policy.leaf_log_probs(params), tree.leaf_log_probs(tuple(levels)), atol=1e-12)


def test_samples_are_fixed_by_their_key(tree):
    policy = policies.tabular(tree)
    draw = jax.jit(policy.sample)
    params, prompts = policy.init(jax.random.key(0)), jnp.zeros((20, 1), int)
    first = draw(jax.random.key(0), params, prompts)
    np.testing.assert_array_equal(first, draw(jax.random.key(0), params, prompts))
    assert jnp.any(first != draw(jax.random.key(1), params, prompts))
