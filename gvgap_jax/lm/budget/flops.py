"""FLOPs of a kind of work, and the hours that a chip takes for them, by arithmetic or by memory.

An operation is one multiplication or one addition. Of N parameters of matrix products, a token costs 2 N forward and
4 N backward (arXiv 2001.08361, section 2.1); the scores of attention and their products with values cost 4 layers x T x
width more forward, masked ones included, those outside of windows too, because they are computed.
"""

import jax.numpy as jnp

from gvgap_jax.lm.budget.work import Work, cache_bytes, parameter_bytes
from gvgap_jax.lm.model.shape import Shape
from gvgap_jax.runtime.chips import Chip, peak
from gvgap_jax.runtime.units import HOUR


def training_flops(work: Work) -> float:
    """Operations of a gradient step on all devices: forward, twice as much backward, and what ``remat`` recomputes."""
    forward = _sequences(work) * _forward(work.shape, work.length, work.response_tokens, work.outputs)
    recomputed = _sequences(work) * _blocks(work.shape, work.length) if work.shape.remat else 0.0
    return 3 * forward + recomputed


def scoring_flops(work: Work) -> float:
    """Operations of the forward pass of a batch on all devices."""
    return _sequences(work) * _forward(work.shape, work.length, work.response_tokens, work.outputs)


def generation_flops(work: Work) -> float:
    """Operations of a response to each of ``rows`` prompts: the prompt once, then every token."""
    shape, prompt = work.shape, work.shape.start + work.prompt_tokens
    steps = (_tokens(shape, 1, seen) for seen in range(prompt + 1, prompt + work.response_tokens))
    read = 2 * work.response_tokens * shape.width * shape.vocabulary
    return work.rows * (_blocks(shape, prompt) + sum(steps) + read)


def training_hours(work: Work, chip: Chip, steps: int) -> float:
    """Hours of so many gradient steps, at the share of the chip's peak that is assumed; no communication."""
    return steps * training_flops(work) / _speed(work, chip) / HOUR


def scoring_hours(work: Work, chip: Chip, batches: int) -> float:
    """Hours of so many forward passes."""
    return batches * scoring_flops(work) / _speed(work, chip) / HOUR


def generation_hours(work: Work, chip: Chip, batches: int) -> float:
    """Hours of so many batches of responses, by arithmetic or by memory, whichever is slower.

    Every token reads the parameters of a device, as activations, and what is filled of the cache.
    """
    steps, width = work.response_tokens, jnp.dtype(work.shape.dtype).itemsize
    numbers = parameter_bytes(work) / jnp.dtype(work.shape.param_dtype).itemsize * work.fsdp  # gathered
    filled = cache_bytes(work)[1] * (work.prompt_tokens + steps / 2) / (work.prompt_tokens + steps)
    moved = steps * (numbers * width + filled) / chip.bandwidth_bytes_per_s
    return batches * max(generation_flops(work) / _speed(work, chip), moved) / HOUR


def _speed(work: Work, chip: Chip) -> float:
    """Operations a second of all devices."""
    return work.devices * peak(chip, work.shape.dtype)


def _sequences(work: Work) -> int:
    return work.rows * work.responses


def _forward(shape: Shape, length: int, responses: int, outputs: int) -> float:
    """Operations of a sequence: blocks at every token, the head before every token of the response, or once."""
    return _blocks(shape, length) + 2 * (1 if outputs == 1 else responses) * shape.width * outputs


def _blocks(shape: Shape, length: int) -> float:
    return _tokens(shape, length, length)


def _tokens(shape: Shape, fed: int, seen: int) -> float:
    """Operations of all blocks on so many tokens, each attending to ``seen``."""
    query, key = shape.heads * shape.head_width, shape.key_value_heads * shape.head_width
    linear = shape.width * (2 * query + 2 * key + (3 if shape.gated else 2) * shape.hidden)
    return 2.0 * shape.layers * fed * (linear + 2 * seen * query)
