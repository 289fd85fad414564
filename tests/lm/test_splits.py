"""A prompt is on one side of the split, however it is written; near-duplicates across it are counted."""

import hashlib
import json
import random
import time
import unicodedata

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gvgap_jax.lm.data import prompts, splits
from gvgap_jax.lm.data.formats import TLDR
from gvgap_jax.lm.data.prompts import canonical
from gvgap_jax.lm.data.rows import Comparison, Demonstration
from tests.lm.form_rows import POST, SYSTEM, USER, said

WRITTEN = TLDR.template.format_map(POST)
ALIKE = {
    "a post": [
        *(POST, POST | {"id": "t3"}, dict(reversed(POST.items()))),
        *(WRITTEN, WRITTEN + " ", "\n" + WRITTEN, WRITTEN.replace("\n", "\r\n"), WRITTEN.replace("\n\n", "\n")),
        *([said("user", WRITTEN)], [SYSTEM, said("user", WRITTEN)]),
    ],
    "one question": [
        *("hi?", " hi? ", "hi?\n", "\ufeffhi?", "h\u00adi?", "hi\u200b?", "\u2003hi?\xa0"),
        *("\n\nHuman: hi?\n\nAssistant:", "Human: hi?\n\nAssistant: ", "Human:hi?\nAssistant:", "Human: hi?"),
        *("Human: hi?\n\nAssistant: It is", [USER, said("assistant", "It is ")], [SYSTEM, USER, said("assistant", "")]),
        *([USER], [SYSTEM, USER], [said("user", " hi? ", name="Ann") | {"name": None} and said("user", " hi? ")]),
    ],
    "a transcript in a message": [
        *(
            "Human: why?\n\nAssistant:",
            [said("user", "Human: why?\n\nAssistant:")],
            "why?",
            [said("user", "Human: why?")],
        ),
    ],
    "a composed character": [
        "Voilà  une\tquestion",
        unicodedata.normalize("NFD", "Voilà une question"),
        "Voilà\n\nune question",
    ],
    "turns": [
        "\n\nHuman: a?\n\nAssistant: b\n\nHuman: c\n\nd\n\nAssistant:",
        "Human: a?\nAssistant: b\nHuman: c d\nAssistant:",
        [said("user", "a?"), said("assistant", "b "), said("user", "c\n\nd")],
        [SYSTEM, said("user", " a?"), said("assistant", "b"), said("user", "c d")],
    ],
    "another order of turns": [[said("user", "b"), said("assistant", "a?"), said("user", "c d")]],
    "other roles": [[said("user", "a?"), said("user", "b"), said("user", "c d")]],
    "a call": [
        [USER, said("assistant", "", tool_calls=[{"x": 1}])],
        [USER, said("assistant", " ", tool_calls=[{"x": 1}])],
    ],
    "another call": [[USER, said("assistant", "", tool_calls=[{"x": 2}])]],
    "another case": ["Hi?"],
    "another sign": ["hi!"],
    "another post": [POST | {"title": "Cat"}],
    "only a system message": [[SYSTEM]],
    "fields of another template": [{"query": "x"}],
}


def test_all_spellings_of_a_prompt_have_one_key_and_others_another():
    keys = {name: {canonical(prompt) for prompt in spellings} for name, spellings in ALIKE.items()}
    assert {name: len(found) for name, found in keys.items()} == dict.fromkeys(ALIKE, 1)
    assert len(set.union(*keys.values())) == len(ALIKE)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_no_prompt_is_on_both_sides_in_another_spelling(share):
    rows = [(name, Demonstration(prompt, "x")) for name, found in ALIKE.items() for prompt in found]
    pairs = [(name, Comparison(prompt, "x", "y")) for name, found in ALIKE.items() for prompt in found]
    sides = []
    for kind in (rows, pairs):
        train, held_out = splits.split([row for _, row in kind], share)
        names = [{name for name, row in kind if any(row is each for each in side)} for side in (train, held_out)]
        assert not names[0] & names[1]
        sides.append(names)
    assert sides[0] == sides[1]


TEXTS = st.text(max_size=5)
PROMPTS = (
    st.sampled_from(["a", "b", "c", POST, [USER]])
    | TEXTS
    | st.lists(st.builds(said, st.sampled_from(["user", "assistant", "system"]), TEXTS), min_size=1, max_size=3)
)


@given(share=st.floats(0, 0.99), asked=st.lists(PROMPTS, max_size=20))
def test_no_prompt_is_on_both_sides(share, asked):
    rows = [Demonstration(prompt, str(number)) for number, prompt in enumerate(asked)]
    train, held_out = splits.split(rows, share)
    assert sorted(train + held_out, key=lambda row: int(row.response)) == rows
    assert not {json.dumps(row.prompt) for row in train} & {json.dumps(row.prompt) for row in held_out}
    pairs = [Comparison(prompt, "x", "y") for prompt in reversed(asked)]
    assert {json.dumps(row.prompt) for row in splits.split(pairs, share)[1]} == {
        json.dumps(row.prompt) for row in held_out
    }


@given(PROMPTS, st.text(st.sampled_from(" \n\t\xa0\u2003\ufeff"), max_size=4))
def test_blanks_make_no_difference(prompt, blanks):
    if isinstance(prompt, str):
        other = blanks + prompt.replace(" ", f" {blanks}") + blanks
    elif isinstance(prompt, dict):
        other = {name: blanks + text + blanks for name, text in prompt.items() if name != "subreddit"}
        other["subreddit"] = prompt["subreddit"]
    else:
        other = [said(each["role"], blanks + each["content"] + blanks) for each in prompt]
    assert canonical(other) == canonical(prompt)


@given(st.lists(st.sampled_from(["Human:", "Assistant:", "System:", "\n", " ", "x"]), max_size=9).map("".join))
def test_a_text_and_a_message_of_it_are_one_prompt(text):
    assert canonical([said("user", text)]) == canonical([SYSTEM, said("user", text)]) == canonical(text)
    assert canonical("Human: " * 50_000 + text)  # in no time


def test_the_share_that_is_held_out():
    rows = [Demonstration(str(number), "x") for number in range(4000)]
    assert 0.08 < len(splits.split(rows, 0.1)[1]) / 4000 < 0.12
    assert splits.split(rows, 0.0) == (rows, [])
    smaller = splits.split(rows, 0.1)[1]
    assert {row.prompt for row in smaller} <= {row.prompt for row in splits.split(rows, 0.2)[1]}
    hashes = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(4000)]
    assert smaller == [row for row, found in zip(rows, hashes, strict=True) if int(found[:16], 16) / 2**64 < 0.1]
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="at least 0 and below 1"):
            splits.split(rows, share)


def test_a_transcript_that_ends_with_the_assistant_is_not_opened_again():
    talk = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "It is"}]
    assert prompts.transcript(talk) == "\n\nHuman: 2+2?\n\nAssistant: It is"


def test_transcripts_are_messages_and_back():
    said_so = [said("user", "a?"), said("assistant", "b"), said("user", "c\n\nd")]
    text = "\n\nHuman: a?\n\nAssistant: b\n\nHuman: c\n\nd\n\nAssistant:"
    assert prompts.turns_of(text) == said_so
    assert prompts.transcript(said_so) == text
    for other in (
        "a?",
        "Human: a?",
        "\n\nHuman: a?\n\nAssistant: b",
        "a Human: b\n\nAssistant:",
        "Human: a\n\nAssistant: b Assistant:",
        "Human: Assistant:",
        "",
    ):
        assert prompts.turns_of(other) is None
    assert prompts.messages_of("hi?") == [USER]
    assert prompts.messages_of(POST) == [said("user", WRITTEN)]
    assert prompts.readable([SYSTEM, USER]) == "\n\nSystem: Be brief.\n\nHuman: hi?\n\nAssistant:"
    assert prompts.turns_of(prompts.readable([SYSTEM, USER])) == [SYSTEM, USER]
    assert prompts.readable({"query": "x", "more": "y"}) == "query: x\n\nmore: y"


def test_posts_in_other_blanks_have_the_same_fields():
    assert prompts.post_of(WRITTEN) == prompts.post_of(POST | {"id": "3"}) == POST
    blank = WRITTEN.replace("\n\n", "\n") + "\n"
    assert prompts.post_of(blank) == POST
    assert prompts.post_of(blank.replace("Dog", "")) == POST | {"title": ""}
    for other in ("hi?", [USER], {"post": "x"}, WRITTEN.removesuffix("TL;DR:"), WRITTEN.replace("POST:", "TEXT:")):
        assert prompts.post_of(other) is None
    assert prompts.post_of("SUBREDDIT: " + " \n" * 10**6 + "TL;DR:") is None  # in no time


def shingles(text):
    words = "".join(each if each.isalnum() else " " for each in text.casefold()).split()
    words += ["\0"] * (5 - len(words))
    return {tuple(words[place : place + 5]) for place in range(len(words) - 4)}


def test_near_duplicates_are_those_that_share_most_of_their_runs():
    """Against the definition, with as many texts that are just near and just not."""
    draw = random.Random(0)
    vocabulary = [f"w{number}" for number in range(500)]
    trained = [" ".join(draw.choices(vocabulary, k=draw.randrange(40, 120))) for _ in range(200)]
    held_out = []
    for text in trained[:120]:
        words = text.split()
        for place in draw.sample(range(len(words)), draw.choice([0, 1, 1, 2, 3, 6])):
            words[place] = "new"
        held_out.append(", ".join(words).upper())
    held_out += [" ".join(draw.choices(vocabulary, k=60)) for _ in range(40)] + ["short", "Short one", "short, one!"]
    trained += ["short one"]

    def near(text):
        mine = shingles(text)
        return any(len(mine & shingles(other)) >= 0.8 * len(mine | shingles(other)) for other in trained)

    expected = sum(map(near, held_out))
    assert 50 < expected < 140
    assert abs(splits.near_duplicates(trained, held_out) - expected) <= 2
    assert splits.near_duplicates(trained, ["short one", "short, one!", "Short one."]) == 3
    assert splits.near_duplicates([], ["a"]) == splits.near_duplicates(["a"], []) == 0
    assert splits.near_duplicates(["a b"], ["a b c", "b a", "b"]) == 0
    assert splits.near_duplicates([""], ["", "?!"]) == 2


def test_near_duplicates_take_time_in_proportion_to_the_texts():
    same = ["one of the same words again and again and again"] * 5000
    began = time.monotonic()
    assert splits.near_duplicates([f"{text} {n}" for n, text in enumerate(same)], [f"x {n}" for n in range(500)]) == 0
    assert splits.near_duplicates(same, [f"{same[0]}!" for _ in range(500)]) == 1
    assert time.monotonic() - began < 20
