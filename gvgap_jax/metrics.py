"""Exact metrics of policies and reward models: sums over leaves, averaged over a distribution of prompts.

A NaN that is handed in comes out as NaN, so that comparisons here ask for what a number is not.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from gvgap_jax import soft_rl
from gvgap_jax.divergence import kl
from gvgap_jax.losses import bradley_terry, weighted_mean
from gvgap_jax.tasks import Task


class PolicyMetrics(NamedTuple):
    """Scores of one policy on one task.

    Attributes:
      regret: KL(pi || pi*) in nats; beta times it is J(pi*) - J(pi).
      objective: J = E r - beta KL(pi || pi_ref), in units of reward.
      gold_reward: E r under the policy.
      kl_to_reference: KL(pi || pi_ref) in nats.
    """

    regret: Float[Array, ""]
    objective: Float[Array, ""]
    gold_reward: Float[Array, ""]
    kl_to_reference: Float[Array, ""]


def evaluate(
    log_policy: Float[Array, "X L"], task: Task, prompt_probs: Float[Array, "X"] | None = None
) -> PolicyMetrics:
    """Metrics of a policy; other ``prompt_probs`` than the task's judge it on held-out prompts."""
    weight = task.prompt_probs if prompt_probs is None else prompt_probs
    gold_reward = jnp.sum(jnp.exp(log_policy) * task.reward, axis=-1)
    return PolicyMetrics(
        regret=weighted_mean(kl(log_policy, task.optimal), weight),
        objective=weighted_mean(soft_rl.objective(log_policy, task.reward, task.reference, task.beta), weight),
        gold_reward=weighted_mean(gold_reward, weight),
        kl_to_reference=weighted_mean(kl(log_policy, task.reference), weight),
    )


def pair_accuracy(margin: Float[Array, "N"], weight: Float[Array, "N"]) -> Float[Array, ""]:
    """Share of pairs whose chosen response scores higher; a tie counts one half."""
    return weighted_mean((jnp.sign(margin) + 1) / 2, weight)


def pair_likelihood(margin: Float[Array, "N"], weight: Float[Array, "N"]) -> Float[Array, ""]:
    """Geometric mean of the probability given to the labels, in (0, 1]; 1/2 is chance."""
    return jnp.exp(-bradley_terry(margin, weight))


def best_of_n(
    log_policy: Float[Array, "*batch L"], score: Float[Array, "*batch L"], n: Float[Array, ""] | int
) -> Float[Array, "*batch L"]:
    """Exact law [.., L] of the best of ``n`` independent samples of a policy, ties drawn in proportion to the policy.

    P(y) = pi(y) (F(s)^n - F(s-)^n) / P(score = s), with F the distribution function of the score s = s(y)
    under the policy (arXiv 2401.01879, lemma 1). Probabilities, not logs: most leaves underflow.
    """
    probability = jnp.exp(log_policy)
    lower, upper = _distribution(probability, score)
    mass = upper - lower
    absent = mass <= 0
    return jnp.where(absent, 0.0, probability * (upper**n - lower**n) / jnp.where(absent, 1.0, mass))


def top_and_bottom(
    log_policy: Float[Array, "X L"], score: Float[Array, "X L"], n: Float[Array, ""] | int
) -> Float[Array, "X L L"]:
    """Exact joint law [X, L, L] of the best and the worst of ``n`` independent samples, ties as in ``best_of_n``.

    By inclusion and exclusion over intervals of the score's distribution function. A draw in which all
    samples tie is no pair: what is missing from 1 is its probability.
    """
    probability = jnp.exp(log_policy)
    lower, upper = _distribution(probability, score)
    absent = upper <= lower
    share = jnp.where(absent, 0.0, probability / jnp.where(absent, 1.0, upper - lower))

    def between(top, bottom):
        return jnp.maximum(top[:, :, None] - bottom[:, None, :], 0.0) ** n

    both = between(upper, lower) - between(lower, lower) - between(upper, upper) + between(lower, upper)
    not_above = lower[:, :, None] < upper[:, None, :]
    # Rounding may leave differences of nearly equal powers below 0.
    return jnp.where(not_above, 0.0, jnp.maximum(both, 0.0)) * share[:, :, None] * share[:, None, :]


def win_rate(
    log_policy: Float[Array, "X L"],
    log_other: Float[Array, "X L"],
    score: Float[Array, "X L"],
    prompt_probs: Float[Array, "X"],
) -> Float[Array, ""]:
    """Probability that a response of one policy scores higher than one of the other, drawn independently.

    A tie counts one half, so that a policy wins one half against itself. Log-probabilities may be -inf.
    """
    lower, upper = _distribution(jnp.exp(log_other), score)
    return weighted_mean(jnp.sum(jnp.exp(log_policy) * (lower + upper) / 2, axis=-1), prompt_probs)


def _distribution(probability, score):
    """P(score < s(y)) and P(score <= s(y)) of every leaf y, where leaves have this ``probability``; all [.., L].

    NaN for all leaves of a row where one score is NaN: sorted among numbers, it would be the highest.
    """
    order = jnp.argsort(score, axis=-1)
    sorted_score = jnp.take_along_axis(score, order, -1)
    below_or_here = jnp.cumsum(jnp.take_along_axis(probability, order, -1), axis=-1)
    below_or_here = below_or_here / below_or_here[..., -1:]
    padded = jnp.concatenate([jnp.zeros_like(below_or_here[..., :1]), below_or_here], axis=-1)
    lower, upper = (jnp.take_along_axis(padded, _search(sorted_score, score, side), -1) for side in ("left", "right"))
    unknown = jnp.any(jnp.isnan(score), axis=-1, keepdims=True)
    return jnp.where(unknown, jnp.nan, lower), jnp.where(unknown, jnp.nan, upper)


def _search(sorted_score, score, side):
    search = jnp.vectorize(lambda a, v: jnp.searchsorted(a, v, side=side), signature="(l),(l)->(l)")
    return search(sorted_score, score)
