"""A rehearsal of a sweep lists what its run compiles and calls, and counts what a fit takes by running some."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.questions import questions, sample_complexity
from experiments.rehearsal import of_sweeps
from experiments.rehearsal.of_sweeps import Fit, fit_of, of_sweep
from gvgap_jax.runtime.units import GIB
from gvgap_jax.sweep import at_once, compute, make_plan, run_plan
from gvgap_jax.sweep.at_once import Place
from gvgap_jax.sweep.grid import Grid
from gvgap_jax.sweep.run import on_devices
from tests.sweep import toy_experiment as toy
from tests.sweep.test_run import opened, toy_plan

GRID = Grid({"power": (1, 2, 4), "base": tuple(np.arange(0.5, 30.5))}, seeds=10)
"""Three programs, 300 cells each, in 3 chunks of 100."""


def fresh(program, cell):
    return toy.run(program, cell)


@pytest.fixture(params=[0, 64, 128])
def place(request, monkeypatch):
    """The CPU's, and an accelerator's two: of room for a chunk, and for two of three."""
    found = Place(tuple(jax.local_devices()), GIB, request.param)
    monkeypatch.setattr(at_once, "place", lambda devices=None: found)
    return found


def test_it_is_what_a_run_compiles_and_calls(tmp_path, monkeypatch, place):
    plan, lower, pieces = toy_plan(GRID, fresh), compute.lowered, compute._in_pieces
    programs, calls = [], []

    def lowered(work, place, rows):
        programs.append((found := lower(work, place, rows)).as_text())
        return found

    def called(program, padded):
        rows = len(padded["seed"])
        calls.append(-(-rows // program.rows))
        return pieces(program, padded)

    listed = list(of_sweep(plan, place.devices))
    assert sorted(each.name for each in listed) == ["toy: power 1", "toy: power 2", "toy: power 4"]
    assert {each.rows for each in listed} == {{0: 100, 64: 100, 128: 200}[place.most]}
    texts = sorted(each.lower().as_text() for each in listed)
    monkeypatch.setattr(compute, "lowered", lowered)
    monkeypatch.setattr(compute, "_in_pieces", called)
    compute.drop_programs()
    run_plan(plan, opened(tmp_path, plan), engine=on_devices(place))
    assert sorted(programs) == texts
    assert sum(calls) == sum(each.calls for each in listed) == {0: 9, 64: 9, 128: 6}[place.most]


@pytest.mark.parametrize("memory", [1000, 1300, 10_000])
def test_it_finds_the_rows_that_a_run_finds(monkeypatch, memory):
    """A program needs 100 bytes, and 10 for each row, on both devices."""

    def needed(executable):
        return 100 + 10 * executable.in_avals[0][0]["base"].shape[0]

    place = Place(tuple(jax.local_devices()), memory, 128)
    monkeypatch.setattr(at_once, "place", lambda devices=None: place)
    monkeypatch.setattr(compute, "memory_needed", needed)
    plan = toy_plan(GRID, fresh)
    program = next(iter(of_sweep(plan, place.devices)))
    while less := program.fewer(100 + 10 * program.rows):
        program = less
    compute.drop_programs()
    assert program.rows == compute.compiled(at_once.works(plan, place.most)(plan.chunks[0]), place).rows
    assert program.rows == {1000: 50, 1300: 100, 10_000: 200}[memory]
    assert program.calls == {1000: 6, 1300: 3, 10_000: 2}[memory]
    assert f"tensor<{program.rows}xf" in program.lower().as_text()


def test_a_program_that_fits_nowhere_ends_with_a_row_a_device(place):
    program, tried = next(iter(of_sweep(toy_plan(GRID, fresh), place.devices))), 0
    while less := program.fewer(10**15):
        program, tried = less, tried + 1
    assert program.rows == 2
    assert tried < 5


def test_programs_with_most_cells_come_first_and_machines_share_the_calls(monkeypatch):
    plan = make_plan("sample_complexity", sample_complexity, Grid({"horizon": (2,), "pairs": (8, 64)}, seeds=70))
    devices = [SimpleNamespace(platform="cpu", process_index=number // 2) for number in range(4)]
    monkeypatch.setattr(at_once, "place", lambda own: Place(tuple(own), GIB, 4096))
    listed, works = list(of_sweep(plan, devices)), of_sweeps.works(plan, at_once.place(devices[:2]))
    cells = {each.name: each.rows for each in listed}
    assert [*cells.values()] == sorted(cells.values(), reverse=True)
    assert {each.calls for each in listed} == {0.5}
    assert [*cells.values()] == [2 * at_once.wished(work, at_once.place(devices[:2])) for work in works]
    assert next(iter(cells)) == "sample_complexity: arm RLHF, pairs 2048"
    (options,) = {each.options for each in listed}
    assert options == "--grid.vocabulary --grid.horizon --grid.pairs"


def test_every_program_of_every_question_has_a_name_of_its_own():
    for name, module in questions().items():
        plan = make_plan(name, module, module.PRESETS["quick"])
        names = [program.name for program in of_sweep(plan, jax.local_devices())]
        assert len(set(names)) == len(names), name


def turning(program, cell):
    """``seed`` turns of a multiplication and, in a branch, another one for an even seed."""
    value = jax.lax.fori_loop(0, cell["seed"], lambda _, value: value * cell["base"], jnp.ones_like(cell["base"]))
    return {"value": jax.lax.cond(cell["seed"] % 2 == 0, lambda x: x * x, lambda x: x, value)}


def test_the_operations_of_a_fit_are_counted_as_its_loops_turn():
    plan = toy_plan(Grid({"power": (2,), "base": (1.5, 2.5)}, seeds=8), turning)
    ((work, chunks),) = of_sweeps.works(plan, at_once.place()).items()
    taken = [seed + (seed % 2 == 0) for seed in range(8)]
    assert fit_of(work, chunks) == Fit(np.mean(taken), max(taken))
    few = [seed + (seed % 2 == 0) for seed in (0, 3, 7)]  # rows 0, 7 and 15 of 16, whose seeds vary slowest
    assert fit_of(work, chunks, rows=3) == Fit(np.mean(few), max(few))


def test_rows_are_picked_from_all_chunks():
    plan = toy_plan(Grid({"power": (2,), "base": (1.5, 2.5)}, seeds=200), turning)
    ((work, chunks),) = of_sweeps.works(plan, Place((), 0, 1)).items()
    assert len(chunks) == 4
    for rows, seeds in ((4, (0, 50, 100, 150)), (2, (0, 150))):
        firsts = [seed + (seed % 2 == 0) for seed in seeds]
        assert fit_of(work, chunks, rows) == Fit(np.mean(firsts), max(firsts))
