"""Runs of a reader's own: found by their folders, told from presets' by their grids, and never among the findings."""

import shlex
import shutil
from pathlib import Path

import pytest

from experiments.cli import main as command
from experiments.report import own
from experiments.report.evidence import gather
from tests.report.toy_questions import install, toy


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The quick records of the toy, those of another grid in another folder, and of another grid in its own folder."""
    root = tmp_path_factory.mktemp("records")
    with pytest.MonkeyPatch.context() as patch:
        install(patch, {"toy": toy(), "twin": toy()})
        command.main(["run", "toy", "--out", str(root / "toy-quick")])
        command.main(["run", "toy", "--grid.power", "2", "--seeds", "2", "--out", str(root / "mine <b>")])
        command.main(["run", "twin", "--grid.power", "2", "--grid.base", "0.25", "--out", str(root / "twin-quick")])
    return root


@pytest.fixture
def records(made, tmp_path, monkeypatch):
    install(monkeypatch, {"toy": toy(), "twin": toy()})
    return Path(shutil.copytree(made, tmp_path / "records"))


def test_other_grids_are_found_wherever_they_lie(records):
    found = {each.name: each for each in own.own_runs(records)}
    assert list(found) == ["mine <b>", "twin-quick"]
    for each in found.values():
        assert each.problems == []
        assert each.readable
        assert len(each.findings) == 3
        assert each.preset == ""
    assert found["mine <b>"].about.label == "a run of toy on a grid of its own"


def test_their_command_makes_their_grid(records, tmp_path):
    for each in own.own_runs(records):
        words = shlex.split(each.command)
        assert words[:3] == ["python", "-m", "experiments"]
        words[-1] = str(tmp_path / "again")
        command.main(words[3:])
        (again,) = own.own_runs(tmp_path)
        assert again.origin["grid"] == each.origin["grid"]
        shutil.rmtree(tmp_path / "again")


def test_a_presets_grid_and_a_part_of_it_are_no_run_of_ones_own(records):
    """The command goes on from a part, and the card says so."""
    shutil.rmtree(records / "toy-quick")
    part = ["--grid.power", "2", "--grid.base", "0.5", "--seeds", "2"]
    command.main(["run", "toy", *part, "--out", str(records / "toy-quick")])
    assert [each.name for each in own.own_runs(records)] == ["mine <b>", "twin-quick"]
    assert "smaller grid" in gather("toy", toy(), str(records), "quick").problems[0]


def test_what_cannot_be_read_is_named(records):
    (records / "mine <b>" / "manifest.json").write_text("{")
    (records / "toy-quick" / "manifest.json").write_text("{")
    first, _ = own.own_runs(records)
    assert "mine <b>" in first.problems[0]
    assert not first.readable


def test_records_of_an_experiment_that_is_not_here_are_named(records, monkeypatch):
    install(monkeypatch, {"twin": toy()})
    named = {each.name: each.problems for each in own.own_runs(records)}
    assert named["mine <b>"] == ["There is no experiment 'toy' here, whose records these are."]
    assert named["twin-quick"] == []


def test_a_folder_that_is_not_there_has_no_runs(tmp_path):
    assert own.own_runs(tmp_path / "nothing") == []
