"""The law of few pairs: its limit, its invariances, and every data set of a handful of pairs.

``gvgap_jax.prediction`` says what the mean over data sets of the regret of a fit is. Here the data sets are counted:
of n pairs of L responses there are few enough to fit each of them.
"""

import itertools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import expit, log_softmax

from gvgap_jax import TokenTree, complexity, prediction
from gvgap_jax.tasks import Task
from theory.instances import random_tasks
from theory.rows import Row, claim, negative_control

TREE = TokenTree(4, 1)
SIZE = 2
MANY = 1e6  # pairs
FEW, PENALTY = 4, 3.0  # pairs, as many of which the ridge is worth
FIRST_ORDER = 1e-2  # share of the limit that n pairs may still be off it
CLOSE = 0.1  # log of predicted over counted regret
MARGIN = 0.3


def counted_regret(task: Task, features: Float[np.ndarray, "L d"], pairs: int, penalty: float) -> float:
    """Mean regret in nats of ridge fits to all data sets of so many pairs, each by its probability, by NumPy alone."""
    reward, reference, beta, temperature = (np.asarray(part) for part in (task.reward[0], task.reference[0], *task[3:]))
    kinds = list(itertools.permutations(range(len(reward)), 2))  # (chosen, rejected); the rest are pairs of equals
    law = np.array(
        [2 * np.exp(reference[i] + reference[j]) * expit((reward[i] - reward[j]) / temperature) for i, j in kinds]
    )
    gradients = np.array([(features[i] - features[j]) / temperature for i, j in kinds] + [np.zeros(features.shape[1])])
    law = np.append(law, 1 - law.sum())
    bars = np.array(list(itertools.combinations(range(pairs + len(law) - 1), len(law) - 1)))
    ends = np.column_stack([np.full(len(bars), -1), bars, np.full(len(bars), pairs + len(law) - 1)])
    counts = np.diff(ends, axis=1) - 1
    factorial = np.vectorize(math.lgamma)(counts + 1.0).sum(axis=1)
    chance = np.exp(math.lgamma(pairs + 1) - factorial + counts @ np.log(law))
    fits = np.zeros((len(counts), features.shape[1]))
    for _ in range(12):  # Newton steps
        wrong = expit(-fits @ gradients.T)
        slope = penalty * fits - (counts * wrong) @ gradients
        bend = np.einsum("mk,kd,ke->mde", counts * wrong * (1 - wrong), gradients, gradients)
        fits = fits - np.linalg.solve(bend + penalty * np.eye(features.shape[1]), slope[..., None])[..., 0]
    policy = log_softmax(reference + fits @ features.T / beta, axis=1)
    best = log_softmax(reference + reward / beta)
    return float(chance @ np.sum(np.exp(policy) * (policy - best), axis=1))


def predicted(task: Task, features: Float[Array, "X L d"], pairs: Float[Array, ""], ridge: Float[Array, "d d"]):
    """Regret in nats under one ridge, so that nothing is selected."""
    numbers = jnp.stack([pairs])
    return prediction.predict(prediction.of_features(features), task, numbers, numbers, ridge[None]).regret[0]


def check(instances: int = 64) -> Iterator[Row]:
    """Rows of the law; an eighth as many tasks as ``instances``, because all data sets of each are fitted."""
    number = max(instances // 8, 4)
    generator = np.random.default_rng(0)
    batch = random_tasks(generator, TREE, number)
    features = jnp.asarray(generator.normal(size=(number, 1, TREE.leaves, SIZE)))
    weights = jnp.asarray(generator.normal(size=(number, SIZE)))
    inside = batch._replace(reward=jnp.einsum("nxld,nd->nxl", features, weights))
    held = jnp.broadcast_to(PENALTY * jnp.eye(SIZE), (number, SIZE, SIZE))
    law = jax.jit(lambda *arguments: jax.lax.map(lambda each: predicted(*each), arguments))
    dimension = np.asarray(jax.jit(jax.vmap(complexity.effective_dimension))(features, inside))

    def off(left, right):
        return np.abs(np.log(np.asarray(left) / np.asarray(right)))

    many, few = jnp.full(number, MANY), jnp.full(number, float(FEW))
    statement = "regret tends to d_eff / (2n)"
    yield claim(
        statement, f"n = {MANY:g}, a ridge", off(law(inside, features, many, held), dimension / (2 * MANY)), FIRST_ORDER
    )
    outside = off(law(batch, features, many, held), dimension / (2 * MANY))
    yield negative_control(statement, "gold reward inside the class", outside, MARGIN)

    statement = f"regret on {FEW} pairs = its mean over all data sets, log"
    counted = [
        counted_regret(jax.tree.map(lambda leaf, k=k: leaf[k], batch), np.asarray(features[k, 0]), FEW, PENALTY)
        for k in range(number)
    ]
    at_few = law(batch, features, few, held)
    yield claim(statement, f"{TREE.leaves} responses, a ridge worth {PENALTY:g} pairs", off(at_few, counted), CLOSE)
    unheld = off(dimension / (2 * FEW), counted)
    over_tasks = np.sqrt(np.mean(unheld**2, keepdims=True))  # of a single task it can be right by chance
    yield negative_control(statement, "few pairs: d_eff / (2n) instead, r.m.s. of tasks", over_tasks, MARGIN)

    statement = "regret does not depend on how rewards are written"
    order = np.asarray(generator.permutation(TREE.leaves))
    relabelled = batch._replace(reward=batch.reward[..., order] + 3.0, reference=batch.reference[..., order])
    premises = "responses relabelled, a constant added to rewards"
    yield claim(statement, premises, off(law(relabelled, features[:, :, order], few, held), at_few))
    scaled, stretch = 3.0 * features, 9.0 * held
    yield claim(statement, "features and their ridge rescaled", off(law(batch, scaled, few, stretch), at_few))
    yield negative_control(
        statement, "the ridge rescaled with the features", off(law(batch, scaled, few, held), at_few), 1e-3
    )
