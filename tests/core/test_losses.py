"""Losses: numbers worked by hand, and the identities of their gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvgap_jax import losses, preferences
from tests import helpers

LOG3 = math.log(3)


def test_bradley_terry_by_hand():
    """softplus(-log 3) = log(4/3), softplus(log 3) = log 4; weights 3 and 1."""
    margin, weight = jnp.array([LOG3, -LOG3]), jnp.array([3.0, 1.0])
    expected = (3 * math.log(4 / 3) + math.log(4)) / 4
    assert losses.bradley_terry(margin, weight) == pytest.approx(expected)
    assert helpers.bradley_terry([LOG3, -LOG3], [3.0, 1.0]) == pytest.approx(expected)


def test_dpo_by_hand():
    """beta 2, log ratios log(3)/2 apart, which the reference has already; then nothing is left of the margin."""
    arguments = jnp.array([LOG3 / 2]), jnp.array([0.0])
    assert losses.dpo(*arguments, jnp.array([0.0]), 2.0, jnp.ones(1)) == pytest.approx(math.log(4 / 3))
    assert losses.dpo(*arguments, jnp.array([LOG3 / 2]), 2.0, jnp.ones(1)) == pytest.approx(math.log(2))
    margin = losses.local_margin(*arguments, jnp.array([LOG3]), 2.0)
    assert margin.tolist() == pytest.approx([-LOG3])


def test_dpo_at_the_reference_is_log_two(tree, task):
    pairs = preferences.population(tree, task)
    log_chosen, log_rejected = (tree.at(task.reference, pairs.prompts, side) for side in pairs[1:3])
    loss = losses.dpo(log_chosen, log_rejected, pairs.reference_margin, task.beta, pairs.weight)
    assert loss == pytest.approx(math.log(2))


def test_ipo_by_hand():
    """Margins 1/2, -1/2 and 3/2 lie 0, 1 and 1 from 1/2; the second pair counts double."""
    assert losses.ipo(jnp.array([0.5, -0.5, 1.5]), jnp.array([1.0, 2.0, 1.0])) == pytest.approx(3 / 4)


def test_sft_by_hand():
    log_prob = jnp.log(jnp.array([0.5, 0.25]))
    assert losses.sft(log_prob, jnp.array([0.5, 0.5])) == pytest.approx(1.5 * math.log(2))


def test_kl_regularised_by_hand():
    """Prompt one: reward 1 half the time at no KL. Prompt two: a certain reward 2 at log 2 nats."""
    log_policy = jnp.log(jnp.array([[0.5, 0.5], [1.0, 0.0]]))
    reward, reference = jnp.array([[1.0, 0.0], [2.0, 5.0]]), jnp.full((2, 2), -math.log(2))
    loss = losses.kl_regularised(log_policy, reward, reference, 3.0, jnp.array([0.25, 0.75]))
    assert loss == pytest.approx(-(0.25 * 0.5 + 0.75 * (2 - 3 * math.log(2))))


def test_a_weight_of_zero_removes_a_pair_and_no_pairs_lose_nothing():
    assert losses.weighted_mean(jnp.array([2.0, 7.0]), jnp.array([0.5, 0.0])) == 2
    assert losses.weighted_mean(jnp.array([2.0, 7.0]), jnp.zeros(2)) == 0
    gradient = jax.grad(lambda margin: losses.bradley_terry(margin, jnp.zeros(2)))(jnp.ones(2))
    np.testing.assert_array_equal(gradient, 0)


def test_extreme_margins_stay_finite():
    margin = jnp.array([1e4, -1e4])
    assert losses.bradley_terry(margin, jnp.ones(2)) == pytest.approx(5e3)
    gradient = jax.grad(lambda margin: losses.bradley_terry(margin, jnp.ones(2)))(margin)
    np.testing.assert_allclose(gradient, [0, -0.5])


def test_the_score_function_has_mean_zero_under_the_policy():
    """E_pi[grad log pi] = 0, so that SFT on a policy's own law has no gradient there."""
    logits = jnp.asarray(np.random.default_rng(0).normal(size=6))
    own = jax.nn.softmax(logits)
    np.testing.assert_allclose(jax.grad(lambda z: losses.sft(jax.nn.log_softmax(z), own))(logits), 0, atol=1e-15)
    other = jax.nn.softmax(-logits)
    gradient = jax.grad(lambda z: losses.sft(jax.nn.log_softmax(z), other))(logits)
    np.testing.assert_allclose(gradient, own - other, atol=1e-15)


def test_the_bradley_terry_gradient_vanishes_at_the_gold_reward_and_only_there(tree, task):
    pairs = preferences.population(tree, task)

    def loss(reward):
        chosen, rejected = (tree.at(reward, pairs.prompts, side) for side in pairs[1:3])
        return losses.bradley_terry((chosen - rejected) / task.temperature, pairs.weight)

    gradient = jax.jit(jax.grad(loss))
    np.testing.assert_allclose(gradient(task.reward), 0, atol=1e-15)
    np.testing.assert_allclose(gradient(task.reward + 3.0), 0, atol=1e-15)
    assert jnp.max(jnp.abs(gradient(1.1 * task.reward))) > 1e-4


def test_the_dpo_gradient_vanishes_at_the_soft_optimal_policy(tree, task):
    """The local reward of pi* is the gold reward up to a constant of each prompt."""
    pairs = preferences.population(tree, task)

    def loss(log_policy):
        log_chosen, log_rejected = (tree.at(log_policy, pairs.prompts, side) for side in pairs[1:3])
        margin = losses.local_margin(log_chosen, log_rejected, pairs.reference_margin, task.beta)
        return losses.bradley_terry(margin / task.temperature, pairs.weight)

    gradient = jax.jit(jax.grad(loss))
    np.testing.assert_allclose(gradient(task.optimal), 0, atol=1e-15)
    assert jnp.max(jnp.abs(gradient(task.reference))) > 1e-3


def test_the_kl_regularised_gradient_vanishes_at_the_soft_optimal_policy(task):
    def loss(logits):
        policy = jax.nn.log_softmax(logits, axis=-1)
        return losses.kl_regularised(policy, task.reward, task.reference, task.beta, task.prompt_probs)

    np.testing.assert_allclose(jax.grad(loss)(task.optimal), 0, atol=1e-15)
    assert jnp.max(jnp.abs(jax.grad(loss)(task.reference))) > 1e-3
