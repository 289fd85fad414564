"""The forms in which preference data are written down, one row at a time: JSON objects in, text out.

===========  ==============================================================================================
form         keys of a comparison
===========  ==============================================================================================
pair         prompt (text, fields or messages), chosen and rejected (text or one message of the assistant)
transcripts  chosen and rejected: whole conversations with a common beginning, as text or messages
choice       info, summaries (two), choice (0 or 1): OpenAI's summarize_from_feedback
===========  ==============================================================================================

Demonstrations are ``completion`` (prompt, completion or label), ``tldr`` (subreddit, title, post, summary) or
``messages``, of which the last is the answer.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

from gvgap_jax.lm.data.tokenizer import Messages, Prompt
from gvgap_jax.runtime.messages import first_few, unknown

ComparisonForm = Literal["pair", "transcripts", "choice"]
DemonstrationForm = Literal["completion", "tldr", "messages"]
POST = ("subreddit", "title", "post")
ANSWER = "\n\nAssistant:"  # Anthropic's HH (arXiv 2204.05862) writes turns so
QUESTION = "\n\nHuman:"

Row = dict[str, Any]


class Comparison(NamedTuple):
    """Two responses to a prompt, and another that they may be judged against; ``where`` it was read."""

    prompt: Prompt
    chosen: str
    rejected: str
    reference: str | None = None
    where: str = ""


class Demonstration(NamedTuple):
    """A response to imitate; ``where`` it was read."""

    prompt: Prompt
    response: str
    where: str = ""


class Dropped(NamedTuple):
    """A row that is not used: ``where`` it stands ("file:line"), and why."""

    where: str
    reason: str


def report(kept: int, dropped: Sequence[Dropped]) -> str:
    """One sentence: how many rows are not used, for which reasons, and where the first of each stand."""
    if not dropped:
        return f"all {kept} rows are used."
    total = kept + len(dropped)
    reasons = [
        f"{count} × {reason} ({first_few([each.where for each in dropped if each.reason == reason])})"
        for reason, count in Counter(each.reason for each in dropped).most_common()
    ]
    return f"{len(dropped)} of {total} rows ({len(dropped) / total:.2%}) are not used: {'; '.join(reasons)}."


def comparison(row: Any, form: ComparisonForm | None = None, where: str = "") -> Comparison:
    """A row as a comparison; of the form that its keys show, if none is named.

    Raises:
      ValueError: it is malformed; the message is the reason, the same for all rows that lack the same.
    """
    row = _present(row)
    forms = {"pair": _pair, "transcripts": _transcripts, "choice": _choice}
    prompt, chosen, rejected, reference = forms[form or _form_of_comparison(row)](row)
    if chosen == rejected:
        raise ValueError("chosen equals rejected")
    return Comparison(prompt, chosen, rejected, reference, where)


def demonstration(row: Any, form: DemonstrationForm | None = None, where: str = "") -> Demonstration:
    """A row as a demonstration; of the form that its keys show, if none is named.

    Raises:
      ValueError: as ``comparison``.
    """
    row = _present(row)
    forms = {"completion": _completion, "tldr": _tldr, "messages": _conversation}
    return Demonstration(*forms[form or _form_of_demonstration(row)](row), where)


def check_form(form: str | None, kinds: Any) -> None:
    """ValueError if a form has a name that is none of a Literal's."""
    if form is not None and form not in get_args(kinds):
        raise ValueError(unknown("form", form, get_args(kinds)))


def _present(row: Any) -> Row:
    """The row without its empty columns."""
    if not isinstance(row, dict):
        raise ValueError("is no JSON object")
    return {key: value for key, value in row.items() if value is not None}


def _form_of_comparison(row: Row) -> ComparisonForm:
    if "summaries" in row or "choice" in row:
        return "choice"
    if "chosen" not in row and "rejected" not in row:
        raise ValueError("has no chosen and rejected, and no summaries and choice")
    whole = isinstance(row.get("chosen"), list) and len(row["chosen"]) > 1
    return "pair" if "prompt" in row and not whole else "transcripts"


def _form_of_demonstration(row: Row) -> DemonstrationForm:
    if "messages" in row:
        return "messages"
    if "completion" in row or "label" in row:
        return "completion"
    if "summary" in row:
        return "tldr"
    raise ValueError("has no completion, label, summary or messages")


def _pair(row: Row):
    return _prompt(row), _answer(row, "chosen"), _answer(row, "rejected"), _reference(row)


def _transcripts(row: Row):
    parts = _of_messages if isinstance(row.get("chosen"), list) else _of_texts
    return *parts(row), _reference(row)


def _of_texts(row: Row) -> tuple[str, str, str]:
    """Cut behind the last turn of the assistant, up to which both must be the same."""
    chosen, rejected = _text(row, "chosen"), _text(row, "rejected")
    asked = chosen[: chosen.rfind(ANSWER) + len(ANSWER)] if ANSWER in chosen else ""
    if not asked or not rejected.startswith(asked):
        raise ValueError("chosen and rejected do not share all turns but the last")
    answers = {"chosen": chosen[len(asked) :], "rejected": rejected[len(asked) :]}
    if any(turn in answer for answer in answers.values() for turn in (ANSWER, QUESTION)):
        raise ValueError("chosen and rejected do not share all turns but the last")
    return asked, _text(answers, "chosen"), _text(answers, "rejected")


def _of_messages(row: Row) -> tuple[Messages, str, str]:
    chosen, rejected = _messages(row, "chosen"), _messages(row, "rejected")
    asked = _messages(row, "prompt") if isinstance(row.get("prompt"), list) else []
    if chosen[:-1] != rejected[:-1] or not (asked or chosen[:-1]):
        raise ValueError("chosen and rejected do not share all turns but the last")
    if chosen[:-1] and chosen[: len(asked)] != asked:
        raise ValueError("the prompt is not how chosen begins")
    ends = {"chosen": chosen[-1:], "rejected": rejected[-1:]}
    return chosen[:-1] or asked, _answer(ends, "chosen"), _answer(ends, "rejected")


def _choice(row: Row):
    summaries, choice = row.get("summaries"), row.get("choice")
    if not isinstance(summaries, list) or len(summaries) != 2 or not all(isinstance(each, dict) for each in summaries):
        raise ValueError("summaries are not two objects")
    if type(choice) is not int or choice not in (0, 1):
        raise ValueError("choice is not 0 or 1")
    texts = [_text(each, "text") for each in summaries]
    people = [text for each, text in zip(summaries, texts, strict=True) if each.get("policy") == "ref"]
    return _post(row.get("info")), texts[choice], texts[1 - choice], _reference(row) or next(iter(people), None)


def _completion(row: Row):
    return _prompt(row), _answer(row, "completion" if "completion" in row else "label")


def _tldr(row: Row):
    return _post(row), _text(row, "summary")


def _conversation(row: Row):
    messages = _messages(row, "messages")
    if len(messages) < 2:
        raise ValueError("messages have no prompt before the answer")
    return messages[:-1], _answer({"messages": messages[-1:]}, "messages")


def _post(row: Any) -> dict[str, str]:
    """What a post is asked with; the same fields wherever it was written down."""
    row = _present(row)
    return {name: _text(row, name, blank=name != "post") for name in POST}


def _prompt(row: Row) -> Prompt:
    prompt = row.get("prompt")
    if isinstance(prompt, list):
        return _messages(row, "prompt")
    if isinstance(prompt, dict) and prompt:
        return {name: _text(prompt, name, blank=True) for name in prompt}
    return _text(row, "prompt")


def _answer(row: Row, name: str) -> str:
    """A text, or the text of the assistant's only message."""
    if not isinstance(row.get(name), list):
        return _text(row, name)
    messages = _messages(row, name)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise ValueError(f"{name} does not end in one message of the assistant")
    return _text({name: messages[0]["content"]}, name)


def _reference(row: Row) -> str | None:
    return _answer(row, "reference") if "reference" in row else None


def _messages(row: Row, name: str) -> Messages:
    messages = row.get(name)
    if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
        raise ValueError(f"{name} are not messages of role and content")
    return [{"role": _text(each, "role"), "content": _text(each, "content", blank=True)} for each in messages]


def _text(row: Row, name: str, blank: bool = False) -> str:
    text = row.get(name)
    if text is None:
        raise ValueError(f"has no {name}")
    if not isinstance(text, str):
        raise ValueError(f"{name} is no text")
    if not blank and not text.strip():
        raise ValueError(f"{name} is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} has half a character (a lone surrogate)") from None
    return text
