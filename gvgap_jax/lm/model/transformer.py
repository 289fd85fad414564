"""A decoder-only transformer: Flax NNX layers, trained as pure functions of a dictionary of parameters.

One block covers GPT-NeoX (Pythia: parallel residual, partial rotary embedding, LayerNorm) and Llama or Qwen
(RMSNorm, gated feed-forward, grouped-query attention, tied or untied embeddings); a ``Shape`` says which.
The blocks' parameters are stacked, [layers, ...], and scanned: what compiles does not grow with depth.

Further axes: B rows, T tokens fed, S tokens attended to, D width, K key-value heads, W width of a head.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from gvgap_jax.lm.model.shape import RotaryScaling, Shape
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
        outside, inside = shape.bias == "all", shape.bias != "none"
        one_head = functools.partial(nnx.LinearGeneral, shape.width, use_bias=inside, **kinds)
        self.norm_attention, self.norm_feed = _norm(shape, rngs), _norm(shape, rngs)
        self.query = one_head((shape.heads, shape.head_width))
        self.key = one_head((shape.key_value_heads, shape.head_width))
        self.value = one_head((shape.key_value_heads, shape.head_width))
        self.attended = nnx.LinearGeneral(
            (shape.heads, shape.head_width), shape.width, axis=(-2, -1), use_bias=outside, **kinds
        )
        self.up = nnx.Linear(shape.width, shape.hidden, use_bias=outside, **kinds)
        self.gate = nnx.Linear(shape.width, shape.hidden, use_bias=outside, **kinds) if shape.gated else None
        self.down = nnx.Linear(shape.hidden, shape.width, use_bias=outside, **kinds)
        self.shape = shape

    def heads(self, x: Float[Array, "B T D"], positions: Int[Array, "B T"]):
        """Queries [B, T, heads, W], keys and values [B, T, K, W] of the tokens at these positions."""
        normed = self.norm_attention(x)
        query, key = (rotate(head(normed), positions, self.shape) for head in (self.query, self.key))
        return query, key, self.value(normed)

    def finish(self, x: Float[Array, "B T D"], attended: Float[Array, "B T heads W"]) -> Float[Array, "B T D"]:
        """The block's output, from its input and what its heads attended to."""
        after = x + self.attended(attended)
        return after + self.feed(self.norm_feed(x if self.shape.parallel else after))

    def feed(self, x):
        """The feed-forward layer."""
        if self.gate is None:
            return self.down(jax.nn.gelu(self.up(x), approximate=False))
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Ends(nnx.Module):
    """What comes before and after the blocks: the embedding and the last norm."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs):
        kinds = {"dtype": shape.dtype, "param_dtype": shape.param_dtype, "rngs": rngs}
        self.embedding = nnx.Embed(shape.vocabulary + shape.start, shape.width, **kinds)
        self.norm = _norm(shape, rngs)


def _norm(shape: Shape, rngs: nnx.Rngs) -> nnx.Module:
    kind = nnx.LayerNorm if shape.norm == "layer" else nnx.RMSNorm
    return kind(shape.width, epsilon=shape.epsilon, dtype=shape.dtype, param_dtype=shape.param_dtype, rngs=rngs)


def rotate(x: Float[Array, "B T heads W"], positions: Int[Array, "B T"], shape: Shape) -> Float[Array, "B T heads W"]:
    """Rotary position embedding (arXiv 2104.09864) of the first numbers of each head, halves against halves."""
    turned, kept = jnp.split(x, [shape.rotated], axis=-1)
    frequency = shape.rotary_base ** -(jnp.arange(0, shape.rotated, 2, shape.param_dtype) / max(shape.rotated, 1))
    if shape.rotary_scaling is not None:
        frequency = _slowed(frequency, shape.rotary_scaling)
    angle = positions[:, :, None, None] * frequency[None, None, None]
    first, second = jnp.split(turned, 2, axis=-1)
    cosine, sine = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine, kept], axis=-1)


def _slowed(frequency: Float[Array, "W"], scaling: RotaryScaling) -> Float[Array, "W"]:
    if scaling.context is None:
        return frequency / scaling.factor
    turns = scaling.context * frequency / (2 * jnp.pi)
    kept = jnp.clip((turns - scaling.low) / (scaling.high - scaling.low), 0, 1)
    return frequency * (kept + (1 - kept) / scaling.factor)


def init(shape: Shape, outputs: int, key: PRNGKey) -> Params:
    """Parameters: ``ends``, ``blocks`` with a leading axis of layers, and a ``head`` of 0 [D, outputs].

    Matrices are normal with variance 1 / fan-in, biases 0 and scales of norms 1. No head where it is tied: one of the
    vocabulary's size, in a tied shape.
    """
    _, places = _structure(shape)
    sizes = [leaf.size for path, leaf in jax.tree.leaves_with_path(places) if _is_drawn(path)]
    # One draw for all: every further random call is another hash to compile.
    numbers = iter(jnp.split(jax.random.normal(key, (sum(sizes),), shape.param_dtype), np.cumsum(sizes)[:-1]))

    def fill(path, leaf):
        if _is_drawn(path):
            return next(numbers).reshape(leaf.shape) * _fan_in(shape, path) ** -0.5
        return jnp.full(leaf.shape, path[-1].key == "scale", leaf.dtype)

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


def forward(
    shape: Shape, params: Params, tokens: Int[Array, "B T"], cache: Cache | None = None
) -> tuple[Float[Array, "B T D"], Cache | None]:
    """Normed states of the last layer at every token, which ``read`` makes outputs of, and the cache with them in it.

    A token attends to itself and to all before it, in the cache or in ``tokens``; ``PADDING`` is attended to by none,
    and counts for no position. A token of ``vocabulary`` is the start.
    """
    graphs, _ = _structure(shape)
    ends = nnx.merge(graphs["ends"], params["ends"])
    valid, here = tokens != PADDING, tokens.shape[1]
    # The embedding is split by width: every device looks its columns up, and then the rows are exchanged.
    x = by_rows(_split(ends.embedding(jnp.where(valid, tokens, 0)), ROWS[:1], (), ROWS[1:]))
    seen, filled = valid, 0
    if cache is not None:
        seen, filled = jax.lax.dynamic_update_slice_in_dim(cache.valid, valid, cache.filled, axis=1), cache.filled
    positions = jax.lax.dynamic_slice_in_dim(jnp.cumsum(seen, axis=1) - 1, filled, here, axis=1)
    causal = jnp.arange(seen.shape[1])[None] <= filled + jnp.arange(here)[:, None]
    mask = causal[None, None] & seen[:, None, None]

    def layer(carry, numbered):
        (x, memory), (params, number) = carry, numbered
        block = nnx.merge(graphs["blocks"], params)
        query, key, value = block.heads(x, positions)
        if memory is not None:
            keys, values = memory = _put(memory[0], key, number, filled), _put(memory[1], value, number, filled)
            key, value = keys[number], values[number]
        attended = jax.nn.dot_product_attention(query, key, value, mask=mask)
        return (by_rows(block.finish(x, attended)), memory), None

    memory = None if cache is None else (cache.key, cache.value)
    step = jax.checkpoint(layer) if shape.remat else layer
    numbered = params["blocks"], jnp.arange(shape.layers)
    (x, memory), _ = jax.lax.scan(step, (x, memory), numbered, unroll=shape.layers <= UNROLLED)
    return ends.norm(x), None if memory is None else Cache(*memory, seen, filled + here)


def _put(kept: Float[Array, "layers B S K W"], new: Float[Array, "B T K W"], layer: Count, slot: Count):
    return jax.lax.dynamic_update_slice(kept, new[None], (layer, 0, slot, 0, 0))


def read(shape: Shape, params: Params, states: Float[Array, "... D"]) -> Float[Array, "... outputs"]:
    """What the head makes of normed states: logits of the vocabulary, or the numbers of a scalar head."""
    tied = "head" not in params
    kernel = params["ends"]["embedding"]["embedding"][: shape.vocabulary].T if tied else params["head"]
    return jnp.matmul(states, kernel.astype(shape.dtype), preferred_element_type=shape.param_dtype)
