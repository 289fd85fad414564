"""Every policy class and every verifier class against every property that they share."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gvgap_jax import TokenTree, policies, verifiers
from gvgap_jax.lm.model import classes, shape
from gvgap_jax.tasks import random_reference
from gvgap_jax.types import TreePolicy, TreeVerifier

TREE = TokenTree(vocabulary=3, horizon=2, prompt_length=1)
BETA = 0.7
DRAWS = 3_000  # of each prompt


def prefix_features(tree):
    numbers = np.random.default_rng(0)
    return tuple(jnp.asarray(numbers.normal(size=(*shape, 4))) for shape in tree.level_shapes)


def response_features(tree):
    return jnp.asarray(np.random.default_rng(1).normal(size=(tree.prompts, tree.leaves, 4)))


def tabular_reference(tree):
    reference = policies.tabular(tree)
    return reference, reference.init(jax.random.key(0))


def network(tree):
    return shape.neox(tree.vocabulary, layers=1, width=8, rotary=0.5, dtype="float64")


POLICIES = {
    "tabular": lambda tree, base: policies.tabular(tree, base),
    "markov, order 0": lambda tree, base: policies.markov(tree, 0, base),
    "markov, order 1": lambda tree, base: policies.markov(tree, 1, base),
    "markov, order 9": lambda tree, base: policies.markov(tree, 9, base),
    "nested_markov, order 1": lambda tree, base: policies.nested_markov(tree, 1, base),
    "linear": lambda tree, base: policies.linear(tree, prefix_features(tree), base),
    "mlp_policy": lambda tree, base: policies.mlp_policy(tree, 4, base),
    "soft_optimal_class": lambda tree, base: verifiers.soft_optimal_class(
        tree,
        verifiers.linear(tree, response_features(tree)),
        jnp.full((tree.prompts, tree.leaves), -jnp.log(tree.leaves)) if base is None else tree.leaf_log_probs(base),
        BETA,
    ),
    "tree_transformer_policy": lambda tree, base: classes.tree_transformer_policy(network(tree), tree, base),
}
VERIFIERS = {
    "linear": lambda tree: verifiers.linear(tree, response_features(tree)),
    "interactions": lambda tree: verifiers.interactions(tree, 2),
    "nested_interactions": lambda tree: verifiers.nested_interactions(tree, 2),
    "sparse": lambda tree: verifiers.sparse(tree, 3),
    "automaton": lambda tree: verifiers.automaton(tree, 2),
    "mlp_verifier, final": lambda tree: verifiers.mlp_verifier(tree, 4),
    "mlp_verifier, token_sum": lambda tree: verifiers.mlp_verifier(tree, 4, "token_sum"),
    "implicit_verifier": lambda tree: verifiers.implicit_verifier(
        policies.markov(tree, 1), *tabular_reference(tree), BETA
    ),
    "tree_transformer_verifier, final": lambda tree: classes.tree_transformer_verifier(network(tree), tree),
    "tree_transformer_verifier, token_sum": lambda tree: classes.tree_transformer_verifier(
        network(tree), tree, "token_sum"
    ),
}
STORES_MORE_THAN_IT_COUNTS = {"nested_interactions", "sparse", "nested_markov, order 1"}

every_policy = pytest.mark.parametrize("name", POLICIES)
every_verifier = pytest.mark.parametrize("name", VERIFIERS)


@functools.cache
def reference():
    return random_reference(jax.random.key(2), TREE, 1.0)


@functools.cache
def policy_class(name):
    return POLICIES[name](TREE, TREE.conditionals(reference()))


@functools.cache
def verifier_class(name):
    return VERIFIERS[name](TREE)


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def random_params(model, seed=0):
    numbers = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(numbers.normal(size=leaf.shape)), model.init(jax.random.key(0)))


@functools.cache
def policy_program(name):
    """Everything the contract asks of one policy, compiled once."""
    policy, weights = policy_class(name), response_features(TREE)[..., 0]

    @jax.jit
    def program(params):
        drawn_from = TREE.prompt_tokens(jnp.repeat(jnp.arange(TREE.prompts), DRAWS))
        return {
            "leaves": policy.leaf_log_probs(params),
            "log_prob": policy.log_prob(params, *TREE.rows()),
            "samples": policy.sample(jax.random.key(3), params, drawn_from),
            "gradient": jax.grad(lambda params: jnp.sum(weights * policy.leaf_log_probs(params)))(params),
        }

    return program


@functools.cache
def verifier_program(name):
    verifier, weights = verifier_class(name), response_features(TREE)[..., 0]

    @jax.jit
    def program(params):
        return {
            "leaves": verifier.leaf_scores(params),
            "score": verifier.score(params, *TREE.rows()),
            "gradient": jax.grad(lambda params: jnp.sum(weights * verifier.leaf_scores(params)))(params),
        }

    return program


def check_gradient(program, params):
    gradient = jax.tree.leaves(program(params)["gradient"])
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in gradient)
    assert any(jnp.any(leaf != 0) for leaf in gradient)


@pytest.mark.parametrize(
    ("kind", "registry", "builders"),
    [
        (TreePolicy, POLICIES, {"tree_policy"}),
        (TreeVerifier, VERIFIERS, {"tree_verifier"}),
    ],
)
def test_no_class_is_left_out(kind, registry, builders):
    factories = {
        name
        for module in (policies, verifiers, classes)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if inspect.signature(function).return_annotation is kind
    }
    assert factories == {name.split(",")[0] for name in registry} | builders


@every_policy
def test_probabilities_sum_to_one(name):
    leaves = policy_program(name)(random_params(policy_class(name)))["leaves"]
    assert leaves.shape == (TREE.prompts, TREE.leaves)
    np.testing.assert_allclose(jnp.exp(leaves).sum(-1), 1, rtol=1e-12)


@every_policy
def test_log_prob_reads_the_leaves(name):
    results = policy_program(name)(random_params(policy_class(name)))
    np.testing.assert_allclose(results["log_prob"], results["leaves"].reshape(-1), rtol=1e-12)


@every_policy
def test_samples_follow_the_probabilities(name):
    results = policy_program(name)(random_params(policy_class(name)))
    leaf = TREE.leaf_index(results["samples"]).reshape(TREE.prompts, DRAWS)
    counts = np.stack([np.bincount(row, minlength=TREE.leaves) for row in leaf])
    expected = DRAWS * np.exp(results["leaves"])
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert stats.chi2.sf(chi_square, TREE.prompts * (TREE.leaves - 1)) > 1e-3


@every_policy
def test_policy_gradients_are_finite(name):
    policy = policy_class(name)
    check_gradient(policy_program(name), policy.init(jax.random.key(4)))
    check_gradient(policy_program(name), random_params(policy))


def check_counted(name, counted, stored):
    if name in STORES_MORE_THAN_IT_COUNTS:
        assert counted < stored
    else:
        assert counted == stored


@every_policy
def test_policy_parameters_are_counted(name):
    policy = policy_class(name)
    check_counted(name, policy.num_parameters, count(policy.init(jax.random.key(4))))


@every_policy
def test_initial_and_zero_parameters_are_the_reference(name):
    policy = policy_class(name)
    initial = policy.init(jax.random.key(4))
    for params in (initial, jax.tree.map(jnp.zeros_like, initial)):
        np.testing.assert_allclose(policy_program(name)(params)["leaves"], reference(), atol=1e-12)
    moved = policy_program(name)(random_params(policy))["leaves"]
    assert jnp.max(jnp.abs(moved - reference())) > 0.1


@every_policy
def test_without_a_base_the_reference_is_uniform(name):
    policy = POLICIES[name](TREE, None)
    np.testing.assert_allclose(policy.leaf_log_probs(policy.init(jax.random.key(4))), -np.log(9), rtol=1e-12)


@every_policy
def test_policies_map_over_parameters(name):
    policy = policy_class(name)
    both = [random_params(policy, seed) for seed in (0, 1)]
    batched = jax.vmap(policy.leaf_log_probs)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *both))
    for row, params in zip(batched, both, strict=True):
        np.testing.assert_allclose(row, policy_program(name)(params)["leaves"], atol=1e-12)


@every_policy
def test_parameters_of_every_policy_give_it_back(name):
    policy = policy_class(name)
    if policy.from_log_probs is None:
        assert name != "tabular", "the table holds every policy"
        return
    target = random_reference(jax.random.key(5), TREE, 2.0)
    np.testing.assert_allclose(policy_program(name)(policy.from_log_probs(target))["leaves"], target, atol=1e-12)


@every_verifier
def test_score_reads_the_leaves(name):
    results = verifier_program(name)(random_params(verifier_class(name)))
    assert results["leaves"].shape == (TREE.prompts, TREE.leaves)
    np.testing.assert_allclose(results["score"], results["leaves"].reshape(-1), rtol=1e-12)


@every_verifier
def test_verifier_gradients_are_finite(name):
    verifier = verifier_class(name)
    check_gradient(verifier_program(name), verifier.init(jax.random.key(4)))
    check_gradient(verifier_program(name), random_params(verifier))


@every_verifier
def test_verifier_parameters_are_counted(name):
    verifier = verifier_class(name)
    check_counted(name, verifier.num_parameters, count(verifier.init(jax.random.key(4))))


@every_verifier
def test_initial_rewards_are_zero(name):
    verifier = verifier_class(name)
    leaves = verifier_program(name)(verifier.init(jax.random.key(4)))["leaves"]
    assert jnp.ptp(leaves, axis=-1).max() < 1e-12, "a constant of each prompt is no reward"
    assert jnp.ptp(verifier_program(name)(random_params(verifier))["leaves"], axis=-1).min() > 0.01


@every_verifier
def test_verifiers_map_over_parameters(name):
    verifier = verifier_class(name)
    both = [random_params(verifier, seed) for seed in (0, 1)]
    batched = jax.vmap(verifier.leaf_scores)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *both))
    for row, params in zip(batched, both, strict=True):
        np.testing.assert_allclose(row, verifier_program(name)(params)["leaves"], atol=1e-12)
