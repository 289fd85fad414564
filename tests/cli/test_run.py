"""The commands ``run``, ``list`` and ``figures``: presets, records, and what they say to bad input."""

import json
from dataclasses import replace

import polars as pl
import pytest

from experiments.cli import arguments, runner
from experiments.cli import main as command
from experiments.questions import equivalence


def fails_with(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """A folder of the tiny records of equivalence."""
    folder = tmp_path_factory.mktemp("records")
    command.main(["run", "equivalence", "--preset", "tiny", "--out", str(folder)])
    return folder


def test_manifest_names_what_made_the_records(records):
    manifest = json.loads((records / "manifest.json").read_text())
    assert {
        "experiment",
        "meaning",
        "grid",
        "chunks",
        "versions",
        "device",
        "devices",
        "revision",
        "python",
    } <= manifest.keys()


def test_presets_change_the_defaults():
    assert arguments.preset_in(["run", "equivalence", "--preset", "tiny"]) == "tiny"
    assert arguments.preset_in(["run", "equivalence", "--preset", "paper"]) == "paper"
    assert arguments.preset_in(["run", "equivalence", "--preset=full"]) == "full"
    assert arguments.preset_in(["run", "equivalence"]) == "quick"
    full = equivalence.PRESETS["full"]
    asked = arguments.grid_of(arguments.options_of("equivalence", equivalence, "full")(), full)
    assert replace(asked, axes={}) == replace(full, axes={})
    assert full.axes.items() <= asked.axes.items()


def test_unknown_experiment_names_the_nearest(capsys):
    assert "Did you mean 'equivalence'?" in fails_with(capsys, ["run", "equivalense"])


def test_unknown_field_names_the_nearest(capsys):
    assert "--seeds" in fails_with(capsys, ["run", "equivalence", "--seed", "3"])


def test_folder_of_another_configuration_is_refused(records, capsys):
    message = fails_with(capsys, ["run", "equivalence", "--preset", "tiny", "--out", str(records), "--seeds", "1"])
    assert "another plan (seeds 2 there, 1 now" in message
    assert "choose another --out" in message


def test_figures_without_records_say_what_to_run(capsys, tmp_path):
    assert "Run the experiment first" in fails_with(capsys, ["figures", "equivalence", "--records", str(tmp_path)])


def test_doubtful_fits_are_reported(capsys):
    statuses = ["ok", "not converged", "not finite", "not finite"]
    runner.show("made up", [], {"fits": pl.DataFrame({"status": statuses})})
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 of 4 records of 'fits': status 'not converged'" in printed
    assert "2 of 4 records of 'fits': status 'not finite'" in printed
