"""The sweep's fits as data: the same pairs for every solver, and one judge of what a solver returns."""

from collections.abc import Callable
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from experiments.kit.problems import problem_of, task_of
from gvgap_jax import HeldOut, TokenTree, algorithms
from gvgap_jax.features import coefficient_degrees, token_contrasts


class Kind(NamedTuple):
    """A kind of fit: offline DPO of the tabular policy (order 0), or a reward model of interactions up to ``order``."""

    name: str
    order: int


class Pairs(NamedTuple):
    """Leaf indices [n] of chosen and rejected responses, and reference margins [n]: no padding."""

    chosen: np.ndarray
    rejected: np.ndarray
    reference_margin: np.ndarray


class Data(NamedTuple):
    """One cell as a peer gets it. ``base`` holds the reference's logits, [1092] numbers for V=3 and H=6."""

    train: Pairs
    held_out: Pairs
    base: np.ndarray
    beta: float
    temperature: float


class Solution(NamedTuple):
    """What a solver returns for one cell.

    Attributes:
      params: [d] at the selected penalty.
      penalty: the selected one.
      met: whether every penalty of the path met the tolerance, in the solver's own precision.
    """

    params: np.ndarray
    penalty: float
    met: bool


class Judgement(NamedTuple):
    """Of a solution in float64: gradient norm in units of the tolerance, and objective in nats a training pair."""

    gradient_norm: float
    objective: float


def make(tree: TokenTree, padded: int, cell: dict) -> algorithms.Problem:
    """The task and the pairs of one cell of ``sample_complexity``: columns gold_order, seed and pairs."""
    task, pairs_key, _ = task_of({"beta": 1.0, "temperature": 1.0, "reference_scale": 0.0, **cell}, tree)
    return problem_of(cell, tree, task, pairs_key, padded)


def batch(tree: TokenTree, padded: int, cells: list[dict]) -> algorithms.Problem:
    """The problems of many cells, along a leading axis, in numpy: taking some of them compiles nothing."""
    columns = {name: np.array([cell[name] for cell in cells]) for name in cells[0]}
    return jax.device_get(jax.jit(jax.vmap(partial(make, tree, padded)))(columns))


def take(problems: algorithms.Problem, index) -> algorithms.Problem:
    """One problem of a batch, or a smaller batch for a list of indices."""
    return jax.tree.map(lambda values: values[np.asarray(index)], problems)


def size(problems: algorithms.Problem) -> int:
    """Number of problems in a batch."""
    return problems.train.weight.shape[0]


def trimmed(problem: algorithms.Problem) -> algorithms.Problem:
    """The problem without padding: only pairs that have weight."""

    def present(pairs):
        return jax.tree.map(lambda rows: rows[pairs.weight > 0], pairs)

    return problem._replace(train=present(problem.train), held_out=HeldOut(present(problem.held_out.pairs)))


def all_train(problems: algorithms.Problem) -> algorithms.Problem:
    """The same problems with nothing held out."""
    return problems._replace(train=problems.train._replace(weight=np.ones_like(problems.train.weight)))


def as_data(tree: TokenTree, problems: algorithms.Problem) -> list[Data]:
    """The problems of a batch in numpy, trimmed."""

    def arrays(problem):
        pairs = problem.train
        base = [level.reshape(-1) for level in tree.conditionals(problem.known.reference)]
        sides = tree.leaf_index(pairs.chosen), tree.leaf_index(pairs.rejected), pairs.reference_margin
        return sides, jnp.concatenate(base)

    sides, bases = jax.device_get(jax.jit(jax.vmap(arrays))(problems))
    found = []
    for index in range(size(problems)):
        train, held_out = (
            Pairs(*(side[index][pairs.weight[index] > 0] for side in sides))
            for pairs in (problems.train, problems.held_out.pairs)
        )
        known = take(problems, index).known
        found.append(Data(train, held_out, bases[index].astype(float), float(known.beta), float(known.temperature)))
    return found


# params [d] -> leaf values [L], and the map from a gradient [L] in them to the gradient [d] in the params.
LeafPass = Callable[[np.ndarray], tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]]


class Objective(NamedTuple):
    """The penalised likelihood in numpy, float64, with its gradient derived by hand."""

    dimension: int
    margins: Callable[[np.ndarray, Pairs], np.ndarray]
    value_and_gradient: Callable[[np.ndarray, float], tuple[float, np.ndarray]]
    held_out_loss: Callable[[np.ndarray], float]


def objective(tree: TokenTree, kind: Kind, data: Data) -> Objective:
    """Sum over training pairs of softplus(-margin), plus penalty/2 |params|^2, where a logit of 1 is a reward of 1."""
    leaf_pass = reward_pass(tree, kind.order) if kind.order else policy_pass(tree, data.base)
    scale = 1 / data.temperature if kind.order else data.beta / data.temperature
    offset = 0.0 if kind.order else 1.0
    train = data.train
    sides = np.concatenate([train.chosen, train.rejected])

    def from_leaves(leaves, pairs: Pairs):
        return scale * (leaves[pairs.chosen] - leaves[pairs.rejected] - offset * pairs.reference_margin)

    def margins(params, pairs):
        return from_leaves(leaf_pass(params)[0], pairs)

    def value_and_gradient(params, penalty):
        leaves, pull_back = leaf_pass(params)
        margin = from_leaves(leaves, train)
        slope = -scale * expit(-margin)
        leaf_gradient = np.bincount(sides, np.concatenate([slope, -slope]), minlength=tree.leaves)
        value = np.logaddexp(0, -margin).sum() + penalty / 2 * params @ params
        return value, pull_back(leaf_gradient) + penalty * params

    def held_out_loss(params):
        return float(np.logaddexp(0, -margins(params, data.held_out)).mean())

    dimension = tree.leaves if kind.order else data.base.size
    return Objective(dimension, margins, value_and_gradient, held_out_loss)


def policy_pass(tree: TokenTree, base: np.ndarray) -> LeafPass:
    """Log-probabilities of all leaves from the logits added to ``base``, for one prompt."""
    splits = np.cumsum([tree.vocabulary ** (depth + 1) for depth in range(tree.horizon)])[:-1]

    def leaf_pass(params):
        levels, log_probs = [], np.zeros(1)
        for level in np.split(base + params, splits):
            logits = level.reshape(-1, tree.vocabulary)
            exponential = np.exp(logits - logits.max(axis=1, keepdims=True))
            total = exponential.sum(axis=1, keepdims=True)
            levels.append(exponential / total)
            log_probs = (log_probs[:, None] + np.log(levels[-1])).reshape(-1)

        def pull_back(gradient):
            found = []
            for probabilities in reversed(levels):
                children = gradient.reshape(probabilities.shape)
                gradient = children.sum(axis=1)
                found.append((children - probabilities * gradient[:, None]).reshape(-1))
            return np.concatenate(found[::-1])

        return log_probs, pull_back

    return leaf_pass


def reward_pass(tree: TokenTree, order: int) -> LeafPass:
    """Rewards of all leaves from the coefficients of ``verifiers.nested_interactions``, for one prompt."""
    first, second, used = interaction_factors(tree, order)

    def leaf_pass(params):
        coefficients = (params * used).reshape(first.shape[0], second.shape[0])

        def pull_back(gradient):
            return (first.T @ gradient.reshape(coefficients.shape) @ second).reshape(-1) * used

        return (first @ coefficients @ second.T).reshape(-1), pull_back

    return leaf_pass


def interaction_factors(tree: TokenTree, order: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two Kronecker factors [V**a, V**a] and [V**b, V**b] with a + b = H, and a mask [L] of orders up to ``order``."""
    factor = np.column_stack([np.ones(tree.vocabulary), token_contrasts(tree.vocabulary)])
    half = tree.horizon // 2
    first, second = (reduce(np.kron, [factor] * power, np.ones((1, 1))) for power in (half, tree.horizon - half))
    degree, reads_response = coefficient_degrees(tree)
    return first, second, (reads_response & (degree <= order)).astype(float)


def tolerance_of(data: Data, settings: algorithms.Settings) -> float:
    """Gradient norm at which every solver may stop, of the objective summed over pairs."""
    return settings.tolerance * np.sqrt(data.train.chosen.size)


def judge(tree: TokenTree, kind: Kind, settings: algorithms.Settings, data: Data, solution: Solution) -> Judgement:
    """Measure a solution in float64, with the same code for every solver."""
    value, gradient = objective(tree, kind, data).value_and_gradient(solution.params.astype(float), solution.penalty)
    limit = tolerance_of(data, settings)
    return Judgement(float(np.linalg.norm(gradient) / limit), float(value / data.train.chosen.size))
