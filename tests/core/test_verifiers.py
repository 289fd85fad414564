"""What each verifier class can represent, and the two maps between verifiers and policies."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvgap_jax import TokenTree, features, policies, soft_rl, verifiers
from gvgap_jax.tasks import random_reference
from tests.helpers import completions

KEY = jax.random.key(0)


def random_like(params, seed=0):
    numbers = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(numbers.normal(size=leaf.shape)), params)


def test_interactions_are_linear_in_their_basis(tree):
    verifier = verifiers.interactions(tree, 2)
    params = random_like(verifier.init(KEY))
    basis, _ = features.interaction_basis(tree, 2)
    np.testing.assert_allclose(verifier.leaf_scores(params), basis @ np.asarray(params), atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_nested_interactions_span_the_interactions_of_their_order(tree, order):
    """Every score of one class is a score of the other: both have the same projection."""
    nested = verifiers.nested_interactions(tree, order)
    columns = jax.jacobian(nested.leaf_scores)(nested.init(KEY)).reshape(tree.prompts * tree.leaves, -1)
    basis, degree = features.interaction_basis(tree, order)
    rows = basis.reshape(tree.prompts * tree.leaves, -1)
    np.testing.assert_allclose(columns @ columns.T, rows @ rows.T, atol=1e-10)
    assert nested.num_parameters == len(degree)


def test_the_order_of_nested_interactions_may_be_an_array(tree):
    params = random_like(verifiers.nested_interactions(tree, 3).init(KEY))
    scores = jax.jit(jax.vmap(lambda order: verifiers.nested_interactions(tree, order).leaf_scores(params)))
    for row, order in zip(scores(jnp.array([1, 3])), (1, 3), strict=True):
        expected = verifiers.nested_interactions(tree, order).leaf_scores(params)
        np.testing.assert_allclose(row, expected, atol=1e-12)


def test_sparse_scores_with_the_largest_and_learns_with_all(tree):
    verifier = verifiers.sparse(tree, 2, order=1)
    basis, _ = features.interaction_basis(tree, 1)
    params = jnp.array([0.1, -3.0, 0.2, 1.0])
    np.testing.assert_allclose(verifier.leaf_scores(params), basis @ [0, -3, 0, 1], atol=1e-12)
    gradient = jax.grad(lambda params: verifier.leaf_scores(params)[0, 0])(params)
    np.testing.assert_allclose(gradient, basis[0, 0], atol=1e-12)


def test_the_automaton_averages_its_final_value_over_paths():
    tree, states = TokenTree(2, 2, 1), 2
    verifier = verifiers.automaton(tree, states)
    params = random_like(verifier.init(KEY))
    weights = np.exp(params["transition"])
    transition, value = (weights / weights.sum(-1, keepdims=True)).tolist(), params["value"].tolist()

    def score(tokens):
        total = 0.0
        for path in itertools.product(range(states), repeat=len(tokens)):
            chance, state = 1.0, 0
            for token, following in zip(tokens, path, strict=True):
                chance *= transition[token][state][following]
                state = following
            total += chance * value[state]
        return total

    expected = [score((*prompt, *response)) for prompt in completions(2, 1) for response in completions(2, 2)]
    assert verifier.leaf_scores(params).reshape(-1).tolist() == pytest.approx(expected)


def test_token_sum_adds_the_scores_of_all_prefixes(tree):
    final, token_sum = verifiers.mlp_verifier(tree, 4), verifiers.mlp_verifier(tree, 4, "token_sum")
    params = random_like(final.init(KEY))
    hidden, readout = (jax.tree.map(np.asarray, params[layer]) for layer in ("hidden", "readout"))

    def score(tokens):
        code = np.zeros(9)
        for position, token in enumerate(tokens):
            code[3 * position + token] = 1
        return (np.tanh(code @ hidden["kernel"] + hidden["bias"]) @ readout["kernel"] + readout["bias"]).item()

    rows = [(*prompt, *response) for prompt in completions(3, 1) for response in completions(3, 2)]
    assert final.leaf_scores(params).reshape(-1).tolist() == pytest.approx([score(row) for row in rows])
    summed = [score(row[:2]) + score(row) for row in rows]
    assert token_sum.leaf_scores(params).reshape(-1).tolist() == pytest.approx(summed)


@pytest.mark.parametrize("beta", [0.3, 2.0])
def test_the_soft_optimal_policy_of_an_implicit_reward_is_the_policy_itself(tree, beta):
    reference = policies.tabular(tree)
    reference_leaves = random_reference(KEY, tree, 1.0)
    policy = policies.markov(tree, 1)
    verifier = verifiers.implicit_verifier(policy, reference, reference.from_log_probs(reference_leaves), beta)
    params = random_like(policy.init(KEY))
    recovered = soft_rl.soft_optimal_policy(verifier.leaf_scores(params), reference_leaves, beta)
    np.testing.assert_allclose(recovered, policy.leaf_log_probs(params), atol=1e-12)
    np.testing.assert_allclose(soft_rl.soft_value(verifier.leaf_scores(params), reference_leaves, beta), 0, atol=1e-12)


def test_the_soft_optimal_class_holds_the_soft_optimal_policies(tree, task):
    verifier = verifiers.interactions(tree, 2)
    restricted = verifiers.soft_optimal_class(tree, verifier, task.reference, task.beta)
    params = random_like(verifier.init(KEY))
    expected = soft_rl.soft_optimal_policy(verifier.leaf_scores(params), task.reference, task.beta)
    np.testing.assert_allclose(restricted.leaf_log_probs(params), expected, atol=1e-12)
