"""Losses: arrays in, scalar out. No models and no parameters; weights need not sum to 1.

A margin is a verifier's score of the chosen minus of the rejected response, divided by the label
temperature. For a policy it is the margin of its local reward, ``local_margin``.
"""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gvgap_jax.divergence import kl
from gvgap_jax.soft_rl import objective
from gvgap_jax.types import Number


def weighted_mean(values: Float[Array, "N"], weight: Float[Array, "N"]) -> Float[Array, ""]:
    """Mean of ``values`` under ``weight``; 0 if nothing has weight."""
    chex.assert_equal_shape((values, weight))
    total = jnp.sum(weight)
    return jnp.sum(weight * values) / jnp.where(total > 0, total, 1.0)


def local_margin(
    log_chosen: Float[Array, "N"], log_rejected: Float[Array, "N"], reference_margin: Float[Array, "N"], beta: Number
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


def kl_regularised(log_policy, reward, reference, beta, prompt_probs, divergence=kl) -> Float[Array, ""]:
    """-J of a policy over leaves, averaged over prompts: the exact second stage of RLHF, in units of reward."""
    return -weighted_mean(objective(log_policy, reward, reference, beta, divergence), prompt_probs)


def leave_one_out(reward: Float[Array, "B m"]) -> Float[Array, "B m"]:
    """Each reward less the mean of the prompt's other ones: an advantage whose baseline leaves the gradient unbiased.

    Raises:
      ValueError: a prompt has a single response.
    """
    chex.assert_rank(reward, 2)
    samples = reward.shape[1]
    if samples < 2:
        raise ValueError("leave_one_out: the baseline needs at least 2 responses a prompt, got 1.")
    return (reward - jnp.mean(reward, axis=1, keepdims=True)) * samples / (samples - 1)


def policy_gradient(log_prob: Float[Array, "..."], advantage: Float[Array, "..."]) -> Float[Array, ""]:
    """-E[A log pi], with advantages that are not differentiated: REINFORCE (Williams, 1992)."""
    chex.assert_equal_shape((log_prob, advantage))
    return -jnp.mean(jax.lax.stop_gradient(advantage) * log_prob)


def generalised_advantage(
    reward: Float[Array, "N H"], value: Float[Array, "N H"], decay: Number
) -> Float[Array, "N H"]:
    """Advantages of every token, undiscounted (arXiv 1506.02438, eq. 16); ``decay`` is lambda, 1 is Monte Carlo."""
    chex.assert_equal_shape((reward, value))
    following = jnp.concatenate([value[:, 1:], jnp.zeros_like(value[:, :1])], axis=1)
    errors = reward + following - value

    def backward(advantage, error):
        advantage = error + decay * advantage
        return advantage, advantage

    _, advantages = jax.lax.scan(backward, jnp.zeros_like(errors[:, 0]), errors.T, reverse=True)
    return advantages.T


def clipped_policy_gradient(
    log_prob: Float[Array, "N H"], old_log_prob: Float[Array, "N H"], advantage: Float[Array, "N H"], clip: Number
) -> Float[Array, ""]:
    """-E_y sum_h min(ratio A, clip(ratio) A): proximal policy optimisation (arXiv 1707.06347, eq. 7).

    Summed over tokens, so that its gradient at the old policy is that of the objective of a whole response.
    """
    chex.assert_equal_shape((log_prob, old_log_prob, advantage))
    ratio = jnp.exp(log_prob - old_log_prob)
    gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)
    return -jnp.mean(jnp.sum(gain, axis=1))


def rebel(log_ratio: Float[Array, "B 2"], reward: Float[Array, "B 2"], eta: Number) -> Float[Array, ""]:
    """E (difference of log pi/pi_t / eta - difference of reward)^2 over pairs (arXiv 2404.16767, eq. 3)."""
    chex.assert_equal_shape((log_ratio, reward))
    return jnp.mean(((log_ratio[:, 0] - log_ratio[:, 1]) / eta - (reward[:, 0] - reward[:, 1])) ** 2)
