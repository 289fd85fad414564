"""``pytest --commit HASH``: which of the slow tests a commit chooses."""

import hashlib
from pathlib import Path

import pytest

from tests.conftest import SHARES, chosen

pytest_plugins = ["pytester"]
COMMITS = [hashlib.sha1(bytes([number])).hexdigest() for number in range(40)]
GROUPS = {f"{letter}{number}" for letter in "ab" for number in range(8)}
FILE = """
import pytest

@pytest.mark.slow
@pytest.mark.parametrize("name", ["equivalence", "h4_data", "main_table", "rival_sparse", "token_tasks", "estimators"])
@pytest.mark.parametrize("backend", ["tree", "transformer"])
def test_of_a_question(name, backend):
    pass

@pytest.mark.slow("h4_data")
def test_of_its_records():
    pass

@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_of_a_family(family):
    pass

def test_that_is_fast():
    pass
"""


def test_every_group_is_chosen_by_one_fifth_of_the_commits():
    by = {commit: chosen(GROUPS, commit) for commit in COMMITS}
    assert set().union(*by.values()) == GROUPS
    shares = {frozenset(share) for share in by.values()}
    assert len(shares) == SHARES
    assert sum(map(len, shares)) == len(GROUPS), "no group is in two shares"
    assert all(len(GROUPS) // SHARES <= len(share) <= len(GROUPS) // SHARES + 1 for share in shares)


def test_a_commit_chooses_the_same_every_time():
    assert all(chosen(set(sorted(GROUPS, reverse=True)), commit) == chosen(GROUPS, commit) for commit in COMMITS)


@pytest.fixture
def collected(pytester):
    """Names of the tests that pytest would run with options."""
    pytester.makeconftest((Path(__file__).parents[1] / "conftest.py").read_text(encoding="utf-8"))
    pytester.makeini("[pytest]\nmarkers = slow: slow\n")
    pytester.makepyfile(FILE)

    def names(*options):
        result = pytester.runpytest_inprocess("-p", "no:xdist", "--collect-only", "-q", *options)
        return {line.partition("::")[2] for line in result.outlines if "::" in line}

    return names


def test_slow_tests_rotate_with_all_of_their_question_and_the_others_stay(collected):
    every = collected()
    assert len(every) == 6 * 2 + 1 + 2 + 1
    shares = [collected("--commit", f"{number:040x}") - {"test_that_is_fast"} for number in range(SHARES)]
    assert set().union(*shares) == every - {"test_that_is_fast"}
    assert sum(map(len, shares)) == len(every) - 1, "each slow test is in one"
    assert all(name.replace("transformer", "tree") in share for share in shares for name in share)
    assert all(("test_of_its_records" in share) == ("test_of_a_question[tree-h4_data]" in share) for share in shares)
    assert "test_that_is_fast" in collected("--commit", 40 * "0")


@pytest.mark.usefixtures("collected")
def test_what_is_no_hash_is_said(pytester):
    result = pytester.runpytest_inprocess("-p", "no:xdist", "--commit", "main")
    result.stderr.fnmatch_lines(["*--commit main: expected a commit's hash, as git rev-parse HEAD prints it*"])
    assert result.ret == pytest.ExitCode.USAGE_ERROR
