"""Token trees: every response of H tokens is one leaf, and every sum over responses is a sum over leaves."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

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
        for name, least in (("vocabulary", 1), ("horizon", 1), ("prompt_length", 0)):
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
        """Read H levels [X, V**h, V] at every token of the responses."""
        self.check_levels(levels)
        rows, prefix, values = self.prompt_index(prompts), jnp.zeros(len(prompts), jnp.int32), []
        for level, token in zip(levels, responses.T, strict=True):
            values.append(level[rows, prefix, token])
            prefix = prefix * self.vocabulary + token
        return jnp.stack(values, axis=-1)

    def at(self, values: Float[Array, "X L"], prompts: Prompts, responses: Responses) -> Float[Array, "N"]:
        """Read a leaf array at rows of (prompt, response) tokens; ValueError if it is not one of this tree."""
        if values.shape != (self.prompts, self.leaves):
            raise ValueError(f"{self}: a leaf array has shape {(self.prompts, self.leaves)}, got {values.shape}.")
        return values[self.prompt_index(prompts), self.leaf_index(responses)]


def _index(tokens: Int[Array, "N T"], vocabulary: int) -> Int[Array, "N"]:
    place_values = vocabulary ** np.arange(tokens.shape[-1])[::-1]
    return jnp.sum(tokens * place_values.astype(np.int32)[None], axis=-1, dtype=jnp.int32)


def _tokens(index: Int[Array, "N"], vocabulary: int, length: int) -> Int[Array, "N T"]:
    place_values = (vocabulary ** np.arange(length)[::-1]).astype(np.int32)
    return (index[:, None] // place_values[None]) % vocabulary
