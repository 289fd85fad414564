"""A task whose gold reward is checked token by token, and its best J by dynamic programming over the checker's states.

Responses are far too many to enumerate, but a checker that remembers little reaches few states, and all responses
that end in the same state are one. Soft values over states are those over prefixes (``soft_rl.backward_induction``)
with equal prefixes computed once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gvgap_jax.types import Number, PRNGKey, Prompts, Responses

STEPS_AT_ONCE = 2**20  # states x V at one position; 16 positions of so many take about 300 MB


class Checker(NamedTuple):
    """A gold reward that reads a response from left to right. What it remembers are integers, its state [N, M].

    Its functions take numpy or jax arrays and answer in kind: numpy for the exact values in float64, jax for programs.

    Attributes:
      start: prompts [N, P] -> state [N, M].
      step: prompts, state, position, token [N] -> the next state, and the reward [N] of this token.
      last: prompts, state -> [N], the reward of having ended there.
    """

    start: Callable[[Any], Any]
    step: Callable[[Any, Any, Any, Any], tuple[Any, Any]]
    last: Callable[[Any, Any], Any]


class TokenTask(NamedTuple):
    """Gold reward, prompts, beta and label temperature; the reference policy is the user's.

    Attributes:
      vocabulary: V; horizon: H, tokens of a complete response.
      checker: the gold reward, in Bradley-Terry log odds at temperature 1.
      prompt_table: [X, P], the prompts there are.
      prompt_probs: [X], their distribution; 0 holds a prompt out.
      beta: reward per nat of KL to the reference.
      temperature: of the labels.
    """

    vocabulary: int
    horizon: int
    checker: Checker
    prompt_table: Int[Array, "X P"]
    prompt_probs: Float[Array, "X"]
    beta: Number = 1.0
    temperature: Number = 1.0

    @property
    def prompt_length(self) -> int:
        """P, tokens of a prompt."""
        return self.prompt_table.shape[1]

    def prompts(self, key: PRNGKey, number: int) -> Prompts:
        """``number`` independent prompts [N, P]; consumes the key."""
        return self.prompt_table[jax.random.categorical(key, jnp.log(self.prompt_probs), shape=(number,))]

    def reward(self, prompts: Prompts, responses: Responses) -> Float[Array, "N"]:
        """Gold reward of each response [N, H]. Padding (-1) is not read; a response that ended early is checked as is.

        Raises:
          ValueError: the rows are not one response of H tokens to each prompt of P tokens.
        """
        expected = (len(prompts), self.prompt_length), (len(prompts), self.horizon)
        if (prompts.shape, responses.shape) != expected:
            raise ValueError(
                f"reward: prompts and responses must have shapes {expected[0]} and {expected[1]}, "
                f"got {prompts.shape} and {responses.shape}."
            )

        def read(state, at):
            position, token = at
            following, gain = self.checker.step(prompts, state, position, token)
            there = token >= 0
            state = jnp.where(there[:, None], following, state).astype(state.dtype)
            return state, jnp.where(there, gain, 0.0)

        start = self.checker.start(prompts)
        state, gains = jax.lax.scan(read, start, (jnp.arange(self.horizon), responses.T))
        return jnp.sum(gains, axis=0) + self.checker.last(prompts, state)


class Objectives(NamedTuple):
    """J under the uniform reference policy, and each prompt's share in it, in units of reward.

    Attributes:
      optimal: [X] beta log E_uniform[exp(r / beta)], the largest J that any policy has.
      uniform: [X] E_uniform[r], the J of the reference itself: what random responses get.
      best, random: the same over prompts, by their probabilities.
    """

    optimal: np.ndarray
    uniform: np.ndarray
    best: float
    random: float


def objectives(task: TokenTask) -> Objectives:
    """The exact best and random J of a task in float64, whatever precision its programs have.

    The cost is the checker's states times V, not V**H.

    Raises:
      ValueError: the checker reaches too many states for a single prompt, beta is not positive, or the prompts'
        probabilities are not a distribution.
    """
    weight = np.asarray(task.prompt_probs, float)
    if not 0 < float(task.beta) < np.inf:
        raise ValueError(f"objectives: beta must be positive and finite, got {task.beta}.")
    if weight.min() < 0 or not abs(weight.sum() - 1) < 1e-4:
        raise ValueError(f"objectives: prompt_probs must be at least 0 and sum to 1, they sum to {weight.sum():.6g}.")
    optimal, uniform = _soft_values(task, np.asarray(task.prompt_table))
    return Objectives(optimal, uniform, float(weight @ optimal), float(weight @ uniform))


def _soft_values(task: TokenTask, prompts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Soft and mean values of some prompts, in halves where their states do not fit at once."""
    reached = _reachable(task, prompts)
    if reached is None:
        if len(prompts) == 1:
            raise ValueError(
                f"objectives: with {task.vocabulary} tokens and horizon {task.horizon} the checker reaches more than "
                f"{STEPS_AT_ONCE // task.vocabulary:,} states on one prompt. Use a shorter horizon, fewer tokens or a "
                "simpler reward."
            )
        halves = [_soft_values(task, half) for half in np.array_split(prompts, 2)]
        optimal, uniform = (np.concatenate(parts) for parts in zip(*halves, strict=True))
        return optimal, uniform
    steps, ends = reached
    beta, optimal, uniform = float(task.beta), ends, ends
    for following, gain in reversed(steps):
        weights = np.logaddexp.reduce((gain + optimal[following]) / beta, axis=1)
        optimal = beta * (weights - np.log(task.vocabulary))
        uniform = np.mean(gain + uniform[following], axis=1)
    return optimal, uniform


def _reachable(task: TokenTask, prompts: np.ndarray):
    """For every position, each state's [states, V] next states and rewards; and the rewards of the last states.

    None if they are too many.
    """
    checker, tokens = task.checker, np.arange(task.vocabulary)
    owner, state, steps = np.arange(len(prompts)), np.asarray(checker.start(prompts)), []
    for position in range(task.horizon):
        if len(owner) * task.vocabulary > STEPS_AT_ONCE:
            return None
        owner, state = np.repeat(owner, task.vocabulary), np.repeat(state, task.vocabulary, axis=0)
        token = np.resize(tokens, len(owner))
        state, gain = checker.step(prompts[owner], state, position, token)
        kept, following = _distinct(np.column_stack([owner, state]))
        steps.append((following.reshape(-1, task.vocabulary), np.asarray(gain, float).reshape(-1, task.vocabulary)))
        owner, state = owner[kept], state[kept]
    return steps, np.asarray(checker.last(prompts[owner], state), float)


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each distinct row of integers first stands, and which of them every row is."""
    key, radix = np.zeros(len(rows), np.int64), 1
    for column in rows.T:
        low, span = int(column.min()), int(column.max() - column.min()) + 1
        if radix * span >= 2**62:
            key = np.unique(key, return_inverse=True)[1]
            radix = len(rows)
        key, radix = key * span + (column - low), radix * span
    _, kept, which = np.unique(key, return_index=True, return_inverse=True)
    return kept, which.astype(np.int32)
