"""One kind of work, and the bytes on a device of each thing that its compiled programs keep alive.

The counts are those of the programs in ``lm/model`` and ``training``: what a block saves
for its backward pass are the residuals of its operations. How many copies of the largest arrays a compiler holds at
once cannot be read off the program; ``AT_WORK`` and ``OF_LOGITS`` were calibrated once, against XLA's for CPUs.
"""

import functools
import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from gvgap_jax.lm.model import transformer
from gvgap_jax.lm.model.shape import Shape

Of = Literal["sft", "reward_model", "dpo", "reward"]

TOKEN = 4  # bytes: int32
AT_WORK = 2  # of its largest intermediate that a block holds at once: calibrated
OF_LOGITS = 4  # log-probabilities, the gradient in their shape, that of the logits, its transpose: calibrated


@dataclass(frozen=True)
class Work:
    """One kind of work on one layout of devices.

    Attributes:
      shape: of the transformer.
      kind: which objective: it decides the head, and how many sequences a row is. ``reward`` is that of one response.
      rows: demonstrations, pairs, prompts or responses of a batch, over all devices.
      prompt_tokens, response_tokens: P and H.
      accumulate: equal parts of a batch, one after another (``Training.accumulate``); 1 but for training.
      data, fsdp, tensor: devices along each axis of the layout.
      keeps_best: a copy of the parameters of the lowest held-out loss is kept.
      stored_rows: rows of the data set, which is split over the devices.
    """

    shape: Shape
    kind: Of
    rows: int
    prompt_tokens: int
    response_tokens: int
    accumulate: int = 1
    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    keeps_best: bool = False
    stored_rows: int = 0

    @property
    def devices(self) -> int:
        """Of the layout."""
        return self.data * self.fsdp * self.tensor

    @property
    def outputs(self) -> int:
        """Of the head: a scalar, or the vocabulary."""
        return 1 if self.kind in ("reward_model", "reward") else self.shape.vocabulary

    @property
    def responses(self) -> int:
        """Sequences of a row."""
        return 2 if self.kind in ("reward_model", "dpo") else 1

    @property
    def sequences(self) -> int:
        """That one device has in memory at a time: chosen and rejected responses are scored in one pass."""
        return self.responses * math.ceil(self.rows / (self.accumulate * self.data * self.fsdp))

    @property
    def length(self) -> int:
        """Tokens of a sequence that are fed: a policy's last token is predicted, and not read."""
        return self.shape.start + self.prompt_tokens + self.response_tokens - (self.outputs > 1)


def _number(shape: Shape) -> int:
    """Bytes of a parameter, of a logit and of a score."""
    return jnp.dtype(shape.param_dtype).itemsize


def _activation(shape: Shape) -> int:
    """Bytes of an activation."""
    return jnp.dtype(shape.dtype).itemsize


_count = functools.cache(transformer.num_parameters)


@functools.cache
def _saved_by_tanh() -> int:
    """Arrays that a tanh saves for its backward pass: two, and one in later versions of JAX."""
    number = jax.ShapeDtypeStruct((), jnp.float32)
    return len(jax.tree.leaves(jax.eval_shape(lambda x: jax.vjp(jnp.tanh, x)[1], number)))


def parameter_bytes(work: Work) -> float:
    """Bytes of a device's share of the parameters."""
    return _count(work.shape, work.outputs) * _number(work.shape) / (work.fsdp * work.tensor)


def passed_bytes(work: Work) -> float:
    """Bytes of the gradients that are there while blocks are passed: all but the embedding's, which comes last."""
    shape = work.shape
    tied = shape.tied and work.outputs == shape.vocabulary
    embedding = 0 if tied else (shape.vocabulary + shape.start) * shape.width * _number(shape)
    return parameter_bytes(work) - embedding / (work.fsdp * work.tensor)


def head_bytes(work: Work) -> float:
    """Bytes of the head's gradient, the first to be there."""
    return work.shape.width * work.outputs * _number(work.shape) / (work.fsdp * work.tensor)


def data_bytes(work: Work) -> float:
    """Tokens, weight and reference margin of every row."""
    numbers = work.responses  # a weight, and the reference margin of a pair
    rows = math.ceil(work.stored_rows / (work.data * work.fsdp))
    return rows * TOKEN * (work.prompt_tokens + work.responses * work.response_tokens + numbers)


def _scores(work: Work, length: int) -> float:
    """Numbers in [n, heads, T, T] of one layer."""
    return work.sequences * work.shape.heads * work.length * length / work.tensor


def _residuals(work: Work) -> tuple[float, float]:
    """Bytes that one block saves for its backward pass, without and with scores.

    Each of two or four norms saves three arrays of its width in float32, and what is computed from its output that;
    heads are saved after rotation, and what they attended to; exact GELU and its matrix products save four arrays of
    the hidden width, SwiGLU six, ReLU three fewer, and GELU by tanh what that saves more. Scores are saved as float32
    from the softmax, and as activations for the product with the values; a soft cap saves what its tanh does.
    """
    shape, tokens = work.shape, work.sequences * work.length
    number, activation = _number(shape), _activation(shape)
    norms = 4 if shape.order == "both" else 2
    states = shape.width * (3 * norms * number + 2 * activation) + 4 * norms * number
    normed = 0 if shape.head_norm == "none" else 3 * number
    heads = (shape.heads + shape.key_value_heads) * shape.head_width * (2 * activation + normed) / work.tensor
    arrays = 6 if shape.gated else 4
    if shape.activation == "relu":
        arrays -= 3
    if shape.activation == "gelu_tanh":
        arrays += _saved_by_tanh()
    feed = arrays * shape.hidden * activation / work.tensor
    capped = 0 if shape.score_cap is None else _saved_by_tanh() * number
    return tokens * (states + heads + feed), _scores(work, work.length) * (number + activation + capped)


def saved_bytes(work: Work) -> tuple[float, float]:
    """Bytes that all blocks save: their residuals and masks of scores, or with ``remat`` their inputs alone."""
    shape = work.shape
    if shape.remat:
        return shape.layers * work.sequences * work.length * shape.width * _activation(shape), 0
    activations, attention = _residuals(work)
    masks = shape.layers if 0 < len(shape.windowed) < shape.layers else 1  # each layer chooses one of two
    mask = _scores(work, work.length) * (_number(shape) + masks)  # what is added for it, and where it is
    return shape.layers * activations, shape.layers * attention + mask


def work_bytes(work: Work) -> float:
    """Bytes of a block's backward pass: its intermediates beside what it has recomputed, or takes out of what is saved.

    Taken out are the two kinds of scores, and of the rest one array at a time.
    """
    at_work = AT_WORK * _largest(work, work.length)
    if work.shape.remat:
        return sum(_residuals(work)) + at_work
    return at_work + max(2 * _scores(work, work.length) * _number(work.shape), at_work)


def forward_bytes(work: Work, length: int) -> float:
    """Bytes of a block's forward pass, and of its input and output."""
    states = 2 * work.sequences * work.length * work.shape.width * _activation(work.shape)
    return states + AT_WORK * _largest(work, length)


def _largest(work: Work, length: int) -> float:
    """Bytes of a block's largest intermediate: scores in float32, or hidden units."""
    hidden = work.sequences * work.length * work.shape.hidden * _activation(work.shape) / work.tensor
    return max(_scores(work, length) * _number(work.shape), hidden)


def logits_bytes(work: Work) -> float:
    """Bytes of [n, H, V] in float32; nothing to speak of where the head is a scalar."""
    return work.sequences * work.response_tokens * work.outputs * _number(work.shape) / work.tensor


def gathered_bytes(work: Work) -> float:
    """Bytes of the parameters that ``fsdp`` gathers for a block or an end at work, and of their gradients."""
    if work.fsdp == 1:
        return 0
    shape = work.shape
    is_tied = shape.tied and work.outputs == shape.vocabulary
    ends = shape.width * (shape.vocabulary + shape.start + shape.positions + (0 if is_tied else work.outputs))
    block = (_count(shape, work.outputs) - ends) / shape.layers
    return 2 * max(block, shape.width * shape.vocabulary) * _number(shape) / work.tensor


def cache_bytes(work: Work) -> float:
    """Bytes of a device's keys and values: a slot for every token of a prompt and a response but the last."""
    shape, slots = work.shape, work.shape.start + work.prompt_tokens + work.response_tokens - 1
    prompts = math.ceil(work.rows / (work.data * work.fsdp))
    numbers = 2 * shape.layers * prompts * slots * shape.key_value_heads * shape.head_width
    return numbers * _activation(shape) / work.tensor
