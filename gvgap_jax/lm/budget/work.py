"""One kind of work, and the bytes on a device of each thing that its compiled programs keep alive.

The counts are those of the programs in ``lm/model`` and ``training``: what a block saves for its backward pass are the
residuals of its operations, and what is there while it computes are the results of matrix products that others still
need. What is computed number by number from them belongs to the product that reads it: compilers for TPUs and GPUs fuse
it. That for CPUs stores it, in float32: of a softmax the gradient of what it gives, that of what it takes, and the
transpose of the latter, which a product reads.
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
Platform = Literal["tpu", "gpu", "cpu"]

TOKEN = 4  # bytes: int32
STATES = 5  # [n, T, D] in a block's backward pass: its input, the gradient of its output, and what norms made of both
HEADS = 4  # [n, T, heads, W] beside them: queries, keys and values, and the gradient of what was attended to


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
      platform: of the devices: it decides how arrays are laid out in memory, and what is computed without being stored.
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
    platform: Platform = "gpu"

    @property
    def tile(self) -> int:
        """Numbers that the last axis of an array is laid out in."""
        return 128 if self.platform == "tpu" else 1

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


def _activation(work: Work) -> int:
    """Bytes of an activation; programs for CPUs keep those of bfloat16 in float32."""
    return _number(work.shape) if work.platform == "cpu" else jnp.dtype(work.shape.dtype).itemsize


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
    """Numbers in [n, heads, T, S] of one layer, which attends to as many tokens as are fed at most."""
    seen = math.ceil(work.length / work.tile) * work.tile
    return work.sequences * work.shape.heads * length * seen / work.tensor


def _residuals(work: Work) -> tuple[float, float]:
    """Bytes that one block saves for its backward pass, without and with scores.

    Each of two or four norms saves three arrays of its width in float32, and what is computed from its output that;
    heads are saved after rotation, and what they attended to; exact GELU and its matrix products save four arrays of
    the hidden width, SwiGLU six, ReLU three fewer, and GELU by tanh what that saves more. Scores are saved as float32
    from the softmax, and as activations for the product with the values; a soft cap saves what its tanh does.
    """
    shape, tokens = work.shape, work.sequences * work.length
    number, activation = _number(shape), _activation(work)
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
        return shape.layers * work.sequences * work.length * shape.width * _activation(work), 0
    activations, attention = _residuals(work)
    masks = shape.layers if 0 < len(shape.windowed) < shape.layers else 1  # each layer chooses one of two
    mask = _scores(work, work.length) * (_number(shape) + masks)  # what is added for it, and where it is
    return shape.layers * activations, shape.layers * attention + mask


def work_bytes(work: Work) -> float:
    """Bytes of a block's backward pass: softmaxes, the gradient of the weights, hidden units, heads and states.

    On a CPU all residuals where they are recomputed, and else those that are taken out of what is saved.
    """
    shape, tokens = work.shape, work.sequences * work.length
    scores = _scores(work, work.length)
    if work.platform == "cpu":
        stored = 2 * _largest(work, work.length)  # a gradient and its transpose
        taken = sum(_residuals(work)) if shape.remat else max(2 * scores * _number(shape), stored)
        return stored + taken
    heads = HEADS * shape.heads * shape.head_width / work.tensor
    states = tokens * (_hidden(work) + heads + STATES * shape.width) * _activation(work)
    return scores * (_number(shape) + _activation(work)) + states


def forward_bytes(work: Work, length: int) -> float:
    """Bytes of a block's forward pass: scores, hidden units, its input, and what norms made of it."""
    shape, tokens = work.shape, work.sequences * length
    if work.platform == "cpu":
        return 2 * tokens * shape.width * _activation(work) + 2 * _largest(work, length)
    return _scores(work, length) * _number(shape) + tokens * (_hidden(work) + 3 * shape.width) * _activation(work)


def _largest(work: Work, length: int) -> float:
    """Bytes of a block's largest array: scores in float32, or hidden units."""
    hidden = work.sequences * work.length * work.shape.hidden * _activation(work) / work.tensor
    return max(_scores(work, length) * _number(work.shape), hidden)


def _hidden(work: Work) -> float:
    """Numbers a token that the feed-forward layer's products give."""
    return (2 if work.shape.gated else 1) * work.shape.hidden / work.tensor


def logits_bytes(work: Work) -> tuple[float, float]:
    """Bytes of logits [n, H, V] in float32, and of what their gradient adds; next to nothing of scalar heads."""
    numbers = work.sequences * work.response_tokens * work.outputs / work.tensor
    each = 3 * _number(work.shape) if work.platform == "cpu" else _activation(work)
    return numbers * _number(work.shape), numbers * each


def next_bytes(work: Work) -> float:
    """Bytes of what an update makes: the next parameters, until they are known to be finite; on a CPU a moment too."""
    return (2 if work.platform == "cpu" else 1) * parameter_bytes(work)


def converted_bytes(work: Work) -> float:
    """Bytes of a device's share of the parameters as activations, which is made once for all parts and layers."""
    if _activation(work) == _number(work.shape):
        return 0
    return parameter_bytes(work) * _activation(work) / _number(work.shape)


def gathered_bytes(work: Work) -> tuple[float, float]:
    """Bytes, as activations, of what ``fsdp`` gathers of the parameters: a block, and the head."""
    if work.fsdp == 1:
        return 0, 0
    shape = work.shape
    is_tied = shape.tied and work.outputs == shape.vocabulary
    ends = shape.width * (shape.vocabulary + shape.start + shape.positions + (0 if is_tied else work.outputs))
    block = (_count(shape, work.outputs) - ends) / shape.layers
    return block * _activation(work) / work.tensor, shape.width * work.outputs * _activation(work) / work.tensor


def cache_bytes(work: Work) -> tuple[float, float]:
    """Bytes of a device's keys and values: a slot for every token of a prompt and a response but the last.

    As the prompt's pass lays them out, slots last, and as decoding does, rows last if they fill half of a tile.
    """
    shape, slots = work.shape, work.shape.start + work.prompt_tokens + work.response_tokens - 1
    prompts = math.ceil(work.rows / (work.data * work.fsdp))
    each = 2 * shape.layers * shape.key_value_heads * shape.head_width * _activation(work) / work.tensor
    wide, long = (math.ceil(size / work.tile) * work.tile for size in (slots, prompts))
    return each * prompts * wide, each * (long * slots if 2 * prompts >= work.tile else prompts * wide)
