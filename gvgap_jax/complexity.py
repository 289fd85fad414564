"""What "simple" means, as numbers: how many directions of reward a class can move, and what that costs in regret."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from gvgap_jax import optimize
from gvgap_jax.tasks import Task
from gvgap_jax.types import Fit, Params, TreeVerifier


def reward_gradients(verifier: TreeVerifier, params: Params) -> Float[Array, "X L d"]:
    """Gradient of every leaf's score with respect to the flattened parameters."""
    flat, unravel = ravel_pytree(params)
    return jax.jacobian(lambda vector: verifier.leaf_scores(unravel(vector)))(flat)


def tangent_features(
    leaf_scores: Callable[[Params], Float[Array, "X L"]], params: Params, directions: int
) -> Float[Array, "X L r"]:
    """Features of leaves whose inner products are those of their gradients at ``params``: the tangent kernel's.

    Of a network with more parameters than leaves they are as many as a table has at most, and a ridge on their
    coefficients is one on the change of the parameters, to first order (Jacot et al., 2018, arXiv 1806.07572). The
    r = min(``directions``, X L) of the largest eigenvalues, in units in which their squares add up to 1 a leaf, on
    average.
    """
    flat, unravel = ravel_pytree(params)

    def scores(vector):
        return leaf_scores(unravel(vector))

    values, pull = jax.vjp(scores, flat)
    gradients = jax.vmap(lambda row: pull(row.reshape(values.shape))[0])(jnp.eye(values.size, dtype=values.dtype))
    eigenvalues, vectors = jnp.linalg.eigh(gradients @ gradients.T)
    largest = slice(-min(directions, values.size), None)
    features = vectors[:, largest] * jnp.sqrt(jnp.maximum(eigenvalues[largest], 0))[None]
    return (features / jnp.sqrt(jnp.mean(jnp.sum(features**2, axis=1)))).reshape(*values.shape, -1)


def generic_dimension(leaves: Callable[[Params], Float[Array, "X L"]], params: Params) -> int:
    """``identifiable_dimension`` of a class at ``params`` moved at random: what it is almost everywhere.

    ``leaves`` are a verifier's ``leaf_scores``, or the ``leaf_log_probs`` of a policy, whose local rewards are beta
    times as far apart. ``num_parameters`` counts what is stored: a constant, or two units that do the same, change no
    margin.
    """
    flat, unravel = ravel_pytree(params)
    moved = flat + 0.5 * jax.random.normal(jax.random.key(0), flat.shape, flat.dtype)
    return identifiable_dimension(jax.jit(jax.jacobian(lambda vector: leaves(unravel(vector))))(moved))


def identifiable_dimension(gradients: Float[Array, "X L d"]) -> int:
    """Directions of parameter space that change some margin: the rank of the gradients centred for each prompt."""
    centred = gradients - gradients.mean(axis=1, keepdims=True)
    return int(np.linalg.matrix_rank(np.asarray(centred).reshape(-1, gradients.shape[-1]), rtol=1e-5))


def fisher_information(
    gradients: Float[Array, "X L d"], task: Task, coverage: Float[Array, "X L"] | None = None
) -> Float[Array, "d d"]:
    """Fisher information of one Bradley-Terry pair drawn from ``coverage`` (the reference by default)."""
    weight = task.prompt_probs[:, None, None] * _pair_information(task, coverage)
    degree = jnp.einsum("xij,xid->xid", weight, gradients)
    crossed = jnp.einsum("xij,xjd->xid", weight, gradients)
    return 2 * jnp.einsum("xid,xie->de", gradients, degree - crossed)


def _pair_information(task: Task, coverage: Float[Array, "X L"] | None = None) -> Float[Array, "X L L"]:
    """Probability of every ordered pair of responses to a prompt, times what its label tells of their margin."""
    probability = jnp.exp(task.reference if coverage is None else coverage)
    odds = (task.reward[:, :, None] - task.reward[:, None, :]) / task.temperature
    label_variance = jax.nn.sigmoid(odds) * jax.nn.sigmoid(-odds) / task.temperature**2
    return probability[:, :, None] * probability[:, None, :] * label_variance


def _information_root(
    gradients: Float[Array, "X L d"], task: Task, coverage: Float[Array, "X L"] | None = None
) -> Float[Array, "X*L d"]:
    """A matrix R with R'R = ``fisher_information``: its singular values keep twice the digits of information.

    The pairs of a prompt are the edges of a graph; R has the root of its normalised Laplacian.
    """
    weight = 2 * _pair_information(task, coverage)
    degree = jnp.sum(weight, axis=-1)
    scale = jnp.where(degree > 0, degree, 1.0) ** -0.5
    laplacian = jax.vmap(jnp.diag)(degree) - weight
    normalised = scale[:, :, None] * laplacian * scale[:, None]
    eigenvalues, vectors = jnp.linalg.eigh(normalised)
    told = jnp.where(eigenvalues <= jnp.finfo(eigenvalues.dtype).eps ** 0.75, 0.0, eigenvalues)
    weighted = (task.prompt_probs[:, None] * degree)[..., None] ** 0.5 * gradients
    return (told[..., None] ** 0.5 * jnp.einsum("xli,xld->xid", vectors, weighted)).reshape(-1, gradients.shape[-1])


def policy_covariance(
    gradients: Float[Array, "X L d"], task: Task, policy_gradients: Float[Array, "X L p"] | None = None
) -> Float[Array, "d d"]:
    """E_x Cov_{pi*}(grad r): the parameter errors that the optimal policy feels.

    With the local-reward gradients of a policy class, ``policy_gradients``, only what that class can follow:
    the covariance of their least-squares predictions of grad r under pi*.
    """
    root = _covariance_root(gradients, task, policy_gradients)
    return root.T @ root


def _covariance_root(
    gradients: Float[Array, "X L d"], task: Task, policy_gradients: Float[Array, "X L p"] | None = None
) -> Float[Array, "n d"]:
    """A matrix R with R'R = ``policy_covariance``."""
    optimal = jnp.exp(task.optimal)

    def weighted(values):
        centred = values - jnp.einsum("xl,xld->xd", optimal, values)[:, None]
        return ((task.prompt_probs[:, None] * optimal) ** 0.5)[..., None] * centred

    rewards = weighted(gradients).reshape(-1, gradients.shape[-1])
    if policy_gradients is None:
        return rewards
    directions, sizes, _ = jnp.linalg.svd(
        weighted(policy_gradients).reshape(-1, policy_gradients.shape[-1]), full_matrices=False
    )
    return jnp.where(_unseen(sizes), 0.0, directions).T @ rewards


def _unseen(sizes: Float[Array, "k"]) -> Bool[Array, "1 k"]:
    """Which columns belong to singular values, the largest first, that are rounding; what is no number is not."""
    return (sizes <= sizes[0] * jnp.finfo(sizes.dtype).eps ** 0.8)[None]


def effective_dimension(
    gradients: Float[Array, "X L d"],
    task: Task,
    coverage: Float[Array, "X L"] | None = None,
    policy_gradients: Float[Array, "X L p"] | None = None,
) -> Float[Array, ""]:
    """d_eff = tr(Cov_{pi*}(grad r) I^-1) / beta^2: the regret of two-stage RLHF on n pairs tends to d_eff / (2n) nats.

    ``gradients`` are those of a verifier class at parameters that attain the gold reward
    (``reward_gradients``). For the local rewards of a policy class (``implicit_verifier``) it is the
    same for offline likelihood, so that the ratio of the two is a number for the
    generation-verification gap. Infinite where the policy feels a direction that no pair reveals. Both matrices are
    taken as roots, so that in single precision that is where pairs tell less than 1e-11 of what they tell of the
    best-known direction: a reference that all but never draws some responses leaves 1e-9.

    A second stage into a class of policies too small for the verifiers follows only part of their errors;
    ``policy_gradients`` are that class's, at parameters that attain pi* (which it must hold).
    """
    _, sizes, directions = jnp.linalg.svd(_information_root(gradients, task, coverage), full_matrices=False)
    unseen = _unseen(sizes)
    root = _covariance_root(gradients, task, policy_gradients)
    along = jnp.where(unseen, 0.0, root @ directions.T)
    hidden = jnp.sum((root - along @ directions) ** 2) > 1e-6 * jnp.sum(root**2)
    dimension = jnp.sum((along / jnp.where(unseen, 1.0, sizes[None])) ** 2) / task.beta**2
    return jnp.where(hidden, jnp.inf, dimension)


def table_dimension(task: Task) -> Float[Array, ""]:
    """``effective_dimension`` of every class that holds all rewards, as tabular policies do, without their gradients.

    In leaf coordinates the Fisher information is the Laplacian of a graph whose edges are pairs. Its
    kernel, a constant for each prompt, is what no policy feels, so that it may be filled in:
    d_eff = sum_x tr(Cov_{pi*(.|x)} (Laplacian_x + c 1 1^T / L)^-1) / beta^2 for any c > 0. The mean degree as c keeps
    the system as well conditioned as the graph. Prompts of probability 0 do not count.
    Costs X * L**3; NaN where the reference gives a response no probability.
    """
    weight = 2 * _pair_information(task)

    def of_prompt(weight, optimal):
        degree = jnp.sum(weight, axis=-1)
        laplacian = jnp.diag(degree) - weight + jnp.mean(degree) / degree.size
        covariance = jnp.diag(optimal) - optimal[:, None] * optimal[None]
        return jnp.trace(jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(laplacian), covariance))

    felt = jax.vmap(of_prompt)(weight, jnp.exp(task.optimal))
    return jnp.sum(jnp.where(task.prompt_probs > 0, felt, 0.0)) / task.beta**2


def population_fit(
    verifier: TreeVerifier, params: Params, task: Task, tolerance: float = 1e-5, max_steps: int = 100
) -> Fit:
    """The reward model that infinitely many pairs from the reference select: the Bradley-Terry minimiser of a class.

    Newton's method from ``params`` on the expected loss of a pair, in nats, to a gradient norm of ``tolerance``.
    For scores linear in the parameters the curvature is ``fisher_information`` at the current reward, and the minimum
    unique up to directions that change no margin. A class that holds the gold reward returns it.
    """
    probability = jnp.exp(task.reference)
    weight = task.prompt_probs[:, None, None] * probability[:, :, None] * probability[:, None, :]
    wins = jax.nn.sigmoid((task.reward[:, :, None] - task.reward[:, None, :]) / task.temperature)

    def loss(scores):
        reward = scores.reshape(task.reward.shape)
        odds = (reward[:, :, None] - reward[:, None, :]) / task.temperature
        return jnp.sum(weight * (jax.nn.softplus(odds) - wins * odds))

    return optimize.newton(lambda params: verifier.leaf_scores(params).reshape(-1), loss, params, tolerance, max_steps)
