"""What the families share: prompts, tables that either kind of array may index, and the check of sizes."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from gvgap_jax.token_tasks.token_task import Checker, TokenTask
from gvgap_jax.types import Number, PRNGKey

ENUMERABLE = 2**16  # prompts; among so many, some are drawn without replacement


def check_sizes(family: str, **sizes: tuple[int, int] | tuple[int, int, int]) -> None:
    """Raise ValueError unless every size (value, least) or (value, least, most) is an integer of that range."""
    for name, (value, least, *most) in sizes.items():
        if not isinstance(value, int | np.integer) or value < least or any(value > each for each in most):
            wanted = f"between {least} and {most[0]}" if most else f"of at least {least}"
            raise ValueError(f"{family}: {name} must be an integer {wanted}, got {value!r}.")


def draw_prompts(family: str, key: PRNGKey, number: int, vocabulary: int, length: int) -> Int[Array, "X P"]:
    """``number`` prompts of uniform tokens; all different where there are at most ``ENUMERABLE`` of them.

    Raises:
      ValueError: there are fewer than ``number``, or a size is out of range.
    """
    check_sizes(family, prompts=(number, 1), prompt_length=(length, 0))
    available = vocabulary**length
    if available > ENUMERABLE:
        return jax.random.randint(key, (number, length), 0, vocabulary)
    if number > available:
        raise ValueError(
            f"there are {vocabulary}^{length} = {available} prompts, fewer than {number}. Ask for fewer, "
            "or for longer ones."
        )
    chosen = jnp.argsort(jax.random.uniform(key, (available,)))[:number]
    return chosen[:, None] // vocabulary ** jnp.arange(length)[None] % vocabulary


def make(vocabulary: int, horizon: int, checker: Checker, prompts: Int[Array, "X P"], beta: Number) -> TokenTask:
    """A task whose prompts are equally likely."""
    return TokenTask(vocabulary, horizon, checker, prompts, jnp.full(len(prompts), 1 / len(prompts)), beta)


def look_up(table, *index):
    """``table[index]`` as the kind of array that the last index is."""
    return index[-1].__array_namespace__().asarray(table)[index]


def count_tokens(tokens, classes: int, group_size: int = 1):
    """[N, classes] occurrences of each group of ``group_size`` successive tokens in [N, T]; padding is in none."""
    namespace = tokens.__array_namespace__()
    group = (tokens // group_size)[:, :, None]
    return namespace.sum(group == namespace.arange(classes)[None, None], axis=1)
