"""Rows of text as padded arrays of tokens, with every row that does not fit named.

The arrays are numpy's, in the order of the rows, so that ``checkpoints.digest`` sees the data of a run, and texts,
references and judges are found by the number of a row in ``rows``.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import numpy as np

from gvgap_jax.lm.data import arrays
from gvgap_jax.lm.data.formats import Format
from gvgap_jax.lm.data.rows import Comparison, Demonstration, Dropped, report
from gvgap_jax.lm.data.tokenizer import Fields, Prompt, Tokenizer
from gvgap_jax.lm.data.unknown import Counted
from gvgap_jax.types import Demonstrations, Preferences, Prompts

SLACK = 32  # tokens by which the beginning of a text may be written shorter when what follows is cut
BATCH = 4096  # rows that are handed to the tokenizer at once

Kind = TypeVar("Kind", Comparison, Demonstration, Comparison | Demonstration)
Arrays = TypeVar("Arrays")


class Encoded(NamedTuple, Generic[Arrays, Kind]):
    """Arrays, the rows they were made of, and the rows that were left out.

    Attributes:
      data: of N rows.
      rows: the N rows, as text.
      dropped: those that do not fit the format.
      shortened: prompts among the N that were shortened.
    """

    data: Arrays
    rows: list[Kind]
    dropped: list[Dropped]
    shortened: int

    def report(self) -> str:
        """What does not fit, where the first of it stands, and how many prompts were shortened."""
        return f"{report(len(self.rows), self.dropped)} {self.shortened} prompts are shortened."


class _Piece(NamedTuple):
    """Tokens of a prompt or of a response, or why there are none."""

    tokens: list[int]
    problem: str = ""
    shortened: bool = False


def preferences(
    rows: Sequence[Comparison], tokenizer: Tokenizer, how: Format, sampled: bool = False
) -> Encoded[Preferences, Comparison]:
    """Comparisons as pairs: prompts [N, P], chosen and rejected [N, H], margins of 0 and weights of 1.

    Unknown tokens are not counted in responses that are ``sampled`` from a model: it said no more than it can.

    Raises:
      UnknownText: more than a tenth of the tokens of prompts or of one kind of response are unknown to the tokenizer;
        from a hundredth on there is a warning.
      ValueError: the format does not suit the tokenizer, or no row fits.
    """
    asked, counted = [row.prompt for row in rows], ("", "") if sampled else ("chosen responses", "rejected responses")
    pieces = {"prompt": _prompts(asked, tokenizer, how)} | {
        name: _responses(what, asked, [getattr(row, name) for row in rows], tokenizer, how)
        for name, what in zip(("chosen", "rejected"), counted, strict=True)
    }
    return _encoded(rows, pieces, tokenizer, how, arrays.pairs)


def demonstrations(
    rows: Sequence[Demonstration], tokenizer: Tokenizer, how: Format
) -> Encoded[Demonstrations, Demonstration]:
    """Demonstrations as prompts [N, P], responses [N, H] and weights of 1; raises as ``preferences``."""
    asked = [row.prompt for row in rows]
    pieces = {
        "prompt": _prompts(asked, tokenizer, how),
        "response": _responses("responses", asked, [row.response for row in rows], tokenizer, how),
    }
    return _encoded(rows, pieces, tokenizer, how, arrays.demonstrations)


def prompts(rows: Sequence[Kind], tokenizer: Tokenizer, how: Format) -> Encoded[Prompts, Kind]:
    """The prompts [N, P] alone, of rows of either kind; raises as ``preferences``."""

    def padded(asked, vocabulary: int, prompt_length: int, horizon: int) -> Prompts:
        del horizon
        return arrays.prompts(asked, vocabulary, prompt_length)

    pieces = {"prompt": _prompts([row.prompt for row in rows], tokenizer, how)}
    return _encoded(rows, pieces, tokenizer, how, padded)


def _encoded(rows, pieces: dict[str, list[_Piece]], tokenizer: Tokenizer, how: Format, make: Callable) -> Encoded:
    problems = [_problem(dict(zip(pieces, found, strict=True))) for found in zip(*pieces.values(), strict=True)]
    dropped = [Dropped(row.where, problem) for row, problem in zip(rows, problems, strict=True) if problem]
    kept = [number for number, problem in enumerate(problems) if not problem]
    if not kept:
        raise ValueError(f"no row fits the format: {report(0, dropped)}")
    tokens = [[found[number].tokens for number in kept] for found in pieces.values()]
    data = make(*tokens, tokenizer.size, how.prompt_tokens, how.response_tokens)
    shortened = sum(pieces["prompt"][number].shortened for number in kept)
    return Encoded(jax.tree.map(np.asarray, data), [rows[number] for number in kept], dropped, shortened)


def _problem(pieces: dict[str, _Piece]) -> str:
    for name, piece in pieces.items():
        if piece.problem:
            return f"{name} {piece.problem}"
    if "chosen" in pieces and pieces["chosen"].tokens == pieces["rejected"].tokens:
        return "chosen and rejected are the same tokens"
    return ""


def _prompts(asked: Sequence[Prompt], tokenizer: Tokenizer, how: Format) -> list[_Piece]:
    """Every prompt once: comparisons have the same prompt again and again."""
    names = [json.dumps(prompt) for prompt in asked]
    unique = dict(zip(names, asked, strict=True))
    before = _before(tokenizer, how)
    room = how.prompt_tokens - len(before)
    texts = how.prompts(list(unique.values()), tokenizer)
    pieces = dict(zip(unique, _tokenised("prompts", texts, tokenizer, _Piece), strict=True))
    pieces |= _shortened(
        {name: unique[name] for name in unique if len(pieces[name].tokens) > room}, tokenizer, how, room
    )
    pieces = {name: piece._replace(tokens=before + piece.tokens) for name, piece in pieces.items()}
    return [pieces[name] for name in names]


def _responses(
    what: str, asked: Sequence[Prompt], answers: Sequence[str], tokenizer: Tokenizer, how: Format
) -> list[_Piece]:
    def fit(tokens: list[int]) -> _Piece:
        over = tokens.index(tokenizer.end) + 1 if tokenizer.end in tokens else len(tokens)
        if tokenizer.inner.decode(tokens[over:]).strip():
            return _Piece([], "goes on after its end token")
        ended = tokens[:over] if over and tokens[over - 1] == tokenizer.end else [*tokens, tokenizer.end]
        if len(ended) <= how.response_tokens:
            return _Piece(ended)
        if how.long_response == "cut":
            return _Piece(ended[: how.response_tokens])
        return _Piece([], f"is longer than {how.response_tokens} tokens")

    return _tokenised(what, how.responses(asked, answers, tokenizer), tokenizer, fit)


def _tokenised(
    what: str, texts: Sequence[str | ValueError], tokenizer: Tokenizer, fit: Callable[[list[int]], _Piece]
) -> list[_Piece]:
    """The pieces of texts, a batch of them at a time; what has a problem already keeps it."""
    found, counted = [], Counted(tokenizer)
    for batch in _batches(texts):
        readable = [text for text in batch if isinstance(text, str)]
        encoded = tokenizer.encode_batch(readable)
        counted.add(readable, encoded)
        tokens = iter(encoded)
        found += [fit(next(tokens)) if isinstance(text, str) else _Piece([], str(text)) for text in batch]
    if what:
        counted.check(what)
    return found


def _batches(values: Sequence) -> list[Sequence]:
    return [values[first : first + BATCH] for first in range(0, len(values), BATCH)]


def _before(tokenizer: Tokenizer, how: Format) -> list[int]:
    """Tokens before every prompt, after a look at whether the tokenizer has all that the format asks for."""
    if how.chat:
        tokenizer.template  # noqa: B018  raises once, not for every row
    if how.start and tokenizer.start is None:
        raise ValueError("Format: start needs a tokenizer with a start token (bos_token in its settings).")
    return [tokenizer.start] if how.start and tokenizer.start is not None else []


def _shortened(prompts: dict[str, Prompt], tokenizer: Tokenizer, how: Format, room: int) -> dict[str, _Piece]:
    """Prompts whose field is cut until they fit, as arXiv 2403.17031 does; a problem where that never happens."""
    parsed = {name: how.parse(prompt) for name, prompt in prompts.items()}
    found = {name: _Piece([], f"is longer than {how.prompt_tokens} tokens") for name in prompts}
    waiting = {name: fields for name, fields in parsed.items() if how.shorten and isinstance(fields, dict)}
    for names in _batches(list(waiting)):
        while names:
            texts = dict(zip(names, how.queries([waiting[name] for name in names], tokenizer), strict=True))
            found |= {name: _Piece([], str(text)) for name, text in texts.items() if isinstance(text, ValueError)}
            names = [name for name in names if isinstance(texts[name], str)]
            encodings = tokenizer.inner.encode_batch([texts[name] for name in names], add_special_tokens=False)
            tried = dict(zip(names, encodings, strict=True))
            found |= {name: _Piece(each.ids, shortened=True) for name, each in tried.items() if len(each.ids) <= room}
            names = [name for name in names if found[name].problem and waiting[name][how.shorten or ""]]
            waiting |= _cut({name: waiting[name] for name in names}, tried, tokenizer, how, room)
    return found


def _cut(
    waiting: dict[str, Fields], tried: dict[str, Any], tokenizer: Tokenizer, how: Format, room: int
) -> dict[str, Fields]:
    """The next cuts that could be short enough: those that leave far too much are passed over, or a long text without
    newlines would take hours."""
    name = how.shorten or ""
    heads = how.queries([fields | {name: "\0"} for fields in waiting.values()], tokenizer)
    cut = {}
    for (row, fields), head in zip(waiting.items(), heads, strict=True):
        ids, offsets = tried[row].ids, tried[row].offsets
        reach = offsets[room + SLACK][0] - str(head).find("\0") if len(ids) > room + SLACK else len(fields[name])
        cut[row] = fields | {name: _shorter(fields[name], max(reach, 0))}
    return cut


def _shorter(text: str, most: int) -> str:
    """Before its last newline, or without its last character; again until there are at most ``most``."""
    most = min(most, len(text) - 1)
    newline = text.rfind("\n", 0, most + 1)
    return text[: newline if newline >= 0 else most]
