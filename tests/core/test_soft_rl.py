"""Exact KL-regularised reinforcement learning against enumeration."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvgap_jax import soft_rl
from tests import helpers
from tests.helpers import as_table, exponential

STATES, ACTIONS, HORIZON, BETA = 3, 2, 3, 0.6


@pytest.fixture(scope="module")
def tables(tree, task):
    """For every prompt: the reference law and the reward."""
    reference, reward = as_table(tree, task.reference), as_table(tree, task.reward)
    return [(exponential(reference[prompt]), reward[prompt]) for prompt in reward]


def test_soft_value_is_the_log_partition_function(task, tables):
    values = soft_rl.soft_value(task.reward, task.reference, task.beta)
    beta = float(task.beta)
    expected = [beta * math.log(helpers.partition(reference, reward, beta)) for reference, reward in tables]
    assert values.tolist() == pytest.approx(expected)


def test_soft_optimal_policy_is_the_tilted_reference(task, tables):
    policy = jnp.exp(soft_rl.soft_optimal_policy(task.reward, task.reference, task.beta))
    for row, (reference, reward) in zip(policy.tolist(), tables, strict=True):
        assert row == pytest.approx(list(helpers.soft_optimal(reference, reward, float(task.beta)).values()))


def test_objective_is_reward_minus_beta_kl(task, tables):
    policy = jax.nn.log_softmax(jnp.flip(task.reward, -1), axis=-1)
    found = soft_rl.objective(policy, task.reward, task.reference, task.beta).tolist()
    for value, row, (reference, reward) in zip(found, jnp.exp(policy).tolist(), tables, strict=True):
        law = dict(zip(reward, row, strict=True))
        assert value == pytest.approx(helpers.objective(law, reward, reference, float(task.beta)))


def test_the_soft_optimal_policy_attains_the_soft_value_and_no_other_policy_does(task):
    best = soft_rl.objective(task.optimal, task.reward, task.reference, task.beta)
    np.testing.assert_allclose(best, soft_rl.soft_value(task.reward, task.reference, task.beta))
    for other in (task.reference, jax.nn.log_softmax(task.reward, axis=-1), jnp.flip(task.optimal, -1)):
        assert jnp.all(soft_rl.objective(other, task.reward, task.reference, task.beta) < best)


def test_backward_induction_is_the_recursion_at_every_prefix(tree, task, tables):
    beta = float(task.beta)
    values, qs = soft_rl.backward_induction(tree, task.reward, task.reference, beta)
    for number, (reference, reward) in enumerate(tables):
        for depth in range(tree.horizon):
            for index, prefix in enumerate(helpers.completions(tree.vocabulary, depth)):
                expected = helpers.soft_value(reference, reward, beta, tree.vocabulary, prefix)
                assert values[depth][number, index] == pytest.approx(expected)
                for token in range(tree.vocabulary):
                    expected = helpers.soft_value(reference, reward, beta, tree.vocabulary, (*prefix, token))
                    assert qs[depth][number, index, token] == pytest.approx(expected)


@given(st.integers(0, 1000), st.floats(0.05, 20))
def test_soft_value_lies_between_the_mean_and_the_best_reward(seed, beta):
    numbers = np.random.default_rng(seed)
    reward, reference = jnp.asarray(numbers.normal(size=6)), jnp.asarray(np.log(numbers.dirichlet(np.ones(6))))
    value = soft_rl.soft_value(reward, reference, beta)
    assert jnp.sum(jnp.exp(reference) * reward) - 1e-12 <= value <= jnp.max(reward) + 1e-12


def random_mdp(deterministic):
    numbers = np.random.default_rng(3)
    transition = numbers.dirichlet(np.ones(STATES), size=(STATES, ACTIONS))
    if deterministic:
        transition = np.eye(STATES)[numbers.integers(0, STATES, (STATES, ACTIONS))]
    with np.errstate(divide="ignore"):
        return soft_rl.MDP(
            start=jnp.log(jnp.asarray(numbers.dirichlet(np.ones(STATES)))),
            transition=jnp.asarray(np.log(transition)),
            reward=jnp.asarray(numbers.normal(size=(STATES, ACTIONS))),
            reference=jnp.asarray(np.log(numbers.dirichlet(np.ones(ACTIONS), size=STATES))),
        )


def paths(mdp, log_policy):
    """(states, actions, probability, total reward - beta log pi/pi_ref) of every trajectory."""
    start, transition, policy = (jnp.exp(part).tolist() for part in (mdp.start, mdp.transition, log_policy))
    reward, reference = mdp.reward.tolist(), jnp.exp(mdp.reference).tolist()
    for states, actions in helpers.trajectories(STATES, ACTIONS, HORIZON):
        gain = 0.0
        for step, (state, action) in enumerate(zip(states[:-1], actions, strict=True)):
            gain += reward[state][action]
            gain -= BETA * math.log(policy[step][state][action] / reference[state][action])
        yield states, actions, helpers.trajectory_probability(start, transition, policy, states, actions), gain


def mdp_value(mdp, state, steps_left):
    """Soft value of a state by recursion: the mean over next states stands outside the exponential."""
    if steps_left == 0:
        return 0.0
    total = 0.0
    for action in range(ACTIONS):
        following = [mdp_value(mdp, state_, steps_left - 1) for state_ in range(STATES)]
        chances = jnp.exp(mdp.transition[state, action]).tolist()
        q = float(mdp.reward[state, action]) + sum(p * value for p, value in zip(chances, following, strict=True))
        total += math.exp(float(mdp.reference[state, action]) + q / BETA)
    return BETA * math.log(total)


@pytest.mark.parametrize("deterministic", [False, True])
def test_mdp_objective_is_the_mean_over_trajectories(deterministic):
    mdp = random_mdp(deterministic)
    policy = jax.nn.log_softmax(jnp.asarray(np.random.default_rng(4).normal(size=(HORIZON, STATES, ACTIONS))))
    found = soft_rl.mdp_objective(mdp, policy, BETA)
    assert found == pytest.approx(sum(probability * gain for _, _, probability, gain in paths(mdp, policy)))


@pytest.mark.parametrize("deterministic", [False, True])
def test_mdp_soft_optimal_policy_attains_the_value_of_the_recursion(deterministic):
    mdp = random_mdp(deterministic)
    policy = soft_rl.mdp_soft_optimal_policy(mdp, HORIZON, BETA)
    found = soft_rl.mdp_objective(mdp, policy, BETA)
    start = jnp.exp(mdp.start).tolist()
    assert found == pytest.approx(sum(start[state] * mdp_value(mdp, state, HORIZON) for state in range(STATES)))
    posterior = soft_rl.mdp_objective(mdp, soft_rl.mdp_posterior_policy(mdp, HORIZON, BETA), BETA)
    if deterministic:
        assert posterior == pytest.approx(found)
    else:
        assert posterior < found - 1e-4, "with stochastic dynamics the posterior hopes for luck"


@pytest.mark.parametrize("deterministic", [False, True])
def test_mdp_posterior_policy_conditions_the_tilted_trajectory_law(deterministic):
    mdp = random_mdp(deterministic)
    reference = jnp.broadcast_to(mdp.reference, (HORIZON, STATES, ACTIONS))
    mass = {}
    for states, actions, probability, total_reward in paths(mdp, reference):
        for step, (state, action) in enumerate(zip(states[:-1], actions, strict=True)):
            place = step, state, action
            mass[place] = mass.get(place, 0.0) + probability * math.exp(total_reward / BETA)
    policy = jnp.exp(soft_rl.mdp_posterior_policy(mdp, HORIZON, BETA)).tolist()
    for step, state in itertools.product(range(HORIZON), range(STATES)):
        total = sum(mass[step, state, action] for action in range(ACTIONS))
        for action in range(ACTIONS):
            if total > 0:
                assert policy[step][state][action] == pytest.approx(mass[step, state, action] / total)


def test_with_deterministic_dynamics_the_posterior_is_the_soft_optimal_policy():
    mdp = random_mdp(deterministic=True)
    soft_optimal = soft_rl.mdp_soft_optimal_policy(mdp, HORIZON, BETA)
    np.testing.assert_allclose(soft_rl.mdp_posterior_policy(mdp, HORIZON, BETA), soft_optimal, atol=1e-12)


def test_the_forward_kl_optimum_is_the_root_found_by_halving(task, tables):
    beta = float(task.beta)
    policy = jnp.exp(soft_rl.forward_optimal_policy(task.reward, task.reference, task.beta))
    for row, (reference, reward) in zip(policy.tolist(), tables, strict=True):
        low, high = max(reward.values()), max(reward.values()) + beta
        for _ in range(100):
            middle = (low + high) / 2
            total = sum(beta * p / (middle - reward[y]) for y, p in reference.items())
            low, high = (middle, high) if total > 1 else (low, middle)
        assert row == pytest.approx([beta * p / (high - reward[y]) for y, p in reference.items()])


@pytest.mark.parametrize("regulariser", [soft_rl.REVERSE_KL, soft_rl.FORWARD_KL])
def test_no_policy_has_a_higher_regularised_objective_than_the_optimum(task, tables, regulariser):
    judged = task.reward, task.reference, task.beta
    best = regulariser.optimal(*judged)
    attained = soft_rl.objective(best, *judged, regulariser.divergence)
    noise = jnp.asarray(np.random.default_rng(5).normal(size=(200, 2, *best.shape)))
    others = jax.nn.log_softmax(best[None, None] + jnp.asarray([1e-2, 1.0])[None, :, None, None] * noise)
    found = jax.vmap(jax.vmap(lambda policy: soft_rl.objective(policy, *judged, regulariser.divergence)))(others)
    assert jnp.all(found < attained[None, None])
    law, (reference, reward) = dict(zip(tables[0][1], jnp.exp(best[0]).tolist(), strict=True)), tables[0]
    sides = (law, reference) if regulariser is soft_rl.REVERSE_KL else (reference, law)
    expected = helpers.expectation(law, reward) - float(task.beta) * helpers.kl(*sides)
    assert attained[0] == pytest.approx(expected)


@pytest.mark.parametrize("regulariser", [soft_rl.REVERSE_KL, soft_rl.FORWARD_KL])
def test_the_local_reward_of_an_optimum_is_its_reward_up_to_a_constant(task, regulariser):
    best = regulariser.optimal(task.reward, task.reference, task.beta)
    constant = task.beta * regulariser.local_reward(best - task.reference) - task.reward
    np.testing.assert_allclose(constant, jnp.broadcast_to(constant[:, :1], constant.shape), atol=1e-9)


def test_the_forward_kl_optimum_holds_for_scarce_responses_and_any_scale_of_reward():
    numbers = np.random.default_rng(6)
    reference = jax.nn.log_softmax(jnp.asarray(5 * numbers.normal(size=(50, 40))))
    for scale in (0.01, 3.0, 300.0):
        reward = scale * jnp.asarray(numbers.normal(size=reference.shape))
        constant = jnp.exp(reference - soft_rl.forward_optimal_policy(reward, reference, 0.2)) * 0.2 + reward
        np.testing.assert_allclose(constant, jnp.broadcast_to(constant[:, :1], constant.shape), atol=1e-9 * scale)


def test_derivatives_of_the_forward_kl_optimum_are_finite_differences(task):
    direction = jnp.asarray(np.random.default_rng(7).normal(size=task.reward.shape))

    def policy(size):
        return soft_rl.forward_optimal_policy(task.reward + size * direction, task.reference, task.beta)

    _, slope = jax.jvp(policy, (0.0,), (1.0,))
    np.testing.assert_allclose(slope, (policy(1e-6) - policy(-1e-6)) / 2e-6, atol=1e-6)
