"""How the prompts of some data are put to a checkpoint: seen from what the prompts are, and whether it can chat.

==================================  ==========================================  ===================================
prompts                             with a chat template                        without
==================================  ==========================================  ===================================
posts, or most of each kind of row  ``formats.TLDR``                            ``formats.TLDR``
texts                               each as the user's message                  as they are
messages, transcripts, or several   messages, through the template              transcripts, as HH writes them
==================================  ==========================================  ===================================
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from gvgap_jax.lm.data.formats import CHAT, TLDR, TRANSCRIPT, Format
from gvgap_jax.lm.data.prompts import messages_of, post_of, readable, transcript, turns_of
from gvgap_jax.lm.data.rows import POST, Comparison, Demonstration
from gvgap_jax.lm.data.tokenizer import Prompt, Tokenizer
from gvgap_jax.types import PADDING

Kind = TypeVar("Kind", Comparison, Demonstration)
What = Literal["posts", "messages", "transcripts", "texts", "fields"]
SHOWN = 800  # characters of an example


class Choice(NamedTuple):
    """A format, how a prompt is written for it, and one sentence that says so."""

    format: Format
    written: Callable[[Prompt], Prompt]
    told: str

    def rows(self, rows: Sequence[Kind]) -> list[Kind]:
        """The rows with prompts as the format wants them.

        What a text is answered with loses the blanks around it where a chat template writes its own.
        """
        return [self._row(row) for row in rows]

    def _row(self, row: Any) -> Any:
        found = row._replace(prompt=self.written(row.prompt))
        if not self.format.chat or isinstance(row.prompt, list):
            return found
        names = ("chosen", "rejected", "reference") if isinstance(row, Comparison) else ("response",)
        return found._replace(**{name: each.strip() for name in names if (each := getattr(row, name)) is not None})


def choice(parts: Sequence[Sequence[Prompt]], tokenizer: Tokenizer) -> Choice:
    """The format for prompts and the checkpoint of this tokenizer; ``parts`` are those of one kind of rows each.

    Raises:
      ValueError: most prompts of a part are fields of a template that is not known.
    """
    counted = [Counter(map(_what, prompts)) for prompts in parts]
    kinds = sum(counted, Counter[What]())
    there = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
    if any(2 * each["fields"] > each.total() for each in counted):
        fields = next(
            prompt for prompts in parts for prompt in prompts if isinstance(prompt, dict) and not post_of(prompt)
        )
        raise ValueError(
            f"prompts have the fields {', '.join(fields)}, for which there is no template: write each as one text, as "
            f"messages, or as a post ({', '.join(POST)})."
        )
    if all(2 * each["posts"] > each.total() for each in counted):
        return Choice(TLDR, lambda prompt: post_of(prompt) or prompt, f"prompts ({there}) are written out as posts")
    if tokenizer.chat_template is not None:
        told = f"prompts ({there}) go through the checkpoint's chat template as messages"
        return Choice(CHAT, _but_fields(messages_of), told)
    if kinds["messages"] or kinds["transcripts"]:
        told = f'prompts ({there}) are written as transcripts ("Human:", "Assistant:"), as there is no chat template'
        return Choice(TRANSCRIPT, _but_fields(lambda prompt: transcript(messages_of(prompt))), told)
    told = f"prompts ({there}) are put as they are, as there is no chat template"
    # Responses begin with a blank of their own.
    return Choice(TRANSCRIPT, _but_fields(lambda prompt: readable(prompt).rstrip(" ")), told)


def example(tokenizer: Tokenizer, prompt: Any, response: Any) -> str:
    """One row's tokens [P] and [H] as the model sees them, special ones and line ends spelled out, with ⟂ between."""
    texts = [
        tokenizer.inner.decode([int(token) for token in tokens if token != PADDING], skip_special_tokens=False)
        for tokens in (prompt, response)
    ]
    whole = "⟂".join(texts).replace("\n", "\\n")
    return whole if len(whole) <= SHOWN else f"{whole[: SHOWN // 2]} … {whole[-SHOWN // 2 :]}"


def _what(prompt: Prompt) -> What:
    if post_of(prompt):
        return "posts"
    if isinstance(prompt, list):
        return "messages"
    if isinstance(prompt, dict):
        return "fields"
    return "transcripts" if turns_of(prompt) else "texts"


def _but_fields(written: Callable[[Prompt], Prompt]) -> Callable[[Prompt], Prompt]:
    """Fields of other templates than a post's stay as they are; encoding them says what is wrong."""
    return lambda prompt: prompt if _what(prompt) == "fields" else written(prompt)
