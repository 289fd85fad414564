"""A ridge penalty is stated in reward: it holds policies and reward models alike, whatever beta and their units."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from gvgap_jax import TokenTree, algorithms, metrics, policies, preferences, verifiers
from gvgap_jax.algorithms import Classes, Problem, Settings
from gvgap_jax.features import interaction_basis
from gvgap_jax.soft_rl import FORWARD_KL, REVERSE_KL
from gvgap_jax.tasks import interactions, make_task

KEY = jax.random.key(0)
BETAS = (0.25, 1.0, 4.0)
PENALTIES = (10.0, 1.0, 0.1)
LINE, TREE = TokenTree(vocabulary=3, horizon=1), TokenTree(vocabulary=2, horizon=2)


def drawn(tree, beta, pairs=80, temperature=1.3):
    """The first ``pairs`` of 80, a fifth of them held out, of responses of the uniform policy."""
    reward = np.random.default_rng(0).normal(size=(tree.prompts, tree.leaves))
    task = make_task(tree, reward, temperature=temperature)._replace(beta=beta)
    return Problem(task.known, *preferences.split(preferences.sample(KEY, tree, task, 80), pairs))


def fit(method, classes, problem, penalties, tolerance=1e-9):
    return method(KEY, classes, problem, Settings(penalties=penalties, tolerance=tolerance, newton_steps=100))


@pytest.fixture(scope="module")
def tables():
    """On single tokens a table of logits and one of rewards are the same class: both fits [betas, numbers of pairs]."""
    classes = Classes(policies.tabular(LINE), verifiers.linear(LINE, jnp.eye(3)[None]))

    def both(beta, pairs):
        problem = drawn(LINE, beta, pairs)
        return [fit(method, classes, problem, PENALTIES) for method in (algorithms.dpo, algorithms.reward_model)]

    return jax.jit(jax.vmap(jax.vmap(both)))(*jnp.meshgrid(jnp.array(BETAS), jnp.array([9, 40, 80]), indexing="ij"))


def test_a_table_of_logits_and_one_of_rewards_end_at_one_reward_at_every_beta(tables):
    offline, rewards = tables
    assert bool(jnp.all(offline.converged & rewards.converged))
    of_logits = jnp.array(BETAS)[:, None, None] * offline.params[0].reshape(3, 3, 3)
    np.testing.assert_allclose(of_logits, rewards.params, atol=1e-7)
    assert jnp.linalg.norm(rewards.params, axis=-1).min() > 0.1


def test_penalties_and_losses_are_reported_alike(tables):
    offline, rewards = tables
    assert len(np.unique(rewards.penalty)) > 1, "the numbers of pairs must select different ones"
    np.testing.assert_array_equal(offline.penalty, rewards.penalty)
    np.testing.assert_allclose(offline.held_out_loss, rewards.held_out_loss, rtol=1e-8)


def leaves_of(logits):
    """Log-probabilities [4] of two binary tokens from logits [2] and [2, 2], in numpy."""
    first, second = (values - np.logaddexp.reduce(values, axis=-1, keepdims=True) for values in logits)
    return (first[:, None] + second).reshape(-1)


@pytest.mark.parametrize("beta", [0.25, 4.0])
def test_dpo_minimises_the_likelihood_with_its_penalty_in_reward(beta):
    """Against SciPy, on a table of two tokens, in logits: a penalty of 2 is one of 2 beta^2 on logits."""
    problem, penalty = drawn(TREE, beta), 2.0
    chosen, rejected = (np.asarray(TREE.leaf_index(side)) for side in (problem.train.chosen, problem.train.rejected))

    def objective(flat):
        leaves = leaves_of((flat[:2], flat[2:].reshape(2, 2)))
        margin = beta * (leaves[chosen] - leaves[rejected]) / 1.3
        return np.asarray(problem.train.weight) @ np.logaddexp(0, -margin) + penalty * beta**2 / 2 * flat @ flat

    expected = scipy.optimize.minimize(objective, np.zeros(6), method="BFGS", options={"gtol": 1e-8}).x
    found = fit(algorithms.dpo, Classes(policies.tabular(TREE)), problem, (penalty,))
    assert found.converged
    assert found.penalty == penalty
    assert np.linalg.norm(expected) > 0.2
    np.testing.assert_allclose(np.concatenate([np.ravel(level) for level in found.params]), expected, atol=1e-5)


def units(beta):
    """Every kind of class, with what a parameter of 1 is worth: nats for policies, reward for reward models."""
    logits, start = policies.tabular(TREE), policies.tabular(TREE).init(KEY)
    additive = verifiers.interactions(TREE, 1)
    features = tuple(jnp.ones((*shape, 2)) for shape in TREE.level_shapes)
    return {
        "table": (logits, 1.0),
        "markov": (policies.markov(TREE, 1), 1.0),
        "linear": (policies.linear(TREE, features), 1.0),
        "soft-optimal": (verifiers.soft_optimal_class(TREE, additive, TREE_REFERENCE, beta), 1 / beta),
        "rewards": (additive, 1.0),
        "local rewards": (verifiers.implicit_verifier(logits, logits, start, beta), beta),
        "f-DPO": (verifiers.implicit_verifier(logits, logits, start, beta, FORWARD_KL), beta),
        "local rewards of soft-optimal policies": (
            verifiers.implicit_verifier(*2 * [_soft(additive, beta)], additive.init(KEY), beta), 1.0
        ),
        "soft-optimal for local rewards": (
            verifiers.soft_optimal_class(
                TREE, verifiers.implicit_verifier(logits, logits, start, beta), TREE_REFERENCE, beta
            ), 1.0
        ),
    }  # fmt: skip


TREE_REFERENCE = jnp.full((1, 4), -jnp.log(4.0))


def _soft(verifier, beta):
    return verifiers.soft_optimal_class(TREE, verifier, TREE_REFERENCE, beta, REVERSE_KL)


@pytest.mark.parametrize("name", units(0.25))
def test_every_class_says_what_its_parameters_are_worth(name):
    found, unit = units(0.25)[name]
    assert found.unit == pytest.approx(unit)


@pytest.fixture(scope="module")
def full_tables():
    """Regrets and penalties [betas, seeds] of DPO and of RLHF on full-table gold rewards, 512 pairs of 9 responses."""
    tree = TokenTree(vocabulary=3, horizon=2)
    basis = jnp.asarray(interaction_basis(tree, 2)[0])
    classes = Classes(policies.tabular(tree), verifiers.linear(tree, basis))

    def regrets(beta, seed):
        task_key, pairs_key = jax.random.split(jax.random.key(seed))
        task = interactions(task_key, tree, 2)._replace(beta=beta)
        problem = Problem(task.known, *preferences.split(preferences.sample(pairs_key, tree, task, 512), 512))
        fits = [fit(method, classes, problem, algorithms.PENALTIES, 1e-4) for method in METHODS]
        leaves = [classes.policy.leaf_log_probs(fit.params) for fit in fits]
        return [metrics.evaluate(policy, task).regret for policy in leaves], [fit.penalty for fit in fits]

    over_seeds = jax.vmap(functools.partial(regrets), (None, 0))
    return jax.jit(jax.vmap(over_seeds, (0, None)))(jnp.array([0.25, 1.0]), jnp.arange(16))


METHODS = (algorithms.dpo, algorithms.rlhf)


def test_a_small_beta_costs_dpo_nothing_where_both_classes_are_full_tables(full_tables):
    """With penalties in logits DPO had several times RLHF's regret at beta .25: its grid ended too early."""
    (offline, two_stage), (penalty, _) = full_tables
    ratio = jnp.exp(jnp.mean(jnp.log(offline / two_stage), axis=1))
    assert ratio[0] < 1.6 * ratio[1]
    assert jnp.mean(penalty[0] == penalty[1]) > 0.8, "the same pairs select the same penalty"
