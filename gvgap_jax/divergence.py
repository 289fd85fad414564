"""Distances between distributions over leaves, as exact sums over the last axis."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def kl(log_p: Float[Array, "*batch L"], log_q: Float[Array, "*batch L"]) -> Float[Array, "*batch"]:
    """KL(p || q) in nats; leaves with p = 0 contribute 0.

    With p the policy this is the reverse KL of the paper, with p the data the forward KL.
    """
    p = jnp.exp(log_p)
    return jnp.sum(jnp.where(p > 0, p * (jnp.where(p > 0, log_p, 0.0) - log_q), 0.0), axis=-1)


def total_variation(log_p: Float[Array, "*batch L"], log_q: Float[Array, "*batch L"]) -> Float[Array, "*batch"]:
    """Half the L1 distance between two distributions, in [0, 1]."""
    return 0.5 * jnp.sum(jnp.abs(jnp.exp(log_p) - jnp.exp(log_q)), axis=-1)


def entropy(log_p: Float[Array, "*batch L"]) -> Float[Array, "*batch"]:
    """Shannon entropy in nats; leaves with p = 0 contribute 0."""
    p = jnp.exp(log_p)
    return -jnp.sum(jnp.where(p > 0, p * jnp.where(p > 0, log_p, 0.0), 0.0), axis=-1)
