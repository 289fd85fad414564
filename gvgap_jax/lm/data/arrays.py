"""Lists of tokens in, padded arrays out; and everything that can be wrong with them said before training starts."""

from collections.abc import Sequence
from itertools import chain

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from gvgap_jax.types import PADDING, Demonstrations, Preferences, Prompts, Responses

Tokens = Sequence[Sequence[int]]


def prompts(rows: Tokens, vocabulary: int, prompt_length: int) -> Prompts:
    """Prompts [N, P], padded on the left.

    Raises:
      ValueError: a prompt is longer than ``prompt_length``, or holds a token outside the vocabulary.
    """
    return _padded("prompt", rows, vocabulary, prompt_length, left=True)


def responses(rows: Tokens, vocabulary: int, horizon: int) -> Responses:
    """Responses [N, H], padded on the right.

    Raises:
      ValueError: a response is longer than ``horizon``, or holds a token outside the vocabulary.
    """
    return _padded("response", rows, vocabulary, horizon, left=False)


def groups(rows: Sequence[Tokens], vocabulary: int, horizon: int) -> Responses:
    """The same number m of responses to each of B prompts, as [B, m, H].

    Raises:
      ValueError: prompts have different numbers of responses, or none; or as ``responses`` raises.
    """
    counts = [len(group) for group in rows]
    if not counts or len(set(counts)) != 1 or not counts[0]:
        counted = ", ".join(f"{counts.count(count)} with {count}" for count in sorted(set(counts))) or "none at all"
        raise ValueError(f"every prompt needs the same number of responses, at least 1; got prompts: {counted}.")
    flat = responses([response for group in rows for response in group], vocabulary, horizon)
    return flat.reshape(len(rows), counts[0], horizon)


def pairs(
    asked: Tokens, chosen: Tokens, rejected: Tokens, vocabulary: int, prompt_length: int, horizon: int
) -> Preferences:
    """Pairs of weight 1 and reference margin 0; ``objectives.with_reference`` fills the margins in.

    Raises:
      ValueError: there are none, their numbers differ, or as ``prompts`` and ``responses`` raise.
    """
    lengths = {"prompts": len(asked), "chosen": len(chosen), "rejected": len(rejected)}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"pairs need one prompt, one chosen and one rejected response each, got {lengths}.")
    data = Preferences(
        prompts(asked, vocabulary, prompt_length),
        responses(chosen, vocabulary, horizon),
        responses(rejected, vocabulary, horizon),
        reference_margin=jnp.zeros(len(asked)),
        weight=jnp.ones(len(asked)),
    )
    check_pairs(data, vocabulary, prompt_length, horizon)
    return data


def demonstrations(asked: Tokens, answers: Tokens, vocabulary: int, prompt_length: int, horizon: int) -> Demonstrations:
    """Demonstrations of weight 1.

    Raises:
      ValueError: there are none, their numbers differ, or as ``prompts`` and ``responses`` raise.
    """
    if len(asked) != len(answers):
        raise ValueError(f"demonstrations need one response each, got {len(asked)} prompts and {len(answers)}.")
    data = Demonstrations(
        prompts(asked, vocabulary, prompt_length), responses(answers, vocabulary, horizon), jnp.ones(len(asked))
    )
    check_demonstrations(data, vocabulary, prompt_length, horizon)
    return data


def check_pairs(data: Preferences, vocabulary: int, prompt_length: int, horizon: int) -> None:
    """Raise ValueError unless pairs can be trained on: shapes, tokens, padding, weights and margins."""
    count = _check_weights("pairs", data.weight)
    _check_tokens("prompts", data.prompts, (count, prompt_length), vocabulary, left=True)
    _check_tokens("chosen", data.chosen, (count, horizon), vocabulary)
    _check_tokens("rejected", data.rejected, (count, horizon), vocabulary)
    margin = np.asarray(data.reference_margin)
    if margin.shape != (count,) or not np.isfinite(margin).all():
        raise ValueError(f"reference_margin must be {count} finite numbers, got {margin.shape}: {margin}.")


def check_demonstrations(data: Demonstrations, vocabulary: int, prompt_length: int, horizon: int) -> None:
    """Raise ValueError unless demonstrations can be trained on: shapes, tokens, padding and weights."""
    count = _check_weights("demonstrations", data.weight)
    _check_tokens("prompts", data.prompts, (count, prompt_length), vocabulary, left=True)
    _check_tokens("responses", data.responses, (count, horizon), vocabulary)


def _check_weights(what: str, weight) -> int:
    weight = np.asarray(weight)
    if weight.ndim != 1 or not len(weight) or not np.isfinite(weight).all() or weight.min() < 0 or not weight.any():
        raise ValueError(
            f"there are no {what}: they need finite weights of at least 0 that are not all 0, got {weight}."
        )
    return len(weight)


def _check_tokens(what: str, tokens, shape: tuple[int, int], vocabulary: int, left: bool = False) -> None:
    tokens = np.asarray(tokens)
    if tokens.shape != shape or not np.issubdtype(tokens.dtype, np.integer):
        longer = ": a response is longer than the horizon" if tokens.ndim == 2 and tokens.shape[1] > shape[1] else ""
        raise ValueError(f"{what} must be integers {list(shape)}, got {tokens.dtype}{list(tokens.shape)}{longer}.")
    outside = (tokens >= vocabulary) | (tokens < PADDING)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise ValueError(
            f"{what}: token {tokens[row, column]} of row {row} is outside the vocabulary, 0 to {vocabulary - 1} "
            f"({PADDING} pads)."
        )
    there = tokens != PADDING if left else (tokens != PADDING)[:, ::-1]
    holes = (there[:, :-1] & ~there[:, 1:]).any(axis=1)
    if holes.any():
        side = "left" if left else "right"
        raise ValueError(f"{what}: row {np.argmax(holes)} must be padded on the {side} alone, got {tokens[holes][0]}.")


def _padded(what: str, rows: Tokens, vocabulary: int, length: int, left: bool) -> Int[Array, "N T"]:
    lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
    tokens = np.fromiter(chain.from_iterable(rows), np.int64, lengths.sum())
    too_long = np.flatnonzero(lengths > length)
    outside = np.flatnonzero((tokens < 0) | (tokens >= vocabulary))
    row_outside = np.searchsorted(np.cumsum(lengths), outside[:1], side="right")
    if len(too_long) and not (row_outside < too_long[0]).any():
        number = too_long[0]
        raise ValueError(f"{what} {number} has {lengths[number]} tokens, more than the {length} there is room for.")
    if len(outside):
        number = row_outside[0]
        raise ValueError(
            f"{what} {number} has a token outside the vocabulary, 0 to {vocabulary - 1}: {list(rows[number])}."
        )
    there = np.arange(length) < lengths[:, None]
    padded = np.full((len(rows), length), PADDING, np.int32)
    padded[there[:, ::-1] if left else there] = tokens
    return jnp.asarray(padded)
