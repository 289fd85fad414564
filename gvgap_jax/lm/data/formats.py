"""How prompts and responses are put to a model: templates, chat, separators, and what happens to what is too long."""

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from gvgap_jax.lm.data import conversations
from gvgap_jax.lm.data.tokenizer import Fields, Messages, Prompt, Tokenizer


@dataclass(frozen=True)
class Format:
    """How prompts and responses become text, and how long they may be.

    A prompt is the template's fields, or a text of the template's form, or, with ``chat``, messages. What the
    tokenizer's own settings put before a text comes before every prompt; chat templates write their own. A response is
    over with an end token: one is appended where a text or the chat template lacks it, and nothing may follow it.

    Attributes:
      template: of a prompt, with fields in braces.
      chat: put prompts (as the user's message, if they are not messages) and responses through the chat template.
      separator: what a response begins with, in place of the blanks it has there; empty: leave its beginning alone.
      shorten: field of a too long prompt that is cut at its last newline, or by a character where there is none left,
        until the prompt fits; None: such prompts are dropped.
      prompt_tokens, response_tokens: the most there may be, P and H, the end token included.
      long_response: ``drop`` the row, or ``cut`` the response, which then has no end token.

    Raises:
      ValueError: no room for tokens, fields without a name of their own, none of the name ``shorten``, or another
        ``long_response``.
    """

    template: str = "{prompt}"
    chat: bool = False
    separator: str = ""
    shorten: str | None = None
    prompt_tokens: int = 512
    response_tokens: int = 53
    long_response: Literal["drop", "cut"] = "drop"

    def __post_init__(self):
        if self.prompt_tokens < 1 or self.response_tokens < 1:
            raise ValueError(
                f"Format: prompts and responses need room for at least 1 token, got {self.prompt_tokens} and "
                f"{self.response_tokens}."
            )
        if len(set(self.fields)) < len(self.fields) or not all(name.isidentifier() for name in self.fields):
            raise ValueError(f"Format: fields need names, each its own, got {self.fields} in {self.template!r}.")
        if self.shorten is not None and self.shorten not in self.fields:
            raise ValueError(f"Format: the template has no field {self.shorten!r} to shorten; it has {self.fields}.")
        if self.long_response not in ("drop", "cut"):
            raise ValueError(f"Format: long_response must be 'drop' or 'cut', got {self.long_response!r}.")

    @property
    def fields(self) -> list[str]:
        """Names of the template's fields, in order."""
        return [name for _, name, _, _ in string.Formatter().parse(self.template) if name is not None]

    def parse(self, prompt: Prompt) -> Fields | Messages:
        """The fields of the template that a prompt has, or its messages.

        Raises:
          ValueError: it has not; the message goes on after "the prompt".
        """
        if isinstance(prompt, list):
            if not self.chat:
                raise ValueError("is messages, which need a Format with chat")
            return prompt
        if isinstance(prompt, dict):
            if not set(self.fields) <= set(prompt):
                raise ValueError(f"has not all fields of the template ({', '.join(self.fields)})")
            return prompt
        match = _pattern(self.template).fullmatch(prompt)
        if match is None:
            raise ValueError(f"has not the form of the template {self.template!r}")
        return match.groupdict()

    def queries(self, parsed: Sequence[Fields | Messages], tokenizer: Tokenizer) -> list[str | ValueError]:
        """Texts of what ``parse`` returns, up to where responses begin, or why the chat template refuses them.

        Raises:
          ValueError: as ``Tokenizer.render_batch``.
        """
        if self.chat:
            return conversations.queries([self._messages(each) for each in parsed], tokenizer)
        return list(map(self.template.format_map, parsed))  # pyright: ignore[reportArgumentType]

    def prompts(self, prompts: Sequence[Prompt], tokenizer: Tokenizer) -> list[str | ValueError]:
        """The texts of prompts, of whatever length, or what is wrong with them; raises as ``queries``."""
        return _where_good([self._parsed(each) for each in prompts], lambda good: self.queries(good, tokenizer))

    def prompt(self, prompt: Prompt, tokenizer: Tokenizer) -> str:
        """The text of a prompt; raises as ``parse`` and ``Tokenizer.render``."""
        return _only(self.prompts([prompt], tokenizer))

    def responses(
        self, prompts: Sequence[Prompt], asked: Sequence[str | ValueError], answers: Sequence[str], tokenizer: Tokenizer
    ) -> list[str | ValueError]:
        """The texts that follow prompts, of whatever length, or what is wrong; raises as ``queries``.

        Wrong is, besides what is wrong with a prompt, a chat template that writes it in another way before its answer.
        ``asked`` are the texts of the prompts, as ``prompts`` has them.
        """
        answers = [self.separator + each.lstrip() if self.separator else each for each in answers]
        if not self.chat:
            return list(answers)

        def behind(good: list[tuple[Messages, str, str]]) -> list[str | ValueError]:
            talks, texts, said = zip(*good, strict=True)
            return conversations.answers(talks, texts, said, tokenizer)

        talks = [
            text if isinstance(text, ValueError) else (self._messages(self.parse(prompt)), text, answer)
            for prompt, text, answer in zip(prompts, asked, answers, strict=True)
        ]
        return _where_good(talks, behind)

    def response(self, prompt: Prompt, answer: str, tokenizer: Tokenizer) -> str:
        """The text that follows one prompt; ValueError for what ``responses`` finds wrong."""
        return _only(self.responses([prompt], self.prompts([prompt], tokenizer), [answer], tokenizer))

    def _parsed(self, prompt: Prompt) -> Fields | Messages | ValueError:
        try:
            return self.parse(prompt)
        except ValueError as error:
            return error

    def _messages(self, parsed: Fields | Messages) -> Messages:
        if isinstance(parsed, list):
            return parsed
        return [{"role": "user", "content": self.template.format_map(parsed)}]


TLDR = Format("SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {post}\n\nTL;DR:", separator=" ", shorten="post")
"""Summaries of Reddit posts as in arXiv 2403.17031, sections 3 and 4, and the paper's released code.

There the compared summaries of a reward model have room for 169 tokens, demonstrations and samples for 53.
"""

TRANSCRIPT = Format(separator=" ")
"""Prompts that say all themselves, such as transcripts that end in "Assistant:"."""

CHAT = Format(chat=True)
"""Messages through the tokenizer's own template."""


def _where_good(values: Sequence[Any], make: Callable[[list[Any]], list[str | ValueError]]) -> list[str | ValueError]:
    """What is made of the values, all at once; errors among them stay where they are."""
    good = [each for each in values if not isinstance(each, ValueError)]
    made = iter(make(good) if good else [])
    return [each if isinstance(each, ValueError) else next(made) for each in values]


def _only(texts: list[str | ValueError]) -> str:
    (text,) = texts
    if isinstance(text, ValueError):
        raise text
    return text


@cache
def _pattern(template: str) -> re.Pattern:
    parts = string.Formatter().parse(template)
    return re.compile(
        "".join(re.escape(text) + (f"(?P<{name}>.*?)" if name else "") for text, name, _, _ in parts), re.DOTALL
    )
