"""Tasks that are easy to check and hard to solve by nature. The prompt is the instance; every instance has a solution.

A solution earns 0 and everything else less. Rewards are in Bradley-Terry log odds at temperature 1. Instances are
independent draws: small ones may repeat.
"""

import jax
import jax.numpy as jnp
import numpy as np

from gvgap_jax.token_tasks.shared import check_sizes, count_tokens, draw_prompts, make
from gvgap_jax.token_tasks.token_task import Checker, TokenTask
from gvgap_jax.types import Number, PRNGKey


def sorting(
    key: PRNGKey, vocabulary: int, horizon: int, *, prompts: int = 64, scale: Number = 2.0, beta: Number = 1.0
) -> TokenTask:
    """Write the H tokens of the prompt in order.

    ``scale`` for every token that is smaller than the one before it, and for every token of the prompt that is
    missing: checked in one pass, without sorting. The state is the last token and what is still to be written.
    """
    check_sizes("sorting", vocabulary=(vocabulary, 2), horizon=(horizon, 2))
    table = draw_prompts("sorting", key, prompts, vocabulary, horizon)

    def start(asked):
        namespace = asked.__array_namespace__()
        return namespace.concat([0 * asked[:, :1], count_tokens(asked, vocabulary).astype(asked.dtype)], axis=1)

    def step(asked, state, position, token):
        namespace = token.__array_namespace__()
        missing = state[:, 1:]
        missing = missing - ((missing > 0) & (token[:, None] == namespace.arange(vocabulary)[None]))
        return namespace.concat([token[:, None], missing], axis=1), -scale * (token < state[:, 0])

    def last(asked, state):
        return -scale * state[:, 1:].sum(-1)

    return make(vocabulary, horizon, Checker(start, step, last), table, beta)


def subset_sum(
    key: PRNGKey, vocabulary: int, horizon: int, *, prompts: int = 64, scale: Number = 2.0, beta: Number = 1.0
) -> TokenTask:
    """Choose among H numbers those that add up to a target: an odd token takes the number at its place.

    The prompt is H numbers from 1 to V - 1 and the target in base V, first digit first; it is the sum of a random
    choice. ``scale`` for every V / 2 (a mean number) between the sum and the target. The state is the sum so far.
    """
    check_sizes("subset_sum", prompts=(prompts, 1), vocabulary=(vocabulary, 2), horizon=(horizon, 1))
    digits = 1
    while vocabulary**digits <= horizon * (vocabulary - 1):
        digits += 1
    place_values = vocabulary ** np.arange(digits)[::-1]
    number_key, choice_key = jax.random.split(key)
    numbers = jax.random.randint(number_key, (prompts, horizon), 1, vocabulary)
    target = jnp.sum(numbers * jax.random.bernoulli(choice_key, 0.5, numbers.shape), axis=-1)
    table = jnp.concatenate([numbers, target[:, None] // place_values[None] % vocabulary], axis=1)

    def start(asked):
        return 0 * asked[:, :1]

    def step(asked, total, position, token):
        return total + (token % 2 * asked[:, position])[:, None], 0.0 * token

    def last(asked, total):
        target = (asked[:, horizon:] * place_values[None]).sum(-1)
        return -scale * abs(total[:, 0] - target) / (vocabulary / 2)

    return make(vocabulary, horizon, Checker(start, step, last), table, beta)


def colouring(
    key: PRNGKey,
    vocabulary: int,
    horizon: int,
    width: int = 2,
    *,
    colours: int = 3,
    prompts: int = 64,
    scale: Number = 2.0,
    beta: Number = 1.0,
) -> TokenTask:
    """Colour the H vertices of a graph so that no edge joins equal colours; tokens from ``colours`` on are none.

    Prompt token i is the set of edges from vertex i to the ``width`` before it, bit d - 1 for the edge to i - d; some
    random colouring violates none of them, and of the edges it allows each is there with probability 3/4. ``scale``
    for every edge that does not join two different colours. The state is the last ``width`` colours.
    """
    check_sizes(
        "colouring",
        prompts=(prompts, 1),
        horizon=(horizon, 2),
        width=(width, 1, max(horizon - 1, 1)),
        colours=(colours, 2, vocabulary),
        vocabulary=(vocabulary, 2**width),
    )
    offsets = np.arange(width)
    planted_key, edge_key = jax.random.split(key)
    planted = jax.random.randint(planted_key, (prompts, horizon), 0, colours)
    shifted = jnp.stack([jnp.roll(planted, offset + 1, axis=1) for offset in range(width)], axis=-1)
    there = (planted[:, :, None] != shifted) & jax.random.bernoulli(edge_key, 0.75, shifted.shape)
    there = there & jnp.asarray(np.tri(horizon, width, -1, bool))[None]
    table = jnp.sum(there * 2 ** offsets[None, None], axis=-1)

    def start(asked):
        return 0 * asked[:, :1] + 0 * offsets[None] - 1

    def step(asked, before, position, token):
        namespace = token.__array_namespace__()
        colour = namespace.where(token < colours, token, -1)[:, None]
        edges = asked[:, position][:, None] >> offsets[None] & 1
        proper = edges * ((before >= 0) & (colour >= 0) & (before != colour))
        return namespace.concat([colour, before[:, :-1]], axis=1), scale * proper.sum(-1)

    def last(asked, before):
        edges = (asked[:, :, None] >> offsets[None, None] & 1) * np.tri(horizon, width, -1, int)[None]
        return -scale * edges.sum((1, 2))

    return make(vocabulary, horizon, Checker(start, step, last), table, beta)
