"""Exact KL-regularised reinforcement learning, on token trees and on a small MDP with stochastic dynamics.

Maximise J(pi) = E_pi[r] - beta KL(pi || pi_ref). On a tree the dynamics are deterministic and the
optimum over all policies is pi*_r(y|x) = pi_ref(y|x) exp((r(x, y) - V(x)) / beta), with the soft value
V(x) = beta log sum_y pi_ref(y|x) exp(r(x, y) / beta) (arXiv 2503.01067, section 2).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gvgap_jax.divergence import kl
from gvgap_jax.tree import Levels, TokenTree
from gvgap_jax.types import Number

ROOT_STEPS = 20  # Newton's, quadratic near the root


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
    divergence: Callable[[Float[Array, "X L"], Float[Array, "X L"]], Float[Array, "X"]] = kl,
) -> Float[Array, "X"]:
    """J = E_pi[r] - beta D(pi, pi_ref) of each prompt, in units of reward; D is KL(pi || pi_ref) if left out."""
    return jnp.sum(jnp.exp(log_policy) * reward, axis=-1) - beta * divergence(log_policy, reference)


def forward_optimal_policy(
    reward: Float[Array, "X L"], reference: Float[Array, "X L"], beta: Number
) -> Float[Array, "X L"]:
    """Leaf log-probabilities of the maximiser of E_pi[r] - beta KL(pi_ref || pi) over all policies.

    It is pi = beta pi_ref / (lambda - r), with lambda > max r such that it sums to 1 for every prompt. With
    s = lambda - max r and d = max r - r, the root lies in [max(beta pi_ref - d), beta]; 1 / sum_y pi is concave and
    increases in s, so that Newton's steps from the left end never go past it. Derivatives are those of the root.
    """
    below = jnp.max(reward, axis=-1, keepdims=True) - reward
    weight = beta * jnp.exp(reference)

    def shortfall(slack, below, weight):
        return 1 / jnp.sum(weight / (slack + below), axis=-1, keepdims=True) - 1

    def slope(slack, below, weight):
        terms = weight / (slack + below)
        return jnp.sum(terms / (slack + below), axis=-1, keepdims=True) / jnp.sum(terms, axis=-1, keepdims=True) ** 2

    fixed = jax.lax.stop_gradient((below, weight))

    def improve(_, slack):
        return slack - shortfall(slack, *fixed) / slope(slack, *fixed)

    start = jnp.max(fixed[1] - fixed[0], axis=-1, keepdims=True)
    slack = jax.lax.fori_loop(0, ROOT_STEPS, improve, start)
    # One more step, through which derivatives pass: the implicit function theorem.
    slack = slack - shortfall(slack, below, weight) / slope(slack, *fixed)
    return jax.nn.log_softmax(reference - jnp.log(slack + below), axis=-1)


class Regulariser(NamedTuple):
    """What the two methods need of a divergence D(pi, pi_ref) = E_{pi_ref} f(pi / pi_ref) (arXiv 2309.16240).

    Attributes:
      divergence: log-probabilities [X, L] of the policy and of the reference -> D [X], in nats.
      optimal: reward [X, L], reference [X, L], beta -> log-probabilities of the maximiser of E_pi[r] - beta D.
      local_reward: log pi/pi_ref -> f'(pi/pi_ref) up to a constant. Beta times it is, up to a constant of
        the prompt, the reward that the policy is optimal for.
    """

    divergence: Callable[[Float[Array, "X L"], Float[Array, "X L"]], Float[Array, "X"]]
    optimal: Callable[[Float[Array, "X L"], Float[Array, "X L"], Number], Float[Array, "X L"]]
    local_reward: Callable[[Float[Array, "*batch"]], Float[Array, "*batch"]]


REVERSE_KL = Regulariser(kl, soft_optimal_policy, lambda log_ratio: log_ratio)
FORWARD_KL = Regulariser(
    lambda log_policy, reference: kl(reference, log_policy),
    forward_optimal_policy,
    lambda log_ratio: -jnp.exp(-log_ratio),
)


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
