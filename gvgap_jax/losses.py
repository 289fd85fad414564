"""Losses: arrays in, scalar out. No models and no parameters; weights need not sum to 1.

A margin is a verifier's score of the chosen minus of the rejected response, divided by the label
temperature. For a policy it is the margin of its local reward, ``local_margin``.
"""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gvgap_jax.soft_rl import objective
from gvgap_jax.types import Number


def weighted_mean(values: Float[Array, "N"], weight: Float[Array, "N"]) -> Float[Array, ""]:
    """Mean of ``values`` under ``weight``; 0 if nothing has weight."""
    chex.assert_equal_shape((values, weight))
    total = jnp.sum(weight)
    return jnp.sum(weight * values) / jnp.where(total > 0, total, 1.0)


def local_margin(
    log_chosen: Float[Array, "N"],
    log_rejected: Float[Array, "N"],
    reference_margin: Float[Array, "N"],
    beta: Number,
) -> Float[Array, "N"]:
    """beta (log pi/pi_ref of the chosen - log pi/pi_ref of the rejected): the local reward's margin."""
    chex.assert_equal_shape((log_chosen, log_rejected, reference_margin))
    return beta * (log_chosen - log_rejected - reference_margin)


def bradley_terry(margin: Float[Array, "N"], weight: Float[Array, "N"]) -> Float[Array, ""]:
    """-E log sigmoid(margin), nats a pair (Bradley and Terry, 1952)."""
    return weighted_mean(jax.nn.softplus(-margin), weight)


def dpo(log_chosen, log_rejected, reference_margin, beta, weight) -> Float[Array, ""]:
    """Direct preference optimisation (arXiv 2305.18290, eq. 7): Bradley-Terry on local rewards."""
    return bradley_terry(local_margin(log_chosen, log_rejected, reference_margin, beta), weight)


def ipo(margin: Float[Array, "N"], weight: Float[Array, "N"]) -> Float[Array, ""]:
    """E (margin - 1/2)^2: beta^2 times identity preference optimisation (arXiv 2310.12036, eq. 17)."""
    return weighted_mean((margin - 0.5) ** 2, weight)


def sft(log_prob: Float[Array, "N"], weight: Float[Array, "N"]) -> Float[Array, ""]:
    """-E log pi(y|x), nats a response: maximum likelihood on demonstrations."""
    return weighted_mean(-log_prob, weight)


def kl_regularised(log_policy, reward, reference, beta, prompt_probs) -> Float[Array, ""]:
    """-J of a policy over leaves, averaged over prompts: the exact second stage of RLHF, in units of reward."""
    return -weighted_mean(objective(log_policy, reward, reference, beta), prompt_probs)
