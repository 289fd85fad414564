"""Families of token tasks, each with the simplest reward model that fits it, if any does."""

from collections.abc import Callable
from typing import NamedTuple

from gvgap_jax import token_tasks
from gvgap_jax.token_tasks import TokenTask
from gvgap_jax.types import Number, Params, PRNGKey, Verifier

UNITS = 16  # of the one hidden layer over counts


class Sizes(NamedTuple):
    """How large a task is: tokens of the vocabulary, of a response and of a prompt, and prompts.

    Puzzles have prompts of the length that their instances have.
    """

    vocabulary: int
    horizon: int
    prompt_length: int
    prompts: int


class Family(NamedTuple):
    """Tasks of one kind.

    Attributes:
      draw: key, sizes, beta -> task; the key may be traced.
      verifier: task -> a reward model far smaller than a transformer.
      easy: whether some parameters of it are the gold reward (up to how well a hidden layer of ``UNITS`` bends).
    """

    draw: Callable[[PRNGKey, Sizes, Number], TokenTask]
    verifier: Callable[[TokenTask], Verifier]
    easy: bool


def _token_counts(key: PRNGKey, sizes: Sizes, beta: Number) -> TokenTask:
    group = max(1, sizes.vocabulary // 4)
    length = min(sizes.prompt_length, sizes.horizon)
    return token_tasks.token_counts(
        key,
        sizes.vocabulary,
        sizes.horizon,
        2,
        prompt_length=length,
        prompts=sizes.prompts,
        group_size=group,
        beta=beta,
    )


def _prompted(family, *complexity: int):
    """A family whose prompts may have any length."""

    def draw(key: PRNGKey, sizes: Sizes, beta: Number) -> TokenTask:
        shape = {"prompt_length": sizes.prompt_length, "prompts": sizes.prompts}
        return family(key, sizes.vocabulary, sizes.horizon, *complexity, **shape, beta=beta)

    return draw


def _puzzle(family, *complexity: int):
    """A family whose prompts are its instances."""

    def draw(key: PRNGKey, sizes: Sizes, beta: Number) -> TokenTask:
        return family(key, sizes.vocabulary, sizes.horizon, *complexity, prompts=sizes.prompts, beta=beta)

    return draw


def _counts(task: TokenTask) -> Verifier:
    return token_tasks.count_verifier(task, UNITS)


def _windows(order: int):
    return lambda task: token_tasks.window_verifier(task, order)


def _counts_and_neighbours(task: TokenTask) -> Verifier:
    """What is missing can be counted, and what is out of order stands side by side."""
    counts, windows = _counts(task), token_tasks.window_verifier(task, 2)

    def init(key: PRNGKey) -> Params:
        return counts.init(key), windows.init(key)

    def score(params: Params, prompts, responses):
        return counts.score(params[0], prompts, responses) + windows.score(params[1], prompts, responses)

    return Verifier(init, score, counts.num_parameters + windows.num_parameters)


FAMILIES = {
    "token_counts": Family(_token_counts, _counts, True),
    "interactions": Family(_prompted(token_tasks.interactions, 2), _windows(2), True),
    "sorting": Family(_puzzle(token_tasks.sorting), _counts_and_neighbours, True),
    "colouring": Family(_puzzle(token_tasks.colouring, 1), _windows(2), True),
    # A sum of chosen numbers is additive, its distance from a target is not.
    "subset_sum": Family(_puzzle(token_tasks.subset_sum), _windows(1), False),
    # Neither windows nor counts hold the state of an automaton, or a hidden reference: only a table does.
    "automaton": Family(_prompted(token_tasks.automaton, 4), _windows(2), False),
    "hidden_reference": Family(_prompted(token_tasks.hidden_reference), _counts, False),
}
