"""What the paper reported stands beside what was measured, and is compared by the interval alone."""

import re

import pytest

from experiments.questions import questions
from experiments.report import page, reported
from experiments.report.reported import REPORTED
from tests.kit.fixed import fixed
from tests.report.pages import CLAIM, Page, asked, missing

FIRST = REPORTED[2]  # online DPO from SFT less DPO


def compared(row, **changes):
    claim = CLAIM._replace(claim=f"H=2: {row.part}, 64 pairs", **changes)
    (found,) = [each for each in reported.compared([asked(row.name, findings=(claim,))]) if each.reported == row]
    return [found.says(finding) for _, finding in found.measured]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"estimate": fixed(1, 2)}, "as reported"),
        ({"estimate": fixed(-2, -1)}, "not as reported"),
        ({"estimate": fixed(-1, 1)}, "undecided"),
        ({"estimate": fixed(1, 2, seeds=3)}, "undecided"),
        ({"estimate": fixed(float("nan"), float("nan"))}, "undecided"),
    ],
    ids=["above", "below", "open", "few seeds", "no ends"],
)
def test_a_gap_is_as_reported_where_all_of_the_interval_says_so(changes, says):
    assert compared(FIRST, **changes) == [says]


@pytest.mark.parametrize(
    ("interval", "says"), [((-0.1, 0.1), "as reported"), ((1, 2), "not as reported"), ((0, 2), "undecided")],
    ids=["level", "apart", "open"],
)  # fmt: skip
def test_no_gap_is_as_reported_where_the_interval_is_within_the_margin(interval, says):
    (nothing,) = [each for each in REPORTED if each.name == "h3_optimisation"]
    assert compared(nothing, estimate=fixed(*interval), direction="at", margin=0.5) == [says]


def test_every_row_is_of_a_question_and_shown_with_its_numbers_although_nothing_was_measured():
    found = Page(page.page(missing()))
    for row in REPORTED:
        assert row.name in questions()
        assert row.agrees in ("supported", "equal")
        assert row.number in found.text
    assert found.text.count("not measured yet") >= len(REPORTED)
    assert " as reported" not in found.text


def test_the_numbers_add_up():
    """A difference that is named is that of the two numbers beside it."""
    checked = 0
    for row in REPORTED:
        for change, before, after in re.findall(
            r"\+([\d.]+)(?: points)?(?: at \S+B)? \(([\d.]+) to ([\d.]+)\)", row.number
        ):
            assert float(change) == pytest.approx(float(after) - float(before))
            checked += 1
    assert checked == 11


def test_both_backends_stand_in_one_row():
    claim = CLAIM._replace(claim=FIRST.part)
    both = [asked("main_table", backend, (claim,)) for backend in ("tree", "transformer")]
    (row,) = [each for each in reported.compared(both) if each.reported == FIRST]
    assert [each.backend for each, _ in row.measured] == ["tree", "transformer"]
