"""The recipe's data in every form, for checkpoints that chat and for others: read, split, written and told."""

import json

import pytest

from experiments.tldr import corpus, toy
from experiments.tldr.run import Run
from experiments.tldr.settings import PRESETS
from gvgap_jax.lm.data import forms
from gvgap_jax.lm.data.format_choice import choice, example
from gvgap_jax.lm.data.formats import CHAT, TLDR, TRANSCRIPT
from gvgap_jax.lm.data.prompts import canonical
from gvgap_jax.lm.data.rows import Comparison, Demonstration
from gvgap_jax.lm.data.tokenizer import open_tokenizer
from gvgap_jax.runtime.files import folder_at
from gvgap_jax.training import layouts
from tests.lm import form_rows
from tests.lm.form_rows import PAIR, POST, SYSTEM, USER, said
from tests.tldr.test_keys import other

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ROWS = range(40)
VARIED = (
    '"hi?"',
    '"q"',
    '"a?',
    "Human: a?",
    "Human: q",
    "Dog",
    "Add.",
)  # in the prompts of the rows of forms, with a number


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Two checkpoints that read any text; the one that chats has a template."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name in ("plain", "chat"):
        toy.write_model(folder / name, layers=1, width=8, tokenizer=toy._trained(["good and bad, Human and Assistant"]))
        settings = {"eos_token": toy.END} | ({"chat_template": CHATML} if name == "chat" else {})
        (folder / name / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def numbered(row):
    """The row again and again, with other prompts."""
    text = json.dumps(row)
    for number in ROWS:
        varied = text
        for words in VARIED:
            end = '"' if words.endswith('"') else ""
            varied = varied.replace(words, f"{words.removesuffix(end)} {number}{end}" if end else f"{words} {number}")
        yield varied


def prepared(tmp_path, model, comparisons, demonstrations, **options):
    """A run's data, of lines in two files."""
    values = {"model": str(model), "data.prompt_tokens": 400, "data.response_tokens": 40, "data.compared_tokens": 80}
    values |= {"data.held_out": 0.3, "evaluation_prompts": 99}
    for kind, lines in (("comparisons", comparisons), ("demonstrations", demonstrations)):
        (tmp_path / f"{kind}.jsonl").write_text("\n".join(lines))
        values[f"data.{kind}"] = (str(tmp_path / f"{kind}.jsonl"),)
    recipe = PRESETS["laptop"]
    for name, value in (values | options).items():
        recipe = other(recipe, name, value)
    return corpus.prepare(Run(recipe, folder_at(tmp_path / "run" / "seed-0"), layouts.layout(-1), lambda: False))


SHOWN = {"messages": [USER, said("assistant", "good")]}


@pytest.mark.parametrize("kind", ["plain", "chat"])
@pytest.mark.parametrize("form", [*form_rows.COMPARISONS, *form_rows.DEMONSTRATIONS])
def test_the_recipe_reads_every_form(checkpoints, tmp_path, form, kind, capsys):
    row = next(
        row for row, says in (form_rows.COMPARISONS | form_rows.DEMONSTRATIONS)[form] if not isinstance(says, str)
    )
    mine, compares = [*numbered(row)], form in form_rows.COMPARISONS
    if form == "helpsteer2":
        mine += [*numbered(row | {"response": "better", "helpfulness": 4})]
    others = [*numbered(PAIR if not compares else SHOWN)]
    named = {"data.form": (form,)}
    both = (mine, others) if compares else (others, mine)
    _, text, unseen = prepared(tmp_path, checkpoints / kind, *both, **named)
    sides = [{canonical(row.prompt) for row in rows} for rows in (text.comparisons.rows, unseen.questions.rows)]
    assert not sides[0] & sides[1]
    assert not set(text.references) & sides[1]
    assert len(text.references) + len(unseen.questions.rows) == len(ROWS)
    assert text.format.chat == (kind == "chat")
    assert f".jsonl: form {form}{':' if not forms.FORMS[form].note else ' ('}" in capsys.readouterr().out
    assert sides[0]


def lines_of(*rows):
    return [line for row in rows for line in numbered(row)]


HH = {"chosen": "\n\nHuman: a?\n\nAssistant: good ", "rejected": "\n\nHuman: a?\n\nAssistant: bad"}


def test_the_same_prompts_in_other_forms_are_on_the_same_sides_and_have_the_same_references(checkpoints, tmp_path):
    """Transcripts in one file and messages in the other: a comparison finds its reference."""
    shown = [line.replace("hi?", "a?") for line in numbered(SHOWN)]
    for kind in ("plain", "chat"):
        _, text, unseen = prepared(tmp_path, checkpoints / kind, lines_of(HH), shown)
        assert corpus._references(text, text.comparisons.rows) == ["good"] * len(text.comparisons.rows)
        assert len(text.comparisons.rows) == len(text.references)
        assert {canonical(row.prompt) for row in unseen.questions.rows}.isdisjoint(text.references)


def test_the_lines_that_are_printed(checkpoints, tmp_path, capsys):
    pairs = [*lines_of(HH), json.dumps(HH), json.dumps({"chosen": HH["rejected"], "rejected": HH["chosen"]})]
    pairs += [json.dumps(HH), json.dumps(HH | {"chosen": "good"})]
    prepared(tmp_path, checkpoints / "chat", pairs, lines_of(SHOWN))
    said_so = capsys.readouterr().out
    assert f"demonstrations of {tmp_path}/demonstrations.jsonl: form messages: 40 of 40 rows are used." in said_so
    assert "comparisons.jsonl: form transcripts: 43 of 44 rows are used; 1 are not: 1 × chosen and rejected" in said_so
    assert "comparisons: 1 rows repeat earlier ones, and 1 pairs are labelled both ways" in said_so
    told = "format: prompts (43 transcripts, 40 messages) go through the checkpoint's chat template as messages; "
    assert f"{told}the first: <|im_start|>user\\nhi? " in said_so
    assert f"<|im_end|>\\n<|im_start|>assistant\\n⟂good<|im_end|>\\n{toy.END}\n" in said_so
    prepared(tmp_path, checkpoints / "plain", pairs, lines_of(SHOWN))
    said_so = capsys.readouterr().out
    assert 'are written as transcripts ("Human:", "Assistant:"), as there is no chat template; the first: ' in said_so
    assert f"\\n\\nAssistant:⟂ good{toy.END}\n" in said_so


def test_prompts_that_are_nearly_the_same_on_both_sides_are_counted(checkpoints, tmp_path, capsys):
    words = "what would you do if a friend of yours had lost the keys of your house"
    pairs = [json.dumps(PAIR | {"prompt": f"{words}{sign}"}) for sign in ("", "!", "?", "...", ",", ";", " -", ")")]
    prepared(tmp_path, checkpoints / "plain", [*pairs, *lines_of(PAIR)], lines_of(SHOWN))
    near = [line for line in capsys.readouterr().out.splitlines() if line.startswith("split: ")]
    assert len(near) == 1
    assert near[0].endswith(" held-out prompts are nearly those of training rows; none is the same")


def test_judges_are_shown_texts(checkpoints, tmp_path):
    talk = [said("user", "hi?"), said("assistant", "yes"), said("user", "why?")]
    pairs = lines_of(PAIR | {"prompt": talk}, PAIR)
    for kind in ("plain", "chat"):
        _, text, _ = prepared(tmp_path, checkpoints / kind, pairs, lines_of(SHOWN))
        asked = text.asked(text.comparisons.rows, text.comparisons.data.prompts)
        assert asked[0].startswith("\n\nHuman: hi")
        assert asked[0].endswith("\n\nAssistant: yes\n\nHuman: why?\n\nAssistant:")
        last = asked[-1]
        assert last.startswith("q ") if kind == "chat" else last.startswith("\n\nHuman: q ")


@pytest.mark.parametrize(
    ("parts", "chat", "plain"),
    [
        ([[POST] * 9, [POST] * 9], TLDR, TLDR),
        ([[POST, POST, "x"], [TLDR.template.format_map(POST)]], TLDR, TLDR),
        ([[POST] * 9, [[USER]]], CHAT, TRANSCRIPT),
        ([["x"], [POST] * 9], CHAT, TRANSCRIPT),
        ([["x"], ["\n\nHuman: x\n\nAssistant:"]], CHAT, TRANSCRIPT),
        ([["x"], ["y"]], CHAT, TRANSCRIPT),
    ],
    ids=["posts", "mostly posts", "posts and messages", "posts and texts", "texts and transcripts", "texts"],
)
def test_the_format_is_chosen_from_the_prompts(checkpoints, parts, chat, plain):
    for name, expected in (("chat", chat), ("plain", plain)):
        found = choice(parts, open_tokenizer(checkpoints / name))
        assert found.format == expected
        for prompt in (prompt for part in parts for prompt in part):
            written = found.written(prompt)
            assert canonical(written) == canonical(prompt)
            assert isinstance(written, {TLDR: str | dict, CHAT: list, TRANSCRIPT: str}[expected])


def test_transcripts_without_a_template_are_of_one_style(checkpoints):
    found = choice(
        [["\n\nHuman: x\n\nAssistant: "], ["y", [SYSTEM, USER], POST]], open_tokenizer(checkpoints / "plain")
    )
    assert [found.written(prompt) for prompt in ("Human: x\n\nAssistant: ", "y", [SYSTEM, USER])] == [
        "\n\nHuman: x\n\nAssistant:",
        "\n\nHuman: y\n\nAssistant:",
        "\n\nSystem: Be brief.\n\nHuman: hi?\n\nAssistant:",
    ]
    assert found.written([USER, said("assistant", "It is")]) == "\n\nHuman: hi?\n\nAssistant: It is"
    assert choice([["x"]], open_tokenizer(checkpoints / "plain")).written(" x\n ") == " x\n"
    found = choice([["Human: x\n\nAssistant:"], ["y"]], open_tokenizer(checkpoints / "plain"))
    assert found.written("y") == "\n\nHuman: y\n\nAssistant:"


def test_answers_to_texts_lose_their_blanks_in_a_chat_alone(checkpoints):
    rows = [Comparison("x", " good ", "\nbad", " r"), Comparison([USER], " good", "bad", None)]
    found = choice([["x"]], open_tokenizer(checkpoints / "chat")).rows(rows)
    assert found == [Comparison([said("user", "x")], "good", "bad", "r"), rows[1]]
    assert choice([["x"]], open_tokenizer(checkpoints / "plain")).rows(rows[:1]) == rows[:1]
    shown = choice([["x"]], open_tokenizer(checkpoints / "chat")).rows([Demonstration("x", " good")])
    assert shown == [Demonstration([said("user", "x")], "good")]


def test_a_long_example_is_shown_by_its_ends(checkpoints):
    tokenizer = open_tokenizer(checkpoints / "plain")
    shown = example(tokenizer, tokenizer.encode("a" * 999), tokenizer.encode("b" * 999))
    assert shown == f"{'a' * 400} … {'b' * 400}"
