"""``run all``: every experiment gets its turn, whatever becomes of the others."""

import signal

import jax
import jax.numpy as jnp
import pytest

from experiments.cli import main, run_all, runner
from experiments.questions import questions
from gvgap_jax.sweep import load
from gvgap_jax.sweep import run as running
from tests.report.toy_questions import findings as toy_findings
from tests.report.toy_questions import install, toy
from tests.sweep import toy_experiment
from tests.sweep.test_programs import maps, needs_maps


def ran(capsys, out, *options, status=None):
    """What ``run all`` prints, in one line."""
    command = ["run", "all", "--out", str(out), *options]
    if status is None:
        main.main(command)
    else:
        with pytest.raises(SystemExit) as stopped:
            main.main(command)
        assert stopped.value.code == status
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    for module in (runner, run_all):
        monkeypatch.setattr(module.console, "_width", 300)


def test_every_experiment_runs_into_its_own_folder_and_is_summed_up(tmp_path, capsys, monkeypatch):
    install(monkeypatch, {"one": toy(), "two": toy()})
    printed = ran(capsys, tmp_path, "--preset", "paper")
    assert "1 of 2: one" in printed
    assert "2 of 2: two" in printed
    assert "preset paper: 2 experiments in" in printed
    assert printed.count(" 16 0 ") == 2
    assert printed.count(" 0 passed ") == 2
    assert len(load(tmp_path / "one-paper", "even")) == len(load(tmp_path / "two-paper", "even")) == 8
    assert "0 cells computed, 16 found done" in ran(capsys, tmp_path, "--preset", "paper")


def test_a_shard_leaves_the_rest_and_the_other_one_finishes(tmp_path, capsys, monkeypatch):
    install(monkeypatch, {"one": toy()})
    assert "Chunks left for other shards" in ran(capsys, tmp_path, "--shard", "0/2")
    assert " 1 undecided" in ran(capsys, tmp_path, "--shard", "1/2")


def test_the_summary_fits_eighty_columns(capsys, monkeypatch):
    monkeypatch.setattr(run_all.console, "_width", 80)
    report = running.Report(1_234_567, 1_234_567, 1_234_567, {}, 10, 12_345.6, 12_345.6, 1.0, 128)
    longest = max(questions(), key=len)
    run_all._show([run_all.Row(longest, runner.Outcome(report, []))], "summary")
    shown = capsys.readouterr().out
    assert f"{longest} 1,234,567 1,234,567 12345.6 12345.6" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80


@needs_maps
def test_an_experiment_leaves_no_programs_behind(tmp_path, capsys, monkeypatch):
    seen = []

    def experiment(number):
        def run(program, cell):
            return toy_experiment.run(program, cell)

        def findings(records):
            for size in range(10):  # findings compile, too
                jax.block_until_ready(jnp.sin(jnp.ones(100 * number + size)))
            seen.append(maps())
            return toy_findings(records)

        return toy(run=run, findings=findings)

    install(monkeypatch, {name: experiment(number) for number, name in enumerate(("one", "two", "three"))})
    ran(capsys, tmp_path)
    _, two, three = seen
    assert three - two < 10, seen


def no_findings(records):
    raise KeyError("no column")


def test_what_fails_is_named_and_the_others_go_on(tmp_path, capsys, monkeypatch):
    modules = {"odd": toy(findings=no_findings), "whole": toy(), "old": toy()}
    install(monkeypatch, {"old": toy(MEANING=2)})
    ran(capsys, tmp_path)
    install(monkeypatch, modules)
    printed = ran(capsys, tmp_path, status=1)
    assert "odd failed: KeyError: 'no column'" in printed
    assert "old failed: ValueError:" in printed
    assert "holds records of another plan" in printed
    assert "failed: odd, old. Try again with: python -m experiments" in printed
    assert len(load(tmp_path / "whole-quick", "even")) == 6


def test_failed_chunks_are_counted(tmp_path, capsys, monkeypatch):
    install(monkeypatch, {"broken": toy(), "whole": toy()})
    complete = runner.run_plan

    def fails(plan, folder, **options):
        report = complete(plan, folder, **options)
        return report._replace(failed={"even-1": "RuntimeError: it rained"}) if plan.experiment == "broken" else report

    monkeypatch.setattr(runner, "run_plan", fails)
    printed = ran(capsys, tmp_path, status=1)
    assert "even-1 failed: RuntimeError: it rained" in printed
    assert "broken: failed chunks: 1 " in printed
    assert "failed: broken. Try again with" in printed
    assert "2 of 2: whole" in printed


def test_a_signal_ends_the_run_with_the_command_that_goes_on(tmp_path, capsys, monkeypatch):
    def interrupted(config):
        if config.power == 1 and config.base < 1:  # the first of its points: a second signal would kill
            signal.raise_signal(signal.SIGTERM)
        return toy_experiment.cells(config)

    install(monkeypatch, {"one": toy(), "two": toy(cells=interrupted), "three": toy()})
    printed = ran(capsys, tmp_path, status=128 + signal.SIGTERM)
    assert "SIGTERM: finishing what is at hand" in printed
    assert "Go on with: python -m experiments" in printed
    assert "3 of 3" not in printed
    assert (tmp_path / "one-quick").exists()
    assert not list(tmp_path.glob("two-quick/*.parquet"))
    assert not (tmp_path / "three-quick").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shard", "2/2"], "a shard is i/n with 0 <= i < n"),
        (["--engine", "slurm", "--shard", "0/2"], "give --slurm.jobs"),
    ],
)
def test_bad_options_end_in_one_clear_line(tmp_path, capsys, options, message):
    assert message in ran(capsys, tmp_path, *options, status=2)
