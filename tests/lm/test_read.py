"""Preference data in every form and file, what is wrong with them by file and line, splits, and writing."""

import gzip
import hashlib
import json

import hypothesis.strategies as st
import polars as pl
import pytest
from hypothesis import given

from gvgap_jax.lm.data import read
from gvgap_jax.lm.data.rows import Comparison, Demonstration, Dropped, comparison, demonstration, report

USER, GOOD, BAD = (
    {"role": role, "content": text} for role, text in [("user", "hi?"), ("assistant", "good"), ("assistant", "bad")]
)
FIELDS = {"subreddit": "pets", "title": "Dog", "post": "It\nran."}
ASKED = "\n\nHuman: a?\n\nAssistant: b\n\nHuman: c?\n\nAssistant:"
CHOICE = {
    "info": {"id": "t3_1", "site": None, "article": None, **FIELDS},
    "summaries": [{"text": " bad", "policy": "sup2"}, {"text": " good", "policy": "ref"}],
    "choice": 1,
    "batch": "batch3",
    "split": "train",
    "worker": "w",
}

COMPARISONS = {
    "strings": ({"prompt": "p", "chosen": "good", "rejected": "bad"}, Comparison("p", "good", "bad")),
    "fields": ({"prompt": FIELDS, "chosen": "good", "rejected": "bad"}, Comparison(FIELDS, "good", "bad")),
    "a reference": (
        {"prompt": "p", "chosen": "good", "rejected": "bad", "reference": "human", "score": 3},
        Comparison("p", "good", "bad", "human"),
    ),
    "messages": ({"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}, Comparison([USER], "good", "bad")),
    "a prompt of messages": (
        {"prompt": [USER], "chosen": "good", "rejected": "bad"},
        Comparison([USER], "good", "bad"),
    ),
    "transcripts": (
        {"chosen": ASKED + " good", "rejected": ASKED + " bad"},
        Comparison(ASKED, " good", " bad"),
    ),
    "transcripts of messages": (
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        Comparison([USER], "good", "bad"),
    ),
    "transcripts beside their first question": (
        {"prompt": "hi?", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        Comparison([USER], "good", "bad"),
    ),
    "transcripts beside their prompt": (
        {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        Comparison([USER], "good", "bad"),
    ),
    "a choice": (CHOICE, Comparison(FIELDS, " good", " bad", " good")),
    "a choice of the first": ({**CHOICE, "choice": 0}, Comparison(FIELDS, " bad", " good", " good")),
    "a choice with a reference": ({**CHOICE, "reference": "r"}, Comparison(FIELDS, " good", " bad", "r")),
}
DEMONSTRATIONS = {
    "tldr": ({**FIELDS, "summary": "ran", "id": "x"}, Demonstration(FIELDS, "ran")),
    "completion": ({"prompt": "p", "completion": " c"}, Demonstration("p", " c")),
    "label": ({"prompt": "p", "label": "c"}, Demonstration("p", "c")),
    "completion of messages": ({"prompt": [USER], "completion": [GOOD]}, Demonstration([USER], "good")),
    "messages": ({"messages": [USER, BAD, USER, GOOD]}, Demonstration([USER, BAD, USER], "good")),
}


@pytest.mark.parametrize("kind", COMPARISONS)
def test_a_comparison_is_seen_from_its_keys(kind):
    row, expected = COMPARISONS[kind]
    assert comparison(row) == expected


@pytest.mark.parametrize("kind", DEMONSTRATIONS)
def test_a_demonstration_is_seen_from_its_keys(kind):
    row, expected = DEMONSTRATIONS[kind]
    assert demonstration(row) == expected


PAIR, HH = COMPARISONS["strings"][0], COMPARISONS["transcripts"][0]
MALFORMED = [
    ([], "is no JSON object"),
    ({"text": "x"}, "has no chosen and rejected, and no summaries and choice"),
    ({"prompt": "p", "chosen": "a"}, "has no rejected"),
    (PAIR | {"prompt": 3}, "prompt is no text"),
    (PAIR | {"prompt": " \n"}, "prompt is empty"),
    (PAIR | {"prompt": []}, "prompt are not messages of role and content"),
    (PAIR | {"prompt": {}}, "prompt is no text"),
    (PAIR | {"prompt": {"post": 3}}, "post is no text"),
    (PAIR | {"chosen": None}, "has no chosen"),
    (PAIR | {"chosen": ["a"]}, "chosen are not messages of role and content"),
    (PAIR | {"chosen": ""}, "chosen is empty"),
    (PAIR | {"chosen": "bad"}, "chosen equals rejected"),
    (PAIR | {"chosen": "\ud800"}, "chosen has half a character (a lone surrogate)"),
    (PAIR | {"chosen": [USER]}, "chosen does not end in one message of the assistant"),
    (PAIR | {"rejected": [{"role": "assistant"}], "chosen": [GOOD]}, "has no content"),
    (PAIR | {"rejected": [{"role": "assistant", "content": " "}], "chosen": [GOOD]}, "rejected is empty"),
    (PAIR | {"reference": 1}, "reference is no text"),
    ({"chosen": "good", "rejected": "bad"}, "chosen and rejected do not share all turns but the last"),
    (HH | {"rejected": "\n\nHuman: z?\n\nAssistant: bad"}, "chosen and rejected do not share all turns but the last"),
    (HH | {"rejected": ASKED + " e\n\nHuman: f"}, "chosen and rejected do not share all turns but the last"),
    (HH | {"chosen": ASKED + " "}, "chosen is empty"),
    ({"chosen": [USER, GOOD], "rejected": [BAD, BAD]}, "chosen and rejected do not share all turns but the last"),
    ({"chosen": [GOOD], "rejected": [BAD]}, "chosen and rejected do not share all turns but the last"),
    ({"prompt": [BAD], "chosen": [USER, GOOD], "rejected": [USER, BAD]}, "the prompt is not how chosen begins"),
    (CHOICE | {"choice": 2}, "choice is not 0 or 1"),
    (CHOICE | {"choice": True}, "choice is not 0 or 1"),
    (CHOICE | {"choice": None}, "choice is not 0 or 1"),
    (CHOICE | {"summaries": CHOICE["summaries"][:1]}, "summaries are not two objects"),
    (CHOICE | {"summaries": [{"text": "a"}, {"note": "b"}]}, "has no text"),
    (CHOICE | {"info": None}, "is no JSON object"),
    (CHOICE | {"info": {"article": "news", "title": "t"}}, "has no subreddit"),
    (CHOICE | {"info": FIELDS | {"post": " "}}, "post is empty"),
]


@pytest.mark.parametrize(("row", "reason"), MALFORMED)
def test_a_malformed_comparison_is_named_by_file_and_line(tmp_path, row, reason):
    write(tmp_path / "a.jsonl", [PAIR, row])
    found = read.read_comparisons(tmp_path / "a.jsonl")
    assert found.dropped == [Dropped("a.jsonl:2", reason)]
    assert found.rows == [Comparison("p", "good", "bad", None, "a.jsonl:1")]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "p"}, "has no completion, label, summary or messages"),
        ({"messages": [GOOD]}, "messages have no prompt before the answer"),
        ({"messages": [USER, USER]}, "messages does not end in one message of the assistant"),
        ({"summary": "s"}, "has no subreddit"),
        ({"completion": "c"}, "has no prompt"),
        (FIELDS | {"summary": "\t"}, "summary is empty"),
    ],
)
def test_a_malformed_demonstration_is_named_by_file_and_line(tmp_path, row, reason):
    write(tmp_path / "a.jsonl", [{"prompt": "p", "completion": "c"}, row])
    assert read.read_demonstrations(tmp_path / "a.jsonl").dropped == [Dropped("a.jsonl:2", reason)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_lines_that_are_no_rows(tmp_path):
    good = json.dumps(PAIR).encode()
    lines = [good, b"{", b"", b'{"a": "\xff"}', b"[" * 100_000, b"3", good]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(
        ValueError, match=r"a\.jsonl: 4 of 6 rows \(66\.67%\) are not used: 2 × is no JSON \(a\.jsonl:2"
    ):
        read.read_comparisons(tmp_path / "a.jsonl")
    found = read.read_comparisons(tmp_path / "a.jsonl", most_malformed=0.9)
    assert [row.where for row in found.rows] == ["a.jsonl:1", "a.jsonl:7"]
    assert [tuple(each) for each in found.dropped] == [
        ("a.jsonl:2", "is no JSON"),
        ("a.jsonl:4", "is no UTF-8"),
        ("a.jsonl:5", "is no JSON"),
        ("a.jsonl:6", "is no JSON object"),
    ]
    assert found.report() == (
        "4 of 6 rows (66.67%) are not used: 2 × is no JSON (a.jsonl:2, a.jsonl:5); 1 × is no UTF-8 (a.jsonl:4); "
        "1 × is no JSON object (a.jsonl:6)."
    )


def test_a_report_names_the_first_places():
    dropped = [Dropped(f"a:{line}", "is no JSON") for line in range(9)]
    assert report(1, dropped) == "9 of 10 rows (90.00%) are not used: 9 × is no JSON (a:0, a:1, a:2, and 6 more)."
    assert report(4, []) == "all 4 rows are used."


ROWS = [PAIR, PAIR | {"prompt": "q", "reference": "r"}]
READ = [("p", "good", "bad", None), ("q", "good", "bad", "r")]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "a.parquet"])
def test_every_kind_of_file(tmp_path, name):
    path = tmp_path / name
    if name == "a.parquet":
        pl.DataFrame([PAIR | {"reference": None}, ROWS[1]]).write_parquet(path)
    else:
        text = "\n".join(map(json.dumps, ROWS)) if "jsonl" in name else json.dumps(ROWS)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    found = read.read_comparisons(str(path))
    assert [row[:4] for row in found.rows] == READ
    assert [row.where for row in found.rows] == [f"{name}:1", f"{name}:2"]


def test_nested_rows_in_parquet(tmp_path):
    pl.DataFrame([CHOICE]).write_parquet(tmp_path / "a.parquet")
    assert read.read_comparisons(tmp_path / "a.parquet").rows[0][:4] == COMPARISONS["a choice"][1][:4]
    pl.DataFrame([{"messages": [USER, GOOD]}]).write_parquet(tmp_path / "b.parquet")
    assert read.read_demonstrations(tmp_path / "b.parquet").rows[0][:2] == ([USER], "good")


def test_the_datasets_library(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    table = datasets.Dataset.from_list([CHOICE, CHOICE | {"choice": 2}])
    table.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": table, "validation": table}).save_to_disk(tmp_path / "parts")
    (tmp_path / "files").mkdir()
    write(tmp_path / "files" / "train.jsonl", [CHOICE, CHOICE | {"choice": 2}])
    for folder, part in [("one", "train"), ("parts", "validation"), ("files", "train")]:
        found = read.read_comparisons(tmp_path / folder, part=part)
        assert found.rows[0][:4] == COMPARISONS["a choice"][1][:4]
        assert found.dropped == [Dropped(f"{tmp_path / folder}/{part}:2", "choice is not 0 or 1")]
    with pytest.raises(ValueError, match="datasets cannot read its part 'test'"):
        read.read_comparisons(tmp_path / "parts", part="test")


def test_sources_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        read.read_comparisons(tmp_path / "none.jsonl")
    for name, content, words in [
        ("a.jsonl", b"\n\n", "has no rows"),
        ("a.json", b"{}", "is no JSON list of rows"),
        ("b.json", b"[", "is no JSON list of rows"),
        ("a.parquet", b"PAR1", "is no Parquet file"),
        ("a.jsonl.gz", b"plain", "is no whole gzip file"),
        ("b.jsonl.gz", gzip.compress(b"x" * 99)[:-9], "is no whole gzip file"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=words):
            read.read_comparisons(tmp_path / name)
    with pytest.raises(ValueError, match="there is no form 'pairs'; there are pair, transcripts, choice"):
        read.read_comparisons(tmp_path / "a.jsonl", "pairs")
    with pytest.raises(ValueError, match="there is no form 'pair'; there are completion, tldr, messages"):
        read.read_demonstrations(tmp_path / "a.jsonl", "pair")


def test_a_named_form_is_not_guessed(tmp_path):
    write(tmp_path / "a.jsonl", [{"prompt": "p", **HH}])
    assert read.read_comparisons(tmp_path / "a.jsonl").rows[0].prompt == "p"
    assert read.read_comparisons(tmp_path / "a.jsonl", "transcripts").rows[0].prompt == ASKED
    with pytest.raises(ValueError, match=r"1 × summaries are not two objects \(a\.jsonl:1\)"):
        read.read_comparisons(tmp_path / "a.jsonl", "choice")


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(str.strip)
PROMPTS = TEXTS | st.fixed_dictionaries({name: TEXTS for name in FIELDS}) | st.just([USER]) | st.just({"query": "x"})


@given(
    rows=st.lists(
        st.builds(Comparison, PROMPTS, TEXTS, TEXTS, st.none() | TEXTS, st.just("")).filter(
            lambda row: row.chosen != row.rejected
        ),
        min_size=1,
        max_size=5,
    ),
    name=st.sampled_from(["a.jsonl", "a.jsonl.gz"]),
)
def test_what_is_written_is_read_again(tmp_path_factory, rows, name):
    path = tmp_path_factory.mktemp("written") / name
    read.write_comparisons(path, rows)
    found = read.read_comparisons(path)
    assert [row._replace(where="") for row in found.rows] == rows
    before = path.read_bytes()
    read.write_comparisons(path, found.rows)
    assert path.read_bytes() == before


@given(
    share=st.floats(0, 0.99),
    prompts=st.lists(st.sampled_from(["a", "b", "c", FIELDS, [USER]]) | st.text(max_size=3), max_size=20),
)
def test_no_prompt_is_on_both_sides(share, prompts):
    rows = [Demonstration(prompt, str(number)) for number, prompt in enumerate(prompts)]
    train, held_out = read.split(rows, share)
    assert sorted(train + held_out, key=lambda row: int(row.response)) == rows
    assert not {json.dumps(row.prompt) for row in train} & {json.dumps(row.prompt) for row in held_out}
    pairs = [Comparison(prompt, "x", "y") for prompt in reversed(prompts)]
    assert {json.dumps(row.prompt) for row in read.split(pairs, share)[1]} == {
        json.dumps(row.prompt) for row in held_out
    }


def test_the_share_that_is_held_out():
    rows = [Demonstration(str(number), "x") for number in range(4000)]
    assert 0.08 < len(read.split(rows, 0.1)[1]) / 4000 < 0.12
    assert read.split(rows, 0.0) == (rows, [])
    smaller = read.split(rows, 0.1)[1]
    assert set(row.prompt for row in smaller) <= set(row.prompt for row in read.split(rows, 0.2)[1])
    hashes = [hashlib.sha256(f'"{number}"'.encode()).hexdigest() for number in range(4000)]
    assert smaller == [row for row, found in zip(rows, hashes, strict=True) if int(found[:16], 16) / 2**64 < 0.1]
    posts = [FIELDS | {"title": str(number)} for number in range(40)]
    other_order = [dict(reversed(post.items())) for post in posts]
    held_out, again = (read.split([Demonstration(post, "") for post in each], 0.5)[1] for each in (posts, other_order))
    assert held_out == again
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="at least 0 and below 1"):
            read.split(rows, share)
