"""Text to tokens and back: the tokenizer and the chat template that come with a checkpoint."""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gvgap_jax.lm.data import rendering
from gvgap_jax.lm.data.rendering import Asked
from gvgap_jax.runtime import foreign, hub
from gvgap_jax.runtime.files import Folder, folder_at, is_local
from gvgap_jax.runtime.messages import reason
from gvgap_jax.runtime.packages import optional
from gvgap_jax.types import PADDING

VOCABULARY, SETTINGS, SPECIAL, TEMPLATE = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    "chat_template.jinja",
)
MOST_VOCABULARY, MOST_SETTINGS = 2**28, 2**24  # bytes; the largest tokenizers have 2**25
UNUSUAL = "a b\n\té☃\U0001f600\0"

Fields = dict[str, str]
Messages = list[dict[str, str]]  # of "role" and "content"
Prompt = str | Fields | Messages


@dataclass(frozen=True)
class Tokenizer:
    """How one checkpoint reads and writes text; ``open_tokenizer`` makes it.

    Special tokens that are spelled out in a text are read as such, as transformers does; none are added.

    Attributes:
      inner: of the ``tokenizers`` library.
      end: the token after which a response is over.
      size: 1 + the largest token. A model's vocabulary is often rounded up, and never smaller.
      start: the token that some checkpoints want before every prompt, None for none.
      chat_template: Jinja, None for none.
      named: special tokens as chat templates know them (``eos_token``, …).
    """

    inner: Any = field(repr=False)
    end: int
    size: int
    start: int | None = None
    chat_template: str | None = field(default=None, repr=False)
    named: Fields = field(default_factory=dict, hash=False)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        return self.inner.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text, on all cores."""
        return [found.ids for found in self.inner.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, tokens) -> str:
        """The text of a response [H]: padding, special tokens, and all from the first end token on are no text."""
        return self.decode_batch(np.asarray(tokens)[None])[0]

    def decode_batch(self, responses) -> list[str]:
        """The texts of responses [N, H]; tokens that only the model's rounded vocabulary has are no text either."""
        return self.inner.decode_batch([self._before_end(row) for row in np.asarray(responses)])

    @property
    def template(self) -> str:
        """The chat template; ValueError if there is none."""
        if self.chat_template is None:
            raise ValueError(
                f"this tokenizer has no chat template ({TEMPLATE}, or chat_template in {SETTINGS}); use the tokenizer "
                "of a chat model, or a Format without chat."
            )
        return self.chat_template

    def render(self, messages: Messages, ask: bool) -> str:
        """Messages through the chat template; ``ask``: up to where the next answer begins.

        ``strftime_now`` is left undefined: the same messages give the same text on another day.

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

    def _before_end(self, row) -> list[int]:
        over = np.flatnonzero(row == self.end)
        row = row[: over[0]] if len(over) else row
        return row[row != PADDING].tolist()


def open_tokenizer(source: str | Folder, end: str | None = None) -> Tokenizer:
    """The tokenizer in a folder (or object store), or of a repository of the Hugging Face hub.

    ``end``: the end token's name, where it is not the one that the tokenizer's settings name.

    Raises:
      ValueError: there is none, it cannot be read, it has no such end token, or a package is not installed.
    """
    tokenizers = optional("tokenizers")
    folder = _folder_of(source)
    text = foreign.read_text(folder / VOCABULARY, MOST_VOCABULARY)
    try:
        inner = _usable(tokenizers.Tokenizer.from_str(text))
    except BaseException as error:  # the library raises nothing narrower, and its panics are no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        message = f"{folder / VOCABULARY} is no tokenizer of the tokenizers library: {reason(error)[:200]}."
        raise ValueError(message) from error
    settings = _json(folder / SPECIAL) | _json(folder / SETTINGS)
    named = _special(folder, settings) | ({"eos_token": end} if end else {})
    return Tokenizer(
        inner=inner,
        end=_token(folder, inner, named.get("eos_token")),
        size=1 + max(inner.get_vocab(with_added_tokens=True).values()),
        start=_token(folder, inner, named["bos_token"]) if "bos_token" in named else None,
        chat_template=_template(folder, settings),
        named=named,
    )


def _folder_of(source: str | Folder) -> Folder:
    folder = folder_at(source)
    if is_local(folder) and not folder.exists():
        folder = hub.fetch(str(source), (VOCABULARY, SETTINGS, SPECIAL, TEMPLATE))
    if not (folder / VOCABULARY).exists():
        raise ValueError(f"{source} has no {VOCABULARY}; name a folder, or a repository of the hub, that has one.")
    return folder


def _usable(inner: Any) -> Any:
    """A tokenizer that neither cuts nor pads, and reads any text; it raises what the library raises."""
    inner.no_truncation()
    inner.no_padding()
    if not inner.get_vocab(with_added_tokens=True):
        raise ValueError("it has no tokens")
    inner.decode(inner.encode(UNUSUAL, add_special_tokens=False).ids)
    return inner


def _json(path: Folder) -> dict[str, Any]:
    return foreign.read_object(path, MOST_SETTINGS) if path.exists() else {}


def _special(folder: Folder, settings: dict[str, Any]) -> Fields:
    """Special tokens by name; a token is its text, or an object with its text. Other settings have such names too."""
    found = {name: value for name, value in settings.items() if name.endswith("_token") and value is not None}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in found.items()}
    for name in ("eos_token", "bos_token"):
        if name in texts and not isinstance(texts[name], str):
            raise ValueError(
                f"{folder / SETTINGS}, or {SPECIAL} there: {name} must be a text, or an object with its text as "
                f"content, got {reprlib.repr(found[name])}."
            )
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _token(folder: Folder, inner, text: str | None) -> int:
    token = None if text is None else inner.token_to_id(text)
    if token is None:
        what = f"no token {text!r} in {VOCABULARY}" if text else f"no end token (eos_token in {SETTINGS} or {SPECIAL})"
        raise ValueError(f"{folder} has {what}; name one with end=, such as '<|endoftext|>'.")
    return token


def _template(folder: Folder, settings: dict[str, Any]) -> str | None:
    """A file of its own, one text, or several by name of which one is the default."""
    if (folder / TEMPLATE).exists():
        return foreign.read_text(folder / TEMPLATE, MOST_SETTINGS)
    found = settings.get("chat_template")
    if isinstance(found, list) and all(isinstance(each, dict) and "template" in each for each in found):
        found = next((each["template"] for each in found if each.get("name") == "default"), None)
    if found is not None and not isinstance(found, str):
        raise ValueError(
            f"{folder / SETTINGS}: chat_template must be a text, or a list of objects with name and template, got "
            f"{reprlib.repr(found)}."
        )
    return found
