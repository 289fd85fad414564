"""Distances between distributions over leaves, as exact sums over the last axis; NaN where one of them has a NaN."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def kl(log_p: Float[Array, "*batch L"], log_q: Float[Array, "*batch L"]) -> Float[Array, "*batch"]:
    """KL(p || q) in nats; leaves with p = 0 contribute 0.

    With p the policy this is the reverse KL of the paper, with p the data the forward KL.
    """
    p = jnp.exp(log_p)
    return jnp.sum(p * (_finite_where_absent(p, log_p) - _finite_where_absent(p, log_q)), axis=-1)


def total_variation(log_p: Float[Array, "*batch L"], log_q: Float[Array, "*batch L"]) -> Float[Array, "*batch"]:
    """Half the L1 distance between two distributions, in [0, 1]."""
    return 0.5 * jnp.sum(jnp.abs(jnp.exp(log_p) - jnp.exp(log_q)), axis=-1)


def entropy(log_p: Float[Array, "*batch L"]) -> Float[Array, "*batch"]:
    """Shannon entropy in nats; leaves with p = 0 contribute 0."""
    p = jnp.exp(log_p)
    return -jnp.sum(p * _finite_where_absent(p, log_p), axis=-1)


def _finite_where_absent(p, log_values):
    """The logarithms, or 0 for -inf where p = 0: 0 times it is 0, and 0 times NaN stays NaN."""
    return jnp.where((p == 0) & jnp.isinf(log_values), 0.0, log_values)
