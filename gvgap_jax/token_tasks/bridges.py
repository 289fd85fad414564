"""The same task where responses can be enumerated, and for the methods that only sample."""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gvgap_jax import tasks
from gvgap_jax.token_tasks.token_task import TokenTask
from gvgap_jax.tree import TokenTree
from gvgap_jax.types import Environment, Prompts, Responses


def on_tree(tree: TokenTree, task: TokenTask) -> tasks.Task:
    """The task with all of its leaves and a uniform reference policy; prompts it does not have have probability 0.

    Raises:
      ValueError: the tree has another vocabulary, horizon or prompt length.
    """
    sizes = (task.vocabulary, task.horizon, task.prompt_length)
    if (tree.vocabulary, tree.horizon, tree.prompt_length) != sizes:
        raise ValueError(
            f"on_tree: the task has a vocabulary of {sizes[0]}, horizon {sizes[1]} and prompts of {sizes[2]} tokens; "
            f"it needs TokenTree{sizes}, got {tree}."
        )
    reward = task.reward(*tree.rows()).reshape(tree.prompts, tree.leaves)
    prompt_probs = np.zeros(tree.prompts)
    np.add.at(prompt_probs, np.asarray(tree.prompt_index(task.prompt_table)), np.asarray(task.prompt_probs))
    return tasks.make_task(
        tree, reward, prompt_probs=prompt_probs, beta=float(task.beta), temperature=float(task.temperature)
    )


def environment(
    task: TokenTask,
    reward: Callable[[Prompts, Responses], Float[Array, "N"]],
    reference: Callable[[Prompts, Responses], Float[Array, "N H"]] | None = None,
) -> Environment:
    """What a sampled method may ask, with ``reward`` (prompts, responses -> [N]) to be maximised.

    ``reference`` (the same -> token log-probabilities [N, H], 0 at padding) is uniform if left out.
    """

    def uniform(prompts, responses):
        return jnp.where(responses >= 0, -math.log(task.vocabulary), 0.0)

    return Environment(task.prompts, reward, reference or uniform, task.beta, task.temperature)
