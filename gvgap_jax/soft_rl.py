"""Exact KL-regularised reinforcement learning, on token trees and on a small MDP with stochastic dynamics.

Maximise J(pi) = E_pi[r] - beta KL(pi || pi_ref). On a tree the dynamics are deterministic and the
optimum over all policies is pi*_r(y|x) = pi_ref(y|x) exp((r(x, y) - V(x)) / beta), with the soft value
V(x) = beta log sum_y pi_ref(y|x) exp(r(x, y) / beta) (arXiv 2503.01067, section 2).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gvgap_jax.divergence import kl
from gvgap_jax.tree import Levels, TokenTree
from gvgap_jax.types import Number


def soft_value(reward: Float[Array, "X L"], reference: Float[Array, "X L"], beta: Number) -> Float[Array, "X"]:
    """V(x) = beta log sum_y pi_ref(y|x) exp(r/beta), the largest attainable J."""
    return beta * jax.nn.logsumexp(reference + reward / beta, axis=-1)


def soft_optimal_policy(
    reward: Float[Array, "X L"], reference: Float[Array, "X L"], beta: Number
) -> Float[Array, "X L"]:
    """Leaf log-probabilities of pi*_r, the maximiser of J over all policies."""
    return jax.nn.log_softmax(reference + reward / beta, axis=-1)


def objective(
    log_policy: Float[Array, "X L"],
    reward: Float[Array, "X L"],
    reference: Float[Array, "X L"],
    beta: Number,
) -> Float[Array, "X"]:
    """J = E_pi[r] - beta KL(pi || pi_ref) of each prompt, in units of reward."""
    return jnp.sum(jnp.exp(log_policy) * reward, axis=-1) - beta * kl(log_policy, reference)


class SoftValues(NamedTuple):
    """Soft values V(prefix), H levels [X, V**h], and soft Q(prefix, token), H levels [X, V**h, V]."""

    value: tuple[Float[Array, "X prefixes"], ...]
    q: Levels


def backward_induction(
    tree: TokenTree, reward: Float[Array, "X L"], reference: Float[Array, "X L"], beta: Number
) -> SoftValues:
    """Soft values at every prefix, last token first, with the reward paid at the leaf.

    Q(s, a) = V(s, a) and V(s) = beta log sum_a pi_ref(a|s) exp(Q(s, a) / beta).
    """
    following, values, qs = reward, [], []
    for level in reversed(tree.conditionals(reference)):
        q = following.reshape(level.shape)
        following = beta * jax.nn.logsumexp(level + q / beta, axis=-1)
        qs.append(q)
        values.append(following)
    return SoftValues(tuple(reversed(values)), tuple(reversed(qs)))


class MDP(NamedTuple):
    """A finite-horizon Markov decision process whose dynamics may be stochastic.

    Attributes:
      start: [S] log-probabilities of the first state.
      transition: [S, A, S'] log-probabilities of the next state.
      reward: [S, A], paid at every step.
      reference: [S, A] log-probabilities of the reference policy.
    """

    start: Float[Array, "S"]
    transition: Float[Array, "S A S"]
    reward: Float[Array, "S A"]
    reference: Float[Array, "S A"]


def mdp_soft_optimal_policy(mdp: MDP, horizon: int, beta: Number) -> Float[Array, "H S A"]:
    """Log-probabilities of the policy that maximises E[sum r] - beta E[sum log pi/pi_ref].

    The expectation over the next state stands outside the exponential: luck is not chosen.
    """

    def backup(value, _):
        q = mdp.reward + jnp.exp(mdp.transition) @ value
        value = beta * jax.nn.logsumexp(mdp.reference + q / beta, axis=-1)
        return value, jax.nn.log_softmax(mdp.reference + q / beta, axis=-1)

    _, policy = jax.lax.scan(backup, jnp.zeros(mdp.start.shape), length=horizon)
    return policy[::-1]


def mdp_posterior_policy(mdp: MDP, horizon: int, beta: Number) -> Float[Array, "H S A"]:
    """Action log-probabilities under the trajectory law P*_r proportional to P_dynamics pi_ref exp(r/beta).

    The expectation over the next state stands inside the exponential. With deterministic dynamics
    this is ``mdp_soft_optimal_policy``; with stochastic dynamics it hopes for luck and is not optimal.
    """

    def backup(message, _):
        action = mdp.reference + mdp.reward / beta + jax.nn.logsumexp(mdp.transition + message[None, None], axis=-1)
        return jax.nn.logsumexp(action, axis=-1), jax.nn.log_softmax(action, axis=-1)

    _, policy = jax.lax.scan(backup, jnp.zeros(mdp.start.shape), length=horizon)
    return policy[::-1]


def mdp_objective(mdp: MDP, log_policy: Float[Array, "H S A"], beta: Number) -> Float[Array, ""]:
    """J of a time-dependent policy: expected total reward minus beta times its KL to the reference."""

    def forward(state, step_policy):
        occupancy = state[:, None] * jnp.exp(step_policy)
        gain = jnp.sum(occupancy * (mdp.reward - beta * (step_policy - mdp.reference)))
        return jnp.sum(occupancy[..., None] * jnp.exp(mdp.transition), axis=(0, 1)), gain

    _, gains = jax.lax.scan(forward, jnp.exp(mdp.start), log_policy)
    return jnp.sum(gains)
