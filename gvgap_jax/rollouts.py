"""Responses drawn from a policy, and what ``preferences`` and ``metrics`` sum over leaves, estimated from them.

For responses too many to enumerate. Batches are B prompts times m responses each, prompt-major.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gvgap_jax.types import Environment, Number, Params, Policy, Preferences, PRNGKey, Prompts, Responses


class Rollout(NamedTuple):
    """Responses of one round, with their rewards and log-probabilities when they were drawn.

    Attributes:
      prompts: [B*m, P]; responses: [B*m, H].
      reward: [B, m], of the reward model.
      log_prob, reference: [B*m, H] token log-probabilities under the policy that drew them and under the reference.
    """

    prompts: Prompts
    responses: Responses
    reward: Float[Array, "B m"]
    log_prob: Float[Array, "B*m H"]
    reference: Float[Array, "B*m H"]

    def log_ratio(self) -> Float[Array, "B m"]:
        """log pi/pi_ref of every response, in nats."""
        return jnp.sum(self.log_prob - self.reference, axis=1).reshape(self.reward.shape)


def roll_out(
    key: PRNGKey, policy: Policy, params: Params, environment: Environment, prompts: int, samples: int
) -> Rollout:
    """``samples`` responses of the policy to each of so many prompts; consumes the key."""
    prompt_key, response_key = jax.random.split(key)
    asked = jnp.repeat(environment.prompts(prompt_key, prompts), samples, axis=0)
    responses = policy.sample(response_key, params, asked)
    return Rollout(
        asked,
        responses,
        environment.reward(asked, responses).reshape(prompts, samples),
        policy.token_log_probs(params, asked, responses),
        environment.reference(asked, responses),
    )


def top_against_bottom(rollout: Rollout, temperature: Number = 1.0) -> Preferences:
    """The best of a prompt's responses chosen over the worst, B pairs; where all tie there is no pair (weight 0).

    Its labels are certain, whatever the ``temperature``: repeated on-policy they ask for ever larger margins, and
    have no interior fixed point.
    """
    del temperature
    best, worst = jnp.argmax(rollout.reward, axis=1), jnp.argmin(rollout.reward, axis=1)
    differ = jnp.max(rollout.reward, axis=1) > jnp.min(rollout.reward, axis=1)
    start = rollout.reward.shape[1] * jnp.arange(rollout.reward.shape[0])
    return pairs_of(rollout, start + best, start + worst, differ.astype(rollout.reward.dtype))


def by_bradley_terry(rollout: Rollout, temperature: Number = 1.0) -> Preferences:
    """Neighbouring responses in both orders, weighted by the reward model's own probabilities: B*m pairs.

    Summed over labels, not drawn: the fixed point of repeated on-policy rounds is the soft-optimal policy.
    """
    reward = in_pairs(rollout.reward)
    first = 2 * jnp.arange(reward.shape[0])
    wins = jax.nn.sigmoid((reward[:, 0] - reward[:, 1]) / temperature)
    either = pairs_of(rollout, first, first + 1, wins), pairs_of(rollout, first + 1, first, 1 - wins)
    return jax.tree.map(lambda won, lost: jnp.concatenate([won, lost]), *either)


def in_pairs(values: Float[Array, "B m"]) -> Float[Array, "pairs 2"]:
    """Neighbouring responses of a prompt side by side; ValueError if one is left over."""
    samples = values.shape[1]
    if samples % 2:
        raise ValueError(f"pairs of responses need an even number of samples a prompt, got {samples}.")
    return values.reshape(-1, 2)


def pairs_of(rollout: Rollout, chosen, rejected, weight: Float[Array, "pairs"]) -> Preferences:
    """Pairs of a rollout's responses, from the rows [pairs] of the chosen and of the rejected ones."""
    reference = jnp.sum(rollout.reference, axis=1)
    return Preferences(
        prompts=rollout.prompts[chosen],
        chosen=rollout.responses[chosen],
        rejected=rollout.responses[rejected],
        reference_margin=reference[chosen] - reference[rejected],
        weight=weight,
    )


def best_of_n(
    key: PRNGKey, policy: Policy, params: Params, environment: Environment, prompts: int, n: int
) -> tuple[Prompts, Responses]:
    """The best by the reward model of ``n`` responses to each of so many prompts: [B, P] and [B, H]."""
    rollout = roll_out(key, policy, params, environment, prompts, n)
    best = n * jnp.arange(prompts) + jnp.argmax(rollout.reward, axis=1)
    return rollout.prompts[best], rollout.responses[best]


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
    rollout = roll_out(key, policy, params, environment, prompts, samples)
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
    rollout = roll_out(draw_key, policy, params, environment, number, 2)
    odds = (rollout.reward[:, 0] - rollout.reward[:, 1]) / environment.temperature
    second_wins = jax.random.uniform(label_key, (number,)) >= jax.nn.sigmoid(odds)
    chosen = 2 * jnp.arange(number) + second_wins
    rejected = 2 * jnp.arange(number) + ~second_wins
    return pairs_of(rollout, chosen, rejected, jnp.ones(number))
