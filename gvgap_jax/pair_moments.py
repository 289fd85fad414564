"""Sums over all pairs of responses, which expectations of pairs are, from what is known of single responses."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gvgap_jax.tasks import Task

FAR = 1e30  # beyond every inverse curvature


def pair_law(task: Task, coverage: Float[Array, "X L"] | None = None) -> Float[Array, "X L L"]:
    """``preferences.population`` as an array: probabilities that a pair prefers one response to the other; sum 1."""
    drawn = jnp.exp(task.reference if coverage is None else coverage)
    wins = jax.nn.sigmoid((task.reward[:, :, None] - task.reward[:, None, :]) / task.temperature)
    return 2 * task.prompt_probs[:, None, None] * drawn[:, :, None] * drawn[:, None, :] * wins


def of_differences(kernel: Float[Array, "X L L"]) -> Float[Array, "X L L"]:
    """(g_i - g_j)' M (g_i - g_j) of all pairs, from g_i' M g_j."""
    own = jnp.diagonal(kernel, axis1=1, axis2=2)
    return jnp.maximum(own[:, :, None] + own[:, None, :] - 2 * kernel, 0.0)


def form(gradients: Float[Array, "X L d"], weight: Float[Array, "X L L"]) -> Float[Array, "d d"]:
    """The sum over pairs of weight (g_i - g_j) (g_i - g_j)'."""
    both = weight + jnp.swapaxes(weight, 1, 2)
    return jnp.einsum("xld,xle->de", gradients, jnp.sum(both, axis=2)[:, :, None] * gradients - both @ gradients)


def pull(gradients: Float[Array, "X L d"], weight: Float[Array, "X L L"]) -> Float[Array, "d"]:
    """The gradient of a loss that has slope -weight in each margin."""
    return jnp.einsum("xld,xl->d", gradients, jnp.sum(weight, axis=1) - jnp.sum(weight, axis=2))


def inverse(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Of a positive definite matrix: the Cholesky factor of [[M, 1], [1, FAR]] has the inverse root in its corner.

    XLA's triangular solver takes a hundred times as long as this on a CPU.
    """
    size, eye = len(matrix), jnp.eye(len(matrix))
    corner = jnp.linalg.cholesky(jnp.block([[matrix, eye], [eye, FAR * eye]]))[size:, :size]
    return corner @ corner.T
