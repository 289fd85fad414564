"""Passes of a model over data: responses sampled, rewards and log-probabilities scored; in stored chunks.

A pass has a row a prompt, whether it samples m responses to each or scores m of each.
"""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.tldr.models import Model, parameters
from experiments.tldr.run import Compute, Rows, Run, in_chunks
from gvgap_jax.lm.model import classes
from gvgap_jax.lm.model.decode import Decoding
from gvgap_jax.lm.model.shape import Shape
from gvgap_jax.training.checkpoints import digest
from gvgap_jax.training.layouts import Layout


def sampled(run: Run, name: str, model: Model, prompts: Rows, samples: int, temperature: float) -> np.ndarray:
    """Responses [N, m, H] to each of the prompts [N, P]."""
    horizon, key = run.recipe.data.response_tokens, run.key(name)
    draw = partial(sampler(model.shape, horizon, Decoding(temperature, end=model.end), samples, run.layout), key=key)
    of = {"model": model.key, "data": digest([prompts]), "samples": samples, "temperature": temperature}
    of |= {"horizon": horizon}
    columns = in_chunks(run, name, len(prompts), of, lambda: _over(run, model, None, draw, prompts))
    return columns["tokens"].to_numpy()


def rewards(run: Run, name: str, model: Model, prompts: Rows, responses: Rows) -> np.ndarray:
    """Rewards [N, m] of a reward model for responses [N, m, H] to prompts [N, P]."""
    return _scored(run, name, model, 1, scorer(model.shape, run.layout), prompts, responses)


def log_probs(run: Run, name: str, model: Model, prompts: Rows, responses: Rows) -> np.ndarray:
    """log pi(y|x) [N, m] of responses [N, m, H] to prompts [N, P] under a policy, in nats."""
    score = likelihood(model.shape, run.recipe.data.response_tokens, run.layout)
    return _scored(run, name, model, None, score, prompts, responses)


def _scored(run: Run, name: str, model: Model, outputs: int | None, score, prompts: Rows, responses: Rows):
    of = {"model": model.key, "data": digest([prompts, responses]), "outputs": outputs}
    columns = in_chunks(run, name, len(prompts), of, lambda: _over(run, model, outputs, score, prompts, responses))
    return columns["score"].to_numpy()


# Compiled once for all passes that share a program.


@functools.cache
def sampler(shape: Shape, horizon: int, decoding: Decoding, samples: int, layout: Layout):
    policy = classes.transformer_policy(shape, horizon, decoding)

    def draw(params, number, prompts, key):
        asked = jax.lax.with_sharding_constraint(jnp.repeat(prompts, samples, axis=0), layout.rows)
        drawn = policy.sample(jax.random.fold_in(key, number), params, asked)
        return {"tokens": drawn.reshape(len(prompts), samples, horizon)}

    return jax.jit(layout.traced(draw), out_shardings=layout.whole)


@functools.cache
def scorer(shape: Shape, layout: Layout):
    return _one_by_one(classes.transformer_verifier(shape).score, layout)


@functools.cache
def likelihood(shape: Shape, horizon: int, layout: Layout):
    return _one_by_one(classes.transformer_policy(shape, horizon).log_prob, layout)


def _one_by_one(score: Callable[..., Any], layout: Layout):
    """Scores [C, m] of responses [C, m, H] to prompts [C, P], C at a time."""

    def scores(params, number, prompts, responses):
        del number

        def one(responses):
            return score(params, *jax.lax.with_sharding_constraint((prompts, responses), layout.rows))

        return {"score": jax.lax.map(one, jnp.moveaxis(responses, 1, 0)).T}

    return jax.jit(layout.traced(scores), out_shardings=layout.whole)


def _over(run: Run, model: Model, outputs: int | None, compiled: Callable[..., Any], *data) -> Compute:
    """The compiled function of a model over numbered rows of the data; results are whole on every process."""
    params, held = parameters(run, model, outputs), [np.asarray(values) for values in data]

    def compute(number: int, rows: np.ndarray) -> dict[str, Any]:
        columns = compiled(params, np.int32(number), *(values[rows] for values in held))
        return jax.tree.map(np.asarray, jax.device_get(columns))

    return compute
