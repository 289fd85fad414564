"""The rate of two-stage RLHF: on n pairs its regret tends to d_eff / (2n) nats.

d_eff = tr(Cov_{pi*}(grad r) I^-1) / beta^2, with I the Fisher information of one pair. It is the leading
order as n grows, for a verifier class that holds the gold reward, and without a penalty.
"""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import stats

from gvgap_jax import TokenTree, algorithms, complexity, metrics, policies, preferences, tasks, verifiers
from gvgap_jax.tasks import Task
from gvgap_jax.types import HeldOut, PRNGKey
from theory.rows import Row, claim, negative_control

TREE = TokenTree(3, 7)
DIMENSIONS = (4, 16, 64)
PAIRS = (4096, 32768)
SETTINGS = algorithms.Settings(penalties=(0.0,))
LEVEL = 0.99  # of each interval, because there are several
OUTSIDE = 0.5  # s.d. of what the class cannot express, in the negative control
MARGIN = 10.0  # standard errors


def predicted_regret(task: Task, features: Float[Array, "X L d"], pairs: int) -> Float[Array, ""]:
    """d_eff / (2n) in nats, for verifiers linear in ``features``."""
    return complexity.effective_dimension(features, task) / (2 * pairs)


def measured_regret(task: Task, features: Float[Array, "X L d"], pairs: int, key: PRNGKey) -> Float[Array, ""]:
    """Regret in nats of two-stage RLHF on so many sampled pairs, NaN unless the fit converged."""
    data = preferences.sample(key, TREE, task, pairs)
    classes = algorithms.Classes(policies.tabular(TREE), verifiers.linear(TREE, features))
    fit = algorithms.rlhf(key, classes, algorithms.Problem(task.known, data, HeldOut(data)), SETTINGS)
    regret = metrics.evaluate(classes.policy.leaf_log_probs(fit.params), task).regret
    return jnp.where(fit.converged, regret, jnp.nan)


def check(instances: int = 64) -> Iterator[Row]:
    """Rows of the rate; half as many seeds as ``instances``, because each is a fit to thousands of pairs."""
    seeds = max(instances // 2, 4)
    statement = "regret of RLHF = d_eff / (2n), in standard errors"
    bound = float(stats.t.ppf((1 + LEVEL) / 2, seeds - 1))
    compare = {pairs: jax.jit(partial(_compare, pairs, seeds)) for pairs in PAIRS}
    for pairs in PAIRS:
        for dimension in DIMENSIONS:
            premises, deviation = _deviation(dimension, pairs, *compare[pairs](*random_class(dimension)))
            yield claim(statement, premises, deviation, bound)._replace(instances=seeds)
    premises, deviation = _deviation(16, PAIRS[0], *compare[PAIRS[0]](*random_class(16, OUTSIDE)))
    yield negative_control(statement, f"gold reward inside the class; {premises}", deviation, MARGIN)._replace(
        instances=seeds
    )


def random_class(dimension: int, outside: float = 0.0) -> tuple[Task, np.ndarray]:
    """A task whose reward has s.d. 1 inside the class and s.d. ``outside`` beyond it, and the class's features.

    The features [1, L, max d] end in columns of zeros, so that classes of every dimension share a program.
    """
    generator = np.random.default_rng(dimension)
    features = np.zeros((1, TREE.leaves, max(DIMENSIONS)))
    features[..., :dimension] = generator.normal(size=(1, TREE.leaves, dimension))
    direction = generator.normal(size=dimension)
    reward = features[..., :dimension] @ (direction / np.linalg.norm(direction))
    return tasks.make_task(TREE, reward + outside * generator.normal(size=reward.shape)), features


def _compare(pairs: int, seeds: int, task: Task, features):
    keys = jax.random.split(jax.random.key(0), seeds)
    # One seed after another: a batch of them would hold seeds x pairs x leaves numbers at once.
    regrets = jax.lax.map(lambda key: measured_regret(task, features, pairs, key), keys)
    return predicted_regret(task, features, pairs), regrets


def _deviation(dimension: int, pairs: int, predicted, regrets) -> tuple[str, float]:
    mean, error = np.mean(regrets), stats.sem(regrets)
    premises = f"d = {dimension}, n = {pairs:,}: predicted {predicted:.3g}, measured {mean:.3g} nats"
    return premises, abs(mean - predicted) / error
