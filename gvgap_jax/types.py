"""The types that every other file passes around: policies, verifiers, pairs and fits.

Axes, wherever a shape is written:

=  ==================================================
X  prompts of a task
V  vocabulary
P  tokens of a prompt
H  horizon: tokens of a response
L  leaves of a prompt's token tree, V**H complete responses
N  pairs, or any other list of (prompt, response) rows
S  seeds
=  ==================================================

Prompts are token arrays ``[N, P]`` and responses are token arrays ``[N, H]``; P may be 0.
A token of -1 (``PADDING``) is no token: prompts are padded on the left, responses after their end token. It has
no probability and no reward. Rewards have the unit of the Bradley-Terry log odds, divergences are in nats, beta is
reward per nat.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, Int, Key

PADDING = -1
"""Stands where there is no token. No vocabulary has it, so that padding needs no mask beside the tokens."""

Params = Any
"""Parameters of a policy or a verifier: whatever pytree its class makes of them."""
Number = Float[Array, ""] | float
"""A scalar that may be traced, ``Float[Array, ""]``, or a Python number."""
Count = Int[Array, ""] | int
"""An integer that may be traced, ``Int[Array, ""]``, or a Python one."""
PRNGKey = Key[Array, ""]
"""A typed random key, as ``jax.random.key`` makes it."""
Prompts = Int[Array, "N P"]
"""Tokens [N, P] of N prompts."""
Responses = Int[Array, "N H"]
"""Tokens [N, H] of N responses."""


@dataclass(frozen=True)
class Policy:
    """A class of policies: one choice of parameters is one policy.

    Attributes:
      init: key -> params.
      log_prob: params, prompts [N, P], responses [N, H] -> log pi(y|x) [N], in nats.
      token_log_probs: the same -> [N, H], token by token; they sum to ``log_prob``.
      sample: key, params, prompts [N, P] -> responses [N, H]; consumes the key.
      num_parameters: numbers in the parameters; ``complexity.generic_dimension`` counts those that change a margin.
      unit: nats that a parameter of 1 is worth: 1 for logits, 1 / beta for the rewards of soft-optimal policies.
        Beta times it is in reward, in which ridge penalties are stated.
    """

    init: Callable[[PRNGKey], Params]
    log_prob: Callable[[Params, Prompts, Responses], Float[Array, "N"]]
    token_log_probs: Callable[[Params, Prompts, Responses], Float[Array, "N H"]]
    sample: Callable[[PRNGKey, Params, Prompts], Responses]
    num_parameters: Count
    unit: Number = field(default=1.0, kw_only=True, compare=False)  # an array has no hash


@dataclass(frozen=True)
class TreePolicy(Policy):
    """A class of policies on a token tree, whose leaves can be enumerated.

    Attributes:
      leaf_log_probs: params -> [X, L], log-probabilities of all leaves.
      from_log_probs: [X, L] leaf log-probabilities -> params; None unless the class holds every policy.
    """

    leaf_log_probs: Callable[[Params], Float[Array, "X L"]]
    from_log_probs: Callable[[Float[Array, "X L"]], Params] | None = None


@dataclass(frozen=True)
class Verifier:
    """A class of reward models: one choice of parameters is one reward model.

    Attributes:
      init: key -> params.
      score: params, prompts [N, P], responses [N, H] -> rewards [N].
      num_parameters: free numbers of the class; where a class stores more numbers than it is
        free to choose (masked orders, sparse supports) its docstring says so. How many of them change a margin is
        another number, ``complexity.generic_dimension``.
      unit: reward that a parameter of 1 is worth: 1, or beta for the local rewards of logits.
    """

    init: Callable[[PRNGKey], Params]
    score: Callable[[Params, Prompts, Responses], Float[Array, "N"]]
    num_parameters: Count
    unit: Number = field(default=1.0, kw_only=True, compare=False)  # an array has no hash


@dataclass(frozen=True)
class TreeVerifier(Verifier):
    """A class of reward models on a token tree, which score all leaves at once.

    Attributes:
      leaf_scores: params -> [X, L], rewards of all leaves.
    """

    leaf_scores: Callable[[Params], Float[Array, "X L"]]


@dataclass(frozen=True)
class Critic:
    """A class of value functions of prefixes.

    Attributes:
      init: key -> params.
      values: params, prompts [N, P], responses [N, H] -> [N, H], the value of the prefix before every token.
      num_parameters: numbers in the parameters.
    """

    init: Callable[[PRNGKey], Params]
    values: Callable[[Params, Prompts, Responses], Float[Array, "N H"]]
    num_parameters: Count


class Environment(NamedTuple):
    """The prompts, reward and reference policy of a task, for methods that sample: nothing enumerates responses.

    Attributes:
      prompts: key, number N -> prompts [N, P]; consumes the key.
      reward: prompts [N, P], responses [N, H] -> [N], a fixed reward model.
      reference: the same -> [N, H] token log-probabilities of the reference policy, in nats.
      beta: reward per nat of KL to the reference.
      temperature: of the labels that the reward model gives.
    """

    prompts: Callable[[PRNGKey, int], Prompts]
    reward: Callable[[Prompts, Responses], Float[Array, "N"]]
    reference: Callable[[Prompts, Responses], Float[Array, "N H"]]
    beta: Number
    temperature: Number = 1.0


class Preferences(NamedTuple):
    """Labelled pairs of responses. A pair of weight 0 counts as absent: masking keeps shapes fixed while n varies.

    Attributes:
      prompts: [N, P] tokens.
      chosen, rejected: [N, H] tokens of the preferred and of the other response.
      reference_margin: [N] log pi_ref(chosen|x) - log pi_ref(rejected|x), in nats. It travels with
        the pairs, so that an offline loss needs no reference policy.
      weight: [N] in pairs (0 or 1 for sampled pairs, probabilities for population preferences).
    """

    prompts: Prompts
    chosen: Responses
    rejected: Responses
    reference_margin: Float[Array, "N"]
    weight: Float[Array, "N"]


class HeldOut(NamedTuple):
    """Pairs that no parameter is fitted to; what a method selects (penalty, step size, where to stop) it selects here.

    A type of its own, so that training pairs cannot stand in for them.
    """

    pairs: Preferences


class Demonstrations(NamedTuple):
    """Responses to imitate: prompts [N, P], responses [N, H], and how often each counts [N]."""

    prompts: Prompts
    responses: Responses
    weight: Float[Array, "N"]


class Fit(NamedTuple):
    """The result of an optimisation, and how far it can be trusted.

    Attributes:
      params: the selected parameters.
      loss: training loss there, without the penalty (per pair, in nats, for likelihoods).
      held_out_loss: held-out loss there; equal to ``loss`` where nothing was held out.
      gradient_norm: Euclidean norm of the gradient of the penalised objective that was minimised.
      penalty: the selected ridge penalty, in pairs, on parameters in units of reward (see ``unit``); 0 for none.
      steps: optimiser steps taken over the whole search.
      converged: the gradient met the tolerance everywhere the selection looked, and all is finite.
    """

    params: Params
    loss: Float[Array, ""]
    held_out_loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    penalty: Float[Array, ""]
    steps: Int[Array, ""]
    converged: Bool[Array, ""]
