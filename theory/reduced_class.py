"""Theorem 3.1: two-stage RLHF over a simple class R_sim is maximum likelihood restricted to Pi(R_sim).

The restriction can only lower the likelihood of the pairs it is fitted to. Whether it lowers the regret
depends on the gold reward: inside R_sim the regret on population preferences is 0, outside it is not.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gvgap_jax import TokenTree, algorithms, metrics, policies, verifiers
from gvgap_jax.tasks import Task
from theory.fits import PENALISED, UNPENALISED, converged_leaves, problem
from theory.instances import COVERAGES, Coverage, random_coverage, random_tasks
from theory.rows import Row, apart, claim, negative_control, over_instances

TREE = TokenTree(3, 2, prompt_length=1)
DIMENSION = 4  # of R_sim


class Instance(NamedTuple):
    """One random problem: R_sim is linear in ``features``, and the reward model starts its fit at ``start``."""

    task: Task
    coverage: Coverage
    features: Float[Array, "X L d"]
    start: Float[Array, "d"]


def two_stage(settings: algorithms.Settings, instance: Instance):
    """Leaf log-probabilities [X, L] of RLHF over R_sim, and its regret in nats; NaN unless both fits converged."""
    classes = _classes(instance)
    fit = algorithms.rlhf(jax.random.key(0), classes, problem(TREE, instance.task, instance.coverage), settings)
    policy = converged_leaves(classes.policy, fit)
    return policy, metrics.evaluate(policy, instance.task).regret


def hurried(instance: Instance):
    """Leaf log-probabilities [X, L] of RLHF whose second stage is a single step of descent."""
    classes = _classes(instance)
    searched = classes._replace(policy=replace(classes.policy, from_log_probs=None))
    data, settings = problem(TREE, instance.task, instance.coverage), replace(UNPENALISED, rl_steps=1)
    return classes.policy.leaf_log_probs(algorithms.rlhf(jax.random.key(0), searched, data, settings).params)


def restricted(settings: algorithms.Settings, instance: Instance):
    """Leaf log-probabilities [X, L] of likelihood over Pi(R_sim), NaN unless it converged, and its training loss."""
    classes, data = _classes(instance), problem(TREE, instance.task, instance.coverage)
    fit = algorithms.restricted_mle(jax.random.key(0), classes, data, settings)
    return converged_leaves(classes.policy, fit), fit.loss


def unrestricted_loss(instance: Instance):
    """Training loss of likelihood over every policy."""
    data = problem(TREE, instance.task, instance.coverage)
    return algorithms.dpo(jax.random.key(0), _classes(instance), data, UNPENALISED).loss


def check(instances: int = 64) -> Iterator[Row]:
    """Rows of Theorem 3.1 over ``instances`` random instances each."""
    generator = np.random.default_rng(31)
    statement = "Theorem 3.1: RLHF over R_sim = likelihood over Pi(R_sim)"
    drawn = random_instances(generator, instances)
    online, _ = over_instances(partial(two_stage, PENALISED))(drawn)
    offline, _ = over_instances(partial(restricted, PENALISED))(drawn)
    yield claim(statement, COVERAGES, apart(online, offline))

    method = over_instances(partial(two_stage, UNPENALISED))
    outside = random_instances(generator, instances, whole=True)
    online, regret = method(outside)
    offline, loss = over_instances(partial(restricted, UNPENALISED))(outside)
    premises = "population, no penalty, gold outside R_sim, reward model started elsewhere"
    yield claim(statement, premises, apart(online, offline))
    yield negative_control(
        statement, "lossless second stage: a single step of it", apart(over_instances(hurried)(outside), offline), 1e-2
    )

    excess = np.asarray(over_instances(unrestricted_loss)(outside) - loss)
    yield claim(
        "training likelihood over Pi(R_sim) <= over every policy",
        "population, gold outside R_sim",
        np.maximum(excess, 0),
    )
    rewards = np.einsum("nxld,nd->nxl", outside.features, generator.normal(size=outside.start.shape) / 2)
    _, no_regret = method(outside._replace(task=outside.task._replace(reward=rewards)))
    yield claim("RLHF over R_sim has no regret", "population, gold inside R_sim", np.abs(no_regret))
    yield negative_control("RLHF over R_sim has no regret", "gold inside R_sim", regret, 1e-3)


def random_instances(generator: np.random.Generator, instances: int, whole: bool = False) -> Instance:
    """A batch of problems; ``whole`` takes populations only, and starts the reward model at random."""
    task = random_tasks(generator, TREE, instances)
    features = jnp.asarray(generator.normal(size=(*task.reward.shape, DIMENSION)))
    start = jnp.asarray(whole * generator.normal(size=(instances, DIMENSION)))
    return Instance(task, random_coverage(generator, TREE, instances, whole), features, start)


def _classes(instance: Instance) -> algorithms.Classes:
    task = instance.task
    simple = verifiers.linear(TREE, instance.features)
    return algorithms.Classes(
        policies.tabular(TREE, TREE.conditionals(task.reference)),
        replace(simple, init=lambda key: instance.start),
        verifiers.soft_optimal_class(TREE, simple, task.reference, task.beta),
    )
