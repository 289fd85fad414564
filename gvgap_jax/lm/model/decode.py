"""Sampling from a transformer: the prompt once, then one token at a time over a cache of keys and values.

After its end token a response holds ``PADDING``, which has no probability and no reward; the end token itself
has a probability like any other. A response without one is cut at the horizon, and nothing is added for that.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gvgap_jax.lm.model.shape import Shape
from gvgap_jax.lm.model.transformer import empty_cache, forward, read
from gvgap_jax.types import PADDING, Params, PRNGKey, Prompts, Responses


def _several(end: int | tuple[int, ...] | None) -> tuple[int, ...]:
    return end if isinstance(end, tuple) else () if end is None else (end,)


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen; hashable, because it decides the program.

    Attributes:
      temperature: divides the logits; 0 is greedy.
      top_k: only so many of the most probable tokens are drawn.
      top_p: only the fewest most probable tokens that together have at least this probability are drawn
        (arXiv 1904.09751), after ``top_k``.
      end: the token that ends a response, or several of which each does; None where every response has the full
        horizon.

    Raises:
      ValueError: a number is out of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    end: int | tuple[int, ...] | None = None

    def __post_init__(self):
        if not self.temperature >= 0:
            raise ValueError(f"Decoding: temperature must not be negative, got {self.temperature}.")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"Decoding: top_k must be at least 1 token, got {self.top_k}.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"Decoding: top_p must be in (0, 1], got {self.top_p}.")
        if any(end < 0 for end in _several(self.end)) or self.end == ():
            raise ValueError(f"Decoding: end must be a token, or a tuple of them, got {self.end}.")


AS_IT_IS = Decoding()


class Sampled(NamedTuple):
    """Responses and log pi of their tokens, at temperature 1 and untruncated: what the training forward gives, in nats.

    Attributes:
      responses: [N, H]; log_probs: [N, H], 0 at ``PADDING``.
    """

    responses: Responses
    log_probs: Float[Array, "N H"]


def sample(
    key: PRNGKey, shape: Shape, params: Params, prompts: Prompts, horizon: int, decoding: Decoding = AS_IT_IS
) -> Sampled:
    """One response of up to ``horizon`` tokens to every prompt [N, P], padded on the left; consumes the key."""
    fed = with_start(shape, prompts)
    cache = empty_cache(shape, len(prompts), fed.shape[1] + horizon - 1)
    states, cache = forward(shape, params, fed, cache)

    def choose(key, logits, ended):
        token = jnp.where(ended, PADDING, draw(key, logits, decoding))
        log_prob = jnp.where(ended, 0.0, along(jax.nn.log_softmax(logits), token))
        return token, log_prob, ended | _is_end(token, decoding.end)

    def advance(carry, key):
        token, ended, cache = carry
        states, cache = forward(shape, params, token[:, None], cache)
        token, log_prob, ended = choose(key, read(shape, params, states[:, -1]), ended)
        return (token, ended, cache), (token, log_prob)

    first_key, *rest = jax.random.split(key, horizon)
    logits = read(shape, params, states[:, -1])
    token, log_prob, ended = choose(first_key, logits, jnp.zeros(len(prompts), bool))
    carry = token, ended, cache
    _, later = jax.lax.scan(advance, carry, jnp.stack(rest)) if rest else (carry, None)
    first = token[:, None], log_prob[:, None]
    return Sampled(*first) if later is None else Sampled(*map(_joined, first, later))


def _joined(first: Array, later: Array) -> Array:
    return jnp.concatenate([first, later.T], axis=1)


def draw(key: PRNGKey, logits: Float[Array, "N V"], decoding: Decoding) -> Int[Array, "N"]:
    """One token a row."""
    if decoding.temperature == 0:
        return jnp.argmax(logits, axis=-1)
    kept = jnp.where(is_kept(logits / decoding.temperature, decoding), logits / decoding.temperature, -jnp.inf)
    return jax.random.categorical(key, kept)


def is_kept(logits: Float[Array, "N V"], decoding: Decoding) -> Bool[Array, "N V"]:
    """Which tokens may be drawn; ties with the last one kept are kept too."""
    kept = jnp.ones(logits.shape, bool)
    if decoding.top_k is not None:
        least = jax.lax.top_k(logits, min(decoding.top_k, logits.shape[-1]))[0][:, -1:]
        kept = logits >= least
    if decoding.top_p is not None:
        probability = jax.nn.softmax(jnp.where(kept, logits, -jnp.inf))
        ordered = jnp.sort(probability, axis=-1, descending=True)
        before = jnp.cumsum(ordered, axis=-1) - ordered
        least = jnp.min(jnp.where(before < decoding.top_p, ordered, jnp.inf), axis=-1, keepdims=True)
        kept = kept & (probability >= least)
    return kept


def with_start(shape: Shape, prompts: Prompts) -> Int[Array, "N T"]:
    """Prompts with the start token before them, where the shape has one; padding stays on the left."""
    if not shape.start:
        return prompts
    return jnp.concatenate([jnp.full((len(prompts), 1), shape.vocabulary, prompts.dtype), prompts], axis=1)


def along(values: Float[Array, "... V"], tokens: Int[Array, "..."]) -> Float[Array, "..."]:
    """Values at these tokens, whatever it be at ``PADDING``."""
    return jnp.take_along_axis(values, jnp.maximum(tokens, 0)[..., None], axis=-1)[..., 0]


def after_end(responses: Responses, end: int | tuple[int, ...]) -> Responses:
    """Responses with ``PADDING`` after the first token that is ``end``, or one of them."""
    is_end = _is_end(responses, end)
    return jnp.where(jnp.cumsum(is_end, axis=1) - is_end > 0, PADDING, responses)


def _is_end(tokens: Int[Array, "..."], end: int | tuple[int, ...] | None) -> Bool[Array, "..."]:
    return jnp.isin(tokens, jnp.array(_several(end), tokens.dtype))
