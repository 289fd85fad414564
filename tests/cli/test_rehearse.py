"""``rehearse``: a run's programs compiled and shown; its exit status, and what it says to bad input."""

import os
import signal
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from experiments.cli import main, rehearse
from experiments.rehearsal import nearest as nearest_
from experiments.rehearsal import of_sweeps
from experiments.rehearsal import rehearse as compiling
from experiments.rehearsal.programs import Program
from experiments.rehearsal.rows import Row
from experiments.rehearsal.table import Rehearsed
from experiments.tldr.options import Options
from experiments.tldr.settings import Recipe
from gvgap_jax.runtime import targets
from gvgap_jax.runtime.chips import chip_named
from gvgap_jax.runtime.compiled import Facts
from gvgap_jax.runtime.targets import Target, slices
from tests.cli.test_commands import printed_by
from tests.report.toy_questions import install, toy
from tests.sweep import toy_experiment

TINY = ["rehearse", "powers"]


def run(program, cell):
    """As the toy experiment, and a matrix product."""
    product = jnp.full((3, 4), cell["base"], jnp.float32) @ jnp.ones((4, 3), jnp.float32)
    return toy_experiment.run(program, cell) | {"value": product.sum()}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rehearse.console, "_width", 300)
    install(monkeypatch, {"powers": toy(run=run)})
    return tmp_path


def test_a_sweep_on_this_machine(here, capsys, monkeypatch):
    printed = printed_by(capsys, *TINY, "--price", "3")
    assert "powers-quick on here" in printed
    assert "float32" in printed
    assert "2 programs compiled in" in printed
    assert "at 3 an hour" in printed
    assert len(list((here / "results" / "rehearsals" / "powers-quick-here").glob("*.json"))) == 2
    monkeypatch.setattr(compiling, "compiled", lambda *_: pytest.fail("it is there already"))
    assert "2 programs compiled in" in printed_by(capsys, *TINY)
    assert not (here / "results" / "powers-quick").exists()


def test_the_first_programs_and_those_that_are_left(capsys):
    printed = printed_by(capsys, *TINY, "--first", "1")
    assert "1 programs compiled" in printed
    assert "1 of 2 programs are not compiled" in printed


def test_no_program_is_compiled_in_no_minutes(capsys):
    printed = printed_by(capsys, *TINY, "--minutes", "0")
    assert "No program compiled." in printed
    assert "2 of 2 programs are not compiled" in printed


def test_a_signal_ends_the_rehearsal_with_its_status(capsys, monkeypatch):
    def signalled(programs, target, folder, minutes, stopped):
        assert not stopped()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped()
        return []

    monkeypatch.setattr(rehearse, "rehearse_all", signalled)
    assert "2 of 2 programs are not compiled" in printed_by(capsys, *TINY, status=128 + signal.SIGTERM)


def test_the_work_of_programs_is_the_rows_of_all_their_calls():
    programs = [Program("", jax.jit(jnp.sin).lower, calls, rows, "float32") for calls, rows in ((5, 3), (1, 4))]
    assert rehearse.work_of(programs) == 19


@pytest.mark.parametrize(
    ("options", "kept"), [([], None), (["--keep", "kept"], Path("kept"))], ids=["no folder", "a folder"]
)
def test_programs_for_a_slice_are_kept_where_that_is_asked_for(capsys, monkeypatch, options, kept):
    folders = []
    monkeypatch.setattr(rehearse, "target", lambda name: Target(name, chip_named("v5e"), tuple(jax.local_devices())))
    monkeypatch.setattr(rehearse, "kept_for_a_slice", lambda folder: folders.append(folder) or nullcontext())
    printed_by(capsys, *TINY, "--slice", "v5e-1", *options)
    assert folders == [kept]


def test_a_product_in_a_lower_precision_fails_the_rehearsal(capsys, monkeypatch):
    monkeypatch.setattr(of_sweeps, "LOWEST", "float64")
    printed = printed_by(capsys, *TINY, "--first", "1", status=1)
    assert "has a matrix product in float32, and its room allows float64" in printed


def test_a_program_that_does_not_compile_fails_the_rehearsal(capsys, monkeypatch):
    def refuse(self):
        raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: no such thing")

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    printed = printed_by(capsys, *TINY, "--first", "1", status=1)
    assert "does not compile: UNIMPLEMENTED: no such thing" in printed


def test_a_device_without_room_fails_the_rehearsal(capsys, monkeypatch):
    small = Target("here", chip_named("cpu")._replace(memory_bytes=10), tuple(jax.local_devices()))
    monkeypatch.setattr(rehearse, "here", lambda: small)
    printed = printed_by(capsys, *TINY, "--first", "1", status=1)
    assert "a program can count on 0 MiB of a cpu" in printed


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["power"], "no experiment 'power'"),
        (["--slice", "v5e-8"], "the run's name comes before its options"),
        (["powers", "--slice", "v5e-9"], "there is no slice 'v5e-9'; of v5e there are"),
        (["tldr", "--layout.fsdp", "3"], "must multiply to"),
        (["tldr", "--model", "no/where"], "no/where"),
    ],
)
def test_bad_input(capsys, command, words):
    assert words in printed_by(capsys, "rehearse", *command, status=2)


@pytest.mark.parametrize(("slice_", "extra"), [("v5e-8", "rehearse-tpu"), ("h100x8", "rehearse-gpu")])
def test_a_compiler_that_is_not_installed(capsys, monkeypatch, slice_, extra):
    monkeypatch.setattr(targets, "is_installed", lambda *_: False)
    assert f"[{extra}]" in printed_by(capsys, *TINY, "--slice", slice_, status=2)


def test_help_names_the_runs_and_the_sets(capsys):
    printed = printed_by(capsys, "rehearse")
    for name in ("powers", "tldr", "smoke", "documented"):
        assert name in printed


@pytest.mark.parametrize("line", [*rehearse.SMOKE, *rehearse.DOCUMENTED.values()])
def test_lines_of_the_sets_are_commands_for_a_slice(monkeypatch, line):
    monkeypatch.undo()  # all questions are there
    monkeypatch.setattr(rehearse, "of_sweep_run", lambda name, module, asked: asked)
    monkeypatch.setattr(rehearse, "of_recipe_run", lambda asked: asked)
    assert rehearse.of_run(line.split()).slice in slices()


def test_the_smoke_set_fails_if_any_of_its_runs_does(monkeypatch):
    target = Target("here", chip_named("v5e"), tuple(jax.local_devices()))
    ends = iter([[], ["it is wrong"], [], []])
    monkeypatch.setattr(rehearse, "of_run", lambda _: Rehearsed("", target, [], 0, 1.0, [], next(ends)))
    with pytest.raises(SystemExit) as stopped:
        main.main(["rehearse", "smoke"])
    assert stopped.value.code == 1
    assert next(ends, None) is None


def test_a_setting_that_fits_is_looked_for_where_memory_is_what_is_wrong(monkeypatch):
    asked = []

    def nearest(options, target, name, fits):
        asked.append(name)
        return next(found)

    found = iter([SimpleNamespace(settings="--dpo.accumulate 2"), None])
    monkeypatch.setattr(nearest_, "nearest", nearest)
    small = Target("v5e-1", chip_named("v5e")._replace(memory_bytes=1000), tuple(jax.local_devices()[:1]))
    program = Program("DPO: 20 steps", lambda: pytest.fail("not compiled"), 1, 2, "float32")
    facts = Facts(1.0, 900, 1.0, 1.0, 1.0, (), "float32")
    large, odd = Row(program, facts), Row(program, None, wrong="does not compile: UNIMPLEMENTED")
    refused = Row(program, None, wrong="does not fit: RESOURCE_EXHAUSTED")
    assert rehearse._nearest(Options(Recipe()), small, large) == "Nearest that fits: --dpo.accumulate 2"
    assert rehearse._nearest(Options(Recipe()), small, refused) == "No setting and no slice of its kind is enough"
    assert asked == 2 * ["DPO: 20 steps"]
    assert rehearse._nearest(Options(Recipe()), small, odd) == ""
    assert rehearse._nearest(Options(Recipe()), small, Row(program, facts._replace(memory=800))) == ""


def test_a_run_of_the_recipe_ends_with_its_estimates_and_with_what_would_fit(capsys, monkeypatch):
    small = Target("here", chip_named("cpu")._replace(memory_bytes=1000), tuple(jax.local_devices()))
    large = Facts(1.0, 2**30, 1.0, 1.0, 1.0, (), "float32")
    monkeypatch.setattr(rehearse, "here", lambda: small)
    monkeypatch.setattr(rehearse, "rehearse_all", lambda programs, *_: [Row(programs[0], large)])
    monkeypatch.setattr(
        nearest_, "nearest", lambda options, target, name, fits: SimpleNamespace(settings=f"{options.stage} of {name}")
    )
    printed = printed_by(capsys, "rehearse", "tldr", "--stage", "dpo", status=1)
    assert "memory a device, by the arithmetic of --dry_run and by the compiler" in printed
    assert "reference of DPO needs 1.0 GiB on each device" in printed
    assert "Nearest that fits: dpo of reference of DPO" in printed


def test_a_page_gets_its_tables(here, monkeypatch, capsys):
    monkeypatch.setattr(rehearse, "DOCUMENTED", {"one": " ".join(TINY[1:])})
    monkeypatch.setattr(rehearse, "SAME", " ".join(TINY[1:]))
    monkeypatch.setattr(rehearse, "ON_DEVICES", ("one",))
    page, places = here / "page.md", ("one", "cells at once")
    page.write_text("before\n" + "".join(f"<!-- table: {name} -->\nold\n<!-- end -->\n" for name in places) + "after\n")
    printed_by(capsys, "rehearse", "documented", page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "python -m experiments rehearse powers" in text
    assert "| program | rows | calls |" in text
    assert "| program | devices | cells at once | a fit |" in text
