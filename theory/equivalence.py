"""Theorems 2.2 and 2.3: two-stage RLHF over the local rewards of a policy class is offline likelihood over that class.

Theorem 2.2 regularises by entropy, which is a uniform reference; Theorem 2.3 measures local rewards from
a reference policy, and offline likelihood is then DPO. Pairs may come from any law.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from gvgap_jax import TokenTree, algorithms, policies, verifiers
from gvgap_jax.tasks import Task
from gvgap_jax.types import TreePolicy, TreeVerifier
from theory.fits import PENALISED, UNPENALISED, converged_leaves, problem
from theory.instances import COVERAGES, Coverage, random_coverage, random_tasks
from theory.rows import Row, apart, claim, negative_control, over_instances

TREE = TokenTree(3, 2, prompt_length=1)
DIMENSION = 4  # of the linear policies


class Instance(NamedTuple):
    """One random problem.

    Attributes:
      task: its reference is uniform in Theorem 2.2.
      coverage: the law of the pairs.
      features: of linear policies, H levels [X, V**h, V, d].
      start: [parameters] where the reward model starts its fit; policies start at the reference.
      second_beta: beta of the second stage; DPO and the local rewards use the task's.
    """

    task: Task
    coverage: Coverage
    features: tuple[Float[Array, "X prefixes V d"], ...]
    start: Float[Array, "parameters"]
    second_beta: Float[Array, ""]


def tabular(instance: Instance) -> TreePolicy:
    """Every policy."""
    return policies.tabular(TREE, TREE.conditionals(instance.task.reference))


def markov(instance: Instance) -> TreePolicy:
    """Logits that read the last token."""
    return policies.markov(TREE, 1, TREE.conditionals(instance.task.reference))


def linear(instance: Instance) -> TreePolicy:
    """Logits linear in random features."""
    return policies.linear(TREE, instance.features, TREE.conditionals(instance.task.reference))


def local_rewards(policy: TreePolicy, instance: Instance) -> TreeVerifier:
    """R(Pi), the premise of both theorems."""
    reference, params = policies.tabular(TREE), TREE.conditionals(instance.task.reference)
    verifier = verifiers.implicit_verifier(policy, reference, params, instance.task.beta)
    zeros, unravel = ravel_pytree(policy.init(jax.random.key(0)))
    return replace(verifier, init=lambda key: unravel(instance.start[: len(zeros)]))


def additive_rewards(policy: TreePolicy, instance: Instance) -> TreeVerifier:
    """A verifier class that is not R(Pi): sums over token positions."""
    del policy, instance
    return verifiers.interactions(TREE, 1)


def offline(make_policy: Callable[[Instance], TreePolicy], settings: algorithms.Settings, instance: Instance):
    """Leaf log-probabilities [X, L] of offline likelihood over a policy class, NaN unless the fit converged."""
    policy = make_policy(instance)
    data = problem(TREE, instance.task, instance.coverage)
    fit = algorithms.dpo(jax.random.key(0), algorithms.Classes(policy), data, settings)
    return converged_leaves(policy, fit)


def two_stage(
    make_policy: Callable[[Instance], TreePolicy],
    make_verifier: Callable[[TreePolicy, Instance], TreeVerifier],
    settings: algorithms.Settings,
    instance: Instance,
):
    """Leaf log-probabilities [X, L] of two-stage RLHF, NaN unless both fits converged."""
    policy = make_policy(instance)
    classes = algorithms.Classes(policy, make_verifier(policy, instance))
    data = problem(TREE, instance.task, instance.coverage)
    searched = data._replace(known=instance.task.known._replace(beta=instance.second_beta))
    fit = algorithms.rlhf(jax.random.key(0), classes, searched, settings)
    return converged_leaves(policy, fit)


def check(instances: int = 64) -> Iterator[Row]:
    """Rows of Theorems 2.2 and 2.3 over ``instances`` random instances each."""
    generator = np.random.default_rng(22)
    every, short, few = _methods(tabular, PENALISED), _methods(markov, PENALISED), _methods(linear, UNPENALISED)
    additive = over_instances(partial(two_stage, tabular, additive_rewards, PENALISED))
    for uniform, statement in ((True, "Theorem 2.2: RLHF = offline likelihood"), (False, "Theorem 2.3: RLHF = DPO")):
        drawn = random_instances(generator, instances, uniform)
        yield claim(statement, f"tabular policies; {COVERAGES}", apart(*every(drawn)))
        yield claim(statement, f"markov(1) policies; {COVERAGES}", apart(*short(drawn)))
        drawn = random_instances(generator, instances, uniform, whole=True)
        elsewhere = drawn._replace(start=jnp.asarray(generator.normal(size=drawn.start.shape)))
        premises = "linear policies; population, no penalty, reward model started elsewhere"
        yield claim(statement, premises, apart(*few(elsewhere)))

        likely, inexact = every(drawn._replace(second_beta=2 * drawn.task.beta))
        yield negative_control(statement, "exact second stage: run at twice the beta", apart(likely, inexact), 1e-2)
        yield negative_control(
            statement, "R = R(Pi): additive rewards for tabular policies", apart(likely, additive(drawn)), 1e-2
        )


def random_instances(
    generator: np.random.Generator, instances: int, uniform_reference: bool, whole: bool = False
) -> Instance:
    """A batch of problems, of the ``whole`` population only or of every coverage; all fits start at the reference."""
    task = random_tasks(generator, TREE, instances, uniform_reference=uniform_reference)
    features = tuple(jnp.asarray(generator.normal(size=(instances, *shape, DIMENSION))) for shape in TREE.level_shapes)
    start = jnp.zeros((instances, policies.tabular(TREE).num_parameters))
    return Instance(task, random_coverage(generator, TREE, instances, whole), features, start, task.beta)


def _methods(make_policy: Callable[[Instance], TreePolicy], settings: algorithms.Settings):
    likelihood = over_instances(partial(offline, make_policy, settings))
    rlhf = over_instances(partial(two_stage, make_policy, local_rewards, settings))
    return lambda batch: (likelihood(batch), rlhf(batch))
