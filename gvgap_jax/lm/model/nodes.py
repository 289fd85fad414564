"""A transformer at every node of a token tree: the state of each prefix is computed once.

``classes.tree_transformer_policy`` and its like feed a row for every response, H tokens a leaf, and so compute a shared
prefix again for each response behind it. Here there are V / (V - 1) nodes a leaf. Each attends to the prompt and to
its own ancestors, which are repeated for the nodes of a level and never looked up.

Further axes: D width, K key-value heads, W width of a head; level h of a tree has V**h nodes, h = 0 is the prompt.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from gvgap_jax.lm.model import decode, transformer
from gvgap_jax.lm.model.attention import attend, of_layers
from gvgap_jax.lm.model.classes import ReadOut
from gvgap_jax.lm.model.shape import Shape
from gvgap_jax.tree import Levels
from gvgap_jax.types import Params, Prompts

States = tuple[Float[Array, "X nodes D"], ...]


def states(shape: Shape, params: Params, prompts: Prompts, horizon: int) -> States:
    """Normed states of the last layer after every prompt and every prefix, levels [X, V**h, D] for h = 0 to H.

    Args:
      shape: whose layers are all alike, with rotary positions alone.
      params: as ``transformer.init`` makes them.
      prompts: [X, P].
      horizon: H, tokens of a response.

    Raises:
      ValueError: the shape has a window, layers that differ, learned positions, or scaled embeddings.
    """
    if shape.windowed or shape.unrotated or shape.positions or shape.scaled_embedding or shape.norm == "rms_plus_one":
        raise ValueError(f"states at nodes are of plain layers with rotary positions, got {shape}.")
    sizes = [shape.vocabulary**depth for depth in range(1, horizon + 1)]
    fed = decode.with_start(shape, prompts)
    before, cuts = fed.shape[1], [fed.shape[1] + sum(sizes[:depth]) for depth in range(horizon)]
    last_tokens = jnp.concatenate([jnp.arange(size) % shape.vocabulary for size in sizes])
    tokens = jnp.concatenate([fed, jnp.broadcast_to(last_tokens[None], (len(fed), last_tokens.size))], axis=1)
    depths = [before + depth for depth, size in enumerate(sizes) for _ in range(size)]
    positions = jnp.broadcast_to(jnp.array([*range(before), *depths])[None], tokens.shape)
    _, frequency = of_layers(shape)

    def by_level(values):
        return jnp.split(values, cuts, axis=1)

    def layer(x, block_params):
        block = nnx.merge(graph, block_params)
        (query, *queries), keys, values = (by_level(each) for each in block.heads(x, positions, frequency))
        attended = [attend(shape, query, keys[0], values[0], jnp.tri(before, dtype=bool)[None, None])]
        for depth, own in enumerate(queries, start=1):
            key, value = (_along(each[: depth + 1], own.shape[1]) for each in (keys, values))
            single = own.reshape(-1, 1, *own.shape[2:])
            found = attend(shape, single, key, value, jnp.ones((1, 1, 1, key.shape[1]), bool))
            attended.append(found.reshape(own.shape))
        return block.finish(x, jnp.concatenate(attended, axis=1)), None

    graph, embedded, norm = transformer.parts(shape, params, tokens)
    with jax.default_matmul_precision("highest"):
        x, _ = jax.lax.scan(layer, embedded, params["blocks"], unroll=shape.layers <= transformer.UNROLLED)
    prompt, *levels = by_level(norm(x))
    return prompt[:, -1:], *levels


def _along(levels: list[Float[Array, "X nodes K W"]], nodes: int) -> Float[Array, "rows T K W"]:
    """Of every node of a level, a row: what is held at the prompt's tokens, and at the nodes on the way to it."""
    prompt, *above = levels
    number = len(prompt)
    held = [jnp.broadcast_to(prompt[:, None], (number, nodes, *prompt.shape[1:]))]
    for level in above:
        each = (number, level.shape[1], nodes // level.shape[1], *level.shape[2:])
        held.append(jnp.broadcast_to(level[:, :, None], each).reshape(number, nodes, 1, *level.shape[2:]))
    rows = jnp.concatenate(held, axis=2)
    return rows.reshape(-1, *rows.shape[2:])


def logits(shape: Shape, params: Params, at: States) -> Levels:
    """What the vocabulary's head reads after every prefix of ``at``, levels [X, V**h, V]."""
    return tuple(transformer.read(shape, params, level) for level in at)


def scores(shape: Shape, params: Params, at: States, read_out: ReadOut) -> Float[Array, "X L"]:
    """Rewards of all leaves, which a scalar head reads from states of levels 0 to H, as ``transformer_verifier`` does.

    The mean of states, read by the same head, is ``token_sum`` over H: one class in another unit.
    """
    read = [
        transformer.read(shape, params, level)[..., 0] for level in (at[1:] if read_out == "token_sum" else at[-1:])
    ]
    leaves = read[-1].shape[1]
    return functools.reduce(jnp.add, (jnp.repeat(level, leaves // level.shape[1], axis=1) for level in read))
