"""Random instances: tasks of every scale, and pairs of every coverage, as batches of arrays.

They are drawn by NumPy, outside the compiled programs, because a random draw costs more to compile than a fit.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy.special import log_softmax

from gvgap_jax import TokenTree, preferences
from gvgap_jax.tasks import Task
from gvgap_jax.types import Preferences

FEW = 4  # pairs, fewer than any class here has parameters
PAIRS = 100.0  # weight of a whole population, in pairs


def random_tasks(
    generator: np.random.Generator,
    tree: TokenTree,
    instances: int,
    beta: tuple[float, float] = (0.4, 2.5),
    uniform_reference: bool = False,
) -> Task:
    """A batch of tasks: rewards of s.d. 0.5 to 2, betas log-uniform in ``beta``, random references and prompts."""
    shape = (instances, tree.prompts, tree.leaves)
    return Task(
        reward=random_rewards(generator, shape, (0.5, 2.0)),
        reference=random_policies(generator, shape, 0.0 if uniform_reference else 1.0),
        prompt_probs=jnp.asarray(generator.dirichlet(np.full(tree.prompts, 5.0), instances)),
        beta=random_betas(generator, instances, beta),
        temperature=jnp.asarray(generator.uniform(0.7, 1.5, instances)),
    )


def random_rewards(
    generator: np.random.Generator, shape: tuple[int, ...], scale: tuple[float, float]
) -> Float[Array, "instances *rest"]:
    """Normal rewards whose s.d. is drawn from the interval ``scale`` for each instance, the first axis."""
    spread = generator.uniform(*scale, (shape[0],) + (1,) * (len(shape) - 1))
    return jnp.asarray(spread * generator.normal(size=shape))


def random_betas(generator: np.random.Generator, instances: int, interval: tuple[float, float]):
    """Log-uniform numbers [instances]."""
    low, high = interval
    return jnp.asarray(np.exp(generator.uniform(np.log(low), np.log(high), instances)))


def random_policies(
    generator: np.random.Generator, shape: tuple[int, ...], scale: float = 1.0
) -> Float[Array, "*rest L"]:
    """Log-probabilities over the last axis, from normal logits of s.d. ``scale``."""
    return jnp.asarray(log_softmax(scale * generator.normal(size=shape), axis=-1))


class Coverage(NamedTuple):
    """Which pairs an instance is given.

    Attributes:
      law: [X, L] log-probabilities of the responses that are paired, -inf for those never seen.
      uniform: [FEW] numbers that choose the pairs where there are few.
      few: only FEW labelled pairs, rather than the whole population.
    """

    law: Float[Array, "X L"]
    uniform: Float[Array, "few"]
    few: Bool[Array, ""]


COVERAGES = f"population, {FEW} pairs, or half the completions unseen"


def random_coverage(generator: np.random.Generator, tree: TokenTree, instances: int, whole: bool = False) -> Coverage:
    """A batch that takes the three ``COVERAGES`` in turn, or the ``whole`` population every time."""
    case = np.arange(instances) % 3 * (not whole)
    shape = (instances, tree.prompts, tree.leaves)
    rank = np.argsort(generator.random(shape), axis=-1)
    hidden = (case == 2)[:, None, None] & (rank >= tree.leaves // 2)
    law = log_softmax(np.where(hidden, -np.inf, generator.normal(size=shape)), axis=-1)
    return Coverage(jnp.asarray(law), jnp.asarray(generator.random((instances, FEW))), jnp.asarray(case == 1))


def pairs(tree: TokenTree, task: Task, coverage: Coverage) -> Preferences:
    """The labelled pairs of one instance: every pair of responses is a row, its weight counts pairs."""
    population = preferences.population(tree, task, coverage.law)
    cumulative = jnp.cumsum(population.weight)
    chosen = jnp.searchsorted(cumulative, coverage.uniform * cumulative[-1], side="right")
    counts = jnp.zeros_like(cumulative).at[chosen].add(1.0)
    return population._replace(weight=jnp.where(coverage.few, counts, PAIRS * population.weight))
