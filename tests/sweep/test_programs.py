"""Compiled programs are kept while they are needed, and no longer: each takes many of the memory maps a process has."""

import sys
from pathlib import Path

import jax
import pytest

from gvgap_jax.sweep import at_once, compute, load, run_plan
from gvgap_jax.sweep import run as running
from gvgap_jax.sweep.grid import Grid
from gvgap_jax.sweep.look import single
from tests.sweep import toy_experiment as toy
from tests.sweep.test_run import TABLES, opened, same_bits, toy_plan

MAPS = Path("/proc/self/maps")
needs_maps = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists a process's memory maps")


def maps():
    return len(MAPS.read_bytes().splitlines())


def seed_and_program(chunk):
    return chunk.first_seed, chunk.batch.program


def test_parts_have_few_programs_and_in_each_the_first_seeds_come_first(monkeypatch):
    monkeypatch.setattr(running, "PROGRAMS", 2)
    plan = toy_plan(Grid({"power": (1, 2, 4), "base": (0.5, 1.5)}, seeds=100))
    chunks = plan.chunks
    first, second = running.by_programs(chunks, at_once.works(plan, 0))
    assert [seed_and_program(chunk) for chunk in first] == [(0, (1,)), (0, (2,)), (50, (1,)), (50, (2,))]
    assert [seed_and_program(chunk) for chunk in second] == [(0, (4,)), (50, (4,))]
    assert {chunk.name for chunk in [*first, *second]} == {chunk.name for chunk in chunks}


def test_parts_give_the_records_of_the_whole_and_compile_each_program_once(tmp_path, monkeypatch):
    def run(program, cell):
        return toy.run(program, cell)

    plan = toy_plan(run=run)
    whole, parts = (opened(tmp_path / name, plan) for name in ("whole", "parts"))
    run_plan(plan, whole)
    compute.drop_programs()
    monkeypatch.setattr(running, "PROGRAMS", 1)
    report = run_plan(plan, parts, stopped=lambda: len(single(parts)) >= 1)
    assert (report.computed, report.left, report.compilations) == (21, 42, 1), "no part is compiled after the stop"
    assert report.compile_seconds > 0
    report = run_plan(plan, parts)
    assert (report.computed, report.left, report.compilations) == (42, 0, 2)
    for table in TABLES:
        same_bits(load(parts, table), load(whole, table))


@needs_maps
def test_memory_maps_stop_rising_in_a_plan_of_many_programs(tmp_path):
    most, engine = compute.PROGRAMS, running.on_devices()
    seen = []

    def watched(works, progress):
        count = engine.prepare(works, progress)
        seen.append(maps())
        return count

    compute.drop_programs()
    before = maps()
    plan = toy_plan(Grid({"power": tuple(range(3 * most)), "base": (0.5,)}, seeds=2))
    run_plan(plan, opened(tmp_path, plan), engine=engine._replace(prepare=watched))
    first, *_, last = seen
    assert first > before + most, "programs take maps"
    assert last - first < (first - before) / 2


@needs_maps
def test_dropped_programs_leave_no_memory_maps():
    def fresh(sizes):
        for size in sizes:
            jax.block_until_ready(jax.numpy.sin(jax.numpy.ones(size)))
        return maps()

    compute.drop_programs()
    fresh([1])
    before = maps()
    assert fresh(range(2, 22)) > before + 20, "jax keeps the program of every shape"
    compute.drop_programs()
    assert maps() < before + 10
