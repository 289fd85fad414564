"""What training and decoding must at least compute and move, and how fast this machine can do that.

The machine's speeds are measured: a large matrix product in the model's precision, and a large copy.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.leaf_pass import seconds_of
from experiments.benchmarks.lm_work import Load, Size
from gvgap_jax.lm.model import transformer
from gvgap_jax.lm.model.shape import Shape


class Machine(NamedTuple):
    """Of the first device: arithmetic in operations a second, memory in bytes a second."""

    arithmetic: float
    memory: float


class Work(NamedTuple):
    """The least of one gradient step, or of one batch of responses: operations, and bytes."""

    operations: float
    bytes: float


def machine(dtype: str) -> Machine:
    """Measured speeds: a matrix product of 2,048 (on an accelerator 8,192) squared, and a copy of 64 MB (1 GB)."""
    on_cpu = jax.default_backend() == "cpu"
    side, count = (2048, 2**23) if on_cpu else (8192, 2**27)
    square = jnp.asarray(np.random.default_rng(0).normal(size=(side, side)), dtype)
    numbers = jnp.zeros(count, jnp.float32)
    product = seconds_of(jax.jit(lambda square: square @ square), square)
    copy = seconds_of(jax.jit(jnp.negative), numbers)
    return Machine(2 * side**3 / product, 2 * numbers.nbytes / copy)


def training_step(load: Load, size: Size) -> Work:
    """Forward and twice as much backward of every sequence; AdamW and the weights, but no activations, are moved."""
    outputs, read = (1, 1) if load == "reward model" else (size.shape.vocabulary, size.horizon)
    forward = _forward(size.shape, size.sequences(load), size.length, size.length, outputs, read)
    # A parameter is read twice, its gradient written and read, and AdamW reads and writes it and two moments.
    return Work(3 * forward, 10 * _bytes_of_parameters(size.shape, outputs))


def decoding(size: Size) -> Work:
    """The prompt, then token by token with all weights and the filled cache read for each."""
    shape, rows = size.shape, size.batch
    prompt = _forward(shape, rows, size.prompt_length, size.prompt_length, shape.vocabulary, 1)
    each = [_forward(shape, rows, 1, seen, shape.vocabulary, 1) for seen in range(size.prompt_length + 1, size.length)]
    width = 2 * shape.layers * shape.key_value_heads * shape.head_width * jnp.dtype(shape.dtype).itemsize
    cache = rows * width * sum(range(size.prompt_length, size.length))
    return Work(prompt + sum(each), size.horizon * _bytes_of_parameters(shape, shape.vocabulary) + cache)


def _forward(shape: Shape, rows: int, tokens: int, seen: int, outputs: int, read: int) -> float:
    """Operations of matrix products: every token attends to ``seen``, and ``read`` tokens a row reach the head."""
    query, key = shape.heads * shape.head_width, shape.key_value_heads * shape.head_width
    linear = shape.width * (2 * query + 2 * key + (3 if shape.gated else 2) * shape.hidden)
    return rows * (2 * shape.layers * tokens * (linear + 2 * seen * query) + 2 * read * shape.width * outputs)


def _bytes_of_parameters(shape: Shape, outputs: int) -> float:
    return transformer.num_parameters(shape, outputs) * jnp.dtype(shape.param_dtype).itemsize
