"""A decoder-only transformer: Flax NNX layers, trained as pure functions of a dictionary of parameters.

One block covers all families that ``lm/hf/families.py`` lists, from GPT-2 to Gemma 3; a ``Shape`` says which.
The blocks' parameters are stacked, [layers, ...], and scanned: what compiles does not grow with depth. What differs
between layers of one model (a window, the rotary embedding) is data along the same scan.

Further axes: B rows, T tokens fed, S tokens attended to, D width, K key-value heads, W width of a head.
"""

import contextlib
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from gvgap_jax.lm.model.attention import attend, of_layers, rotate
from gvgap_jax.lm.model.shape import Shape
from gvgap_jax.runtime.devices import ROWS
from gvgap_jax.types import PADDING, Count, Params, PRNGKey

UNROLLED = 2  # layers up to which a loop costs more time than it saves in compiling


class Cache(NamedTuple):
    """Keys and values of the tokens fed so far; slots beyond ``filled`` hold nothing yet.

    Attributes:
      key, value: [layers, B, S, K, W].
      valid: [B, S], slots that hold a token and not padding.
      filled: slots in use, the same for every row.
    """

    key: Float[Array, "layers B S K W"]
    value: Float[Array, "layers B S K W"]
    valid: Bool[Array, "B S"]
    filled: Count


def empty_cache(shape: Shape, rows: int, slots: int) -> Cache:
    """Room for ``slots`` tokens in each of so many rows."""
    size = (shape.layers, rows, slots, shape.key_value_heads, shape.head_width)
    nothing = jnp.zeros(size, shape.dtype)
    return Cache(nothing, nothing, jnp.zeros((rows, slots), bool), 0)


class Block(nnx.Module):
    """Attention and feed-forward with their norms, in two halves so that a cache can stand between."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs):
        kinds = {"dtype": shape.dtype, "param_dtype": shape.param_dtype, "rngs": rngs}
        inside = shape.bias in ("all", "attention", "query_key_value")
        outside, feed = shape.bias in ("all", "attention"), shape.bias in ("all", "feed_forward")
        one_head = functools.partial(nnx.LinearGeneral, shape.width, use_bias=inside, **kinds)
        before, after = shape.order != "after", shape.order != "before"
        self.norm_attention, self.norm_feed = (_norm(shape, rngs) if before else None for _ in range(2))
        self.norm_attended, self.norm_fed = (_norm(shape, rngs) if after else None for _ in range(2))
        self.norm_query, self.norm_key = (
            _head_norm(shape, heads, rngs) for heads in (shape.heads, shape.key_value_heads)
        )
        self.query = one_head((shape.heads, shape.head_width))
        self.key = one_head((shape.key_value_heads, shape.head_width))
        self.value = one_head((shape.key_value_heads, shape.head_width))
        self.attended = nnx.LinearGeneral(
            (shape.heads, shape.head_width), shape.width, axis=(-2, -1), use_bias=outside, **kinds
        )
        self.up = nnx.Linear(shape.width, shape.hidden, use_bias=feed, **kinds)
        self.gate = nnx.Linear(shape.width, shape.hidden, use_bias=feed, **kinds) if shape.gated else None
        self.down = nnx.Linear(shape.hidden, shape.width, use_bias=feed, **kinds)
        self.shape = shape

    def heads(self, x: Float[Array, "B T D"], positions: Int[Array, "B T"], frequency: Float[Array, "F"]):
        """Queries [B, T, heads, W], keys and values [B, T, K, W] of the tokens at these positions."""
        x = _normed(self.norm_attention, x)
        query, key = self.query(x), self.key(x)
        if self.shape.head_norm == "whole":
            query, key = (
                _normed(norm, head.reshape(*head.shape[:2], -1)).reshape(head.shape)
                for norm, head in ((self.norm_query, query), (self.norm_key, key))
            )
        elif self.shape.head_norm == "each":
            query, key = _normed(self.norm_query, query), _normed(self.norm_key, key)
        scaling = self.shape.rotary_scaling
        amplitude = 1.0 if scaling is None else scaling.amplitude
        return *(rotate(each, positions, frequency, amplitude) for each in (query, key)), self.value(x)

    def finish(self, x: Float[Array, "B T D"], attended: Float[Array, "B T heads W"]) -> Float[Array, "B T D"]:
        """The block's output, from its input and what its heads attended to."""
        after = x + _normed(self.norm_attended, self.attended(attended))
        return after + _normed(self.norm_fed, self.feed(_normed(self.norm_feed, x if self.shape.parallel else after)))

    def feed(self, x):
        """The feed-forward layer."""
        activate = ACTIVATIONS[self.shape.activation or ("gelu" if self.gate is None else "silu")]
        return self.down(activate(self.up(x)) if self.gate is None else activate(self.gate(x)) * self.up(x))


ACTIVATIONS = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
}


class Ends(nnx.Module):
    """What comes before and after the blocks: the embeddings and the last norm."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs):
        kinds = {"dtype": shape.dtype, "param_dtype": shape.param_dtype, "rngs": rngs}
        self.embedding = nnx.Embed(shape.vocabulary + shape.start, shape.width, **kinds)
        self.positions = nnx.Embed(shape.positions, shape.width, **kinds) if shape.positions else None
        self.norm = _norm(shape, rngs)


def _norm(shape: Shape, rngs: nnx.Rngs) -> nnx.Module:
    kind = nnx.LayerNorm if shape.norm == "layer" else nnx.RMSNorm
    return kind(shape.width, **_norm_kinds(shape), rngs=rngs)


def _head_norm(shape: Shape, heads: int, rngs: nnx.Rngs) -> nnx.Module | None:
    size = {"none": 0, "each": shape.head_width, "whole": heads * shape.head_width}[shape.head_norm]
    return nnx.RMSNorm(size, **_norm_kinds(shape), rngs=rngs) if size else None


def _norm_kinds(shape: Shape) -> dict[str, Any]:
    # In bfloat16 1 + scale would be 1 for most scales.
    dtype = shape.param_dtype if shape.norm == "rms_plus_one" else shape.dtype
    return {"epsilon": shape.epsilon, "dtype": dtype, "param_dtype": shape.param_dtype}


def _normed(norm, x):
    return x if norm is None else norm(x).astype(x.dtype)


def init(shape: Shape, outputs: int, key: PRNGKey) -> Params:
    """Parameters: ``ends``, ``blocks`` with a leading axis of layers, and a ``head`` of 0 [D, outputs].

    Matrices are normal with variance 1 / fan-in, biases 0, and norms multiply by 1. No head where it is tied: one of
    the vocabulary's size, in a tied shape.
    """
    _, places = _structure(shape)
    sizes = [leaf.size for path, leaf in jax.tree.leaves_with_path(places) if _is_drawn(path)]
    # One draw for all: every further random call is another hash to compile.
    numbers = iter(jnp.split(jax.random.normal(key, (sum(sizes),), shape.param_dtype), np.cumsum(sizes)[:-1]))

    def fill(path, leaf):
        if _is_drawn(path):
            return next(numbers).reshape(leaf.shape) * _fan_in(shape, path) ** -0.5
        return jnp.full(leaf.shape, path[-1].key == "scale" and shape.norm != "rms_plus_one", leaf.dtype)

    params = jax.tree.map_with_path(fill, places)
    if shape.tied and outputs == shape.vocabulary:
        return params
    return params | {"head": jnp.zeros((shape.width, outputs), shape.param_dtype)}


def _is_drawn(path) -> bool:
    return path[-1].key in ("kernel", "embedding")


def _fan_in(shape: Shape, path) -> int:
    return {"attended": shape.heads * shape.head_width, "down": shape.hidden}.get(path[-2].key, shape.width)


@functools.cache
def _structure(shape: Shape):
    """The modules without their numbers, for ``nnx.merge``, and the numbers' shapes."""
    graphs, places = {}, {}
    for name, kind in (("ends", Ends), ("blocks", Block)):
        graphs[name], state = nnx.split(nnx.eval_shape(lambda kind=kind: kind(shape, nnx.Rngs(0))))
        places[name] = nnx.to_pure_dict(state)
    stacked = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((shape.layers, *leaf.shape), leaf.dtype), places["blocks"])
    return graphs, places | {"blocks": stacked}


def by_rows(x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """States split by rows over the devices of a layout, where one is traced for, see ``layouts``.

    Left to itself, the compiler would follow the parameters, and compute all rows on every device.
    """
    return _split(x, ROWS, (), ())


def _split(x: Array, *axes: tuple[str, ...]) -> Array:
    """``x`` with each of its axes split over those of the mesh, if it divides and there is a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    there = [tuple(name for name in names if name in mesh.axis_names) for names in axes]
    shares = [math.prod(mesh.shape[name] for name in names) for names in there]
    if math.prod(shares) == 1 or any(size % share for size, share in zip(x.shape, shares, strict=True)):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*there))


def num_parameters(shape: Shape, outputs: int) -> int:
    """Numbers in the parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(lambda: init(shape, outputs, jax.random.key(0)))))


def _precise(function):
    """Products of float32 arrays in full, wherever they are compiled.

    Left to itself, a TPU would round both sides to bfloat16, and a GPU to TF32. Those of bfloat16 are what they are.
    """

    @functools.wraps(function)
    def precise(shape: Shape, *arguments):
        with contextlib.nullcontext() if shape.dtype == "bfloat16" else jax.default_matmul_precision("highest"):
            return function(shape, *arguments)

    return precise


@_precise
def forward(
    shape: Shape, params: Params, tokens: Int[Array, "B T"], cache: Cache | None = None
) -> tuple[Float[Array, "B T D"], Cache | None]:
    """Normed states of the last layer at every token, which ``read`` makes outputs of, and the cache with them in it.

    A token attends to itself and to all before it, or to those of a window, in the cache or in ``tokens``; ``PADDING``
    is attended to by none, and counts for no position and in no window. A token of ``vocabulary`` is the start.

    Raises:
      ValueError: there are more tokens, with padding, than the shape has positions for.
    """
    graphs, _ = _structure(shape)
    if shape.norm == "rms_plus_one":
        params = jax.tree.map_with_path(lambda path, leaf: leaf + 1 if path[-1].key == "scale" else leaf, params)
    ends = nnx.merge(graphs["ends"], params["ends"])
    valid, here = tokens != PADDING, tokens.shape[1]
    # The embedding is split by width: every device looks its columns up, and then the rows are exchanged.
    x = by_rows(_split(ends.embedding(jnp.where(valid, tokens, 0)), ROWS[:1], (), ROWS[1:]))
    seen, filled = valid, 0
    if cache is not None:
        seen, filled = jax.lax.dynamic_update_slice_in_dim(cache.valid, valid, cache.filled, axis=1), cache.filled
    _check_length(shape, seen.shape[1])
    counted = jnp.cumsum(seen, axis=1) - 1
    positions = jax.lax.dynamic_slice_in_dim(counted, filled, here, axis=1)
    if shape.scaled_embedding:
        x = x * jnp.asarray(shape.width**0.5, x.dtype)
    if shape.positions:
        x = x + ends.positions(jnp.maximum(positions, 0))
    causal = jnp.arange(seen.shape[1])[None] <= filled + jnp.arange(here)[:, None]
    whole = near = causal[None, None] & seen[:, None, None]
    if shape.window is not None:
        near = whole & (positions[:, None, :, None] - counted[:, None, None] < shape.window)
    differing, frequency = of_layers(shape)

    def layer(carry, numbered):
        (x, memory), (params, number, of_layer) = carry, numbered
        block = nnx.merge(graphs["blocks"], params)
        turning = frequency if of_layer.frequency is None else of_layer.frequency
        query, key, value = block.heads(x, positions, turning)
        if memory is not None:
            keys, values = memory = _put(memory[0], key, number, filled), _put(memory[1], value, number, filled)
            key, value = keys[number], values[number]
        mask = near if of_layer.windowed is None else jnp.where(of_layer.windowed, near, whole)
        attended = attend(shape, query, key, value, mask)
        return (by_rows(block.finish(x, attended)), memory), None

    memory = None if cache is None else (cache.key, cache.value)
    step = jax.checkpoint(layer) if shape.remat else layer
    numbered = params["blocks"], jnp.arange(shape.layers), differing
    (x, memory), _ = jax.lax.scan(step, (x, memory), numbered, unroll=shape.layers <= UNROLLED)
    return _normed(ends.norm, x), None if memory is None else Cache(*memory, seen, filled + here)


def parts(shape: Shape, params: Params, tokens: Int[Array, "B T"]):
    """What a pass of another order than ``forward``'s is made of: a block's graph, embedded tokens, the last norm."""
    graphs, _ = _structure(shape)
    ends = nnx.merge(graphs["ends"], params["ends"])
    return graphs["blocks"], ends.embedding(tokens), ends.norm


def _check_length(shape: Shape, slots: int) -> None:
    if shape.longest is not None and slots > shape.longest:
        raise ValueError(
            f"the model reads rows of up to {shape.longest} tokens, and {slots} are fed (prompt and response with "
            "padding); choose shorter ones."
        )


def _put(kept: Float[Array, "layers B S K W"], new: Float[Array, "B T K W"], layer: Count, slot: Count):
    return jax.lax.dynamic_update_slice(kept, new[None], (layer, 0, slot, 0, 0))


def _together(*arrays: Array) -> tuple[Array, ...]:
    """The arrays, whose gradients are both computed before one is used, where a layout over accelerators is traced for.

    Left to itself, a compiler for TPUs computes that of the head after those of the blocks, and keeps the logits'
    gradient for it all the while: a tenth of a DPO step's memory. CPU devices would wait for each other's collectives.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return arrays if device is None or device.platform == "cpu" else jax.lax.optimization_barrier(arrays)


@_precise
def read(shape: Shape, params: Params, states: Float[Array, "... D"]) -> Float[Array, "... outputs"]:
    """What the head makes of normed states: logits of the vocabulary, or the numbers of a scalar head."""
    tied = "head" not in params
    kernel = params["ends"]["embedding"]["embedding"][: shape.vocabulary].T if tied else params["head"]
    states, kernel = _together(states, kernel.astype(shape.dtype))
    outputs = jnp.matmul(states, kernel, preferred_element_type=shape.param_dtype)
    if shape.logit_cap is None or kernel.shape[1] != shape.vocabulary:
        return outputs
    return shape.logit_cap * jnp.tanh(outputs / shape.logit_cap)
