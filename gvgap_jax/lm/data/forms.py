"""The forms that preference data are written down in: one table, which says how a row is seen and what it becomes.

A row of comparisons is a prompt and answers with scores; every two answers of different scores make a comparison, in
the order of the row, so that k answers give up to k (k - 1) / 2. Equal scores are a tie, which is counted and not used.
"""

import itertools
import unicodedata
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from gvgap_jax.lm.data import parsers, values
from gvgap_jax.lm.data.parsers import Rated, Useless
from gvgap_jax.lm.data.prompts import messages_of
from gvgap_jax.lm.data.rows import POST, Comparison, Demonstration
from gvgap_jax.lm.data.tokenizer import Messages, Prompt
from gvgap_jax.lm.data.values import Row, structure, text
from gvgap_jax.runtime.messages import unknown

OTHERS = ("tools", "functions", "images", "image", "videos", "audios")  # columns that no text can stand for
SYSTEM = ("system", "system_prompt")
LABELS = ("label", "kto_tag")
KEYS = 8  # that a sentence names


class Form(NamedTuple):
    """One way of writing rows down.

    Attributes:
      name: that ``--data.form`` takes.
      keys: that all its rows have, by which they are seen.
      parse: a row without its empty columns -> ``Rated``, or a demonstration's prompt and response; ValueError with
        what is wrong.
      sees: what else a row must be like to be seen as of this form.
      grouped: the answers to one prompt stand in rows of their own.
      note: what one should know who reads such data.
    """

    name: str
    keys: tuple[str, ...]
    parse: Callable[[Row], Any]
    sees: Callable[[Row], bool] = lambda row: True
    grouped: bool = False
    note: str = ""


def comparisons(rated: Rated, where: str) -> tuple[list[Comparison], int]:
    """The comparisons of every two answers of different scores, and the number of ties.

    Raises:
      ValueError: there is nothing else than a text that is better than itself.
    """
    found, ties, same = [], 0, 0
    for (one, first), (other, second) in itertools.combinations(rated.answers, 2):
        better, worse = (one, other) if first > second else (other, one)
        ties += first == second
        alike = _plain(one) == _plain(other)
        same += first != second and alike
        if first != second and not alike:
            found.append(Comparison(rated.prompt, better, worse, rated.reference, where))
    if not found and same:
        raise ValueError("chosen equals rejected")
    return found, ties


def _plain(text: str) -> str:
    """What one sees of an answer: blanks around it, and how its characters are composed, make none better."""
    return unicodedata.normalize("NFC", text).strip()


def form_of(row: Row, table: Sequence[Form], empty: Collection[str] = ()) -> Form:
    """The one form of a table that fits a row best: whose keys it has all, and the most.

    Raises:
      ValueError: there is none, but for columns that are ``empty`` in this row, or there are several.
    """
    fitting = [form for form in _with_keys(frozenset(row), table) if form.sees(row)]
    most = max((len(form.keys) for form in fitting), default=0)
    best = [form for form in fitting if len(form.keys) == most]
    if not best:
        raise ValueError(_lacking(row, table, empty) or _no_form(row, table))
    if len(best) > 1:
        raise ValueError(f"is of several forms, {' and '.join(form.name for form in best)}: name one of them")
    return best[0]


@lru_cache(maxsize=1024)
def _with_keys(keys: frozenset[str], table: Sequence[Form]) -> list[Form]:
    return [form for form in table if keys.issuperset(form.keys)]


def check_names(names: Sequence[str]) -> None:
    """ValueError if a name is none of a form, or if two are of forms of comparisons, or of demonstrations."""
    for name in names:
        if name not in FORMS:
            raise ValueError(unknown("form", name, FORMS))
    for table in (COMPARISONS, DEMONSTRATIONS):
        mine = [form.name for form in table if form.name in names]
        if len(mine) > 1:
            kind = "comparisons" if table is COMPARISONS else "demonstrations"
            raise ValueError(f"{' and '.join(mine)} are forms of {kind}: name one of them.")


def named_of(table: Sequence[Form], names: Sequence[str]) -> str | None:
    """The one of these names that is of a form of the table, None if none is."""
    return next((form.name for form in table if form.name in names), None)


def said_by(row: Row, form: Form, empty: Collection[str] = ()) -> Any:
    """What a row of a form says, ``Rated`` or a demonstration, its system message included; ``empty``: other columns.

    Raises:
      Useless: its label says that it is not to be imitated.
      ValueError: it is malformed.
    """
    there = next((name for name in OTHERS if structure(row.get(name)) not in values.EMPTY), None)
    if there:
        raise ValueError(f"has {there}, which no prompt of text can show")
    for name in LABELS if form in DEMONSTRATIONS else ():
        if name in empty:
            raise ValueError(f"has no {name}")
        if name not in form.keys and str(row.get(name)).strip().lower() == "false":
            raise Useless(f"its {name} is false")
    prompt, *rest = form.parse(row)
    if isinstance(prompt, list) and not any(each["content"].strip() or len(each) > 2 for each in prompt):
        raise ValueError("prompt is empty")
    system = next((name for name in SYSTEM if str(row.get(name, "")).strip()), None)
    prompt = prompt if system is None else _with_system(prompt, text(row, system))
    return Rated(prompt, *rest) if form in COMPARISONS else Demonstration(prompt, *rest)


def _with_system(prompt: Prompt, said: str) -> Messages:
    if isinstance(prompt, dict):
        raise ValueError("has a system message beside the fields of a prompt")
    found = messages_of(prompt)
    if found[0]["role"] == "system":
        if found[0]["content"].strip() != said.strip():
            raise ValueError("has two system messages")
        return found
    return [{"role": "system", "content": said}, *found]


def _lacking(row: Row, table: Sequence[Form], empty: Collection[str]) -> str:
    """What a row lacks of the form that it would have were its empty columns not empty."""
    near = [form for form in table if set(row).issuperset(set(form.keys) - set(empty)) and form.sees(row)]
    best = max(near, key=lambda form: len(form.keys), default=None)
    return f"has no {next(name for name in best.keys if name not in row)}" if best else ""


def _no_form(row: Row, table: Sequence[Form]) -> str:
    """What is the matter with a row that no form of the table fits."""
    kinds = ("comparisons", "demonstrations") if table is COMPARISONS else ("demonstrations", "comparisons")
    fitting = [form for form in FORMS.values() if set(form.keys) <= set(row) and form.sees(row)]
    if fitting:
        other = max(fitting, key=lambda form: len(form.keys))
        why = "pairwise methods need two answers to a prompt" if table is COMPARISONS else "imitation needs one answer"
        return f"is of the form {other.name}, which is one of {kinds[1]}: {why}"
    mine = sorted(row)
    keys = ", ".join(mine[:KEYS]) + (f" and {len(mine) - KEYS} more" if len(mine) > KEYS else "")
    share = {form: len(set(form.keys) & set(row)) / len(form.keys) for form in table}
    near = sorted((form for form in table if 0 < share[form] < 1), key=lambda form: -share[form])[:2]
    forms = " and ".join(f"{form.name} ({', '.join(form.keys)})" for form in near)
    nearest = f"the nearest are {forms}" if forms else f"there are {', '.join(form.name for form in table)}"
    return f"is of no form of {kinds[0]} (it has {keys or 'no keys'}; {nearest})"


def _by_name(row: Row) -> bool:
    del row
    return False


def _not_rated(row: Row) -> bool:
    return "helpfulness" not in row


_BOTH, _PKU = ("chosen", "rejected"), ("response_0", "response_1")
COMPARISONS: Sequence[Form] = (
    Form("pair", ("prompt", *_BOTH), parsers.pair(parsers.prompt), parsers.has_answers),
    Form("transcripts", _BOTH, parsers.transcripts, parsers.writes_transcripts),
    Form("conversations", _BOTH, parsers.conversations, parsers.has_conversations),
    Form("orca", ("question", *_BOTH), parsers.pair(parsers.asked_in("question")), parsers.has_answers),
    Form(
        "distilabel_pair",
        ("input", *_BOTH),
        parsers.pair(parsers.asked_in("input")),
        lambda row: parsers.has_answers(row) and set(row).isdisjoint(parsers.ASK - {"input"}),
    ),
    Form("alpaca_pair", ("instruction", *_BOTH), parsers.pair(parsers.instruction), parsers.has_answers),
    Form(
        "sharegpt_pair",
        ("conversations", *_BOTH),
        parsers.pair(parsers.asked_in("conversations")),
        parsers.has_answers,
    ),
    Form("choice", ("info", "summaries", "choice"), parsers.choice),
    Form(
        "ultrafeedback",
        ("instruction", "completions"),
        parsers.ultrafeedback("overall_score", "fine-grained_score"),
        note="by overall_score; ultrafeedback_fine_grained goes by the mean of the aspects",
    ),
    Form(
        "ultrafeedback_fine_grained",
        ("instruction", "completions"),
        parsers.ultrafeedback("fine-grained_score"),
        sees=_by_name,
        note="by fine-grained_score, or the mean of the ratings",
    ),
    Form("helpsteer2", ("prompt", "response", "helpfulness"), parsers.rated_alone, grouped=True, note="by helpfulness"),
    Form(
        "helpsteer2_preference",
        ("prompt", "response_1", "response_2", "preference_strength"),
        parsers.strength("response_1", "response_2", "preference_strength", parsers.helpsteer_prompt),
    ),
    Form(
        "helpsteer3",
        ("context", "response1", "response2", "overall_preference"),
        parsers.strength("response1", "response2", "overall_preference", parsers.asked_in("context")),
    ),
    Form("nectar", ("prompt", "answers"), parsers.nectar, note="by rank, 1 is the best"),
    Form(
        "pku_better",
        ("prompt", *_PKU, "better_response_id"),
        parsers.better(*_PKU, "better_response_id", parsers.prompt),
        note="by better_response_id, the more helpful one; pku_safer goes by safer_response_id",
    ),
    Form(
        "pku_safer",
        ("prompt", *_PKU, "safer_response_id"),
        parsers.better(*_PKU, "safer_response_id", parsers.prompt),
        sees=lambda row: "better_response_id" not in row,
        note="by safer_response_id",
    ),
    Form(
        "shp",
        ("history", "human_ref_A", "human_ref_B", "labels"),
        parsers.better("human_ref_B", "human_ref_A", "labels", parsers.asked_in("history")),
    ),
    Form("webgpt", ("question", "answer_0", "answer_1", "score_0", "score_1"), parsers.webgpt),
)
DEMONSTRATIONS: Sequence[Form] = (
    Form("completion", ("prompt", "completion"), parsers.completion("prompt", "completion")),
    Form("label", ("prompt", "label"), parsers.completion("prompt", "label")),
    Form("response", ("prompt", "response"), parsers.completion("prompt", "response"), _not_rated),
    Form("kto", ("prompt", "completion", "label"), parsers.kto),
    Form("tldr", (*POST, "summary"), lambda row: (parsers.post(row), text(row, "summary"))),
    Form("messages", ("messages",), parsers.last("messages")),
    Form("sharegpt", ("conversations",), parsers.last("conversations"), lambda row: "chosen" not in row),
    Form("alpaca", ("instruction", "output"), lambda row: (parsers.instruction(row), text(row, "output"))),
)
FORMS = {form.name: form for form in (*COMPARISONS, *DEMONSTRATIONS)}
