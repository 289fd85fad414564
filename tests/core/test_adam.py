"""The methods of a class that neither holds every policy nor is convex: a network, trained by Adam."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvgap_jax import algorithms, losses, policies, preferences, soft_rl, verifiers
from gvgap_jax.algorithms import Classes, Problem, Settings
from gvgap_jax.divergence import kl
from gvgap_jax.tasks import random_reference

KEY = jax.random.key(0)
SETTINGS = Settings(solver="adam", learning_rate=0.01, adam_steps=3000, patience=100, rl_tolerance=1e-4, rl_steps=800)


@pytest.fixture(scope="module")
def policy(tree, task):
    """Wide enough for every policy of the tree, and without a closed form."""
    return policies.mlp_policy(tree, 32, tree.conditionals(task.reference))


@pytest.fixture(scope="module")
def problem(tree, task):
    pairs = preferences.sample(KEY, tree, task, 400)
    demonstrations = task.prompt_probs[:, None] * jnp.exp(random_reference(KEY, tree, 1.0))
    return Problem(task.known, *preferences.split(pairs, 400), demonstrations)


@pytest.fixture(scope="module")
def classes(tree, task, policy):
    verifier = verifiers.interactions(tree, 1)
    return Classes(policy, verifier, verifiers.soft_optimal_class(tree, verifier, task.reference, task.beta))


def fitted(method, classes, problem, settings=SETTINGS):
    return jax.jit(functools.partial(method, classes=classes, settings=settings))(KEY, problem=problem)


def test_the_second_stage_ends_at_the_soft_optimal_policy_that_the_class_holds(task, classes):
    fit = jax.jit(lambda: algorithms.second_stage(KEY, classes.policy, task.reward, task.known, SETTINGS))()
    assert fit.converged
    assert fit.gradient_norm <= SETTINGS.rl_tolerance
    found = classes.policy.leaf_log_probs(fit.params)
    assert jnp.max(kl(found, task.optimal)) < 1e-5
    value = losses.kl_regularised(found, task.reward, task.reference, task.beta, task.prompt_probs)
    assert fit.loss == pytest.approx(value)


def test_another_regulariser_has_another_optimum_and_steps_may_be_an_array(task, classes):
    @jax.jit
    def fit(steps):
        settings = dataclasses.replace(SETTINGS, rl_steps=steps)
        return algorithms.second_stage(KEY, classes.policy, task.reward, task.known, settings, soft_rl.FORWARD_KL)

    few, enough = fit(3), fit(800)
    assert few.steps == 3
    assert enough.converged
    expected = soft_rl.forward_optimal_policy(task.reward, task.reference, task.beta)
    assert jnp.max(kl(classes.policy.leaf_log_probs(enough.params), expected)) < 1e-5
    assert jnp.max(kl(task.optimal, expected)) > 1e-2, "not that of reverse KL"


def test_sft_ends_at_the_demonstrations(classes, problem):
    fit = fitted(algorithms.sft, classes, problem)
    assert fit.converged
    law = problem.demonstrations / jnp.sum(problem.demonstrations, axis=1, keepdims=True)
    np.testing.assert_allclose(jnp.exp(classes.policy.leaf_log_probs(fit.params)), law, atol=2e-3)


def test_restricted_likelihood_is_handed_over_by_projection_and_equals_rlhf(classes, problem):
    """Theorem 3.1, where the policy class is a network: both methods project the same policy of Pi(R) onto it."""
    restricted, rlhf = (fitted(method, classes, problem) for method in (algorithms.restricted_mle, algorithms.rlhf))
    assert restricted.converged
    assert rlhf.converged
    ends = [classes.policy.leaf_log_probs(fit.params) for fit in (restricted, rlhf)]
    assert jnp.max(kl(*ends)) < 1e-6
    assert jnp.max(kl(ends[0], problem.known.reference)) > 1e-2, "it has gone somewhere"
    assert restricted.loss == pytest.approx(float(rlhf.loss), abs=1e-9)
