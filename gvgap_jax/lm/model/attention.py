"""Attention of one block: rotary embeddings, what differs between layers, and the sum over keys and values.

Axes: B rows, T tokens fed, S tokens attended to, K key-value heads, W width of a head, F = half of its rotated numbers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gvgap_jax.lm.model.shape import RotaryScaling, Shape


class OfLayers(NamedTuple):
    """What differs between the layers of one model, as data along the scan; None where all are the same.

    Attributes:
      frequency: [layers, F], of rotation; 0 turns nothing.
      windowed: [layers], whether a layer has the window.
    """

    frequency: Float[Array, "layers F"] | None
    windowed: Bool[Array, "layers"] | None


def of_layers(shape: Shape) -> tuple[OfLayers, Float[Array, "F"]]:
    """What differs between layers, and the frequency of those that are as all others."""
    common = local = frequencies(shape, shape.rotary_base)
    if shape.rotary_scaling is not None:
        common = local = _slowed(common, shape.rotary_scaling)
    if shape.window_rotary_base is not None:
        local = frequencies(shape, shape.window_rotary_base)
    by_layer = None
    if shape.unrotated or shape.window_rotary_base is not None:
        turned = [local if layer in shape.windowed else common for layer in range(shape.layers)]
        by_layer = jnp.stack([0 * one if layer in shape.unrotated else one for layer, one in enumerate(turned)])
    some = 0 < len(shape.windowed) < shape.layers
    windowed = jnp.array([layer in shape.windowed for layer in range(shape.layers)]) if some else None
    return OfLayers(by_layer, windowed), common


def frequencies(shape: Shape, base: float) -> Float[Array, "F"]:
    """Radians that each pair of a head's rotated numbers turns from one position to the next."""
    return base ** -(jnp.arange(0, shape.rotated, 2, shape.param_dtype) / max(shape.rotated, 1))


def rotate(
    x: Float[Array, "B T heads W"], positions: Int[Array, "B T"], frequency: Float[Array, "F"], amplitude: float
) -> Float[Array, "B T heads W"]:
    """Rotary position embedding (arXiv 2104.09864) of the first 2 F numbers of each head, halves against halves.

    They are multiplied by ``amplitude``.
    """
    turned, kept = jnp.split(x, [2 * frequency.size], axis=-1)
    angle = positions[:, :, None, None] * frequency[None, None, None]
    first, second = jnp.split(turned, 2, axis=-1)
    cosine, sine = ((amplitude * of(angle)).astype(x.dtype) for of in (jnp.cos, jnp.sin))
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine, kept], axis=-1)


def _slowed(frequency: Float[Array, "W"], scaling: RotaryScaling) -> Float[Array, "W"]:
    if scaling.divisors:
        return frequency / jnp.asarray(scaling.divisors, frequency.dtype)
    if scaling.context is None:
        return frequency / scaling.factor
    turns = scaling.context * frequency / (2 * jnp.pi)
    kept = jnp.clip((turns - scaling.low) / (scaling.high - scaling.low), 0, 1)
    return frequency * (kept + (1 - kept) / scaling.factor)


def attend(
    shape: Shape,
    query: Float[Array, "B T heads W"],
    key: Float[Array, "B S K W"],
    value: Float[Array, "B S K W"],
    mask: Bool[Array, "B 1 T S"],
) -> Float[Array, "B T heads W"]:
    """What each query attends to among the values where its mask is; heads share keys and values in turn."""
    scale = None if shape.score_divisor is None else shape.score_divisor**-0.5
    if shape.score_cap is None:
        return jax.nn.dot_product_attention(query, key, value, mask=mask, scale=scale)
    scale = shape.head_width**-0.5 if scale is None else scale
    grouped = query.reshape(*query.shape[:2], shape.key_value_heads, -1, shape.head_width)
    scores = jnp.einsum("btkgw,bskw->bkgts", grouped, key, preferred_element_type=shape.param_dtype) * scale
    scores = shape.score_cap * jnp.tanh(scores / shape.score_cap)
    weights = jax.nn.softmax(jnp.where(mask[:, :, None], scores, jnp.finfo(scores.dtype).min))
    return jnp.einsum("bkgts,bskw->btkgw", weights.astype(value.dtype), value).reshape(query.shape)
