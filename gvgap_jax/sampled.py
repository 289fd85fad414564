"""What ``preferences`` and ``metrics`` sum over leaves, from samples: for responses too many to enumerate."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gvgap_jax import online
from gvgap_jax.types import Environment, Params, Policy, Preferences, PRNGKey


class Estimate(NamedTuple):
    """A mean over prompts drawn independently, and its standard error."""

    mean: Float[Array, ""]
    error: Float[Array, ""]


class PolicyEstimates(NamedTuple):
    """Estimates of what ``metrics.PolicyMetrics`` holds exactly, without the regret.

    Attributes:
      objective: J = E r - beta KL(pi || pi_ref), in units of reward.
      gold_reward: E r under the policy.
      kl_to_reference: KL(pi || pi_ref) in nats.
    """

    objective: Estimate
    gold_reward: Estimate
    kl_to_reference: Estimate


def evaluate(
    key: PRNGKey, policy: Policy, params: Params, environment: Environment, prompts: int, samples: int = 1
) -> PolicyEstimates:
    """Unbiased estimates from ``samples`` responses to each of so many prompts; consumes the key.

    ``environment`` holds the reward that the policy is judged by. The policy must sample its own law: a truncated or
    tempered one has another KL than its probabilities say.
    """
    rollout = online.roll_out(key, policy, params, environment, prompts, samples)
    log_ratio = rollout.log_ratio()
    values = rollout.reward - environment.beta * log_ratio, rollout.reward, log_ratio
    return PolicyEstimates(*(over_prompts(value) for value in values))


def over_prompts(values: Float[Array, "B m"]) -> Estimate:
    """Mean of one number a response; prompts, not responses to the same prompt, are independent."""
    by_prompt = jnp.mean(values, axis=1)
    return Estimate(jnp.mean(by_prompt), jnp.std(by_prompt, ddof=1) / jnp.sqrt(by_prompt.shape[0]))


def pairs(key: PRNGKey, policy: Policy, params: Params, environment: Environment, number: int) -> Preferences:
    """So many independent labelled pairs: prompt, two responses of the policy, and a label of the environment's reward.

    Consumes the key. Unlike in ``preferences.sample`` the first pairs of a longer draw are not those of a shorter one:
    draw the most that are wanted, and ``preferences.split`` them.
    """
    draw_key, label_key = jax.random.split(key)
    rollout = online.roll_out(draw_key, policy, params, environment, number, 2)
    odds = (rollout.reward[:, 0] - rollout.reward[:, 1]) / environment.temperature
    second_wins = jax.random.uniform(label_key, (number,)) >= jax.nn.sigmoid(odds)
    chosen = 2 * jnp.arange(number) + second_wins
    rejected = 2 * jnp.arange(number) + ~second_wins
    return online.pairs_of(rollout, chosen, rejected, jnp.ones(number))
