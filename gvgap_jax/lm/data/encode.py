"""Rows of text as padded arrays of tokens, with every row that does not fit named.

The arrays are numpy's, in the order of the rows, so that ``checkpoints.digest`` sees the data of a run, and texts,
references and judges are found by the number of a row in ``rows``.
"""

import dataclasses
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
ENDLESS = 2**30  # more tokens than a text has
BATCH = 4096  # rows that are handed to the tokenizer at once
WIDTHS = 64  # tokens, of which arrays for judges are a multiple wide

Kind = TypeVar("Kind", Comparison, Demonstration, Comparison | Demonstration)
Arrays = TypeVar("Arrays")
Value = TypeVar("Value")


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


class ToJudge(NamedTuple):
    """Two responses to each of K prompts, in arrays as wide as their texts need.

    Attributes:
      prompts: [K, P]; responses: [K, 2, H].
      rows: which of the N rows these K are.
      reasons: number of each other row -> why it cannot be judged.
    """

    prompts: np.ndarray
    responses: np.ndarray
    rows: list[int]
    reasons: dict[int, str]


class _Piece(NamedTuple):
    """Tokens of a prompt or of a response, or why there are none.

    ``text`` is what they were made of, ``asked`` the text of a prompt before it was shortened.
    """

    tokens: list[int]
    problem: str = ""
    shortened: bool = False
    text: str = ""
    asked: str | ValueError = ""


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
    prompts = _prompts(asked, tokenizer, how)
    pieces = {"prompt": prompts} | {
        name: _responses(what, prompts, asked, [getattr(row, name) for row in rows], tokenizer, how)
        for name, what in zip(("chosen", "rejected"), counted, strict=True)
    }
    return _encoded(rows, pieces, tokenizer, how, arrays.pairs)


def demonstrations(
    rows: Sequence[Demonstration], tokenizer: Tokenizer, how: Format
) -> Encoded[Demonstrations, Demonstration]:
    """Demonstrations as prompts [N, P], responses [N, H] and weights of 1; raises as ``preferences``."""
    asked = [row.prompt for row in rows]
    prompts = _prompts(asked, tokenizer, how)
    answers = _responses("responses", prompts, asked, [row.response for row in rows], tokenizer, how)
    pieces = {"prompt": prompts, "response": answers}
    return _encoded(rows, pieces, tokenizer, how, arrays.demonstrations)


def prompts(rows: Sequence[Kind], tokenizer: Tokenizer, how: Format) -> Encoded[Prompts, Kind]:
    """The prompts [N, P] alone, of rows of either kind; raises as ``preferences``."""

    def padded(asked, vocabulary: int, prompt_length: int, horizon: int) -> Prompts:
        del horizon
        return arrays.prompts(asked, vocabulary, prompt_length)

    pieces = {"prompt": _prompts([row.prompt for row in rows], tokenizer, how)}
    return _encoded(rows, pieces, tokenizer, how, padded)


def to_judge(
    asked: Sequence[Prompt], first: Sequence[str], second: Sequence[str], tokenizer: Tokenizer, how: Format, most: int
) -> ToJudge:
    """What a judge reads of two responses to each of N prompts, whatever its tokenizer and however long they are.

    Nothing is cut: what is longer than ``most`` tokens, a prompt and one response together, cannot be judged. The
    lengths of the format are not looked at. What a chat template writes behind the end token, such as a newline, is
    read too: reward models were trained on whole conversations, and say their reward after the last token.

    Raises:
      UnknownText: as ``preferences`` raises for prompts.
      ValueError: the format does not suit the tokenizer.
    """
    whole = dataclasses.replace(how, prompt_tokens=most, response_tokens=most, shorten=None, long_response="drop")
    prompts = _prompts(asked, tokenizer, whole)
    answers = [
        _responses("", prompts, asked, texts, tokenizer, whole, to_the_end=how.chat) for texts in (first, second)
    ]
    reasons = {}
    for row, (prompt, *both) in enumerate(zip(prompts, *answers, strict=True)):
        problem = _problem({"prompt": prompt, "first response": both[0], "second response": both[1]})
        if not problem and len(prompt.tokens) + max(len(each.tokens) for each in both) > most:
            problem = f"prompt and response are longer than {most} tokens"
        if problem:
            reasons[row] = problem
    rows = [row for row in range(len(prompts)) if row not in reasons]
    questions = [prompts[row].tokens for row in rows]
    responses = [[each[row].tokens for each in answers] for row in rows]
    width, horizon = _wide(questions), _wide([each for both in responses for each in both])
    flat = arrays.responses([each for both in responses for each in both], tokenizer.size, horizon)
    padded = np.asarray(arrays.prompts(questions, tokenizer.size, width))
    return ToJudge(padded, np.asarray(flat).reshape(len(rows), 2, horizon), rows, reasons)


def lengths(rows: Sequence[Comparison] | Sequence[Demonstration], tokenizer: Tokenizer, how: Format) -> dict[str, Any]:
    """Tokens of each prompt and each response [N], by its name, however long; raises as ``preferences``."""
    long = dataclasses.replace(how, prompt_tokens=ENDLESS, response_tokens=ENDLESS, shorten=None)
    asked, names = [row.prompt for row in rows], rows[0]._fields
    prompts = _prompts(asked, tokenizer, long)
    found = {"prompt": prompts} | {
        name: _responses("", prompts, asked, [getattr(row, name) for row in rows], tokenizer, long)
        for name in ("chosen", "rejected", "response")
        if name in names
    }
    return {name: np.array([len(piece.tokens) for piece in pieces]) for name, pieces in found.items()}


def _wide(rows: Sequence[Sequence[int]]) -> int:
    """Room for the longest row; few different widths, because each is a program of its own."""
    return WIDTHS * max(1, -(-max(map(len, rows), default=0) // WIDTHS))


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
    if how.chat:
        tokenizer.template  # noqa: B018  raises once, not for every row
    texts = how.prompts(list(unique.values()), tokenizer)
    found = zip(unique, texts, _tokenised("prompts", texts, tokenizer, [""] * len(texts)), strict=True)
    pieces = {name: _begun(text, tokens, tokenizer, how) for name, text, tokens in found}
    long = {name: unique[name] for name in unique if len(pieces[name].tokens) > how.prompt_tokens}
    pieces |= _shortened(long, tokenizer, how)
    pieces = {name: pieces[name]._replace(asked=text) for name, text in zip(unique, texts, strict=True)}
    return [pieces[name] for name in names]


def _responses(
    what: str,
    prompts: Sequence[_Piece],
    asked: Sequence[Prompt],
    answers: Sequence[str],
    tokenizer: Tokenizer,
    how: Format,
    to_the_end: bool = False,
) -> list[_Piece]:
    """What follows the prompts, up to the end token, or ``to_the_end`` of what the chat template writes."""

    def fit(tokens: list[int]) -> _Piece:
        over = next((place + 1 for place, token in enumerate(tokens) if token in tokenizer.ends), 0)
        if over and tokenizer.inner.decode(tokens[over:]).strip():
            return _Piece([], "goes on after its end token")
        ended = tokens if to_the_end else tokens[:over] if over else [*tokens, tokenizer.end]
        if len(ended) <= how.response_tokens:
            return _Piece(ended)
        if how.long_response == "cut":
            return _Piece(ended[: how.response_tokens])
        return _Piece([], f"is longer than {how.response_tokens} tokens")

    texts = how.responses(asked, [prompt.asked for prompt in prompts], answers, tokenizer)
    found = _tokenised(what, texts, tokenizer, [prompt.text for prompt in prompts])
    return [_Piece([], str(tokens)) if isinstance(tokens, ValueError) else fit(tokens) for tokens in found]


def _tokenised(
    what: str, texts: Sequence[str | ValueError], tokenizer: Tokenizer, before: Sequence[str]
) -> list[list[int] | ValueError]:
    """The tokens of texts, a batch of them at a time, each behind another text; what is an error already stays one."""
    found, counted = [], Counted(tokenizer)
    for batch in _batches(range(len(texts))):
        there = {number: text for number in batch if isinstance(text := texts[number], str)}
        encoded = tokenizer.encode_behind([before[number] for number in there], [*there.values()])
        counted.add([*there.values()], encoded)
        tokens = {row: _readable(each, tokenizer) for row, each in zip(there, encoded, strict=True)}
        found += [tokens.get(number, texts[number]) for number in batch]
    if what:
        counted.check(what)
    return found


def _readable(tokens: list[int], tokenizer: Tokenizer) -> list[int] | ValueError:
    strange = [token for token in tokens if token in tokenizer.beyond] if tokenizer.beyond else []
    if not strange:
        return tokens
    return ValueError(f"has {tokenizer.beyond[strange[0]]!r}, a token that the model has no row for")


def _batches(values: Sequence[Value]) -> list[Sequence[Value]]:
    return [values[first : first + BATCH] for first in range(0, len(values), BATCH)]


def _begun(text: str | ValueError, tokens: list[int] | ValueError, tokenizer: Tokenizer, how: Format) -> _Piece:
    """A prompt as the model reads it; chat templates write the tokens that begin it themselves."""
    if isinstance(text, ValueError) or isinstance(tokens, ValueError):
        return _Piece([], str(tokens))
    return _Piece(tokens if how.chat else tokenizer.begun(tokens), text=text)


def _shortened(prompts: dict[str, Prompt], tokenizer: Tokenizer, how: Format) -> dict[str, _Piece]:
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
            begun = {name: _begun(texts[name], each.ids, tokenizer, how) for name, each in tried.items()}
            fitting = {name: each for name, each in begun.items() if len(each.tokens) <= how.prompt_tokens}
            found |= {name: each._replace(shortened=True) for name, each in fitting.items()}
            names = [name for name in names if found[name].problem and waiting[name][how.shorten or ""]]
            waiting |= _cut({name: waiting[name] for name in names}, tried, tokenizer, how)
    return found


def _cut(waiting: dict[str, Fields], tried: dict[str, Any], tokenizer: Tokenizer, how: Format) -> dict[str, Fields]:
    """The next cuts that could be short enough: those that leave far too much are passed over, or a long text without
    newlines would take hours."""
    name, room = how.shorten or "", how.prompt_tokens
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
