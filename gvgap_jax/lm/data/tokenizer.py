"""Text to tokens and back: the tokenizer and the chat template that come with a checkpoint."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np

from gvgap_jax.lm.data import rendering
from gvgap_jax.lm.data import tokenizer_files as files
from gvgap_jax.lm.data.rendering import Asked
from gvgap_jax.runtime.files import Folder
from gvgap_jax.types import PADDING

NEAR = 64  # characters before a text that decide how its beginning is cut into tokens
APART = ("\n", "a", ".")  # texts that seldom become one token with what follows them
QUESTION, ANSWER = {"role": "user", "content": "a question"}, {"role": "assistant", "content": "an answer"}

Fields = dict[str, str]
Messages = list[dict[str, Any]]  # of "role" and "content"; other keys are the chat template's
Prompt = str | Fields | Messages


class Turn(NamedTuple):
    """What a chat template writes around the assistant's answers.

    Attributes:
      opening: the end of what is rendered to ask for an answer, where answers that are there have none such before
        them, as DeepSeek R1's template opens a thought.
      before: what is written before every answer, as Qwen 3's template writes an empty thought.
      end: the token right behind an answer, None for none.
    """

    opening: str = ""
    before: str = ""
    end: int | None = None


@dataclass(frozen=True)
class Tokenizer:
    """How one checkpoint reads and writes text; ``open_tokenizer`` makes it.

    Special tokens that are spelled out in a text are read as such, as transformers does. Each text begins with what the
    tokenizer's own settings put before it, once.

    Attributes:
      inner: of the ``tokenizers`` library.
      end: the token that is put behind a response that has none.
      size: 1 + the largest token that may be read. A model's vocabulary is often rounded up.
      others: more tokens that end a response, of ``generation_config.json`` or ``config.json``.
      start: what the tokenizer's own settings put before a text.
      chat_template: Jinja, None for none.
      named: special tokens as chat templates know them (``eos_token``, …).
    """

    inner: Any = field(repr=False)
    end: int
    size: int
    others: tuple[int, ...] = ()
    start: tuple[int, ...] = ()
    chat_template: str | None = field(default=None, repr=False)
    named: Fields = field(default_factory=dict, hash=False)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, begun as the tokenizer's own settings ask."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str], start: bool = True) -> list[list[int]]:
        """The tokens of each text, on all cores; ``start``: begun as the tokenizer's own settings ask."""
        found = [each.ids for each in self.inner.encode_batch_fast(list(texts), add_special_tokens=False)]
        return [self.begun(tokens) for tokens in found] if start else found

    def begun(self, tokens: list[int]) -> list[int]:
        """The tokens of a text behind those that begin it, unless the text has them already."""
        start = [*self.start]
        return tokens if tokens[: len(start)] == start else start + tokens

    def encode_behind(self, before: Sequence[str], texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text where it follows another, which SentencePiece writes without a blank before them.

        Where the first token would be one with the end of the other text, the other text keeps its own.
        """
        heads = [text[-NEAR:] for text in before]
        unique = list(dict.fromkeys(heads))
        known = dict(zip(unique, self.encode_batch(unique, start=False), strict=True))
        whole = self.encode_batch([head + text for head, text in zip(heads, texts, strict=True)], start=False)
        rest = [self._behind(known[head], tokens) for head, tokens in zip(heads, whole, strict=True)]
        return [self._encode_apart(text) if each is None else each for each, text in zip(rest, texts, strict=True)]

    def _encode_apart(self, text: str) -> list[int]:
        found = (self._behind(*self.encode_batch([before, before + text], start=False)) for before in APART)
        return (
            next((tokens for tokens in found if tokens is not None), None) or self.encode_batch([text], start=False)[0]
        )

    def _behind(self, head: list[int], whole: list[int]) -> list[int] | None:
        """The rest of the tokens; None where they begin otherwise, or may have become one with what is unknown."""
        apart = whole[: len(head)] == head and (not head or head[-1] != self.unknown)
        return whole[len(head) :] if apart else None

    def decode(self, tokens) -> str:
        """The text of a response [H]: padding, special tokens, and all from the first end token on are no text."""
        return self.decode_batch(np.asarray(tokens)[None])[0]

    def decode_batch(self, responses) -> list[str]:
        """The texts of responses [N, H], with the blank that one begins with.

        Tokens that only the model's rounded vocabulary has are no text either.
        """
        before, blank = self._before
        texts = self.inner.decode_batch([[*before, *self._before_end(row)] for row in np.asarray(responses)])
        return [text.removeprefix(blank) for text in texts]

    def answers(self, responses) -> list[str]:
        """What responses [N, H] say: no blanks around it, and nothing that the chat template writes before all."""
        before = self.inner.decode(self.encode_batch([self.turn.before], start=False)[0]).strip()
        return [text.strip().removeprefix(before).strip() for text in self.decode_batch(responses)]

    def decode_prompts(self, prompts) -> list[str]:
        """The texts of prompts [N, P], in which end tokens of earlier turns end nothing."""
        return self.inner.decode_batch([row[row != PADDING].tolist() for row in np.asarray(prompts)])

    @property
    def template(self) -> str:
        """The chat template; ValueError if there is none."""
        if self.chat_template is None:
            raise ValueError(
                f"this tokenizer has no chat template ({files.TEMPLATE}, or chat_template in {files.SETTINGS}); use "
                "the tokenizer of a chat model, or a Format without chat."
            )
        return self.chat_template

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """All tokens that end a response: ``end``, ``others``, and the one that the chat template ends answers with."""
        closing = () if self.turn.end is None else (self.turn.end,)
        return tuple(dict.fromkeys((self.end, *self.others, *closing)))

    @property
    def needed(self) -> int:
        """Rows that a model needs at least: for all tokens but those that were added and that few texts hold."""
        return 1 + max(*self.inner.get_vocab(with_added_tokens=False).values(), self.end, *self.start)

    def within(self, rows: int) -> "Tokenizer":
        """The same for a model of so many rows, which may lack some that ``needed`` leaves out, such as padding."""
        others = tuple(token for token in self.others if token < rows)
        return dataclasses.replace(self, size=min(self.size, rows), others=others)

    @cached_property
    def beyond(self) -> dict[int, str]:
        """Tokens that the model has no row for, with their texts."""
        there = self.inner.get_vocab(with_added_tokens=True)
        return {token: text for text, token in there.items() if token >= self.size}

    @cached_property
    def turn(self) -> Turn:
        """What the chat template writes around an answer, found from an example."""
        if self.chat_template is None:
            return Turn()
        try:
            asked, whole = self.render_batch([Asked([QUESTION], True), Asked([QUESTION, ANSWER], False)])
        except ValueError:
            return Turn()  # whoever renders rows is told
        if isinstance(asked, ValueError) or isinstance(whole, ValueError) or ANSWER["content"] not in whole:
            return Turn()
        before, _, behind = whole.rpartition(ANSWER["content"])
        common = [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(asked, before, strict=False))]
        opening = asked[len(common) :] if QUESTION["content"] in asked[: len(common)] else ""
        return Turn(opening, before[len(common) :], self._first_added(behind))

    def _first_added(self, text: str) -> int | None:
        """The added token that a text begins with, but for blanks."""
        added, tokens = self.inner.get_added_tokens_decoder(), self.encode_batch([text], start=False)[0]
        place = next((place for place, token in enumerate(tokens) if token in added), None)
        return None if place is None or self.inner.decode(tokens[:place]).strip() else tokens[place]

    @cached_property
    def unknown(self) -> int | None:
        """The token for what the tokenizer does not know; None where it has none, as with bytes."""
        model = self.inner.model
        if type(model).__name__ == "Unigram":
            return json.loads(self.inner.to_str())["model"].get("unk_id")
        name = getattr(model, "unk_token", None)
        return None if name is None else self.inner.token_to_id(name)

    def render(self, messages: Messages, ask: bool) -> str:
        """Messages through the chat template; ``ask``: up to where the next answer begins.

        Raises:
          ValueError: there is no template, it refuses the messages, or it needs more time, memory or text than it may.
        """
        (text,) = self.render_batch([Asked(messages, ask)])
        if isinstance(text, ValueError):
            raise text
        return text

    def render_batch(self, asked: Sequence[Asked]) -> list[str | ValueError]:
        """The text of each row through the chat template, or why it refuses this row.

        Raises:
          ValueError: there is no template, or it ends or delays the process that renders it.
        """
        return rendering.rendered(self.template, self.named, asked)

    @cached_property
    def _before(self) -> tuple[list[int], str]:
        """Tokens before which a decoder of SentencePiece strips the blank, in place of that of what follows."""
        tokens = self.encode_batch(["a"], start=False)[0]
        return (tokens, "a") if self.inner.decode([*tokens, *tokens]).startswith("a") else ([], "")

    def _before_end(self, row) -> list[int]:
        over = np.flatnonzero(np.isin(row, self.ends))
        row = row[: over[0]] if len(over) else row
        return row[row != PADDING].tolist()


def open_tokenizer(source: str | Folder, end: str | None = None) -> Tokenizer:
    """The tokenizer in a folder (or object store), or of a repository of the Hugging Face hub.

    ``end``: the end token's name, where it is not the one that the tokenizer's settings name.

    Raises:
      ValueError: there is none, it cannot be read, it has no such end token, or a package is not installed.
    """
    folder = files.folder_of(source)
    settings = files.settings_of(folder)
    inner, names, ends = files.inner_of(folder, settings), files.names_of(folder, settings), files.ends_of(folder)
    names |= {"eos_token": end} if end else {}
    template = files.template_of(folder, settings)
    first = _end(folder, inner, names.get("eos_token"), ends)
    _check_start(folder, inner, names.get("bos_token"), template)
    return Tokenizer(
        inner=inner,
        end=first,
        size=1 + max(inner.get_vocab(with_added_tokens=True).values()),
        others=tuple(token for token in dict.fromkeys(ends) if token != first),
        start=_start(inner),
        chat_template=template,
        named=names,
    )


def _end(folder: Folder, inner: Any, name: str | None, numbers: Sequence[int]) -> int:
    """The token of that name, or else the first of those numbers."""
    known = [number for number in numbers if inner.id_to_token(number) is not None]
    token = next(iter(known), None) if name is None else inner.token_to_id(name)
    if token is None:
        places = f"eos_token in {files.SETTINGS} or {files.SPECIAL}, eos_token_id in {files.GENERATION}"
        what = f"no token {name!r} in {files.VOCABULARY}" if name else f"no end token ({places})"
        raise ValueError(f"{folder} has {what}; name one with end=, such as '<|endoftext|>'.")
    return token


def _check_start(folder: Folder, inner: Any, name: str | None, template: str | None) -> None:
    if name and inner.token_to_id(name) is None and "bos_token" in (template or ""):
        raise ValueError(
            f"{folder} has no token {name!r} in {files.VOCABULARY}, which the chat template writes as bos_token; name "
            f"one that is there, or none, in {files.SETTINGS}."
        )


def _start(inner: Any) -> tuple[int, ...]:
    """What the post-processor puts before a text; ``add_bos_token`` in the settings is not read by transformers 5."""
    found = inner.encode("a")
    text = next((place for place, added in enumerate(found.special_tokens_mask) if not added), 0)
    return tuple(found.ids[:text])
