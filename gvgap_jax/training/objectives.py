"""What a run minimises, as pure functions of parameters and batches: every method of the paper, for any bundle.

The losses are those of ``losses`` and ``online``; here they only learn where their batches come from. Offline
batches are rows of a data set in an order that a key and the step determine, online ones are fresh responses.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gvgap_jax import algorithms, losses, online, preferences, rollouts
from gvgap_jax.types import (
    Count,
    Critic,
    Demonstrations,
    Environment,
    HeldOut,
    Number,
    Params,
    Policy,
    Preferences,
    PRNGKey,
    Verifier,
)

ROUNDS = 8  # of the shuffle: four are enough for a random-looking one (Luby and Rackoff, 1988), tiny sets need more

Scalar = Float[Array, ""]
Loss = Callable[[Params, Any], Scalar]


class Objective(NamedTuple):
    """What a run minimises, and where its batches come from.

    Attributes:
      init: key -> params; consumes the key. To start elsewhere, replace it.
      draw: key, params, round -> batch, a pytree whose leaves have rows in front. The key is the same every round.
      loss: params, batch -> scalar, a mean over the batch.
      weight: batch -> by how much its mean counts when the means of several batches are averaged.
      held_out: params, loss -> scalar that early stopping watches, None to keep the last parameters. It is handed the
        objective's own loss, which a layout may have spread over devices.
      measure: batch -> numbers to record beside the loss.
    """

    init: Callable[[PRNGKey], Params]
    draw: Callable[[PRNGKey, Params, Count], Any]
    loss: Loss
    weight: Callable[[Any], Number] = lambda batch: 1.0
    held_out: Callable[[Params, Loss], Scalar] | None = None
    measure: Callable[[Any], dict[str, Scalar]] = lambda batch: {}


def sft(policy: Policy, train: Demonstrations, held_out: Demonstrations | None = None, *, batch: int) -> Objective:
    """Maximum likelihood on demonstrations, nats a response; ``batch`` rows a step."""

    def loss(params: Params, rows: Demonstrations):
        return losses.sft(policy.log_prob(params, rows.prompts, rows.responses), rows.weight)

    return _offline(policy.init, loss, train, held_out, batch)


def reward_model(
    verifier: Verifier,
    train: Preferences,
    held_out: HeldOut | None = None,
    *,
    batch: int,
    temperature: Number = 1.0,
) -> Objective:
    """Bradley-Terry over reward models, nats a pair: stage one of RLHF. ``batch`` pairs a step."""

    def loss(params: Params, pairs: Preferences):
        return losses.bradley_terry(algorithms.reward_margin(params, pairs, verifier, temperature), pairs.weight)

    return _offline(verifier.init, loss, train, None if held_out is None else held_out.pairs, batch)


def dpo(
    policy: Policy,
    train: Preferences,
    held_out: HeldOut | None = None,
    *,
    batch: int,
    beta: Number,
    temperature: Number = 1.0,
) -> Objective:
    """Direct preference optimisation (arXiv 2305.18290), nats a pair; ``batch`` pairs a step."""
    loss = partial(online.online_dpo_loss, policy=policy, beta=beta, temperature=temperature)
    return _offline(policy.init, loss, train, None if held_out is None else held_out.pairs, batch)


def online_dpo(
    policy: Policy, environment: Environment, *, prompts: int, samples: int, labels: online.Labels
) -> Objective:
    """DPO on pairs among ``samples`` fresh responses to each of ``prompts`` prompts, which ``labels`` makes of them."""

    def pairs(rollout: rollouts.Rollout):
        return labels(rollout, environment.temperature)

    def loss(params: Params, rollout: rollouts.Rollout):
        return online.online_dpo_loss(params, pairs(rollout), policy, environment.beta, environment.temperature)

    fresh = _online(policy, environment, prompts, samples, loss)
    return fresh._replace(weight=lambda rollout: jnp.sum(pairs(rollout).weight))


def rloo(policy: Policy, environment: Environment, *, prompts: int, samples: int) -> Objective:
    """REINFORCE whose baseline is the prompt's other responses (arXiv 2402.14740); ``samples`` responses a prompt."""
    loss = partial(online.rloo_loss, policy=policy, beta=environment.beta)
    return _online(policy, environment, prompts, samples, loss)


def ppo(
    policy: Policy,
    critic: Critic,
    environment: Environment,
    *,
    prompts: int,
    samples: int = 1,
    clip: float = 0.2,
    decay: float = 1.0,
) -> Objective:
    """Proximal policy optimisation (arXiv 1707.06347), see ``online.ppo``; parameters are (policy's, critic's)."""

    def init(key: PRNGKey):
        policy_key, critic_key = jax.random.split(key)
        return policy.init(policy_key), critic.init(critic_key)

    def draw(key: PRNGKey, params: Params, round: Count):
        key = jax.random.fold_in(key, round)
        return online.roll_out_with_values(key, policy, critic, params, environment, prompts, samples)

    def loss(params: Params, batch):
        return online.actor_critic_loss(params, batch, policy, critic, environment.beta, clip, decay)

    return Objective(init, draw, loss, measure=lambda batch: _measure(batch[0]))


def with_reference(pairs: Preferences, policy: Policy, params: Params, rows: int) -> Preferences:
    """The pairs with the reference margins of a reference policy, which scores ``rows`` pairs at a time."""

    def margin(chunk: Preferences):
        chosen, rejected = preferences.of_both(policy.log_prob, params, chunk)
        return chosen - rejected

    margins = jax.lax.map(margin, _chunks(pairs, rows)).reshape(-1)
    return pairs._replace(reference_margin=margins[: pairs.weight.shape[0]])


def shuffled(key: PRNGKey, position: Count, size: int) -> Int[Array, ""]:
    """The row at a position of the endless sequence that goes through ``size`` rows, each epoch in another order.

    A permutation that is computed for one position alone (a Feistel network with cycle walking, Black and Rogaway,
    2002): nothing is stored, and the position is all that a resumed run must know.
    """
    epoch, place = jnp.divmod(jnp.asarray(position, jnp.uint32), jnp.uint32(size))
    half = max(1, ((size - 1).bit_length() + 1) // 2)  # bits; 4**half is at least the size
    keys = jax.random.bits(jax.random.fold_in(key, epoch), (ROUNDS,), jnp.uint32)

    def permute(value):
        left, right = value >> half, value & (2**half - 1)
        for round_key in keys:
            left, right = right, left ^ (_hash(right ^ round_key) & (2**half - 1))
        return left << half | right

    row = jax.lax.while_loop(lambda value: value >= size, permute, permute(place))
    return row.astype(jnp.int32)


def _hash(value):
    """The finaliser of MurmurHash3 (Appleby): every bit of 32 depends on every other."""
    value = (value ^ value >> 16) * jnp.uint32(0x85EBCA6B)
    value = (value ^ value >> 13) * jnp.uint32(0xC2B2AE35)
    return value ^ value >> 16


def _offline(init, loss, train, held_out, batch: int) -> Objective:
    size = train.weight.shape[0]
    if not size or batch < 1:
        raise ValueError(f"an offline objective needs at least 1 row and a batch of at least 1, got {size}, {batch}.")

    def draw(key: PRNGKey, params: Params, round: Count):
        del params
        positions = jnp.asarray(round, jnp.uint32) * batch + jnp.arange(batch, dtype=jnp.uint32)
        rows = jax.vmap(shuffled, (None, 0, None))(key, positions, size)
        return jax.tree.map(lambda values: values[rows], train)

    def mean(params: Params, loss: Loss):
        chunks = _chunks(held_out, batch)
        means = jax.lax.map(partial(loss, params), chunks)
        return losses.weighted_mean(means, jnp.sum(chunks.weight, axis=1))

    return Objective(init, draw, loss, lambda rows: jnp.sum(rows.weight), None if held_out is None else mean)


def _chunks(data, rows: int):
    """Leaves [N, ...] as [N / rows, rows, ...]; what the last chunk lacks has weight 0."""
    size = data.weight.shape[0]

    def cut(values):
        padding = [(0, -size % rows)] + [(0, 0)] * (values.ndim - 1)
        return jnp.pad(values, padding).reshape(-(-size // rows), rows, *values.shape[1:])

    return jax.tree.map(cut, data)


def _online(policy: Policy, environment: Environment, prompts: int, samples: int, loss) -> Objective:
    def draw(key: PRNGKey, params: Params, round: Count):
        key = jax.random.fold_in(key, round)
        return rollouts.roll_out(key, policy, params, environment, prompts, samples)

    return Objective(policy.init, draw, loss, measure=_measure)


def _measure(rollout: rollouts.Rollout) -> dict[str, Scalar]:
    """Mean reward, and the KL to the reference in nats as the mean log ratio."""
    return {"reward": jnp.mean(rollout.reward), "kl": jnp.mean(rollout.log_ratio())}
