"""What an arm spends: responses drawn, and floating-point operations by the convention of arXiv 2001.08361.

A forward pass is 2 operations a parameter and token, a training pass 6, whatever the class does inside: what a
network of as many parameters would spend, so that arms can be compared on one axis.
"""

from typing import NamedTuple

from gvgap_jax.online import Sizes
from gvgap_jax.types import Count

FORWARD, TRAINED = 2, 6  # operations a parameter and token


class Cost(NamedTuple):
    """Responses that were drawn, and responses that went through each model, forward only or trained on."""

    drawn: Count = 0
    policy_forward: Count = 0
    policy_trained: Count = 0
    verifier_forward: Count = 0
    verifier_trained: Count = 0

    def __add__(self, other: "Cost") -> "Cost":  # pyright: ignore
        return Cost(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    @classmethod
    def of_dpo(cls, pairs: int, epochs: int) -> "Cost":
        """Two responses a pair and epoch; the reference scores each once."""
        return cls(policy_forward=2 * pairs, policy_trained=2 * pairs * epochs)

    @classmethod
    def of_reward_model(cls, pairs: int) -> "Cost":
        """One epoch."""
        return cls(verifier_trained=2 * pairs)

    @classmethod
    def of_samples(cls, responses: int) -> "Cost":
        """Drawn from the policy, and scored by the reward model."""
        return cls(drawn=responses, policy_forward=responses, verifier_forward=responses)

    @classmethod
    def of_steps(cls, sizes: Sizes) -> "Cost":
        """Sampled RL: the reference scores every response once, every gradient step trains on it."""
        return cls(policy_forward=sizes.responses, policy_trained=sizes.responses * sizes.steps)

    @classmethod
    def of_passes(cls, pairs: int, passes: Count, on_rewards: bool) -> "Cost":
        """Training passes over all pairs, of the reward model or of the policy."""
        trained = 2 * pairs * passes
        return cls(verifier_trained=trained) if on_rewards else cls(policy_trained=trained)

    def flops(self, policy_parameters: Count, verifier_parameters: Count, tokens: int):
        """Floating-point operations, with responses of so many tokens."""
        policy = FORWARD * self.policy_forward + TRAINED * self.policy_trained
        verifier = FORWARD * self.verifier_forward + TRAINED * self.verifier_trained
        return tokens * (1.0 * policy * policy_parameters + 1.0 * verifier * verifier_parameters)
