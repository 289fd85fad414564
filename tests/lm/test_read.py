"""Files and folders of preference data, what is wrong with them by file and line, and writing."""

import codecs
import gzip
import io
import json

import hypothesis.strategies as st
import polars as pl
import pytest
from hypothesis import given

from gvgap_jax.lm.data import read
from gvgap_jax.lm.data.rows import Comparison, Dropped, report
from tests.lm.form_rows import BAD, CHOICE, GOOD, PAIR, USER
from tests.lm.form_rows import POST as FIELDS


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_lines_that_are_no_rows(tmp_path):
    good = json.dumps(PAIR).encode()
    lines = [good, b"{", b"", b'{"a": "\xff"}', b"[" * 100_000, b"3", good]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(
        ValueError, match=r"a\.jsonl: form pair: 2 of 6 rows are used; 4 are not: 2 × is no JSON \(a\.jsonl:2"
    ):
        read.read_comparisons(tmp_path / "a.jsonl")
    found = read.read_comparisons(tmp_path / "a.jsonl", most_malformed=0.9)
    assert [row.where for row in found.rows] == ["a.jsonl:1", "a.jsonl:7"]
    assert [tuple(each)[:2] for each in found.dropped] == [
        ("a.jsonl:2", "is no JSON"),
        ("a.jsonl:4", "is no UTF-8"),
        ("a.jsonl:5", "is no JSON"),
        ("a.jsonl:6", "is no JSON object"),
    ]
    assert found.report() == (
        "form pair: 2 of 6 rows are used; 4 are not: 2 × is no JSON (a.jsonl:2, a.jsonl:5); 1 × is no UTF-8 "
        "(a.jsonl:4); 1 × is no JSON object (a.jsonl:6)."
    )


def test_a_report_names_the_first_places():
    dropped = [Dropped(f"a:{line}", "is no JSON") for line in range(9)]
    assert report(1, dropped) == "9 of 10 rows (90.00%) are not used: 9 × is no JSON (a:0, a:1, a:2, and 6 more)."
    assert report(4, []) == "all 4 rows are used."


ROWS = [PAIR, PAIR | {"prompt": "r", "reference": "human"}]
READ = [("q", "good", "bad", None), ("r", "good", "bad", "human")]


def content(kind):
    """The bytes of a file with ROWS."""
    table = pl.DataFrame([PAIR | {"reference": None}, ROWS[1]])
    made = {
        "jsonl": lambda: "\n".join(map(json.dumps, ROWS)).encode(),
        "json": lambda: json.dumps(ROWS, indent=1).encode(),
        "parquet": lambda: (table.write_parquet(path := io.BytesIO()), path.getvalue())[1],
        "csv": lambda: table.write_csv().encode(),
        "tsv": lambda: table.write_csv(separator="\t").encode(),
    }
    return made[kind]()


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "csv", "tsv"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_every_kind_of_file(tmp_path, kind, ending):
    raw = content(kind)
    for name in (f"a.{kind}{ending}", f"a.{kind}{ending}".upper()):
        (tmp_path / name).write_bytes(gzip.compress(raw) if ending else raw)
        found = read.read_comparisons(str(tmp_path / name))
        assert [row[:4] for row in found.rows] == READ
        assert [row.where for row in found.rows] == [f"{name}:1", f"{name}:2"]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv"])
def test_a_mark_of_the_byte_order_and_other_ends_of_lines(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    raw = content(kind)
    for written in (codecs.BOM_UTF8 + raw, raw.replace(b"\n", b"\r\n"), codecs.BOM_UTF8 + raw + b"\r\n\r\n"):
        path.write_bytes(written)
        assert [row[:4] for row in read.read_comparisons(path).rows] == READ
    path.write_bytes(raw.decode().encode("utf-16"))
    with pytest.raises(ValueError, match=rf"a\.{kind} is text in UTF-16: save it as UTF-8"):
        read.read_comparisons(path)
    path.write_bytes(raw.replace(b"good", b"\xff\xfe"))
    with pytest.raises(ValueError, match="UTF-8"):
        read.read_comparisons(path)


def test_json_in_other_shapes(tmp_path):
    path = tmp_path / "a.json"
    lines = "\n".join(map(json.dumps, ROWS))
    for text in (
        lines,
        "\n" + lines + "\n\n",
        json.dumps({"data": ROWS, "version": 1}),
        json.dumps({"rows": ROWS}),
        json.dumps({"train": ROWS, "test": [PAIR]}),
        json.dumps({"test": [PAIR], "data": [PAIR], "train": ROWS}),
    ):
        path.write_text(text)
        found = read.read_comparisons(path)
        assert [row[:4] for row in found.rows] == READ
    assert read.read_comparisons(path, part="test").rows == [Comparison("q", "good", "bad", None, "a.json:1")]
    path.write_text(lines + "\n{")
    assert read.read_comparisons(path).dropped == [Dropped("a.json:3", "is no JSON")]
    path.write_text(json.dumps(PAIR))
    assert len(read.read_comparisons(path).rows) == 1
    for shape in ({"prompt": ["q"], "chosen": ["a"]}, {"prompt": {"0": "q"}, "chosen": {"0": "a"}}, {}):
        path.write_text(json.dumps(shape))
        with pytest.raises(ValueError, match=r"is no JSON list of rows, but an object of .*keys train, data, rows"):
            read.read_comparisons(path)
    path.write_text("3")
    with pytest.raises(ValueError, match="is no JSON list of rows, but a number"):
        read.read_comparisons(path)


def test_the_line_of_a_mistake_in_json_is_named(tmp_path):
    row = json.dumps(PAIR)
    for text, line in [(f"[\n{row},\n{row.replace(':', ' ', 1)}\n]", 3), (f"[{row}\n\n{row}]", 3), (f"[\n{row}", 2)]:
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ValueError, match=rf"a\.json, line {line}: .*; it is no JSON"):
            read.read_comparisons(tmp_path / "a.json")


def test_keys_that_come_twice_and_numbers_that_are_none(tmp_path):
    twice = json.dumps(PAIR)[:-1] + ', "chosen": "other"}'
    (tmp_path / "a.jsonl").write_text(json.dumps(PAIR) + "\n" + twice)
    assert read.read_comparisons(tmp_path / "a.jsonl").dropped == [
        Dropped("a.jsonl:2", "has an object with the same key twice")
    ]
    (tmp_path / "a.json").write_text(f"[{twice}]")
    with pytest.raises(ValueError, match="a row has an object with the same key twice; write each key"):
        read.read_comparisons(tmp_path / "a.json")
    rows = [PAIR | {"margin": float("nan")}, PAIR | {"score_chosen": float("inf"), "score_rejected": 1.0}]
    rows += [PAIR | {"prompt": float("nan")}]
    write(tmp_path / "b.jsonl", rows)
    pl.DataFrame(rows[:2]).write_parquet(tmp_path / "b.parquet")
    found = read.read_comparisons(tmp_path / "b.jsonl")
    assert len(found.rows) == len(read.read_comparisons(tmp_path / "b.parquet").rows) == 2
    assert found.dropped[0].reason == "has no prompt"


def test_tables_with_texts_of_several_lines(tmp_path):
    rows = [
        {"prompt": 'a\n"b", c', "chosen": "good\r\n", "rejected": "1"},
        {"prompt": "d", "chosen": "2", "rejected": ""},
    ]
    for name, separator in (("a.csv", ","), ("a.tsv", "\t")):
        pl.DataFrame(rows).write_csv(tmp_path / name, separator=separator)
        found = read.read_comparisons(tmp_path / name)
        assert [row[:3] for row in found.rows] == [tuple(rows[0].values())]
        assert found.dropped == [Dropped(f"{name}:2", "rejected is empty")]
    (tmp_path / "b.csv").write_text("prompt,chosen,rejected\nq,a,b\nq,a,b,c\n")
    with pytest.raises(ValueError, match=r"b\.csv is no table of columns"):
        read.read_comparisons(tmp_path / "b.csv")
    (tmp_path / "b.csv").write_text("prompt;chosen;rejected\nq;a;b\n")
    with pytest.raises(ValueError, match=r"has one column, 'prompt;chosen;rejected': part columns by ',', not by ';'"):
        read.read_comparisons(tmp_path / "b.csv")
    (tmp_path / "b.csv").write_text("prompt,chosen,rejected\n")
    with pytest.raises(ValueError, match=r"b\.csv has no rows"):
        read.read_comparisons(tmp_path / "b.csv")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv.gz", "a.parquet"])
def test_messages_as_json_in_the_cells_of_a_table(tmp_path, name):
    rows = [
        {"prompt": "x", "chosen": json.dumps([USER, GOOD]), "rejected": json.dumps([USER, BAD])},
        {"prompt": json.dumps([USER]), "chosen": json.dumps(GOOD), "rejected": "bad"},
        *(
            {"prompt": text, "chosen": "good", "rejected": "bad"}
            for text in ("[1, 2] is a list", "[1]", '{"a": 1}', "[{")
        ),
        {"prompt": "x", "chosen": str([USER, GOOD]), "rejected": "b"},
        {"prompt": "x", "chosen": "g", "rejected": "[{'content': 'hi?', 'role': 'user'}\n {'content'"},
    ]
    table = pl.DataFrame(rows)
    if name == "a.parquet":
        table.write_parquet(tmp_path / name)
    else:
        raw = table.write_csv(separator="," if ".csv" in name else "\t").encode()
        (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    found = read.read_comparisons(tmp_path / name)
    assert [row[:3] for row in found.rows[:2]] == [([USER], "good", "bad")] * 2
    assert [row.prompt for row in found.rows[2:]] == [row["prompt"] for row in rows[2:6]]
    assert found.dropped == [Dropped(f"{name}:{n}", "has messages in a text that is no JSON") for n in (7, 8)]
    write(tmp_path / "a.jsonl", [PAIR | {"prompt": json.dumps([USER])}])  # where lists can be lists, a text is a text
    assert read.read_comparisons(tmp_path / "a.jsonl").rows[0].prompt == json.dumps([USER])
    write(tmp_path / "b.jsonl", [{"messages": json.dumps([USER, GOOD])}])
    assert read.read_demonstrations(tmp_path / "b.jsonl").rows[0][:2] == ([USER], "good")


def test_files_that_are_not_what_they_are_called(tmp_path):
    for text in (json.dumps(ROWS), " " + json.dumps(ROWS, indent=1)):
        (tmp_path / "a.jsonl").write_text(text)
        assert [row[:4] for row in read.read_comparisons(tmp_path / "a.jsonl").rows] == READ
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n"
    for name in ("a.jsonl", "a.json", "a.csv", "a.parquet"):
        for content, words in [
            (gzip.compress(b"x" * 99), "is compressed: let its name end in .gz"),
            (pointer, "Git LFS"),
        ]:
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ValueError, match=words):
                read.read_comparisons(tmp_path / name)
    (tmp_path / "a.csv").write_text("prompt,prompt,chosen,rejected\nq,q,a,b\n")
    with pytest.raises(ValueError, match=r"a\.csv has two columns of the name prompt: keep one"):
        read.read_comparisons(tmp_path / "a.csv")
    for name in ("a.json", "a.jsonl", "a.csv"):
        (tmp_path / name).write_text(" \n")
        with pytest.raises(ValueError, match="has no rows"):
            read.read_comparisons(tmp_path / name)


def test_a_folder_of_files(tmp_path):
    write(tmp_path / "b.jsonl", [PAIR])
    pl.DataFrame([ROWS[1]]).write_parquet(tmp_path / "a.parquet")
    (tmp_path / "README.md").write_text("# data")
    assert [row.where for row in read.read_comparisons(tmp_path).rows] == ["a.parquet:1", "b.jsonl:1"]
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "train-00000-of-00001.jsonl", [PAIR])
    write(tmp_path / "data" / "Test.jsonl", [PAIR])
    assert [row.where for row in read.read_comparisons(tmp_path).rows] == ["train-00000-of-00001.jsonl:1"]
    assert [row.where for row in read.read_comparisons(tmp_path, part="test").rows] == ["Test.jsonl:1"]
    with pytest.raises(
        ValueError, match=r"has no file of the part 'validation' in its name; it has a\.parquet, b\.jsonl"
    ):
        read.read_comparisons(tmp_path, part="validation")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty has no file that ends in \.jsonl, \.json"):
        read.read_comparisons(tmp_path / "empty")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.jsonl", "there is no file"),
        ("none.CSV.GZ", "there is no file"),
        ("none.txt", r"is not there, and would not be read: \.jsonl, \.json"),
        ("there.txt", "is none of the files that are read"),
        ("no such", "there is no file or folder"),
        ("none/", "there is no file or folder"),
    ],
)
def test_what_is_not_there_is_not_asked_for_on_the_hub(tmp_path, name, words, monkeypatch):
    monkeypatch.setattr("gvgap_jax.lm.data.sources.optional", lambda name: pytest.fail("asked"))
    (tmp_path / "there.txt").write_text("x")
    with pytest.raises(ValueError, match=words):
        read.read_comparisons(f"{tmp_path}/{name}")


def test_nested_rows_in_parquet(tmp_path):
    pl.DataFrame([CHOICE]).write_parquet(tmp_path / "a.parquet")
    assert read.read_comparisons(tmp_path / "a.parquet").rows[0][:4] == (FIELDS, " good", " bad", " good")
    pl.DataFrame([{"messages": [USER, GOOD]}]).write_parquet(tmp_path / "b.parquet")
    assert read.read_demonstrations(tmp_path / "b.parquet").rows[0][:2] == ([USER], "good")


def test_the_datasets_library(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    table = datasets.Dataset.from_list([CHOICE, CHOICE | {"choice": 2}])
    table.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": table, "validation": table}).save_to_disk(tmp_path / "parts")
    for folder, part in [("one", "train"), ("parts", "validation")]:
        found = read.read_comparisons(tmp_path / folder, part=part)
        assert found.rows[0][:4] == (FIELDS, " good", " bad", " good")
        assert found.dropped == [Dropped(f"{tmp_path / folder}/{part}:2", "choice should be 0 or 1")]
    with pytest.raises(ValueError, match="datasets cannot read its part 'test'"):
        read.read_comparisons(tmp_path / "parts", part="test")


def test_sources_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        read.read_comparisons(tmp_path / "none.jsonl")
    for name, content, words in [
        ("a.jsonl", b"\n\n", "has no rows"),
        ("a.json", b"{}", "is no JSON list of rows"),
        ("a.parquet", b"PAR1", "is no Parquet file"),
        ("a.jsonl.gz", b"plain", "is no whole gzip file"),
        ("b.jsonl.gz", gzip.compress(b"x" * 99)[:-9], "is no whole gzip file"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=words):
            read.read_comparisons(tmp_path / name)


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
