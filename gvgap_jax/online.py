"""Methods that learn from samples of a policy and the scores of a fixed reward model, and enumerate nothing.

They maximise J(pi) = E[r] - beta KL(pi || pi_ref), as ``algorithms.second_stage`` does exactly. What they ask of
a policy is to sample and to score responses, so that a table and a network are the same to them. Batches are
B prompts times m responses each, prompt-major. The learning rate is Adam's at the start; it falls linearly to 0.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gvgap_jax import losses, optimize, preferences
from gvgap_jax.rollouts import Rollout, in_pairs, roll_out
from gvgap_jax.types import Critic, Environment, Fit, Number, Params, Policy, Preferences, PRNGKey


@dataclass(frozen=True)
class Sizes:
    """Numbers of rounds, prompts, responses and gradient steps; hashable, because they decide the program.

    Attributes:
      rounds: times that fresh responses are drawn.
      prompts: B, prompts a round.
      samples: m, responses a prompt.
      steps: gradient steps on every round's responses.
    """

    rounds: int = 200
    prompts: int = 64
    samples: int = 2
    steps: int = 1

    def __post_init__(self):
        for name in ("rounds", "prompts", "samples", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"Sizes: {name} must be at least 1, got {getattr(self, name)}.")

    @property
    def responses(self) -> int:
        """Responses drawn over all rounds."""
        return self.rounds * self.prompts * self.samples


Labels = Callable[[Rollout, Number], Preferences]


def _descend(key, policy, params, environment, sizes, learning_rate, loss, prepare=lambda rollout: rollout) -> Fit:
    """``optimize.descend`` on what ``prepare`` makes of the present policy's responses."""

    def draw(key, params):
        return prepare(roll_out(key, policy, params, environment, sizes.prompts, sizes.samples))

    return optimize.descend(key, params, draw, loss, learning_rate, sizes.rounds, sizes.steps)


def rloo(
    key: PRNGKey, policy: Policy, params: Params, environment: Environment, sizes: Sizes, learning_rate: Number = 0.03
) -> Fit:
    """REINFORCE with the prompt's other responses as baseline (arXiv 2402.14740)."""

    def loss(params, rollout):
        return rloo_loss(params, rollout, policy, environment.beta)

    return _descend(key, policy, params, environment, sizes, learning_rate, loss)


def rloo_loss(params: Params, rollout: Rollout, policy: Policy, beta: Number) -> Float[Array, ""]:
    """Loss of ``rloo``: its gradient at the policy that drew the rollout is an unbiased estimate of that of -J."""
    advantage = losses.leave_one_out(rollout.reward - beta * rollout.log_ratio())
    log_prob = policy.log_prob(params, rollout.prompts, rollout.responses)
    return losses.policy_gradient(log_prob.reshape(advantage.shape), advantage)


def ppo(
    key: PRNGKey,
    policy: Policy,
    params: Params,
    environment: Environment,
    sizes: Sizes,
    learning_rate: Number = 0.03,
    *,
    critic: Critic,
    clip: float = 0.2,
    decay: float = 1.0,
) -> Fit:
    """Proximal policy optimisation (arXiv 1707.06347) over tokens, with a learned critic.

    The reward of a token is -beta log pi/pi_ref, and the reward model's score on top at the last one
    (arXiv 2203.02155). ``decay`` is lambda of the advantages. The parameters returned are the policy's alone.
    """
    critic_key, key = jax.random.split(key)

    def draw(key, params):
        return roll_out_with_values(key, policy, critic, params, environment, sizes.prompts, sizes.samples)

    def loss(params, batch):
        return actor_critic_loss(params, batch, policy, critic, environment.beta, clip, decay)

    start = params, critic.init(critic_key)
    fit = optimize.descend(key, start, draw, loss, learning_rate, sizes.rounds, sizes.steps)
    return fit._replace(params=fit.params[0])


def roll_out_with_values(
    key: PRNGKey,
    policy: Policy,
    critic: Critic,
    params: tuple[Params, Params],
    environment: Environment,
    prompts: int,
    samples: int,
) -> tuple[Rollout, Float[Array, "B*m H"]]:
    """``roll_out`` of the policy, and the critic's values of its prefixes; ``params`` are those of both."""
    rollout = roll_out(key, policy, params[0], environment, prompts, samples)
    return rollout, critic.values(params[1], rollout.prompts, rollout.responses)


def actor_critic_loss(
    params: tuple[Params, Params],
    batch: tuple[Rollout, Float[Array, "B*m H"]],
    policy: Policy,
    critic: Critic,
    beta: Number,
    clip: Number,
    decay: Number,
) -> Float[Array, ""]:
    """``ppo_loss`` with generalised advantages, and half the squared error of the critic, summed over tokens."""
    rollout, old_values = batch
    advantage = losses.generalised_advantage(token_rewards(rollout, beta), old_values, decay)
    values = critic.values(params[1], rollout.prompts, rollout.responses)
    surprise = jnp.mean(jnp.sum((values - old_values - advantage) ** 2, axis=1))
    return ppo_loss(params[0], rollout, policy, advantage, clip) + surprise / 2


def ppo_loss(
    params: Params, rollout: Rollout, policy: Policy, advantage: Float[Array, "B*m H"], clip: Number
) -> Float[Array, ""]:
    """Policy loss of ``ppo``: its gradient is unbiased, as that of ``rloo_loss``, for Monte Carlo advantages."""
    log_prob = policy.token_log_probs(params, rollout.prompts, rollout.responses)
    return losses.clipped_policy_gradient(log_prob, rollout.log_prob, advantage, clip)


def token_rewards(rollout: Rollout, beta: Number) -> Float[Array, "B*m H"]:
    """-beta log pi/pi_ref of every token, and the reward model's score on top at the last one."""
    return (-beta * (rollout.log_prob - rollout.reference)).at[:, -1].add(rollout.reward.reshape(-1))


def rebel(
    key: PRNGKey,
    policy: Policy,
    params: Params,
    environment: Environment,
    sizes: Sizes,
    learning_rate: Number = 0.03,
    share: float = 0.5,
) -> Fit:
    """Regression to relative rewards (arXiv 2404.16767): mirror ascent on J by least squares on pairs of responses.

    A round fits log pi/pi_t to eta (r - beta log pi_t/pi_ref) up to a constant, with eta = ``share`` / beta; at
    share 1 and without sampling noise the first round ends at the soft-optimal policy.
    """

    def loss(params, rollout):
        return rebel_loss(params, rollout, policy, environment.beta, share / environment.beta)

    return _descend(key, policy, params, environment, sizes, learning_rate, loss)


def rebel_loss(params: Params, rollout: Rollout, policy: Policy, beta: Number, eta: Number) -> Float[Array, ""]:
    """Loss of ``rebel``, on pairs: its gradient at the policy that drew the rollout is 4 / eta times that of -J."""
    log_prob = policy.log_prob(params, rollout.prompts, rollout.responses)
    moved = (log_prob - jnp.sum(rollout.log_prob, axis=1)).reshape(rollout.reward.shape)
    return losses.rebel(in_pairs(moved), in_pairs(rollout.reward - beta * rollout.log_ratio()), eta)


def online_dpo(
    key: PRNGKey,
    policy: Policy,
    params: Params,
    environment: Environment,
    sizes: Sizes,
    learning_rate: Number = 0.03,
    *,
    labels: Labels,
) -> Fit:
    """DPO on fresh pairs of the present policy, labelled by the reward model (arXiv 2402.04792), round after round.

    One batch round, as in arXiv 2503.01067, is ``labels(roll_out(...), temperature)`` handed to ``algorithms.dpo``.
    """

    def loss(params, pairs):
        return online_dpo_loss(params, pairs, policy, environment.beta, environment.temperature)

    def label(rollout):
        return labels(rollout, environment.temperature)

    return _descend(key, policy, params, environment, sizes, learning_rate, loss, label)


def online_dpo_loss(
    params: Params, pairs: Preferences, policy: Policy, beta: Number, temperature: Number = 1.0
) -> Float[Array, ""]:
    """Loss of ``online_dpo``: the offline loss, on fresh pairs."""
    log_chosen, log_rejected = preferences.of_both(policy.log_prob, params, pairs)
    return losses.dpo(log_chosen, log_rejected, pairs.reference_margin, beta / temperature, pairs.weight)
