"""Every form of preference data: what its rows say, what is wrong with them, and how it is seen from their keys."""

import datetime
import json
import math
import re
import sys

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from gvgap_jax.lm.data import forms, parsers, read
from gvgap_jax.lm.data.forms import COMPARISONS, DEMONSTRATIONS, FORMS
from gvgap_jax.lm.data.rows import Comparison, Demonstration
from tests.lm import form_rows
from tests.lm.form_rows import ASKED, BAD, CHOICE, GOOD, PAIR, POST, USER, said, turn

ROWS = form_rows.COMPARISONS | form_rows.DEMONSTRATIONS
BY_NAME = {"ultrafeedback_fine_grained", "pku_safer"}


def test_every_form_has_rows_here():
    assert list(FORMS) == list(ROWS)
    assert set(form_rows.COMPARISONS) == {form.name for form in COMPARISONS}


@pytest.mark.parametrize("form", ROWS)
def test_what_the_rows_of_a_form_say(tmp_path, form):
    found = form_rows.corpus(form_rows.written(tmp_path, form), form)
    expected = [row for _, rows in ROWS[form] if not isinstance(rows, str) for row in rows]
    assert [row._replace(where="") for row in found.rows] == expected
    reasons = {f"{form}.jsonl:{line}": why for line, (_, why) in enumerate(ROWS[form], 1) if isinstance(why, str)}
    assert {each.where: each.reason for each in found.dropped} == reasons
    assert found.taken + len(reasons) == len(ROWS[form])
    useless = ("is a tie", "its label is false", "its kto_tag is false", "is the only answer")
    assert all(each.malformed != each.reason.startswith(useless) for each in found.dropped)


@pytest.mark.parametrize("form", [form for form in ROWS if form not in BY_NAME])
def test_a_form_is_seen_from_its_keys(tmp_path, form):
    path = form_rows.written(tmp_path, form)
    reads = read.read_comparisons if form in form_rows.COMPARISONS else read.read_demonstrations
    found, told = reads(path, most_malformed=1.0), form_rows.corpus(path, form)
    assert set(found.forms) == {form}
    assert found.rows == told.rows
    assert found.ties == told.ties
    assert found.report().startswith(f"form {form}")


def test_where_comparisons_of_several_rows_and_of_one_stand(tmp_path):
    found = form_rows.corpus(form_rows.written(tmp_path, "helpsteer2"), "helpsteer2")
    assert [row.where for row in found.rows] == ["helpsteer2.jsonl:1", "helpsteer2.jsonl:3"]
    assert (found.taken, found.ties) == (4, 1)
    found = form_rows.corpus(form_rows.written(tmp_path, "ultrafeedback"), "ultrafeedback")
    assert [row.where for row in found.rows] == ["ultrafeedback.jsonl:1"] * 2 + ["ultrafeedback.jsonl:2"]
    assert (found.taken, found.ties) == (2, 2)
    assert found.report() == (
        "form ultrafeedback (by overall_score; ultrafeedback_fine_grained goes by the mean of the aspects): 2 of 5 "
        "rows are used in 3 comparisons; ties: 2; 3 are not: 1 × is a tie: its answers are "
        "rated alike (ultrafeedback.jsonl:3); 1 × completions should be 2 objects or more (ultrafeedback.jsonl:4); 1 × "
        "its completions have no overall_score, fine-grained_score or annotations in common (ultrafeedback.jsonl:5)."
    )


def test_ties_and_labels_that_are_false_are_not_malformed(tmp_path):
    tie = PAIR | {"score_chosen": 1, "score_rejected": 1}
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, [PAIR, *[tie] * 9])))
    found = read.read_comparisons(tmp_path / "a.jsonl")
    assert len(found.dropped) == found.ties == 9
    rows = [form_rows.KTO, *[form_rows.KTO | {"label": False}] * 9]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read.read_demonstrations(tmp_path / "b.jsonl")
    assert found.report() == (
        "form kto: 1 of 10 rows are used; 9 are not: 9 × its label is false (b.jsonl:2, b.jsonl:3, b.jsonl:4, and 6 "
        "more)."
    )


NO_FORM = [
    (
        {"text": "x"},
        COMPARISONS,
        "is of no form of comparisons (it has text; there are pair, transcripts, conversations, ",
    ),
    (
        {"query": "q", "chosen": "a", "rejected": "b"},
        COMPARISONS,
        "is of no form of comparisons (it has chosen, query, rejected; the nearest are pair (prompt, chosen, "
        "rejected) and orca (question, chosen, rejected))",
    ),
    (
        {"prompt": "q", "response_1": "a", "response_2": "b"},
        COMPARISONS,
        "is of no form of comparisons (it has prompt, response_1, response_2; the nearest are helpsteer2_preference "
        "(prompt, response_1, response_2, preference_strength) and nectar (prompt, answers))",
    ),
    ({}, DEMONSTRATIONS, "is of no form of demonstrations (it has no keys; there are completion, label, "),
    (
        {f"k{n}": 1 for n in range(11)},
        DEMONSTRATIONS,
        "is of no form of demonstrations (it has k0, k1, k10, k2, k3, k4, k5, k6 and 3 more; there are ",
    ),
    (
        form_rows.KTO,
        COMPARISONS,
        "is of the form kto, which is one of demonstrations: pairwise methods need two answers to a prompt",
    ),
    (PAIR, DEMONSTRATIONS, "is of the form pair, which is one of comparisons: imitation needs one answer"),
    (PAIR | {"question": "q"}, COMPARISONS, "is of several forms, pair and orca: name one of them"),
]


@pytest.mark.parametrize(("row", "table", "reason"), NO_FORM, ids=range(len(NO_FORM)))
def test_a_row_of_no_form_or_of_several_is_told_the_nearest(row, table, reason):
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}"):
        forms.form_of(row, table)


EMPTY = {
    "an answer": (PAIR, PAIR | {"chosen": None}, "has no chosen"),
    "a choice": (
        form_rows.SAFE,
        form_rows.SAFE | {"better_response_id": math.nan, "safer_response_id": None},
        "has no b",
    ),
    "a question": (form_rows.SHP | {"labels": 1}, form_rows.SHP | {"labels": 1, "history": None}, "has no history"),
    "a label": (form_rows.KTO, form_rows.KTO | {"label": None}, "has no label"),
    "a tag": ({"messages": [USER, GOOD]}, {"messages": [USER, GOOD], "kto_tag": math.nan}, "has no kto_tag"),
}


@pytest.mark.parametrize("what", EMPTY)
def test_a_row_with_an_empty_column_lacks_it(tmp_path, what):
    """Tables write nothing as null or NaN; an answer whose label is nothing is none to imitate."""
    good, bad, reason = EMPTY[what]
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(bad)}")
    reader = read.read_demonstrations if what in ("a label", "a tag") else read.read_comparisons
    found = reader(tmp_path / "a.jsonl")
    assert len(found.rows) == 1
    assert [each.reason[: len(reason)] for each in found.dropped] == [reason]


def test_completions_are_compared_by_one_score(tmp_path):
    """One is of 1 to 10, the other of 1 to 5."""
    rated = {"annotations": {"honesty": {"Rating": "2"}}}, {"annotations": {"honesty": {"Rating": "4"}}}
    scores = {"overall_score": 6.0}, {"fine-grained_score": 4.5}
    answers = [
        {"response": text} | row | score for text, row, score in zip(("bad", "good"), rated, scores, strict=True)
    ]
    assert one({"instruction": "q", "completions": answers}) == form_rows.q()
    with pytest.raises(ValueError, match="its completions have no overall_score, fine-grained_score or annotations in"):
        one({"instruction": "q", "completions": [{"response": "a"} | scores[0], {"response": "b"} | scores[1]]})


def test_names_of_forms(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(PAIR))
    with pytest.raises(ValueError, match=r"there is no form 'pairs'; there are pair, .* Did you mean 'pair'"):
        read.read_comparisons(tmp_path / "a.jsonl", "pairs")
    with pytest.raises(ValueError, match="the form pair is one of comparisons; those of demonstrations are completion"):
        read.read_demonstrations(tmp_path / "a.jsonl", "pair")
    with pytest.raises(ValueError, match="the form kto is one of demonstrations; those of comparisons are pair"):
        read.read_comparisons(tmp_path / "a.jsonl", "kto")
    with pytest.raises(ValueError, match="pair and orca are forms of comparisons: name one of them"):
        forms.check_names(["orca", "pair"])
    forms.check_names(["kto", "pair"])
    assert forms.named_of(DEMONSTRATIONS, ["pair", "kto"]) == "kto"
    assert forms.named_of(DEMONSTRATIONS, ["pair"]) is None


def one(row, table=COMPARISONS, form=None):
    """What one row says, as a file with nothing else would."""
    seen = FORMS[form] if form else forms.form_of(row, table)
    found = forms.said_by(row, seen)
    return forms.comparisons(found, "")[0] if table is COMPARISONS else [found]


CALL = {"id": "c1", "type": "function", "function": {"name": "heat", "arguments": '{"city": "Oslo", "unit": null}'}}
CALLED = [USER, said("assistant", "", tool_calls=[CALL]), said("tool", "12C", tool_call_id="c1", name="heat")]


def test_calls_of_tools_in_a_prompt_are_kept():
    asked = [USER, said("assistant", None, tool_calls=[CALL], reasoning_content=""), CALLED[2] | {"tool_calls": None}]
    assert one({"messages": [*asked, GOOD]}, DEMONSTRATIONS) == [Demonstration(CALLED, "good")]
    assert one({"prompt": asked, "chosen": [GOOD], "rejected": "bad"}) == [Comparison(CALLED, "good", "bad")]
    assert one({"prompt": CALLED, "chosen": "good", "rejected": "bad", "tools": [], "images": None})[0].prompt == CALLED
    called = {"function": {"name": "now", "arguments": "", "strict": None}}
    found = one({"messages": [USER, said("assistant", "", tool_calls=[called]), GOOD]}, DEMONSTRATIONS)[0].prompt
    assert found[1]["tool_calls"] == [{"function": {"name": "now", "arguments": ""}}]
    turns = [turn("human", "hi?"), turn("gpt", "b") | {"weight": 0.5}, turn("observation", "12C")]
    found = one({"conversations": turns, "chosen": turn("gpt", "good"), "rejected": turn("gpt", "bad")})
    assert found[0].prompt == [USER, said("assistant", "b", weight=0.5), said("tool", "12C")]


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


def test_parts_of_text_are_joined_and_others_refused():
    assert one(PAIR | {"prompt": [said("user", parts("hi", "?"))]})[0].prompt == [USER]
    assert one(PAIR | {"prompt": [said("user", ["hi", "?"])]})[0].prompt == [USER]
    newer = [{"type": "input_text", "text": "hi"}, {"type": "output_text", "text": "?"}]
    assert one(PAIR | {"prompt": [said("user", newer)]})[0].prompt == [USER]
    with pytest.raises(ValueError, match=r"has a message with parts that are no text \(image\)"):
        one(PAIR | {"prompt": [said("user", [{"type": "image", "url": "x"}, *parts("hi?")])]})


def test_roles_in_all_spellings():
    talk = [said("Human", "hi?"), said("AI", "b"), said("USER ", "c")]
    expected = [USER, said("assistant", "b"), said("user", "c")]
    found = one({"prompt": talk, "chosen": [said("model", "good")], "rejected": [said("Assistant", "bad")]})
    assert found == [Comparison(expected, "good", "bad")]
    turns = [turn("Human", "hi?"), turn("bot", "good")]
    assert one({"conversations": turns}, DEMONSTRATIONS) == [Demonstration([USER], "good")]


def test_scores_in_whichever_columns():
    for chosen in ("score_chosen", "chosen_score", "chosen-rating", "rating_chosen", "chosen_avg_rating"):
        rejected = chosen.replace("chosen", "rejected")
        assert one(PAIR | {chosen: 3.0, rejected: 3}) == []
        assert len(one(PAIR | {chosen: 3.0, rejected: 2})) == len(one(PAIR | {chosen: 3.0})) == 1


def test_transcripts_with_the_line_ends_of_windows():
    written = {name: (ASKED + f" {name}").replace("\n", "\r\n") for name in ("chosen", "rejected")}
    assert one(written) == [Comparison(ASKED, " chosen", " rejected")]


def test_lists_of_objects_as_objects_of_lists():
    """The ``datasets`` library, and Parquet files that it writes, have sequences of objects so."""
    turns = {"from": ["human", "gpt"], "value": ["hi?", "good"]}
    assert one({"conversations": turns}, DEMONSTRATIONS) == [Demonstration([USER], "good")]
    chosen, rejected = ({"role": ["user", "assistant"], "content": ["hi?", text]} for text in ("good", "bad"))
    assert one({"chosen": chosen, "rejected": rejected}) == [Comparison([USER], "good", "bad")]
    assert one({"prompt": {"role": ["user"], "content": ["hi?"]}, "chosen": "good", "rejected": "bad"})[0].prompt == [
        USER
    ]
    assert one(CHOICE | {"summaries": {"text": [" bad", " good"], "policy": ["a", "ref"]}}) == one(CHOICE)
    answers = {"answer": ["good", "bad"], "rank": [1, 2], "model": ["a", "b"]}
    assert one({"prompt": "q", "answers": answers}) == form_rows.q()
    with pytest.raises(ValueError, match=r"^from is no text$"):
        one({"conversations": {"from": ["human", "gpt"], "value": ["hi?"]}}, DEMONSTRATIONS)


def test_what_stands_beside_a_message_must_be_json():
    for value in (datetime.date(2024, 1, 1), "\ud800", {1, 2}):
        with pytest.raises(ValueError, match="has day beside a message, which cannot be written as JSON"):
            one({"messages": [USER | {"day": value}, GOOD]}, DEMONSTRATIONS)


def test_rows_that_are_nested_too_deeply_are_dropped(tmp_path):
    depth = 480 if sys.version_info < (3, 12) else 980  # before 3.12, a comprehension is a frame of its own
    deep = json.dumps(PAIR | {"prompt": [USER | {"deep": "X"}]}).replace('"X"', '{"a":' * depth + "1" + "}" * depth)
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(PAIR)}\n{deep}")
    assert [each.reason for each in read.read_comparisons(tmp_path / "a.jsonl").dropped] == ["is nested too deeply"]


def test_system_messages_come_once():
    row = PAIR | {"system": "Be brief."}
    assert one(row | {"prompt": ASKED})[0].prompt == [
        said("system", "Be brief."),
        *[said("user", "a?"), said("assistant", "b"), said("user", "c?")],
    ]
    assert one(row | {"system": "  "})[0].prompt == "q"
    for prompt, reason in [
        ([said("system", "Be kind."), USER], "has two system messages"),
        (POST, "has a system message beside the fields of a prompt"),
    ]:
        with pytest.raises(ValueError, match=reason):
            one(row | {"prompt": prompt})
    with pytest.raises(ValueError, match="system is no text"):
        one(row | {"system": 3})


MALFORMED = [
    (PAIR | {"prompt": 3}, "prompt is no text"),
    (PAIR | {"prompt": []}, "prompt should be messages of role and content"),
    (PAIR | {"prompt": {}}, "has no role"),
    (PAIR | {"prompt": {"post": 3}}, "post is no text"),
    (PAIR | {"prompt": [said("user", " \n"), said("assistant", "")]}, "prompt is empty"),
    (PAIR | {"score_chosen": "2", "score_rejected": 8}, "score_chosen is below score_rejected"),
    (PAIR | {"chosen-rating": 2.5, "rejected-rating": 3.0}, "chosen-rating is below rejected-rating"),
    (PAIR | {"chosen": "e\u0301 ", "rejected": "\n\u00e9"}, "chosen equals rejected"),
    (PAIR | {"prompt": ["a"]}, "prompt should be messages of role and content"),
    (PAIR | {"prompt": [{"content": "a"}]}, "has no role"),
    (PAIR | {"prompt": [{"role": "user"}]}, "has no content"),
    (PAIR | {"prompt": [{"role": "user", "content": 3}]}, "content is no text"),
    (PAIR | {"chosen": ""}, "chosen is empty"),
    (PAIR | {"chosen": "\ud800"}, "chosen has half a character (a lone surrogate)"),
    (PAIR | {"chosen": [USER]}, "chosen should end in one message of the assistant"),
    (PAIR | {"rejected": [said("assistant", " ")]}, "rejected is empty"),
    (PAIR | {"reference": 1}, "reference is no text"),
    (PAIR | {"score_chosen": "much", "score_rejected": 1}, "score_chosen is no number"),
    (PAIR | {"score_chosen": True, "score_rejected": 1}, "score_chosen is no number"),
    ({"chosen": [GOOD], "rejected": [BAD]}, "chosen and rejected do not share all turns but the last"),
    ({"prompt": [BAD], "chosen": [USER, GOOD], "rejected": [USER, BAD]}, "the prompt is not how chosen begins"),
    ({"chosen": ASKED + " g", "rejected": ASKED + " e\n\nHuman: f"}, "chosen and rejected do not share all turns but"),
    ({"chosen": ASKED + " ", "rejected": ASKED + " b"}, "chosen is empty"),
    (CHOICE | {"choice": True}, "choice should be 0 or 1"),
    (CHOICE | {"summaries": [{"text": "a"}, {"note": "b"}]}, "has no text"),
    (CHOICE | {"info": 3}, "is no JSON object"),
    (CHOICE | {"info": {"article": "news", "title": "t"}}, "has no subreddit"),
    ({"instruction": "q", "history": "x", "chosen": "a", "rejected": "b"}, "history should be pairs of texts"),
]


@pytest.mark.parametrize(("row", "reason"), MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_wrong_with_a_row(row, reason):
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}"):
        one(row)


def test_labels_and_scores_as_tables_write_them():
    """In CSV all is text, and in Parquet a column of whole numbers with gaps is one of fractions."""
    assert one(form_rows.SHP | {"labels": "1"}) == one(form_rows.SHP | {"labels": 1.0}) == form_rows.q()
    assert one(form_rows.WEBGPT | {"score_0": "-0.5", "score_1": "0.5", "question": "q"}) == form_rows.q()
    assert one(form_rows.KTO | {"label": "True"}, DEMONSTRATIONS) == one(form_rows.KTO | {"label": 1}, DEMONSTRATIONS)
    with pytest.raises(parsers.Useless, match="its label is false"):
        one({"messages": [USER, GOOD], "label": "False"}, DEMONSTRATIONS)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(["0", ASKED, "user"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "text", "rank", "answer", "x"]), inner)
        | st.sampled_from([USER, GOOD, [USER], [USER, GOOD], [GOOD], POST])
    ),
    max_leaves=6,
)
KEYS = sorted(
    {key for form in FORMS.values() for key in form.keys} | {"system", "tools", "input", "history", "reference"}
)


@settings(deadline=None)
@given(st.data())
def test_a_row_of_whatever_values_says_something_or_is_malformed(data):
    form = data.draw(st.sampled_from(list(FORMS.values())))
    extra = data.draw(st.lists(st.sampled_from(KEYS), max_size=3))
    row = parsers.values.present({key: data.draw(VALUES) for key in (*form.keys, *extra)})
    for name in (form.name, None):
        table = COMPARISONS if form in COMPARISONS else DEMONSTRATIONS
        try:
            found = one(row, table, name)
        except ValueError:
            continue
        for each in found:
            texts = each[1:3] if isinstance(each, Comparison) else each[1:2]
            assert all(isinstance(text, str) and text.strip() for text in texts)
            json.dumps(each).encode()


def test_the_table_of_the_guide_is_what_reading_gives():
    """After a change: ``python -m tests.lm.form_rows``."""
    page = form_rows.PAGE.read_text(encoding="utf-8")
    assert form_rows.current(page) == page
