"""What "simple" means, as numbers: how many directions of reward a class can move, and what that costs in regret."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from gvgap_jax.tasks import Task
from gvgap_jax.types import Params, Verifier


def reward_gradients(verifier: Verifier, params: Params) -> Float[Array, "X L d"]:
    """Gradient of every leaf's score with respect to the flattened parameters."""
    if verifier.leaf_scores is None:
        raise ValueError("reward_gradients: the verifier must score all leaves; it has no leaf_scores.")
    leaf_scores = verifier.leaf_scores
    flat, unravel = ravel_pytree(params)
    return jax.jacobian(lambda vector: leaf_scores(unravel(vector)))(flat)


def identifiable_dimension(gradients: Float[Array, "X L d"]) -> int:
    """Directions of parameter space that change some margin: the rank of the gradients centred for each prompt."""
    centred = gradients - gradients.mean(axis=1, keepdims=True)
    return int(np.linalg.matrix_rank(np.asarray(centred).reshape(-1, gradients.shape[-1]), rtol=1e-5))


def fisher_information(
    gradients: Float[Array, "X L d"], task: Task, coverage: Float[Array, "X L"] | None = None
) -> Float[Array, "d d"]:
    """Fisher information of one Bradley-Terry pair drawn from ``coverage`` (the reference by default)."""
    probability = jnp.exp(task.reference if coverage is None else coverage)
    odds = (task.reward[:, :, None] - task.reward[:, None, :]) / task.temperature
    label_variance = jax.nn.sigmoid(odds) * jax.nn.sigmoid(-odds) / task.temperature**2
    weight = task.prompt_probs[:, None, None] * probability[:, :, None] * probability[:, None, :] * label_variance
    degree = jnp.einsum("xij,xid->xid", weight, gradients)
    crossed = jnp.einsum("xij,xjd->xid", weight, gradients)
    return 2 * jnp.einsum("xid,xie->de", gradients, degree - crossed)


def policy_covariance(gradients: Float[Array, "X L d"], task: Task) -> Float[Array, "d d"]:
    """E_x Cov_{pi*}(grad r): the parameter errors that the optimal policy feels."""
    optimal = jnp.exp(task.optimal)
    centred = gradients - jnp.einsum("xl,xld->xd", optimal, gradients)[:, None]
    return jnp.einsum("x,xl,xld,xle->de", task.prompt_probs, optimal, centred, centred)


def effective_dimension(
    gradients: Float[Array, "X L d"], task: Task, coverage: Float[Array, "X L"] | None = None
) -> Float[Array, ""]:
    """d_eff = tr(Cov_{pi*}(grad r) I^-1) / beta^2: the regret of two-stage RLHF on n pairs tends to d_eff / (2n) nats.

    ``gradients`` are those of a verifier class at parameters that attain the gold reward
    (``reward_gradients``). For the local rewards of a policy class (``implicit_verifier``) it is the
    same for offline likelihood, so that the ratio of the two is a number for the
    generation-verification gap. Infinite where the policy feels a direction that no pair reveals.
    """
    eigenvalues, vectors = jnp.linalg.eigh(fisher_information(gradients, task, coverage))
    felt = jnp.sum(vectors * (policy_covariance(gradients, task) @ vectors), axis=0)
    seen = eigenvalues > eigenvalues[-1] * jnp.finfo(eigenvalues.dtype).eps ** 0.75
    hidden = jnp.sum(jnp.where(seen, 0.0, felt)) > 1e-6 * jnp.sum(felt)
    return jnp.where(hidden, jnp.inf, jnp.sum(jnp.where(seen, felt / eigenvalues, 0.0)) / task.beta**2)
