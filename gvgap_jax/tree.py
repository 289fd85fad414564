"""Token trees: every response of H tokens is one leaf, and every sum over responses is a sum over leaves."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from gvgap_jax.runtime.machine import total_memory
from gvgap_jax.types import Prompts, Responses

ARRAYS_IN_FLIGHT = 16  # leaf arrays alive at once in a fit: parameters, tangents, gradients, batches of them

Levels = tuple[Float[Array, "X prefixes V"], ...]


@dataclass(frozen=True)
class TokenTree:
    """The complete tree of responses of ``horizon`` tokens to prompts of ``prompt_length`` tokens.

    A leaf's index is its tokens read as a base-V number, first token most significant; the same
    holds for prompts. Level h of a tree policy has shape [X, V**h, V].

    Raises:
      ValueError: a size is below its minimum, or one leaf array times ``ARRAYS_IN_FLIGHT`` does
        not fit into this machine's memory.
    """

    vocabulary: int
    horizon: int
    prompt_length: int = 0

    def __post_init__(self):
        for name, least in (("vocabulary", 2), ("horizon", 1), ("prompt_length", 0)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"TokenTree: {name} must be an integer of at least {least}, got {value!r}.")
        needed = 8 * ARRAYS_IN_FLIGHT * self.prompts * self.leaves
        available = total_memory()
        if needed > available:
            raise ValueError(
                f"TokenTree: {self.prompts:,} prompts x {self.vocabulary}^{self.horizon} = {self.leaves:,} leaves "
                f"need about {needed:,} bytes, this machine has {available:,}. "
                "Use a shorter horizon or a smaller vocabulary."
            )

    @property
    def prompts(self) -> int:
        """X, the number of prompts: V**P."""
        return int(self.vocabulary) ** int(self.prompt_length)

    @property
    def leaves(self) -> int:
        """L, the number of responses to one prompt: V**H."""
        return int(self.vocabulary) ** int(self.horizon)

    @property
    def level_shapes(self) -> list[tuple[int, int, int]]:
        """[X, V**h, V] for every level h."""
        return [(self.prompts, self.vocabulary**depth, self.vocabulary) for depth in range(self.horizon)]

    def check_levels(self, levels: Levels) -> None:
        """Raise ValueError unless there are H levels of the right shapes, which broadcasting would hide."""
        shapes = [level.shape for level in levels]
        if shapes != self.level_shapes:
            raise ValueError(f"{self}: levels of logits must have shapes {self.level_shapes}, got {shapes}.")

    def leaf_index(self, responses: Responses) -> Int[Array, "N"]:
        """Index of each response [N, H] among the leaves."""
        return _index(responses, self.vocabulary)

    def prompt_index(self, prompts: Prompts) -> Int[Array, "N"]:
        """Index of each prompt [N, P] among the prompts."""
        return _index(prompts, self.vocabulary)

    def responses(self, leaf_index: Int[Array, "N"]) -> Responses:
        """Tokens [N, H] of the leaves with these indices."""
        return _tokens(leaf_index, self.vocabulary, self.horizon)

    def prompt_tokens(self, prompt_index: Int[Array, "N"]) -> Prompts:
        """Tokens [N, P] of the prompts with these indices."""
        return _tokens(prompt_index, self.vocabulary, self.prompt_length)

    def rows(self) -> tuple[Prompts, Responses]:
        """Every (prompt, response), prompt-major: tokens [X*L, P] and [X*L, H]."""
        prompt, leaf = jnp.divmod(jnp.arange(self.prompts * self.leaves), self.leaves)
        return self.prompt_tokens(prompt), self.responses(leaf)

    def leaf_log_probs(self, logits: Levels) -> Float[Array, "X L"]:
        """Log-probability of every response, from H levels of logits [X, V**h, V]."""
        self.check_levels(logits)
        log_probs = jnp.zeros((self.prompts, 1))
        for level in logits:
            log_probs = (log_probs[..., None] + jax.nn.log_softmax(level)).reshape(self.prompts, -1)
        return log_probs

    def conditionals(self, log_probs: Float[Array, "X L"]) -> Levels:
        """Token log-probabilities at every prefix; ``leaf_log_probs`` inverts this exactly.

        ``log_probs`` must be finite: a prefix of probability 0 has no conditional.
        """
        levels = []
        for depth in reversed(range(self.horizon)):
            children = log_probs.reshape(self.prompts, self.vocabulary**depth, self.vocabulary)
            log_probs = jax.nn.logsumexp(children, axis=-1)
            levels.append(children - log_probs[..., None])
        return tuple(reversed(levels))

    def along(self, levels: Levels, prompts: Prompts, responses: Responses) -> Float[Array, "N H"]:
        """Read H levels [X, V**h, V] at every token of the responses; tokens that are none as in ``at``."""
        self.check_levels(levels)
        known, position, values = self._known(prompts, responses), self.prompt_index(prompts), []
        for level, token in zip(levels, responses.T, strict=True):
            position = position * self.vocabulary + token
            values.append(_read(level.reshape(-1), position))
        return jnp.where(known[:, None], jnp.stack(values, axis=-1), jnp.nan)

    def at(self, values: Float[Array, "X L"], prompts: Prompts, responses: Responses) -> Float[Array, "N"]:
        """Read a leaf array at rows of (prompt, response) tokens.

        Raises:
          ValueError: the array is not one of this tree, or a row has too few or too many tokens, or one outside
            of the vocabulary. In a compiled program, where tokens are not known yet, such a row reads NaN.
        """
        if values.shape != (self.prompts, self.leaves):
            raise ValueError(f"{self}: a leaf array has shape {(self.prompts, self.leaves)}, got {values.shape}.")
        known, leaf = self._known(prompts, responses), self.leaf_index(responses)
        return jnp.where(known, _read(values.reshape(-1), self.prompt_index(prompts) * self.leaves + leaf), jnp.nan)

    def _known(self, prompts: Prompts, responses: Responses) -> Bool[Array, "N"]:
        """Whether all tokens of a row are in the vocabulary; ValueError where that can be said already."""
        for name, tokens, length in (
            ("prompts", prompts, self.prompt_length),
            ("responses", responses, self.horizon),
        ):
            if tokens.shape[-1] != length:
                raise ValueError(f"{self}: {name} must have {length} tokens, got {tokens.shape[-1]}.")
        tokens = jnp.concatenate([prompts, responses], axis=-1)
        known = jnp.all((tokens >= 0) & (tokens < self.vocabulary), axis=-1)
        if not isinstance(known, Tracer) and not known.all():
            row = int(jnp.argmin(known))
            raise ValueError(
                f"{self}: tokens must be between 0 and {self.vocabulary - 1}, got {tokens[row].tolist()} in row {row}."
            )
        return known


def _read(values: Float[Array, "K"], index: Int[Array, "N"]) -> Float[Array, "N"]:
    """``values[index]`` whose gradient, a sum over rows for each value, keeps its digits where rows are many.

    In single precision a running sum of a million rows loses several of them. About K rows at a time read a copy of
    their own, so that no running sum is long, and the sums of the copies are added as a tree.
    """
    rows = max(1, len(values))
    copies = -(-len(index) // rows)
    return jnp.broadcast_to(values[None], (copies, len(values)))[jnp.arange(len(index)) // rows, index]


def _index(tokens: Int[Array, "N T"], vocabulary: int) -> Int[Array, "N"]:
    place_values = vocabulary ** np.arange(tokens.shape[-1])[::-1]
    return jnp.sum(tokens * place_values.astype(np.int32)[None], axis=-1, dtype=jnp.int32)


def _tokens(index: Int[Array, "N"], vocabulary: int, length: int) -> Int[Array, "N T"]:
    place_values = (vocabulary ** np.arange(length)[::-1]).astype(np.int32)
    return (index[:, None] // place_values[None]) % vocabulary
