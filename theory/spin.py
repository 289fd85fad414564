"""SPIN and SFT: imitation by playing against the local rewards of a policy class is maximum likelihood over that class.

Maximum-entropy inverse RL maximises E_D[r] - log E_ref[exp r] over r in R(Pi). Every local reward
log pi - log pi_ref is normalised, so that the second term vanishes. The logistic self-play update
(arXiv 2401.01335) has the data as its one fixed point, where the class holds them.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from gvgap_jax import TokenTree, algorithms, optimize, policies, preferences, soft_rl, verifiers
from gvgap_jax.tasks import Task
from gvgap_jax.types import HeldOut, TreePolicy, TreeVerifier
from theory.fits import UNPENALISED as SETTINGS
from theory.fits import converged_leaves
from theory.instances import random_policies, random_tasks
from theory.rows import Row, apart, claim, negative_control, over_instances

TREE = TokenTree(3, 2, prompt_length=1)


def inverse_rl(rewards: Callable[[Task], TreeVerifier], task: Task, demonstrations, start):
    """The soft-optimal policy [X, L] of maximum-entropy inverse RL, NaN unless the fit converged.

    ``demonstrations`` [X, L] is a joint law with the prompts; the fit begins at the numbers ``start``.
    """
    verifier = rewards(task)

    def loss(scores):
        reward = scores.reshape(demonstrations.shape)
        log_partition = jax.nn.logsumexp(task.reference + reward, axis=-1)
        return jnp.sum(demonstrations.sum(axis=-1) * log_partition) - jnp.sum(demonstrations * reward)

    zeros, unravel = ravel_pytree(verifier.init(jax.random.key(0)))
    params = unravel(start[: len(zeros)])
    fit = optimize.newton(
        lambda params: verifier.leaf_scores(params).reshape(-1), loss, params, SETTINGS.rl_tolerance, SETTINGS.rl_steps
    )
    imitated = soft_rl.soft_optimal_policy(verifier.leaf_scores(fit.params), task.reference, 1.0)
    return jnp.where(fit.converged, imitated, jnp.nan)


def local_rewards(task: Task) -> TreeVerifier:
    """R(markov(1)) at beta 1."""
    return verifiers.implicit_verifier(_markov(task), policies.tabular(TREE), TREE.conditionals(task.reference), 1.0)


def additive_rewards(task: Task) -> TreeVerifier:
    """Sums over token positions, which are not R(markov(1))."""
    del task
    return verifiers.interactions(TREE, 1)


def sft(task: Task, demonstrations):
    """The markov(1) policy [X, L] of maximum likelihood."""
    policy = _markov(task)
    fit = algorithms.sft(jax.random.key(0), algorithms.Classes(policy), _problem(task, demonstrations), SETTINGS)
    return converged_leaves(policy, fit)


def self_play(task: Task, demonstrations):
    """The markov(1) policy [X, L] at which SPIN ends."""
    policy = _markov(task)
    fit = algorithms.spin(jax.random.key(0), algorithms.Classes(policy), _problem(task, demonstrations), SETTINGS)
    return converged_leaves(policy, fit)


def one_round(task: Task, demonstrations):
    """The policy after one round over every policy, and pi_ref (D / pi_ref)^(1/beta) / Z: [X, L] twice."""
    policy = policies.tabular(TREE, TREE.conditionals(task.reference))
    classes, once = algorithms.Classes(policy), replace(SETTINGS, spin_rounds=1)
    fit = algorithms.spin(jax.random.key(0), classes, _problem(task, demonstrations), once)
    data = jnp.log(demonstrations) - jnp.log(demonstrations.sum(axis=-1, keepdims=True))
    return converged_leaves(policy, fit), soft_rl.soft_optimal_policy(data - task.reference, task.reference, task.beta)


def check(instances: int = 64) -> Iterator[Row]:
    """Rows of SPIN = SFT over ``instances`` random instances each."""
    generator = np.random.default_rng(23)
    # Self-play contracts by |1 - 1/beta| a round.
    tasks = random_tasks(generator, TREE, instances, beta=(0.8, 1.25))
    laws = random_policies(generator, tasks.reward.shape)
    demonstrations = tasks.prompt_probs[..., None] * jnp.exp(laws)
    likelihood = over_instances(sft)
    likely = likelihood(tasks, demonstrations)
    statement = "inverse RL over R(Pi) = SFT over Pi"
    parameters = 0.5 * jnp.asarray(generator.normal(size=(instances, policies.markov(TREE, 1).num_parameters)))
    imitated = over_instances(partial(inverse_rl, local_rewards))(tasks, demonstrations, parameters)
    yield claim(statement, "markov(1) policies, any demonstrations", apart(imitated, likely))
    imitated = over_instances(partial(inverse_rl, additive_rewards))(tasks, demonstrations, parameters)
    yield negative_control(statement, "R = R(Pi): additive rewards", apart(imitated, likely), 1e-2)

    statement = "SPIN ends where SFT does"
    realisable = tasks.prompt_probs[..., None] * jnp.exp(over_instances(_markov_law)(tasks, parameters))
    premises = "markov(1) policies, realisable demonstrations"
    yield claim(statement, premises, apart(over_instances(self_play)(tasks, realisable), likelihood(tasks, realisable)))
    play = over_instances(one_round)
    played, _ = play(tasks._replace(beta=jnp.full_like(tasks.beta, 2.0)), demonstrations)
    yield negative_control(
        statement, "playing to the end: one round at beta 2, every policy", apart(played, laws), 1e-2
    )

    played, tilted = play(tasks, demonstrations)
    yield claim("a round of SPIN ends at pi (D / pi)^(1/beta) / Z", "every policy", apart(played, tilted))
    statement = "a round of SPIN leaves the policy where it is"
    yield negative_control(statement, "the policy is the data distribution", apart(played, tasks.reference), 1e-2)
    played, _ = play(tasks._replace(reference=laws), demonstrations)
    yield claim(statement, "the policy is the data distribution", apart(played, laws))


def _markov(task: Task) -> TreePolicy:
    return policies.markov(TREE, 1, TREE.conditionals(task.reference))


def _markov_law(task: Task, flat):
    policy = _markov(task)
    _, unravel = ravel_pytree(policy.init(jax.random.key(0)))
    return policy.leaf_log_probs(unravel(flat))


def _problem(task: Task, demonstrations) -> algorithms.Problem:
    pairs = preferences.population(TREE, task)
    return algorithms.Problem(task.known, pairs, HeldOut(pairs), demonstrations)
