"""The law of few pairs: the regret of a fit, from theory alone.

TO BE WRITTEN
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from gvgap_jax import metrics
from gvgap_jax.algorithms import PENALTIES
from gvgap_jax.soft_rl import soft_optimal_policy
from gvgap_jax.tasks import Known, Task
from gvgap_jax.types import Params, TreePolicy, Verifier

STEPS = 2  # of the fixed point at each candidate, which starts where the stronger one before it ended
NEWTON = 2  # steps towards what a pair does to its own fit
FAR = 1e30  # more than any inverse curvature
DRAWS = 256  # imagined fits; more where there are more parameters


@dataclass(frozen=True)
class Linearised:
    """A class of reward models as the law sees it.

    Attributes:
      leaf_scores: parameters [d], in units of reward and 0 where the ridge pulls to -> rewards of all leaves [X, L].
      gradients: the same -> [X, L, d].
      dimension: d.
    """

    leaf_scores: Callable[[Float[Array, "d"]], Float[Array, "X L"]]
    gradients: Callable[[Float[Array, "d"]], Float[Array, "X L d"]]
    dimension: int


class Prediction(NamedTuple):
    """What to expect of fits to so many pairs, each array [N] over the numbers of pairs.

    Attributes:
      regret: mean of KL(pi || pi*) over data sets, in nats.
      typical: its geometric mean, which is what a mean of log regrets estimates.
      bias: part of ``regret`` that the mean parameters have.
      variance: what their fluctuation adds to it.
      shares: [N, K] probability that each candidate is selected on the held-out pairs.
      penalty: [N, ...] the candidate that is selected most often.
      trusted: the law claims to hold.
    """

    regret: Float[Array, "N"]
    typical: Float[Array, "N"]
    bias: Float[Array, "N"]
    variance: Float[Array, "N"]
    shares: Float[Array, "N K"]
    penalty: Float[Array, "N *rest"]
    trusted: Bool[Array, "N"]


def of_features(features: Float[Array, "X L d"]) -> Linearised:
    """Reward models linear in ``features``, held by a ridge around 0."""
    return Linearised(lambda z: features @ z, lambda z: features, features.shape[-1])


def of_verifier(verifier: Verifier, params: Params) -> Linearised:
    """Any class of reward models on a tree, around ``params``, where its fits start."""
    flat, unravel = ravel_pytree(params)

    def leaf_scores(z):
        return verifier.leaf_scores(unravel(flat + z / verifier.unit))

    return Linearised(leaf_scores, jax.jacfwd(leaf_scores), flat.size)


def of_policy(policy: TreePolicy, params: Params, known: Known) -> Linearised:
    """The local rewards of a class of policies, which DPO fits, around ``params``, where its fits start."""
    flat, unravel = ravel_pytree(params)
    unit = known.beta * policy.unit

    def leaf_scores(z):
        return known.beta * (policy.leaf_log_probs(unravel(flat + z / unit)) - known.reference)

    return Linearised(leaf_scores, jax.jacfwd(leaf_scores), flat.size)


def predict(
    fitted: Linearised,
    task: Task,
    pairs: Float[Array, "N"],
    held_out: Float[Array, "N"],
    ridges: Float[Array, "K *rest"] | tuple[float, ...] = PENALTIES,
    coverage: Float[Array, "X L"] | None = None,
) -> Prediction:
    """see module"""
    ridges = jnp.asarray(ridges)
    law = pair_law(task, coverage)
    return jax.lax.map(lambda nm: _predict(fitted, task, *nm, ridges, law), (pairs, held_out))


def pair_law(task: Task, coverage: Float[Array, "X L"] | None = None) -> Float[Array, "X L L"]:
    """Probability that a labelled pair prefers the one response to the other; sums to 1."""
    drawn = jnp.exp(task.reference if coverage is None else coverage)
    wins = jax.nn.sigmoid((task.reward[:, :, None] - task.reward[:, None, :]) / task.temperature)
    return 2 * task.prompt_probs[:, None, None] * drawn[:, :, None] * drawn[:, None, :] * wins


class _Moments(NamedTuple):
    """Mean parameters [d], response to a score (inverse Hessian) [d, d] and covariance of a score [d, d]."""

    mean: Float[Array, "d"]
    response: Float[Array, "d d"]
    noise: Float[Array, "d d"]


def _differences(kernel: Float[Array, "X L L"]) -> Float[Array, "X L L"]:
    """Variances of all differences of two leaves, from the covariance of leaves."""
    diagonal = jnp.diagonal(kernel, axis1=1, axis2=2)
    return jnp.maximum(diagonal[:, :, None] + diagonal[:, None, :] - 2 * kernel, 0.0)


def _form(gradients: Float[Array, "X L d"], weight: Float[Array, "X L L"]) -> Float[Array, "d d"]:
    """sum over pairs of weight * (g_i - g_j) (g_i - g_j)^T."""
    both = weight + jnp.swapaxes(weight, 1, 2)
    rest = jnp.sum(both, axis=2)[:, :, None] * gradients - both @ gradients
    return jnp.einsum("xld,xle->de", gradients, rest)


def _pull(gradients: Float[Array, "X L d"], weight: Float[Array, "X L L"]) -> Float[Array, "d"]:
    """sum over pairs of weight * (g_j - g_i): the gradient of the loss."""
    return jnp.einsum("xld,xl->d", gradients, jnp.sum(weight, axis=1) - jnp.sum(weight, axis=2))


def _margins(fitted: Linearised, task: Task, z):
    scores, gradients = fitted.leaf_scores(z), fitted.gradients(z) / task.temperature
    return (scores[:, :, None] - scores[:, None, :]) / task.temperature, gradients


def _step(fitted: Linearised, task: Task, law, pairs, ridge, moments: _Moments) -> _Moments:
    """One step of the fixed point."""
    margin, gradients = _margins(fitted, task, moments.mean)
    moved = gradients @ moments.response
    leverage = _differences(jnp.einsum("xld,xkd->xlk", moved, gradients))
    spread = jnp.sqrt(pairs * _differences(jnp.einsum("xld,xkd->xlk", moved @ moments.noise, moved)))
    outside = jnp.stack([margin - spread, margin + spread])  # Gauss and Hermite's two nodes
    inside = jax.nn.sigmoid(-outside)
    inside = inside / (1 + leverage[None] * inside * (1 - inside))
    for _ in range(NEWTON):
        wrong = jax.nn.sigmoid(-(outside + leverage[None] * inside))
        inside = inside - (inside - wrong) / (1 + leverage[None] * wrong * (1 - wrong))
    bend = inside * (1 - inside)
    miss, square = jnp.mean(inside, axis=0), jnp.mean(inside**2, axis=0)
    curvature = jnp.mean(bend / (1 + leverage[None] * bend), axis=0)
    gradient = _pull(gradients, law * miss)
    response = _inverse(pairs * _form(gradients, law * curvature) + ridge)
    mean = moments.mean - response @ (pairs * gradient + ridge @ moments.mean)
    noise = _form(gradients, law * square) - jnp.outer(gradient, gradient)
    return _Moments(mean, response, noise)


def _inverse(matrix):
    """Of a positive definite matrix."""
    size = len(matrix)
    eye = jnp.eye(size)
    root = jnp.linalg.cholesky(jnp.block([[matrix, eye], [eye, FAR * eye]]))[size:, :size]
    return root @ root.T


def _predict(fitted: Linearised, task: Task, pairs, held_out, ridges, law) -> Prediction:
    size = fitted.dimension
    design = jnp.asarray(_design(size))

    def candidate(moments: _Moments, ridge):
        matrix = ridge * jnp.eye(size) if ridge.ndim == 0 else jnp.diag(ridge) if ridge.ndim == 1 else ridge
        moments, moves = jax.lax.scan(
            lambda m, _: ((new := _step(fitted, task, law, pairs, matrix, m)), new.mean - m.mean), moments, length=STEPS
        )
        margin, gradients = _margins(fitted, task, moments.mean)
        wrong = jax.nn.sigmoid(-margin)
        jitter = jnp.finfo(margin.dtype).eps * jnp.trace(moments.noise)
        root = moments.response @ jnp.linalg.cholesky(moments.noise + jitter * jnp.eye(size))
        change = jnp.sqrt(pairs) * design @ root.T
        bend = change @ _form(gradients, law * wrong * (1 - wrong))
        excess = change @ _pull(gradients, law * wrong) + jnp.sum(bend * change, axis=-1) / 2
        return moments, (moments.mean, change, jax.nn.softplus(-margin), excess, moves[-1] @ matrix @ moves[-1])

    if ridges.ndim == 1:
        first = jnp.eye(size) / ridges[0]
    else:
        first = jnp.linalg.inv(jnp.diag(ridges[0]) if ridges.ndim == 2 else ridges[0])
    start = _Moments(jnp.zeros(size), first, jnp.zeros((size, size)))
    _, (means, changes, losses, excess, moves) = jax.lax.scan(candidate, start, ridges)
    loss = jnp.einsum("kxij,xij->k", losses, law)
    relative = losses - losses[jnp.argmin(loss + jnp.mean(excess, axis=1))][None]
    mean = jnp.einsum("kxij,xij->k", relative, law)
    covariance = jnp.einsum("kxij,xij,cxij->kc", relative, law, relative) - jnp.outer(mean, mean)
    jitter = jnp.finfo(mean.dtype).eps * (1 + jnp.trace(covariance))
    root = jnp.linalg.cholesky(covariance / held_out + jitter * jnp.eye(len(mean)))
    chance = jnp.asarray(_noise(len(design), len(mean)))
    selected = jnp.argmin((loss[:, None] + excess).T + chance @ root.T, axis=1)
    fits = means[selected] + changes[selected, jnp.arange(len(design))]
    regrets = jax.vmap(lambda z: _regret(fitted.leaf_scores(z), task))(fits)
    shares = jnp.mean(jax.nn.one_hot(selected, len(mean)), axis=0)
    regret = jnp.mean(regrets)
    bias = shares @ jax.vmap(lambda z: _regret(fitted.leaf_scores(z), task))(means)
    return Prediction(
        regret, jnp.exp(jnp.mean(jnp.log(regrets))), bias, regret - bias, shares, ridges[jnp.argmax(shares)], jnp.max(moves) < 1
    )


def _regret(scores, task: Task):
    return metrics.evaluate(soft_optimal_policy(scores, task.reference, task.beta), task).regret


def _design(size: int) -> np.ndarray:
    """[draws, d] directions of mean 0 and covariance 1, exactly, and no third moment."""
    half = max(DRAWS // 2, size)
    orthogonal, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(half, size)))
    return np.concatenate([orthogonal, -orthogonal]) * half**0.5


def _noise(draws: int, candidates: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(draws, candidates))
