"""How much of a text a tokenizer cannot say: the tokens that stand for whatever it does not know."""

import warnings
from collections.abc import Sequence

from gvgap_jax.lm.data.tokenizer import Tokenizer

WARNED, REFUSED = 0.01, 0.10  # shares of the tokens of one kind of text
SHOWN = 5  # examples


class UnknownText(ValueError):  # noqa: N818  a state of a text
    """Too much of a text is in no token."""


class Counted:
    """Tokens of one kind of text, such as prompts, counted as they come."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._token = tokenizer.unknown
        self._total = self._unknown = 0
        self._examples: list[str] = []

    def add(self, texts: Sequence[str], tokens: Sequence[Sequence[int]]) -> None:
        """Count the tokens of these texts."""
        if self._token is None:
            return
        for text, row in zip(texts, tokens, strict=True):
            self._total += len(row)
            unknown = list(row).count(self._token)
            self._unknown += unknown
            if unknown and len(self._examples) < SHOWN:
                self._examples += self._words(text)

    def _words(self, text: str) -> list[str]:
        encoded = self._tokenizer.inner.encode(text, add_special_tokens=False)
        spans = [span for token, span in zip(encoded.ids, encoded.offsets, strict=True) if token == self._token]
        words = dict.fromkeys(text[first:last].strip() or text[first:last] for first, last in spans)
        return [word for word in words if word and word not in self._examples]

    def check(self, what: str) -> None:
        """Warn from 1 % unknown tokens on.

        Raises:
          UnknownText: there are more than 10 %.
        """
        share = self._unknown / max(self._total, 1)
        if share <= WARNED:
            return
        words = ", ".join(map(repr, self._examples[:SHOWN]))
        said = f"{share:.1%} of the tokens of {what} are unknown to the tokenizer (such as {words})"
        if share > REFUSED:
            raise UnknownText(f"{said}, more than {REFUSED:.0%}: choose a checkpoint whose tokenizer reads this text.")
        warnings.warn(f"{said}: the model reads and says none of these words.", stacklevel=2)
