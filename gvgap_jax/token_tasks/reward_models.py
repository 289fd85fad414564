"""Reward models that read long responses without enumerating them, and start at a reward of 0."""

import jax.numpy as jnp
import numpy as np

from gvgap_jax.features import mlp
from gvgap_jax.token_tasks.shared import check_sizes, count_tokens
from gvgap_jax.token_tasks.token_task import TokenTask
from gvgap_jax.types import Params, PRNGKey, Verifier


def count_verifier(task: TokenTask, width: int) -> Verifier:
    """One hidden layer of ``width`` tanh units over how often each token is in the prompt and in the response.

    Counts are centred and scaled by their mean and Poisson deviation under uniform tokens.
    """
    inputs = 2 * task.vocabulary
    init, apply = mlp(inputs, width, 1)
    mean = np.repeat([task.prompt_length / task.vocabulary, task.horizon / task.vocabulary], task.vocabulary)

    def score(params: Params, prompts, responses):
        counts = [count_tokens(tokens, task.vocabulary) for tokens in (prompts, responses)]
        centred = jnp.concatenate(counts, axis=1) - mean[None]
        return apply(params, centred / np.sqrt(np.maximum(mean, 1 / task.vocabulary))[None])[:, 0]

    return Verifier(init, score, (inputs + 1) * width + width + 1)


def window_verifier(task: TokenTask, order: int) -> Verifier:
    """A table of one prompt token and ``order`` successive response tokens, summed over the response.

    It holds the gold reward of ``interactions`` of that order: the window that ends at position h reads prompt token
    h modulo P (none if P = 0). Windows with padding are not read.
    """
    check_sizes("window_verifier", order=(order, 1, task.horizon))
    shape = (task.vocabulary if task.prompt_length else 1,) + (task.vocabulary,) * order
    ends = np.arange(order - 1, task.horizon)

    def init(key: PRNGKey) -> Params:
        del key
        return jnp.zeros(shape)

    def score(params: Params, prompts, responses):
        windows = [responses[:, ends - back] for back in reversed(range(order))]
        cue = prompts[:, ends % task.prompt_length] if task.prompt_length else jnp.zeros_like(windows[0])
        whole = jnp.min(jnp.stack([cue, *windows]), axis=0) >= 0
        return jnp.sum(jnp.where(whole, params[cue, *windows], 0.0), axis=1)

    return Verifier(init, score, int(np.prod(shape)))
