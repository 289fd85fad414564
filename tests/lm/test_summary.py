"""What is said of data before an hour is spent on them: counted by hand on a few rows."""

import json

import pytest

from gvgap_jax.lm.data import summary
from gvgap_jax.lm.data.rows import Comparison, Demonstration
from gvgap_jax.lm.data.summary import Lengths, Repeats
from tests.lm import form_rows
from tests.lm.form_rows import PAIR, USER, said


def test_the_summary_of_comparisons(tmp_path):
    rows = [
        PAIR | {"prompt": "a b", "chosen": "one two three", "rejected": "one two"},  # longer, by length alone
        PAIR | {"prompt": [said("user", "a  b")], "chosen": "one two", "rejected": "one two three"},  # the contrary
        PAIR | {"prompt": "a b ", "chosen": "one two three", "rejected": "one two "},  # the first again
        PAIR | {"prompt": "c", "chosen": "Two, one!", "rejected": "one two"},  # the same words
        PAIR | {"prompt": "d", "chosen": "yes", "rejected": "no no"},
        PAIR | {"score_chosen": 1, "score_rejected": 1},
        PAIR | {"prompt": ""},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = summary.summarised(tmp_path / "a.jsonl")
    assert found.kind == "comparisons"
    assert found.rows == 5
    assert found.repeats == Repeats(rows=1, prompts=2, contradictions=1)
    assert (found.ties, found.longer, found.length_alone) == pytest.approx((1 / 6, 2 / 5, 4 / 5))
    assert found.lengths["chosen"] == Lengths([3, 9, 13, 13], [1, 2, 3, 3])
    assert found.lengths["rejected"] == Lengths([5, 7, 13, 13], [2, 2, 3, 3])
    assert found.example == "a b⟂one two three"
    assert found.report.startswith("form pair: 5 of 7 rows are used; ties: 1; 2 are not: 1 × is a tie")


def test_the_summary_of_demonstrations(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": [USER, said("assistant", "good")]}))
    found = summary.summarised(str(tmp_path / "a.jsonl"))
    assert (found.kind, found.rows, found.repeats) == ("demonstrations", 1, Repeats(0, 0, 0))
    assert (found.ties, found.longer, found.length_alone) == (None, None, None)
    assert found.lengths["response"] == Lengths([4] * 4, [1] * 4)
    assert found.example == "hi?⟂good"


@pytest.mark.parametrize("form", form_rows.COMPARISONS | form_rows.DEMONSTRATIONS)
def test_the_kind_of_every_form_is_seen(tmp_path, form):
    path = tmp_path / "a.jsonl"
    path.write_text("{3\n" + form_rows.written(tmp_path, form).read_text().splitlines()[0])
    kind = "comparisons" if form in form_rows.COMPARISONS else "demonstrations"
    assert summary._compares(path, None, "train") == (kind == "comparisons")
    assert summary._compares(path, form, "train") == (kind == "comparisons")


def test_data_of_no_form_are_refused_as_comparisons(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}')
    with pytest.raises(ValueError, match=r"is of no form of comparisons \(it has text; "):
        summary.summarised(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match="there is no form 'x'"):
        summary.summarised(tmp_path / "a.jsonl", "x")


def test_repeats_are_of_the_same_prompt_alone():
    rows = [Comparison("a", "x", "y"), Comparison("b", "y", "x"), Comparison("a", "y", "x"), Comparison("a", "y", "x")]
    assert summary.repeats(rows) == Repeats(rows=1, prompts=2, contradictions=1)
    assert summary.repeats(rows[:2]) == Repeats(0, 0, 0)
    shown = [Demonstration("a", "x"), Demonstration("\n\nHuman: a\n\nAssistant:", "x "), Demonstration("a", "y")]
    assert summary.repeats(shown) == Repeats(rows=1, prompts=2, contradictions=0)
