"""Rows of every form as their data sets write them, with ties and malformed ones, and what they must become.

``python -m tests.lm.form_rows`` writes the table of ``docs/guides/data.md`` anew.
"""

import json
import tempfile
from pathlib import Path

from gvgap_jax.lm.data import forms, read
from gvgap_jax.lm.data.rows import Comparison, Demonstration

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "data.md"
BEGIN, END = "<!-- table: forms -->\n", "<!-- end -->\n"
ASKED = "\n\nHuman: a?\n\nAssistant: b\n\nHuman: c?\n\nAssistant:"
POST = {"subreddit": "pets", "title": "Dog", "post": "It\nran."}


def said(role, content, **beside):
    return {"role": role, "content": content, **beside}


def turn(who, value):
    return {"from": who, "value": value}


USER, GOOD, BAD = said("user", "hi?"), said("assistant", "good"), said("assistant", "bad")
SYSTEM = said("system", "Be brief.")
CHOICE = {
    "info": {"id": "t3_1", "site": None, "article": None, **POST},
    "summaries": [{"text": " bad", "policy": "sup2"}, {"text": " good", "policy": "ref"}],
    "choice": 1,
    "batch": "batch3",
    "worker": "w",
}


def completion(text, overall, fine, **ratings):
    rated = {name: {"Rating": rating, "Rationale": "so"} for name, rating in ratings.items()}
    return {"model": "m", "response": text, "overall_score": overall, "fine-grained_score": fine, "annotations": rated}


FEEDBACK = {
    "source": "sharegpt",
    "instruction": "q",
    "models": ["m", "m", "m"],
    "completions": [
        completion("good", 8.5, 4.0, helpfulness="4", honesty="5"),
        completion("bad", 3.0, 4.5, helpfulness="2", honesty="3"),
        completion("alike", 8.5, 2.0, helpfulness="1", honesty="1"),
    ],
}
HELPFUL = {"prompt": "q", "correctness": 1, "coherence": 4, "complexity": 2, "verbosity": 1}
PREFERRED = {"split": "train", "prompt": "q", "response_1": "good", "response_2": "bad", "preference_strength": -2}
HELPSTEER3 = {"domain": "code", "language": "c", "context": [USER], "response1": "bad", "response2": "good"}
RANKED = {"prompt": "\n\nHuman: q\n\nAssistant: ", "source": ["sharegpt"], "turns": 1}
SAFE = {"prompt": "q", "response_0": "good", "response_1": "safe", "better_response_id": 0, "safer_response_id": 1}
SHP = {"post_id": "p", "history": "q", "human_ref_A": "good", "human_ref_B": "bad", "score_A": 9, "score_B": 2}
WEBGPT = {"question": {"dataset": "eli5", "id": "1", "full_text": "q"}, "answer_0": "bad", "answer_1": "good"}
PAIR = {"prompt": "q", "chosen": "good", "rejected": "bad"}
KTO = {"prompt": "q", "completion": "good", "label": True}


def ranked(*answers):
    return {"answers": [{"answer": text, "model": "m", "rank": rank} for text, rank in answers]}


def q(prompt="q", chosen="good", rejected="bad", reference=None):
    return [Comparison(prompt, chosen, rejected, reference)]


def d(prompt="q", response="good"):
    return [Demonstration(prompt, response)]


# form -> [(row, what it says, or why it says nothing)]
COMPARISONS = {
    "pair": [
        (PAIR, q()),
        (PAIR | {"prompt": POST, "reference": "human"}, q(POST, reference="human")),
        (PAIR | {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}, q([USER])),
        (PAIR | {"prompt": [SYSTEM, USER], "system": "Be brief."}, q([SYSTEM, USER])),
        (PAIR | {"system": "Be brief."}, q([SYSTEM, said("user", "q")])),
        (PAIR | {"score_chosen": 4, "score_rejected": 3.5}, q()),
        (PAIR | {"score_chosen": 4, "score_rejected": 4.0}, "is a tie: its answers are rated alike"),
        (PAIR | {"chosen": "bad"}, "chosen equals rejected"),
        (PAIR | {"prompt": " "}, "prompt is empty"),
    ],
    "transcripts": [
        ({"chosen": ASKED + " good", "rejected": ASKED + " bad"}, q(ASKED, " good", " bad")),
        ({"prompt": "a?", "chosen": ASKED + " good", "rejected": ASKED + " bad"}, q(ASKED, " good", " bad")),
        (
            {"chosen": ASKED + " good", "rejected": "\n\nHuman: z?\n\nAssistant: bad"},
            "chosen and rejected do not share all turns but the last",
        ),
    ],
    "conversations": [
        ({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, q([USER])),
        (
            PAIR | {"prompt": "hi?", "chosen": [USER, GOOD], "rejected": [USER, BAD], "messages": [USER, GOOD]},
            q([USER]),
        ),
        (
            {"chosen": [USER, GOOD], "rejected": [USER, BAD], "score_chosen": 8.0, "score_rejected": 8.0},
            "is a tie: its answers are rated alike",
        ),
        (
            {"chosen": [USER, GOOD], "rejected": [BAD, BAD]},
            "chosen and rejected do not share all turns but the last",
        ),
    ],
    "orca": [
        (
            {"system": "Be brief.", "question": "q", **q()[0]._asdict()} | {"prompt": None},
            q([SYSTEM, said("user", "q")]),
        ),
        ({"system": "", "question": "q", "chosen": "good", "rejected": "bad"}, q()),
        ({"system": "", "question": "q", "chosen": "good", "rejected": ""}, "rejected is empty"),
    ],
    "distilabel_pair": [
        ({"system": "", "input": "q", "chosen": "good", "rejected": "bad", "status": "swapped"}, q()),
        (
            {"system": "Be brief.", "input": "q", "chosen": "good", "rejected": "bad"},
            q([SYSTEM, said("user", "q")]),
        ),
        (
            {"input": "q", "chosen": "good", "rejected": "bad", "status": "tie"},
            "is a tie: its answers are rated alike",
        ),
    ],
    "alpaca_pair": [
        ({"instruction": "Add.", "input": "1, 2", "chosen": "good", "rejected": "bad"}, q("Add.\n\n1, 2")),
        ({"instruction": "Add.", "input": "", "chosen": "good", "rejected": "bad"}, q("Add.")),
        ({"instruction": "Add.", "chosen": "good", "rejected": 3}, "rejected is no text"),
    ],
    "sharegpt_pair": [
        (
            {"conversations": [turn("human", "hi?")], "chosen": turn("gpt", "good"), "rejected": turn("gpt", "bad")},
            q([USER]),
        ),
        (
            {"conversations": [turn("human", "hi?")], "chosen": [turn("gpt", "good")], "rejected": "bad"},
            q([USER]),
        ),
        (
            {"conversations": [turn("human", "hi?")], "chosen": turn("human", "x"), "rejected": turn("gpt", "bad")},
            "chosen should end in one message of the assistant",
        ),
    ],
    "choice": [
        (CHOICE, q(POST, " good", " bad", " good")),
        (CHOICE | {"choice": 0, "reference": "r"}, q(POST, " bad", " good", "r")),
        (CHOICE | {"choice": 2}, "choice should be 0 or 1"),
        (CHOICE | {"summaries": CHOICE["summaries"][:1]}, "summaries should be two objects"),
    ],
    "ultrafeedback": [
        (FEEDBACK, q() + q(chosen="alike")),
        (FEEDBACK | {"completions": FEEDBACK["completions"][:2]}, q()),
        (FEEDBACK | {"completions": FEEDBACK["completions"][::2]}, "is a tie: its answers are rated alike"),
        (FEEDBACK | {"completions": FEEDBACK["completions"][:1]}, "completions should be 2 objects or more"),
        (
            FEEDBACK | {"completions": [{"response": "a"}, {"response": "b"}]},
            "its completions have no overall_score, fine-grained_score or annotations in common",
        ),
    ],
    "ultrafeedback_fine_grained": [
        (FEEDBACK, q(chosen="bad", rejected="good") + q(rejected="alike") + q(chosen="bad", rejected="alike")),
        (
            FEEDBACK | {"completions": [each | {"fine-grained_score": None} for each in FEEDBACK["completions"][:2]]},
            q(),
        ),
    ],
    "helpsteer2": [
        (HELPFUL | {"response": "bad", "helpfulness": 1}, q()),
        (HELPFUL | {"response": "good", "helpfulness": 4}, []),
        (
            HELPFUL
            | {"prompt": "a<extra_id_1>Assistant\nb\n<extra_id_1>User\nc", "response": "good", "helpfulness": 3},
            q([said("user", "a"), said("assistant", "b"), said("user", "c")]),
        ),
        (
            HELPFUL | {"prompt": "a<extra_id_1>Assistant\nb\n<extra_id_1>User\nc", "response": "bad", "helpfulness": 2},
            [],
        ),
        (HELPFUL | {"prompt": "alone", "response": "x", "helpfulness": 3}, "is the only answer to its prompt"),
        (
            HELPFUL | {"prompt": "alike", "response": "x", "helpfulness": 3},
            "is a tie: its answers are rated alike",
        ),
        (
            HELPFUL | {"prompt": "alike", "response": "y", "helpfulness": 3},
            "is a tie: its answers are rated alike",
        ),
        (HELPFUL | {"response": "x", "helpfulness": "much"}, "helpfulness is no number"),
    ],
    "helpsteer2_preference": [
        (PREFERRED, q()),
        (PREFERRED | {"preference_strength": 1}, q(chosen="bad", rejected="good")),
        (PREFERRED | {"preference_strength": 0}, "is a tie: its answers are rated alike"),
        (PREFERRED | {"preference_strength": None, "response": "x"}, "has no preference_strength"),
    ],
    "helpsteer3": [
        (HELPSTEER3 | {"overall_preference": 2}, q([USER])),
        (HELPSTEER3 | {"overall_preference": -3}, q([USER], "bad", "good")),
        (HELPSTEER3 | {"overall_preference": 0}, "is a tie: its answers are rated alike"),
        (HELPSTEER3 | {"overall_preference": 2, "context": []}, "context should be messages of role and content"),
    ],
    "nectar": [
        (
            RANKED | ranked(("bad", 3.0), ("good", 1.0), ("fair", 2.0)),
            [
                Comparison(RANKED["prompt"], better, worse)
                for better, worse in [("good", "bad"), ("fair", "bad"), ("good", "fair")]
            ],
        ),
        (RANKED | ranked(("a", 1), ("b", 1)), "is a tie: its answers are rated alike"),
        (RANKED | ranked(("a", 1), ("b", None)), "has no rank"),
    ],
    "pku_better": [
        (SAFE, q(rejected="safe")),
        (SAFE | {"better_response_id": 1}, q(chosen="safe", rejected="good")),
        (SAFE | {"better_response_id": 2}, "better_response_id should be 0 or 1"),
    ],
    "pku_safer": [
        (SAFE, q(chosen="safe", rejected="good")),
        (SAFE | {"safer_response_id": -1}, "safer_response_id should be 0 or 1"),
    ],
    "shp": [
        (SHP | {"labels": 1}, q()),
        (SHP | {"labels": 0}, q(chosen="bad", rejected="good")),
        (SHP | {"labels": None}, "labels should be 0 or 1"),
    ],
    "webgpt": [
        (WEBGPT | {"score_0": -0.5, "score_1": 0.5}, q()),
        (WEBGPT | {"score_0": 0.0, "score_1": 0.0}, "is a tie: its answers are rated alike"),
        (WEBGPT | {"score_0": 1, "score_1": -1, "question": {"id": "1"}}, "has no full_text"),
    ],
}
DEMONSTRATIONS = {
    "completion": [
        ({"prompt": "q", "completion": "good"}, d()),
        ({"prompt": [USER], "completion": [GOOD]}, d([USER])),
        ({"prompt": "q", "completion": "\t"}, "completion is empty"),
    ],
    "label": [
        ({"prompt": "q", "label": "good"}, d()),
        ({"prompt": "q", "label": "false"}, d(response="false")),
        ({"prompt": "q", "label": 3}, "label is no text"),
    ],
    "response": [
        ({"prompt": "q", "response": "good"}, d()),
        ({"prompt": 3, "response": "good"}, "prompt is no text"),
    ],
    "kto": [
        (KTO, d()),
        (KTO | {"prompt": [USER], "completion": [GOOD]}, d([USER])),
        (KTO | {"label": False}, "its label is false"),
        (KTO | {"label": "maybe"}, "label should be true or false"),
    ],
    "tldr": [
        ({**POST, "summary": "good", "id": "x"}, d(POST)),
        ({"subreddit": "pets", "title": "", "post": " ", "summary": "good"}, "post is empty"),
    ],
    "messages": [
        ({"messages": [USER, BAD, USER, GOOD]}, d([USER, BAD, USER])),
        ({"messages": [said("human", "hi?"), said("gpt", "good")]}, d([USER])),
        ({"messages": [GOOD]}, "messages have no prompt before the answer"),
        ({"messages": [USER, USER]}, "messages should end in one message of the assistant"),
        (
            {"messages": [USER, GOOD], "tools": [{"name": "search"}]},
            "has tools, which no prompt of text can show",
        ),
        (
            {"messages": [USER, said("assistant", "4", reasoning_content="two and two")]},
            "messages has reasoning_content beside its text, which would be lost",
        ),
    ],
    "sharegpt": [
        (
            {"id": "1", "conversations": [turn("system", "Be brief."), turn("human", "hi?"), turn("gpt", "good")]},
            d([SYSTEM, USER]),
        ),
        (
            {"conversations": [turn("human", "hi?"), turn("function_call", "{}"), turn("gpt", "good")]},
            "a turn is of none of human, gpt, system and tool, and would be lost",
        ),
    ],
    "alpaca": [
        ({"instruction": "Add.", "input": "1, 2", "output": "good", "text": "Below is"}, d("Add.\n\n1, 2")),
        (
            {"instruction": "q", "output": "good", "system": "Be brief.", "history": [["hi?", "bad"]]},
            d([SYSTEM, USER, BAD, said("user", "q")]),
        ),
        ({"instruction": "q", "output": "x", "kto_tag": False}, "its kto_tag is false"),
        ({"instruction": "q", "output": None, "input": "x"}, "has no output"),
    ],
}


def written(folder, form):
    """A file with the rows of a form."""
    path = Path(folder) / f"{form}.jsonl"
    rows = (COMPARISONS | DEMONSTRATIONS)[form]
    path.write_text("".join(json.dumps(row) + "\n" for row, _ in rows), encoding="utf-8")
    return path


def corpus(path, form):
    """The rows of a form, read by its name."""
    reads = read.read_comparisons if form in COMPARISONS else read.read_demonstrations
    return reads(path, form, most_malformed=1.0)


def table():
    """The table of the guide: what was taken of the rows above, and what was not."""
    lines = ["| form | keys | good for | rows | taken | comparisons | ties | dropped, and why |", "|---|" + "---|" * 7]
    with tempfile.TemporaryDirectory() as folder:
        for form in forms.FORMS.values():
            found = corpus(written(folder, form.name), form.name)
            compares = form.name in COMPARISONS
            why = "; ".join(dict.fromkeys(each.reason for each in found.dropped))
            keys = ", ".join(f"`{key}`" for key in form.keys)
            counts = [found.taken + len(found.dropped), found.taken, len(found.rows) if compares else "–"]
            counts += [found.ties if compares else "–", f"{len(found.dropped)}{f': {why}' if why else ''}"]
            use = "comparisons" if compares else "demonstrations"
            lines.append(f"| `{form.name}` | {keys} | {use} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines) + "\n"


def current(text):
    """The page with the table as it is now."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + "\n" + table() + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(current(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
