"""Gold rewards of controllable complexity, from a few counts to a table with one row a prompt.

Rewards are in Bradley-Terry log odds at temperature 1; ``scale`` is what one unit of the family is worth in them.
Every family holds ``prompts`` equally likely prompts, drawn with the key, all of which may be traced.
"""

import jax
import jax.numpy as jnp
import numpy as np

from gvgap_jax.token_tasks.shared import check_sizes, count_tokens, draw_prompts, look_up, make
from gvgap_jax.token_tasks.token_task import Checker, TokenTask
from gvgap_jax.types import Number, PRNGKey


def token_counts(
    key: PRNGKey,
    vocabulary: int,
    horizon: int,
    groups: int,
    *,
    prompt_length: int,
    prompts: int = 64,
    group_size: int = 1,
    scale: Number = 2.0,
    beta: Number = 1.0,
) -> TokenTask:
    """Write as many tokens of each of ``groups`` groups as the prompt holds; ``scale`` a token too many or too few.

    Group g is the ``group_size`` tokens from g * group_size on. The state is the counts.
    """
    check_sizes(
        "token_counts",
        horizon=(horizon, 1),
        prompt_length=(prompt_length, 0, horizon),
        group_size=(group_size, 1, vocabulary),
        groups=(groups, 1, vocabulary // max(group_size, 1)),
    )
    table = draw_prompts("token_counts", key, prompts, vocabulary, prompt_length)

    def start(asked):
        return count_tokens(asked[:, :0], groups)

    def step(asked, counts, position, token):
        return counts + count_tokens(token[:, None], groups, group_size), 0.0 * token

    def last(asked, counts):
        return -scale * abs(counts - count_tokens(asked, groups, group_size)).sum(-1)

    return make(vocabulary, horizon, Checker(start, step, last), table, beta)


def automaton(
    key: PRNGKey,
    vocabulary: int,
    horizon: int,
    states: int,
    *,
    prompt_length: int,
    prompts: int = 64,
    scale: Number = 2.0,
    beta: Number = 1.0,
) -> TokenTask:
    """The value of the state in which a random automaton ends after the prompt and the response.

    Every token permutes the ``states``, so that nothing is forgotten: the prompt matters at any horizon. Values are
    normal with standard deviation ``scale``.
    """
    check_sizes("automaton", vocabulary=(vocabulary, 2), horizon=(horizon, 1), states=(states, 2))
    prompt_key, move_key, value_key = jax.random.split(key, 3)
    table = draw_prompts("automaton", prompt_key, prompts, vocabulary, prompt_length)
    moves = jnp.argsort(jax.random.uniform(move_key, (vocabulary, states)), axis=-1)
    value = scale * jax.random.normal(value_key, (states,))

    def start(asked):
        namespace = asked.__array_namespace__()
        state = namespace.zeros(len(asked), dtype=asked.dtype)
        for token in asked.T:
            state = namespace.where(token >= 0, look_up(moves, token, state), state)
        return state[:, None]

    def step(asked, state, position, token):
        return look_up(moves, token, state[:, 0])[:, None], 0.0 * token

    def last(asked, state):
        return look_up(value, state[:, 0])

    return make(vocabulary, horizon, Checker(start, step, last), table, beta)


def interactions(
    key: PRNGKey,
    vocabulary: int,
    horizon: int,
    order: int,
    *,
    prompt_length: int,
    prompts: int = 64,
    scale: Number = 2.0,
    beta: Number = 1.0,
) -> TokenTask:
    """A random table of one prompt token and ``order`` successive response tokens, summed over the response.

    The window that ends at position h reads prompt token h modulo P (none if P = 0). Entries are normal; ``scale`` is
    the standard deviation of their sum. The state is the last ``order`` - 1 tokens.
    """
    check_sizes("interactions", vocabulary=(vocabulary, 2), horizon=(horizon, 1), order=(order, 1, horizon))
    prompt_key, entry_key = jax.random.split(key)
    table = draw_prompts("interactions", prompt_key, prompts, vocabulary, prompt_length)
    shape = (vocabulary if prompt_length else 1,) + (vocabulary,) * order
    entries = scale * (horizon - order + 1) ** -0.5 * jax.random.normal(entry_key, shape)

    def start(asked):
        namespace = asked.__array_namespace__()
        return namespace.full((len(asked), order - 1), -1, dtype=asked.dtype)

    def step(asked, before, position, token):
        namespace = token.__array_namespace__()
        window = namespace.concat([before, token[:, None]], axis=1)
        cue = asked[:, position % prompt_length] if prompt_length else 0 * token
        whole = (window >= 0).all(-1) & (cue >= 0)
        return window[:, 1:], namespace.where(whole, look_up(entries, cue, *window.T), 0.0)

    def last(asked, before):
        return 0.0 * asked.sum(-1)

    return make(vocabulary, horizon, Checker(start, step, last), table, beta)


def hidden_reference(
    key: PRNGKey,
    vocabulary: int,
    horizon: int,
    *,
    prompt_length: int,
    prompts: int = 64,
    scale: Number = 20.0,
    beta: Number = 1.0,
) -> TokenTask:
    """``scale`` times ROUGE-L (Lin, 2004) of the response with a hidden reference of its prompt.

    ROUGE-L is the F-measure of the longest common subsequence, 2 LCS / (tokens of the response + H). The references
    are uniform responses and nothing but a table tells them: its size is the number of prompts. A prompt that is not
    of the task has none, and earns 0. The state is the last column of the LCS table as H bits, 0 where it rises
    (Crochemore et al., 2001).
    """
    check_sizes("hidden_reference", vocabulary=(vocabulary, 2), horizon=(horizon, 1, 30))
    prompt_key, reference_key = jax.random.split(key)
    table = draw_prompts("hidden_reference", prompt_key, prompts, vocabulary, prompt_length)
    hidden = jax.random.randint(reference_key, (prompts, horizon), 0, vocabulary)
    bits = 2 ** np.arange(horizon, dtype=np.int32)
    full = 2**horizon - 1

    def start(asked):
        namespace = asked.__array_namespace__()
        same = (asked[:, None, :] == namespace.asarray(table)[None]).all(-1)
        row = namespace.where(same.any(-1), same.argmax(-1), -1)
        return namespace.stack([row, 0 * row, 0 * row + full], axis=1)

    def step(asked, state, position, token):
        namespace = token.__array_namespace__()
        row, read, flat = state.T
        matches = (look_up(hidden, row) == token[:, None]) & (row >= 0)[:, None]
        rises = flat & (matches * bits[None]).sum(-1)
        return namespace.stack([row, read + 1, (flat + rises | flat - rises) & full], axis=1), 0.0 * token

    def last(asked, state):
        common = (state[:, 2:] & bits[None] == 0).sum(-1)
        return scale * 2 * common / (state[:, 1] + horizon)

    return make(vocabulary, horizon, Checker(start, step, last), table, beta)
