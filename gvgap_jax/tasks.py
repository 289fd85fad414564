"""A task: gold reward, reference policy, prompt distribution, beta and label temperature."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gvgap_jax import verifiers
from gvgap_jax.runtime.messages import unknown
from gvgap_jax.soft_rl import soft_optimal_policy
from gvgap_jax.tree import TokenTree
from gvgap_jax.types import Environment, PRNGKey, Prompts, Responses

SMALLEST, LARGEST = 0.01, 100.0  # beta and temperature beyond are more than single precision and the solver can carry


class Known(NamedTuple):
    """What a learner may know of a task: all but its gold reward, of which it sees labels alone.

    Attributes:
      reference: [X, L] log-probabilities of the reference policy.
      prompt_probs: [X] distribution of prompts; 0 holds a prompt out.
      beta: reward per nat of KL to the reference.
      temperature: of the labels, P(y1 > y2) = sigmoid((r(y1) - r(y2)) / temperature).
    """

    reference: Float[Array, "X L"]
    prompt_probs: Float[Array, "X"]
    beta: Float[Array, ""]
    temperature: Float[Array, ""]


class Task(NamedTuple):
    """What is to be learned, as arrays; a pytree, so that tasks batch over seeds and cells.

    It belongs to who labels and who judges; a method is given ``known`` alone.

    Attributes:
      reward: [X, L] gold reward, in Bradley-Terry log odds at temperature 1.
      reference: [X, L] log-probabilities of the reference policy.
      prompt_probs: [X] distribution of prompts; 0 holds a prompt out.
      beta: reward per nat of KL to the reference.
      temperature: of the labels, P(y1 > y2) = sigmoid((r(y1) - r(y2)) / temperature); known to all arms.
    """

    reward: Float[Array, "X L"]
    reference: Float[Array, "X L"]
    prompt_probs: Float[Array, "X"]
    beta: Float[Array, ""]
    temperature: Float[Array, ""]

    @property
    def optimal(self) -> Float[Array, "X L"]:
        """Log-probabilities of pi*, the soft-optimal policy of the gold reward."""
        return soft_optimal_policy(self.reward, self.reference, self.beta)

    @property
    def known(self) -> Known:
        """The task without its gold reward."""
        return Known(self.reference, self.prompt_probs, self.beta, self.temperature)


def make_task(tree: TokenTree, reward, reference=None, prompt_probs=None, beta=1.0, temperature=1.0) -> Task:
    """A checked task from concrete arrays; the reference and the prompts are uniform by default.

    Raises:
      ValueError: an array has the wrong shape or holds NaN or infinity, the reference or the prompt
        distribution is not normalised, or beta or the temperature is not between ``SMALLEST`` and ``LARGEST``.
    """
    shape = (tree.prompts, tree.leaves)
    reward = np.asarray(reward, float)
    reference = np.full(shape, -np.log(tree.leaves)) if reference is None else np.asarray(reference, float)
    prompt_probs = np.full(tree.prompts, 1 / tree.prompts) if prompt_probs is None else np.asarray(prompt_probs, float)
    for name, array, expected in (
        ("reward", reward, shape),
        ("reference", reference, shape),
        ("prompt_probs", prompt_probs, shape[:1]),
    ):
        if array.shape != expected:
            raise ValueError(f"make_task: {name} must have shape {expected} for {tree}, got {array.shape}.")
        if not np.isfinite(array).all():
            bad = np.argwhere(~np.isfinite(array))[0].tolist()
            advice = "Give every response some probability" if name == "reference" else "Check how it was computed"
            raise ValueError(f"make_task: {name} is {array[tuple(bad)]} at {bad}; it must be finite. {advice}.")
    _check_normalised("reference (log-probabilities)", np.exp(reference).sum(-1))
    _check_normalised("prompt_probs", prompt_probs.sum())
    if prompt_probs.min() < 0:
        raise ValueError(f"make_task: prompt_probs must not be negative, got {prompt_probs.min()}.")
    for name, value in (("beta", beta), ("temperature", temperature)):
        if not SMALLEST <= value <= LARGEST:
            raise ValueError(f"make_task: {name} must be positive, between {SMALLEST:g} and {LARGEST:g}, got {value}.")
    return Task(*(jnp.asarray(value, float) for value in (reward, reference, prompt_probs, beta, temperature)))


def environment(
    tree: TokenTree, known: Known, reward: Callable[[Prompts, Responses], Float[Array, "N"]]
) -> Environment:
    """What a sampled method may ask of a task on a tree, with ``reward`` (prompts, responses -> [N]) to maximise."""
    levels, log_probs = tree.conditionals(known.reference), jnp.log(known.prompt_probs)

    def prompts(key: PRNGKey, number: int):
        return tree.prompt_tokens(jax.random.categorical(key, log_probs, shape=(number,)))

    def reference(prompts, responses):
        return tree.along(levels, prompts, responses)

    return Environment(prompts, reward, reference, known.beta, known.temperature)


def _check_normalised(name: str, totals) -> None:
    worst = float(np.max(np.abs(totals - 1)))
    if worst > 1e-4:
        raise ValueError(
            f"make_task: {name} must sum to 1 for every prompt; a sum is off by {worst:.3g}. Normalise it first."
        )


def interactions(key: PRNGKey, tree: TokenTree, complexity, reference_scale=0.0) -> Task:
    """Independent normal coefficients on every interaction of up to ``complexity`` positions (may be an array)."""
    reward_key, reference_key = jax.random.split(key)
    verifier = verifiers.nested_interactions(tree, complexity)
    coefficients = jax.random.normal(reward_key, verifier.init(reward_key).shape)
    return _task(tree, verifier.leaf_scores(coefficients), random_reference(reference_key, tree, reference_scale))


def sparse(key: PRNGKey, tree: TokenTree, complexity, reference_scale=0.0) -> Task:
    """``complexity`` interactions of equal size and random sign, chosen among those of all orders (may be an array)."""
    sign_key, choice_key, reference_key = jax.random.split(key, 3)
    verifier = verifiers.interactions(tree, tree.prompt_length + tree.horizon)
    size = verifier.init(key).shape[0]
    chosen = jax.random.permutation(choice_key, size) < complexity
    coefficients = jnp.where(chosen, jax.random.rademacher(sign_key, (size,), jnp.result_type(float)), 0.0)
    return _task(tree, verifier.leaf_scores(coefficients), random_reference(reference_key, tree, reference_scale))


def automaton(key: PRNGKey, tree: TokenTree, complexity: int, reference_scale=0.0) -> Task:
    """A random deterministic automaton of ``complexity`` states with normal final values."""
    transition_key, value_key, reference_key = jax.random.split(key, 3)
    target = jax.random.randint(transition_key, (tree.vocabulary, complexity), 0, complexity)
    params = {
        "transition": 1e4 * jax.nn.one_hot(target, complexity),
        "value": jax.random.normal(value_key, (complexity,)),
    }
    reward = verifiers.automaton(tree, complexity).leaf_scores(params)
    return _task(tree, reward, random_reference(reference_key, tree, reference_scale))


def token_counts(key: PRNGKey, tree: TokenTree, complexity: int, reference_scale=0.0) -> Task:
    """Minus the distance of ``complexity`` tokens' counts from random targets: easy to check, a search to write."""
    target_key, reference_key = jax.random.split(key)
    _, responses = tree.rows()
    counted = jnp.arange(complexity)
    counts = jnp.sum(responses[:, None, :] == counted[None, :, None], axis=-1)
    even = tree.horizon // tree.vocabulary
    targets = even + jax.random.randint(target_key, (complexity,), 0, 2)
    reward = -jnp.sum(jnp.abs(counts - targets[None]), axis=-1).astype(float)
    return _task(
        tree, reward.reshape(tree.prompts, tree.leaves), random_reference(reference_key, tree, reference_scale)
    )


def random_reference(key: PRNGKey, tree: TokenTree, scale) -> Float[Array, "X L"]:
    """Reference policy with independent normal logits of standard deviation ``scale``; 0 is uniform."""
    sizes = [tree.vocabulary ** (depth + 1) for depth in range(tree.horizon)]
    # One draw for all levels: every further random call is another hash to compile.
    logits = scale * jax.random.normal(key, (tree.prompts, sum(sizes)))
    levels = jnp.split(logits, np.cumsum(sizes)[:-1], axis=-1)
    return tree.leaf_log_probs(tuple(level.reshape(tree.prompts, -1, tree.vocabulary) for level in levels))


def _task(tree: TokenTree, reward: Float[Array, "X L"], reference: Float[Array, "X L"]) -> Task:
    """Task with the reward centred for each prompt and standardised to s.d. 2 over all leaves."""
    reward = reward - jnp.mean(reward, axis=-1, keepdims=True)
    spread = jnp.std(reward)
    reward = 2 * reward / jnp.where(spread > 0, spread, 1.0)
    return Task(reward, reference, jnp.full(tree.prompts, 1 / tree.prompts), jnp.array(1.0), jnp.array(1.0))


TASKS = {"interactions": interactions, "sparse": sparse, "automaton": automaton, "token_counts": token_counts}
"""Families of gold rewards by name: key, tree, complexity -> Task with beta 1 and temperature 1."""


def task_family(name: str):
    """The family called ``name``; an unknown name raises ValueError with the nearest one."""
    if name not in TASKS:
        raise ValueError(unknown("task family", name, TASKS))
    return TASKS[name]
