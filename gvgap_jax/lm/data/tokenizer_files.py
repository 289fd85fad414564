"""What the files beside a ``tokenizer.json`` say: special tokens, end tokens and the chat template.

They are read as transformers 5 reads them: ``special_tokens_map.json`` replaces what ``tokenizer_config.json`` says,
unless that lists its added tokens itself (``added_tokens_decoder``). Older files list them in ``added_tokens.json``.
"""

import reprlib
from typing import Any

from gvgap_jax.runtime import foreign, hub
from gvgap_jax.runtime.files import Folder, folder_at, is_local
from gvgap_jax.runtime.messages import reason
from gvgap_jax.runtime.packages import optional

VOCABULARY, SETTINGS, SPECIAL = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
ADDED, TEMPLATE, OLD_TEMPLATE = "added_tokens.json", "chat_template.jinja", "chat_template.json"
GENERATION, CONFIG = "generation_config.json", "config.json"
FILES = (VOCABULARY, SETTINGS, SPECIAL, ADDED, TEMPLATE, OLD_TEMPLATE, GENERATION, CONFIG)
MOST_VOCABULARY, MOST_SETTINGS = 2**28, 2**24  # bytes; the largest tokenizers have 2**25
UNUSUAL = "a b\n\té☃\U0001f600\0"
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
CONVERT = "AutoTokenizer.from_pretrained(name).save_pretrained(folder) of the package transformers writes one"

Settings = dict[str, Any]
Names = dict[str, str]


def folder_of(source: str | Folder) -> Folder:
    """Where a tokenizer lies, fetched from the hub if it is not here; ValueError if there is none."""
    folder = folder_at(source)
    if is_local(folder) and not folder.exists():
        folder = hub.fetch(str(source), FILES)
    if not (folder / VOCABULARY).exists():
        raise ValueError(
            f"{source} has no {VOCABULARY}; name a folder, or a repository of the hub, that has one ({CONVERT})."
        )
    return folder


def settings_of(folder: Folder) -> Settings:
    """What the files of settings say together."""
    settings, special = _json(folder / SETTINGS), _json(folder / SPECIAL)
    return special | settings if "added_tokens_decoder" in settings else settings | special


def inner_of(folder: Folder, settings: Settings) -> Any:
    """The tokenizer of the ``tokenizers`` library, which knows all tokens that the settings list.

    Raises:
      ValueError: it cannot be read, or the settings contradict it.
    """
    tokenizers = optional("tokenizers")
    text = foreign.read_text(folder / VOCABULARY, MOST_VOCABULARY)
    try:
        inner = _usable(tokenizers.Tokenizer.from_str(text))
    except BaseException as error:  # the library raises nothing narrower, and its panics are no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        message = f"{folder / VOCABULARY} is no tokenizer of the tokenizers library: {reason(error)[:200]}."
        raise ValueError(message) from error
    inner.encode_special_tokens = settings.get("split_special_tokens") is True
    _add_listed(tokenizers, folder, inner, settings)
    known = {token.content for token in inner.get_added_tokens_decoder().values()}
    named = {text for text in _all_special(settings) if text not in known and inner.token_to_id(text) is not None}
    inner.add_special_tokens([tokenizers.AddedToken(text, normalized=False) for text in sorted(named)])
    return inner


def names_of(folder: Folder, settings: Settings) -> Names:
    """Special tokens as chat templates know them (``eos_token``, …). Other settings have such names too.

    Raises:
      ValueError: the end or start token is no text.
    """
    more = settings.get("extra_special_tokens")
    found = settings | (more if isinstance(more, dict) else {})
    texts = {name: _text(value) for name, value in found.items() if name.endswith("_token") and value is not None}
    for name in ("eos_token", "bos_token"):
        if name in texts and texts[name] is None:
            raise ValueError(
                f"{folder / SETTINGS}, or {SPECIAL} there: {name} must be a text, or an object with its text as "
                f"content, got {reprlib.repr(found[name])}."
            )
    return {name: text for name, text in texts.items() if text is not None}


def ends_of(folder: Folder) -> tuple[int, ...]:
    """The tokens at which generation ends, of ``generation_config.json`` or else of ``config.json``.

    Raises:
      ValueError: they are no tokens.
    """
    for name in (GENERATION, CONFIG):
        settings = _json(folder / name)
        inner = settings.get("text_config")
        found = settings.get("eos_token_id", inner.get("eos_token_id") if isinstance(inner, dict) else None)
        if found is None:
            continue
        ends = found if isinstance(found, list) else [found]
        if not all(type(end) is int and end >= 0 for end in ends):
            raise ValueError(
                f"{folder / name}: eos_token_id must be a token or a list of tokens, got {reprlib.repr(found)}."
            )
        if ends:
            return tuple(ends)
    return ()


def template_of(folder: Folder, settings: Settings) -> str | None:
    """The chat template: a file of its own, one text, or several by name, listed or not, of which one is the default.

    Raises:
      ValueError: it is no text.
    """
    if (folder / TEMPLATE).exists():
        return foreign.read_text(folder / TEMPLATE, MOST_SETTINGS)
    place, found = folder / SETTINGS, settings.get("chat_template")
    if found is None:
        place, found = folder / OLD_TEMPLATE, _json(folder / OLD_TEMPLATE).get("chat_template")
    if isinstance(found, dict):
        found = found.get("default")
    if isinstance(found, list) and all(isinstance(each, dict) and "template" in each for each in found):
        found = next((each["template"] for each in found if each.get("name") == "default"), None)
    if found is not None and not isinstance(found, str):
        raise ValueError(
            f"{place}: chat_template must be a text, or a list of objects with name and template, got "
            f"{reprlib.repr(found)}."
        )
    return found


def _json(path: Folder) -> Settings:
    return foreign.read_object(path, MOST_SETTINGS) if path.exists() else {}


def _text(token: Any) -> str | None:
    """A token is its text, or an object with its text."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _usable(inner: Any) -> Any:
    """A tokenizer that neither cuts nor pads, and reads any text; it raises what the library raises."""
    inner.no_truncation()
    inner.no_padding()
    if not inner.get_vocab(with_added_tokens=True):
        raise ValueError("it has no tokens")
    inner.decode(inner.encode(UNUSUAL, add_special_tokens=False).ids)
    return inner


def _all_special(settings: Settings) -> set[str]:
    """The texts of all special tokens, in whichever of the tables they stand."""
    found = [value for name, value in settings.items() if name.endswith("_token")]
    for name in ("extra_special_tokens", "additional_special_tokens"):
        table = settings.get(name)
        found += table.values() if isinstance(table, dict) else table if isinstance(table, list) else []
    return {text for text in map(_text, found) if text}


def _add_listed(tokenizers: Any, folder: Folder, inner: Any, settings: Settings) -> None:
    """Add the tokens that the settings list, and find those that are there in a text as the settings say."""
    known = {repr(token) for token in inner.get_added_tokens_decoder().values()}
    for number, text, flags in sorted(_listed(folder, settings)):
        token = tokenizers.AddedToken(text, **dict(flags))
        if repr(token) in known:
            continue
        there = inner.token_to_id(text) is not None
        inner.add_tokens([token])
        if not there and inner.token_to_id(text) != number:
            raise ValueError(
                f"{folder}: the settings list {text!r} as token {number}, where {VOCABULARY} lacks it and would number "
                f"it {inner.token_to_id(text)}; both must be of the same tokenizer."
            )


def _listed(folder: Folder, settings: Settings) -> list[tuple[int, str, tuple[tuple[str, bool], ...]]]:
    """Number, text and flags of every token in the table of added tokens."""
    table = settings.get("added_tokens_decoder")
    if table is None:
        special = _all_special(settings)
        return [
            (_number(folder / ADDED, number), text, (("special", text in special), ("normalized", text not in special)))
            for text, number in _json(folder / ADDED).items()
        ]
    place = folder / SETTINGS
    if not isinstance(table, dict) or not all(isinstance(each, dict) and _text(each) for each in table.values()):
        raise ValueError(f"{place}: added_tokens_decoder must be an object of tokens by number, each with its content.")
    return [
        (_number(place, number), each["content"], tuple((name, each[name] is True) for name in FLAGS if name in each))
        for number, each in table.items()
    ]


def _number(place: Folder, number: Any) -> int:
    if isinstance(number, str) and number.isascii() and number.isdigit():
        return int(number)
    if type(number) is int and number >= 0:
        return number
    raise ValueError(f"{place}: added tokens need numbers, got {reprlib.repr(number)}.")
