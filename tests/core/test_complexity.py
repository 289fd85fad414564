"""Dimensions of a class: loops, identities, and directions that no pair reveals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from gvgap_jax import TokenTree, complexity, losses, policies, preferences, tasks, verifiers
from gvgap_jax.features import interaction_basis
from tests import helpers
from tests.helpers import as_table, completions, exponential


@pytest.fixture(scope="module")
def features(tree):
    return jnp.asarray(np.random.default_rng(5).normal(size=(tree.prompts, tree.leaves, 3)))


@pytest.fixture(scope="module")
def gradients(tree, features):
    verifier = verifiers.linear(tree, features)
    return complexity.reward_gradients(verifier, verifier.init(jax.random.key(0)))


def as_lists(tree, gradients):
    prompts, responses = completions(tree.vocabulary, tree.prompt_length), completions(tree.vocabulary, tree.horizon)
    return {
        prompt: dict(zip(responses, rows, strict=True))
        for prompt, rows in zip(prompts, gradients.tolist(), strict=True)
    }


def laws(tree, log_probs):
    return {prompt: exponential(scores) for prompt, scores in as_table(tree, log_probs).items()}


def test_gradients_of_a_linear_verifier_are_its_features(features, gradients):
    np.testing.assert_allclose(gradients, features)


def test_gradients_of_a_class_that_is_not_linear_are_its_differences(tree):
    verifier = verifiers.automaton(tree, 2)
    flat, unravel = ravel_pytree(verifier.init(jax.random.key(0)))
    flat = flat + 0.3
    found = complexity.reward_gradients(verifier, unravel(flat))
    scores = jax.jit(lambda vector: verifier.leaf_scores(unravel(vector)))
    for index in range(flat.size):
        step = 1e-5 * np.eye(flat.size)[index]
        difference = (scores(flat + step) - scores(flat - step)) / 2e-5
        np.testing.assert_allclose(found[..., index], difference, atol=1e-8)


@pytest.mark.parametrize("coverage", ["reference", "other"])
def test_fisher_information_is_the_double_loop_over_pairs(tree, task, gradients, coverage):
    law = task.reference if coverage == "reference" else jax.nn.log_softmax(-task.reward, axis=-1)
    found = complexity.fisher_information(gradients, task, None if coverage == "reference" else law)
    expected = helpers.fisher_information(
        as_lists(tree, gradients),
        task.prompt_probs.tolist(),
        as_table(tree, task.reward),
        laws(tree, law),
        float(task.temperature),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_fisher_information_is_the_curvature_of_the_population_loss(tree, task, features, gradients):
    pairs = preferences.population(tree, task)

    def loss(change):
        reward = task.reward + features @ change
        chosen, rejected = (tree.at(reward, pairs.prompts, side) for side in pairs[1:3])
        return losses.bradley_terry((chosen - rejected) / task.temperature, pairs.weight)

    hessian = jax.jit(jax.hessian(loss))(jnp.zeros(3))
    np.testing.assert_allclose(complexity.fisher_information(gradients, task), hessian, rtol=1e-10)


def test_effective_dimension_is_the_double_loop(tree, task, gradients):
    expected = helpers.effective_dimension(
        as_lists(tree, gradients),
        task.prompt_probs.tolist(),
        as_table(tree, task.reward),
        laws(tree, task.reference),
        float(task.beta),
        float(task.temperature),
    )
    assert complexity.effective_dimension(gradients, task) == pytest.approx(expected)


def test_effective_dimension_does_not_depend_on_the_parametrisation(task, gradients):
    mixed = gradients @ jnp.asarray(np.random.default_rng(6).normal(size=(3, 3)))
    repeated = jnp.concatenate([gradients, gradients], axis=-1)
    constant = jnp.concatenate([gradients, jnp.ones_like(gradients[..., :1])], axis=-1)
    expected = float(complexity.effective_dimension(gradients, task))
    for other in (mixed, repeated, constant):
        assert complexity.effective_dimension(other, task) == pytest.approx(expected)


def test_every_class_that_holds_all_rewards_has_the_same_effective_dimension(tree, task):
    """A table of policies and the interactions of every order are one class of rewards."""
    base = tree.conditionals(task.reference)
    tabular = policies.tabular(tree, base)
    local = verifiers.implicit_verifier(tabular, tabular, tabular.init(jax.random.key(0)), task.beta)
    full = verifiers.interactions(tree, tree.prompt_length + tree.horizon)
    additive = verifiers.interactions(tree, 1)

    def dimension(verifier, params):
        gradients = jax.jit(functools.partial(complexity.reward_gradients, verifier))(params)
        return float(jax.jit(complexity.effective_dimension)(gradients, task))

    table = dimension(local, tabular.from_log_probs(task.optimal))
    zero = jax.random.key(0)
    assert table == pytest.approx(dimension(full, full.init(zero)))
    assert dimension(additive, additive.init(zero)) < table


def test_dimension_of_tables_needs_no_gradients(tree, task):
    full = verifiers.interactions(tree, tree.prompt_length + tree.horizon)
    gradients = complexity.reward_gradients(full, full.init(jax.random.key(0)))
    dimension, table = jax.jit(complexity.effective_dimension), jax.jit(complexity.table_dimension)
    for prompt_probs in (task.prompt_probs, jnp.array([0.6, 0.4, 0.0])):
        asked = task._replace(prompt_probs=prompt_probs)
        assert float(table(asked)) == pytest.approx(float(dimension(gradients, asked)))


def test_dimension_of_tables_is_the_double_loop(tree, task):
    """A parameter a response, but for the first response to every prompt."""
    rewards = as_table(tree, task.reward)
    free = [(prompt, response) for prompt in rewards for response in list(rewards[prompt])[1:]]
    gradients = {
        prompt: {response: [float((prompt, response) == leaf) for leaf in free] for response in responses}
        for prompt, responses in rewards.items()
    }
    expected = helpers.effective_dimension(
        gradients,
        task.prompt_probs.tolist(),
        rewards,
        laws(tree, task.reference),
        float(task.beta),
        float(task.temperature),
    )
    assert float(jax.jit(complexity.table_dimension)(task)) == pytest.approx(expected)


@pytest.mark.parametrize("follower", [None, 2], ids=["all policies", "simple policies"])
def test_single_precision_is_enough_for_a_skewed_reference(follower):
    """Of some directions pairs tell less than 1e-10 of what they tell of others: a sum in single precision loses it."""
    tree = TokenTree(3, 4)
    skewed = tasks.interactions(jax.random.key(3), tree, tree.horizon, reference_scale=3.0)
    full, followed = (jnp.asarray(interaction_basis(tree, order)[0]) for order in (tree.horizon, follower or 1))
    information = np.linalg.eigvalsh(complexity.fisher_information(full, skewed))
    assert 0 < information[0] < 1e-10 * information[-1]
    twice = jnp.concatenate([followed, followed], axis=-1)  # what is there twice is one direction
    arguments = full, skewed, None, None if follower is None else twice
    single = jax.tree.map(lambda values: jnp.asarray(values, jnp.float32), arguments)
    dimension = jax.jit(complexity.effective_dimension)
    assert dimension(*single).dtype == jnp.float32
    assert float(dimension(*single)) == pytest.approx(float(dimension(*arguments)), rel=2e-5)
    if follower is None:
        assert float(dimension(*arguments)) == pytest.approx(float(complexity.table_dimension(skewed)), rel=1e-6)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_interactions_can_move_as_many_directions_as_they_have_parameters(tree, order):
    verifier = verifiers.interactions(tree, order)
    gradients = complexity.reward_gradients(verifier, verifier.init(jax.random.key(0)))
    assert complexity.identifiable_dimension(gradients) == verifier.num_parameters


def test_what_moves_no_margin_is_not_counted(gradients):
    assert complexity.identifiable_dimension(gradients) == 3
    prompt_only = jnp.broadcast_to(jnp.arange(3.0)[:, None, None], (*gradients.shape[:2], 1))
    assert complexity.identifiable_dimension(jnp.concatenate([gradients, prompt_only, gradients], axis=-1)) == 3
    assert complexity.identifiable_dimension(prompt_only) == 0


def test_a_direction_that_no_pair_reveals_costs_without_bound(task, gradients):
    """Pairs that show only the first two responses of a prompt say nothing about the others."""
    shown = jnp.full(task.reward.shape, -1e3).at[:, :2].set(-np.log(2))
    hidden = jnp.zeros_like(gradients).at[:, 5, 0].set(1.0)
    assert complexity.effective_dimension(hidden, task, shown) == jnp.inf
    assert jnp.isfinite(complexity.effective_dimension(hidden, task))
    revealed = jnp.zeros_like(gradients).at[:, 1, 0].set(1.0)
    assert jnp.isfinite(complexity.effective_dimension(revealed, task, shown))
    both = jnp.concatenate([revealed, hidden], axis=-1)
    assert complexity.effective_dimension(both, task, shown) == jnp.inf


def test_labels_that_are_certain_tell_no_margin(task, gradients):
    """Between two groups of responses, one of which always wins; within them labels are noisy."""
    better = jnp.zeros_like(task.reward).at[:, :3].set(1e4)
    between = (better > 0)[..., None].astype(float)
    within = jnp.zeros_like(between).at[:, 0, 0].set(1.0)
    task = task._replace(reward=better, beta=jnp.asarray(1e4))
    assert jnp.isfinite(complexity.effective_dimension(within, task))
    both = jnp.concatenate([within, between], axis=-1)
    assert complexity.effective_dimension(both, task) == jnp.inf


SIZES = {  # parameters that are stored, and directions of reward
    "a constant": (verifiers.automaton(TokenTree(2, 3), 1), 3, 0),
    "an automaton": (verifiers.automaton(TokenTree(2, 3), 2), 10, 4),
    "a network, one-hot tokens and a bias": (verifiers.mlp_verifier(TokenTree(3, 3), 2), 23, 16),
    "the same at every prefix": (verifiers.mlp_verifier(TokenTree(3, 3), 2, "token_sum"), 23, 20),
    "additive rewards": (verifiers.interactions(TokenTree(3, 2), 1), 4, 4),
}


@pytest.mark.parametrize("name", SIZES)
def test_how_many_of_the_parameters_change_a_margin(name):
    verifier, stored, directions = SIZES[name]
    assert verifier.num_parameters == stored
    assert complexity.generic_dimension(verifier.leaf_scores, verifier.init(jax.random.key(0))) == directions


def test_a_dimension_of_what_is_not_a_number_is_none(task, gradients):
    assert jnp.isnan(complexity.effective_dimension(gradients.at[0, 0, 0].set(jnp.nan), task))
    poisoned = task._replace(reward=task.reward.at[0, 0].set(jnp.nan))
    assert jnp.isnan(complexity.effective_dimension(gradients, poisoned))
    assert jnp.isnan(complexity.table_dimension(poisoned))


def test_tangent_features_have_the_gradients_inner_products():
    """And a ridge on their coefficients is one on the change of the parameters of the linearised class."""
    tree = TokenTree(2, 3)
    verifier = verifiers.mlp_verifier(tree, 5)
    params = jax.tree.map(lambda leaf: leaf + 0.3, verifier.init(jax.random.key(0)))
    gradients = np.asarray(complexity.reward_gradients(verifier, params)).reshape(8, -1)
    features = np.asarray(complexity.tangent_features(verifier.leaf_scores, params, 8))[0]
    kernel = gradients @ gradients.T
    np.testing.assert_allclose(features @ features.T, 8 * kernel / np.trace(kernel), atol=1e-9)
    target, unit = np.random.default_rng(0).normal(size=8), np.trace(kernel) / 8
    change = gradients.T @ np.linalg.solve(kernel + 0.3 * np.eye(8), target)
    coefficients = np.linalg.solve(features.T @ features + 0.3 / unit * np.eye(8), features.T @ target)
    np.testing.assert_allclose(features @ coefficients, gradients @ change, atol=1e-9)


def test_tangent_features_may_be_the_largest_directions_alone():
    tree = TokenTree(2, 3)
    verifier = verifiers.interactions(tree, 3)
    scale = jnp.array([4.0, 3.0, 2.0, 1.0, 0.5, 0.5, 0.5])
    features = complexity.tangent_features(lambda params: verifier.leaf_scores(params * scale), jnp.zeros(7), 3)
    assert features.shape == (1, 8, 3)
    np.testing.assert_allclose(np.linalg.svd(features[0])[1] ** 2, 8 * np.array([16, 9, 4]) / 29, rtol=1e-9)
