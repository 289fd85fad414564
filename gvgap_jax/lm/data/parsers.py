"""How a row of each form is read: to a prompt and answers with scores, or to a demonstration.

A row comes without its empty columns. All raise ValueError with what is wrong, the same words for the same fault.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from gvgap_jax.lm.data import values
from gvgap_jax.lm.data.prompts import ANSWER, QUESTION
from gvgap_jax.lm.data.rows import POST
from gvgap_jax.lm.data.tokenizer import Messages, Prompt
from gvgap_jax.lm.data.values import Row, answer, first_or_second, number, objects, structure, text

SCORES = [
    (written.format("chosen", word), written.format("rejected", word))
    for word in ("score", "rating", "avg_rating")
    for written in ("{1}_{0}", "{0}_{1}", "{0}-{1}")
]
ASK = {"prompt", "question", "instruction", "conversations", "input"}


class Useless(ValueError):  # noqa: N818  a state of a row
    """The row is as it should be, and says nothing of use."""


class Rated(NamedTuple):
    """Answers to a prompt with their scores, of which the higher is better; ``reference``: a human answer."""

    prompt: Prompt
    answers: list[tuple[str, float]]
    reference: str | None = None


def pair(asked: Callable[[Row], Prompt]) -> Callable[[Row], Rated]:
    """A form of chosen and rejected whose prompt is read so."""

    def parse(row: Row) -> Rated:
        answers = labelled(row, answer(row, "chosen"), answer(row, "rejected"))
        return Rated(asked(row), answers, _reference(row))

    return parse


def labelled(row: Row, chosen: str, rejected: str) -> list[tuple[str, float]]:
    """Chosen is better than rejected, unless the row says itself that they are alike."""
    tied = row.get("status") == "tie"
    for names in SCORES:
        if all(name in row for name in names):
            better, worse = (number(row, name) for name in names)
            if better < worse:
                raise ValueError(f"{names[0]} is below {names[1]}")
            tied = tied or better == worse
    return [(chosen, float(not tied)), (rejected, 0.0)]


def _reference(row: Row) -> str | None:
    return answer(row, "reference") if "reference" in row else None


def prompt(row: Row, name: str = "prompt") -> Prompt:
    """Messages, the fields of a template, or a text."""
    found = row.get(name)
    if isinstance(found, dict) and found and not {"role", "from"} & set(found):
        return {field: text(found, field, blank=True) for field in found}
    return values.messages(row, name) if values.is_conversation(found) else text(row, name)


def asked_in(name: str) -> Callable[[Row], Prompt]:
    """Read a prompt from the column of that name."""
    return lambda row: prompt(row, name)


def transcripts(row: Row) -> Rated:
    """Cut behind the last turn of the assistant, up to which both must be the same."""
    chosen, rejected = (_lines(text(row, name)) for name in ("chosen", "rejected"))
    asked = chosen[: chosen.rfind(ANSWER) + len(ANSWER)] if ANSWER in chosen else ""
    if not asked or not rejected.startswith(asked):
        raise ValueError("chosen and rejected do not share all turns but the last")
    ends = {"chosen": chosen[len(asked) :], "rejected": rejected[len(asked) :]}
    if any(turn in end for end in ends.values() for turn in (ANSWER, QUESTION)):
        raise ValueError("chosen and rejected do not share all turns but the last")
    return Rated(asked, labelled(row, text(ends, "chosen"), text(ends, "rejected")), _reference(row))


def _lines(text: str) -> str:
    """With line ends as transcripts have them."""
    return text.replace("\r\n", "\n")


def conversations(row: Row) -> Rated:
    """Messages that are the same up to the last, which are the answers."""
    chosen, rejected = values.messages(row, "chosen"), values.messages(row, "rejected")
    asked = values.messages(row, "prompt") if values.is_conversation(row.get("prompt")) else []
    if chosen[:-1] != rejected[:-1] or not (asked or chosen[:-1]):
        raise ValueError("chosen and rejected do not share all turns but the last")
    if chosen[:-1] and chosen[: len(asked)] != asked:
        raise ValueError("the prompt is not how chosen begins")
    ends = {"chosen": chosen[-1:], "rejected": rejected[-1:]}
    answers = labelled(row, answer(ends, "chosen"), answer(ends, "rejected"))
    return Rated(chosen[:-1] or asked, answers, _reference(row))


def choice(row: Row) -> Rated:
    """A post with two summaries, of which a person's is the reference too."""
    summaries = values.listed(row.get("summaries"))
    if not isinstance(summaries, list) or len(summaries) != 2 or not all(isinstance(each, dict) for each in summaries):
        raise ValueError("summaries should be two objects")
    better = first_or_second(row, "choice")
    texts = [text(each, "text") for each in summaries]
    people = [said for each, said in zip(summaries, texts, strict=True) if each.get("policy") == "ref"]
    answers = [(said, float(place == better)) for place, said in enumerate(texts)]
    return Rated(post(row.get("info")), answers, _reference(row) or next(iter(people), None))


def post(row: Any) -> dict[str, str]:
    """What a post is asked with; the same fields wherever it was written down."""
    row = values.present(structure(row))
    return {name: text(row, name, blank=name != "post") for name in POST}


def ultrafeedback(*scores: str) -> Callable[[Row], Rated]:
    """Completions by the first of these scores that all of them have, or else by the mean of their ratings."""

    def parse(row: Row) -> Rated:
        completions = objects(row, "completions", 2)
        there = next((name for name in scores if all(name in each for each in completions)), None)

        def score(completion: Row) -> float:
            return number(completion, there) if there else _mean_rating(completion)

        return Rated(text(row, "instruction"), [(text(each, "response"), score(each)) for each in completions])

    return parse


def _mean_rating(completion: Row) -> float:
    annotations = structure(completion.get("annotations"))
    rated = [values.present(each) for each in annotations.values()] if isinstance(annotations, dict) else []
    if not rated:
        raise ValueError("its completions have no overall_score, fine-grained_score or annotations in common")
    return sum(number(each, "Rating") for each in rated) / len(rated)


def helpsteer_prompt(row: Row) -> Prompt:
    """Turns after the first user's begin with a mark of their own."""
    first, *parts = re.split(r"<extra_id_1>(User|Assistant)\n", text(row, "prompt"))
    if not parts:
        return first
    said = [("user", first), *zip(map(str.lower, parts[::2]), parts[1::2], strict=True)]
    return [{"role": role, "content": content.strip()} for role, content in said]


def rated_alone(row: Row) -> Rated:
    """One answer and how helpful it is."""
    return Rated(helpsteer_prompt(row), [(text(row, "response"), number(row, "helpfulness"))])


def strength(first: str, second: str, strength: str, asked: Callable[[Row], Prompt]) -> Callable[[Row], Rated]:
    """From -3, the first is much better, to 3, the second is."""

    def parse(row: Row) -> Rated:
        return Rated(asked(row), [(text(row, first), 0.0), (text(row, second), number(row, strength))])

    return parse


def nectar(row: Row) -> Rated:
    """Answers by their rank, of which 1 is the best."""
    answers = objects(row, "answers", 2)
    return Rated(prompt(row), [(text(each, "answer"), -number(each, "rank")) for each in answers])


def better(first: str, second: str, label: str, asked: Callable[[Row], Prompt]) -> Callable[[Row], Rated]:
    """The label is 0 where the first is better, 1 where the second is."""

    def parse(row: Row) -> Rated:
        which = float(first_or_second(row, label))
        return Rated(asked(row), [(text(row, first), 1 - which), (text(row, second), which)])

    return parse


def webgpt(row: Row) -> Rated:
    """Two answers whose scores sum to 0."""
    question = structure(row.get("question"))
    asked = text(question, "full_text") if isinstance(question, dict) else text(row, "question")
    return Rated(asked, [(text(row, f"answer_{n}"), number(row, f"score_{n}")) for n in (0, 1)])


def completion(asked: str, response: str) -> Callable[[Row], tuple]:
    """A demonstration in two columns."""
    return lambda row: (prompt(row, asked), answer(row, response))


def kto(row: Row) -> tuple:
    """An answer with a label, which alone says whether it is one to imitate."""
    found = completion("prompt", "completion")(row)
    if not values.truth(row, "label"):
        raise Useless("its label is false")
    return found


def last(name: str) -> Callable[[Row], tuple]:
    """The last message is the answer to all before it."""

    def parse(row: Row) -> tuple[Messages, str]:
        found = values.messages(row, name)
        if len(found) < 2:
            raise ValueError(f"{name} have no prompt before the answer")
        return found[:-1], answer({name: found[-1:]}, name)

    return parse


def instruction(row: Row) -> Prompt:
    """Alpaca: what to do, on what, and what was said before."""
    more = text(row, "input", blank=True) if "input" in row else ""
    asked = text(row, "instruction") + (f"\n\n{more}" if more.strip() else "")
    before = structure(row.get("history")) or []
    if not isinstance(before, list) or not all(isinstance(each, list) and len(each) == 2 for each in before):
        raise ValueError("history should be pairs of texts")
    turns = [text({"history": said}, "history") for each in before for said in each]
    said = [{"role": ("user", "assistant")[place % 2], "content": turn} for place, turn in enumerate(turns)]
    return [*said, {"role": "user", "content": asked}] if said else asked


def has_conversations(row: Row) -> bool:
    """Chosen is a whole conversation, not an answer."""
    chosen = values.listed(row.get("chosen"))
    return isinstance(chosen, list) and (len(chosen) > 1 or not _asks(row))


def writes_transcripts(row: Row) -> bool:
    """Chosen and rejected are conversations in one text."""
    texts = [row.get(name) for name in ("chosen", "rejected")]
    asks = _asks(row) and not all(isinstance(each, str) and each.lstrip().startswith("Human:") for each in texts)
    return not asks and any(isinstance(each, str) and ANSWER in _lines(each) for each in texts)


def _asks(row: Row) -> bool:
    return bool(ASK & set(row))


def has_answers(row: Row) -> bool:
    """Chosen and rejected are answers alone."""
    return not has_conversations(row) and not writes_transcripts(row)
