"""Plans in one process and in several: the same records however they are stopped, split, killed or short of memory."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import numpy as np
import polars as pl
import pytest

from gvgap_jax.runtime import devices as parallel
from gvgap_jax.sweep import at_once, compute, folder_at, load, make_plan, open_folder, records, run_plan, store
from gvgap_jax.sweep import run as running
from gvgap_jax.sweep.grid import Grid
from gvgap_jax.sweep.look import failures, single
from gvgap_jax.sweep.run import on_devices
from tests.sweep import toy_experiment as toy

TABLES = ("odd", "even")


def toy_plan(grid=toy.GRID, run=toy.run):
    module = SimpleNamespace(MEANING=toy.MEANING, Config=toy.Config, cells=toy.cells, run=run)
    return make_plan("toy", module, grid)


def opened(path, plan):
    folder = folder_at(path)
    open_folder(folder, plan)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Frames of the uninterrupted run."""
    plan = toy_plan()
    folder = opened(tmp_path_factory.mktemp("whole"), plan)
    report = run_plan(plan, folder)
    assert (report.computed, report.left, report.failed) == (63, 0, {})
    return {table: load(folder, table) for table in TABLES}


def same_bits(found, expected):
    """Equal in every column; floats by their bits, so that NaN equals itself."""
    assert found.schema == expected.schema
    for name in found.columns:
        left, right = found[name].to_numpy(), expected[name].to_numpy()
        assert left.tobytes() == right.tobytes() if left.dtype != object else (left == right).all(), name


def test_records_are_what_plain_python_computes(whole):
    for table, frame in whole.items():
        found = set(zip(frame["base"], frame["seed"], frame["value"], strict=True))
        assert found == toy.expected()[table]


def test_one_compilation_a_program(tmp_path):
    def run(program, cell):
        return toy.run(program, cell)

    plan = toy_plan(run=run)
    folder = opened(tmp_path, plan)
    report = run_plan(plan, folder)
    assert report.compilations == 3
    assert report.compile_seconds > 0
    assert report.run_seconds > 0
    assert run_plan(plan, folder).compilations == 0


def test_every_processor_second_since_the_last_chunks_is_counted_once(tmp_path):
    plan = toy_plan()
    folder = opened(tmp_path, plan)
    compute._processor_seconds()
    before = time.process_time()
    run_plan(plan, folder)
    spent, counted = (
        time.process_time() - before,
        sum(made["processor_seconds"] for made in records.provenances(folder).values()),
    )
    assert 0.5 * spent < counted <= spent


def test_a_program_too_large_for_memory_is_compiled_for_fewer_rows(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(compute, "memory_needed", lambda executable: executable.in_avals[0][0]["base"].shape[0])

    def run(program, cell):
        return toy.run(program, cell)

    plan = toy_plan(run=run)
    folder = opened(tmp_path, plan)
    run_plan(plan, folder, engine=on_devices(at_once.place()._replace(memory_bytes=5)))
    assert {made["rows_at_once"] for made in records.provenances(folder).values()} == {4}
    for table in TABLES:
        same_bits(load(folder, table), whole[table])


def test_out_of_memory_halves_the_rows_and_keeps_the_records(tmp_path, whole, monkeypatch):
    in_pieces, tried = compute._in_pieces, []

    def short_of_memory(program, padded):
        tried.append(program.rows)
        if program.rows > 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
        return in_pieces(program, padded)

    monkeypatch.setattr(compute, "_in_pieces", short_of_memory)
    monkeypatch.setattr(compute, "_most_rows", {})
    plan = toy_plan()
    folder = opened(tmp_path, plan)
    assert run_plan(plan, folder).failed == {}
    assert tried == [22, 8, 4] * 3
    for table in TABLES:
        same_bits(load(folder, table), whole[table])


def test_other_errors_of_the_device_are_not_taken_for_a_lack_of_memory():
    assert parallel.is_out_of_memory(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"))
    assert not parallel.is_out_of_memory(jax.errors.JaxRuntimeError("INTERNAL: it broke"))
    assert not parallel.is_out_of_memory(ValueError("out of memory"))


def test_memory_of_a_program_is_measured_by_the_compiler():
    program = jax.jit(lambda x: jax.numpy.sin(jax.numpy.outer(x, x)).sum(0))
    small, large = (program.lower(jax.ShapeDtypeStruct((size,), np.float32)).compile() for size in (100, 10_000))
    assert parallel.memory_needed(small) < parallel.memory_needed(large)
    assert 0 < parallel.memory_needed(large) < parallel.memory_per_device()


def test_fits_that_are_not_finite_or_not_converged_stay_as_rows_with_a_status(tmp_path):
    def run(program, cell):
        found = toy.run(program, cell)
        return found | {"value": jax.numpy.where(cell["seed"] == 3, jax.numpy.nan, found["value"])}

    plan = toy_plan(Grid({"power": (4,), "base": (0.5, 30.0)}, seeds=6), run)
    folder = opened(tmp_path, plan)
    run_plan(plan, folder)
    frame = load(folder, "even")
    assert len(frame) == 12
    for base, seed, value, status in frame.select("base", "seed", "value", "status").rows():
        expected = "not finite" if seed == 3 else "ok" if (base + seed) ** 4 < 1e6 else "not converged"
        assert status == expected
        assert np.isnan(value) == (seed == 3)


def test_a_failing_chunk_costs_the_others_nothing_and_is_tried_again(tmp_path, whole, monkeypatch):
    plan, compute_chunk = toy_plan(), running.compute
    victim = plan.chunks[1].name

    def fails(work, chunks, place):
        if chunks[0].name == victim:
            raise RuntimeError("it rained")
        return compute_chunk(work, chunks, place)

    folder = opened(tmp_path, plan)
    monkeypatch.setattr(running, "compute", fails)
    report = run_plan(plan, folder)
    assert report.failed == {victim: "RuntimeError: it rained"} == failures(folder)
    assert (report.computed, report.left) == (42, 21)
    monkeypatch.undo()
    assert run_plan(plan, folder).computed == 21
    assert failures(folder) == {}
    same_bits(load(folder, "even"), whole["even"])


def test_a_mistake_in_an_experiment_is_seen_before_anything_is_computed(tmp_path):
    def run(program, cell):
        raise KeyError("no such column")

    plan = toy_plan(run=run)
    with pytest.raises(KeyError, match="no such column"):
        run_plan(plan, opened(tmp_path, plan))


@pytest.mark.parametrize("chunks", [0, 1, 2])
def test_a_stopped_run_goes_on_where_it_was(tmp_path, whole, chunks):
    plan = toy_plan()
    folder = opened(tmp_path, plan)
    report = run_plan(plan, folder, stopped=lambda: len(single(folder)) >= chunks)
    assert (report.computed, report.left) == (21 * chunks, 63 - 21 * chunks)
    assert run_plan(plan, folder).computed == 63 - 21 * chunks
    for table in TABLES:
        same_bits(load(folder, table), whole[table])


def test_shards_together_are_the_whole_run(tmp_path, whole):
    plan = toy_plan()
    folder = opened(tmp_path, plan)
    assert [run_plan(plan, folder, (index, 3)).computed for index in range(3)] == [21, 21, 21]
    for table in TABLES:
        same_bits(load(folder, table), whole[table])


def test_a_chunk_that_another_process_has_claimed_is_waited_for_and_taken_over(tmp_path, whole):
    """The holder gives its claim up without storing the chunk, as a process that dies does."""
    plan = toy_plan()
    folder = opened(tmp_path, plan)
    holder = store.Claims(folder)
    assert holder.take(plan.chunks[0].name)
    asked = []

    def stopped():
        asked.append(len(single(folder)))
        if asked.count(2) == 4:  # everything else is done, and looked at again and again
            holder.release(plan.chunks[0].name)
        return False

    assert run_plan(plan, folder, stopped=stopped).computed == 63
    for table in TABLES:
        same_bits(load(folder, table), whole[table])


# Real processes from here on: the real command line on a real experiment (kills and shards: benchmarks/test_kills.py).

EQUIVALENCE = ["run", "equivalence", "--grid.horizon", "2", "--grid.pairs", "8", "16", "--seeds", "160"]


def command(*arguments, **environment):
    variables = os.environ | {"JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu", **environment}
    return subprocess.Popen(
        [sys.executable, "-m", "experiments", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=variables,
    )  # fmt: skip


def finished(process):
    printed, _ = process.communicate()
    return process.returncode, " ".join(printed.split())


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("uninterrupted")
    status, printed = finished(command(*EQUIVALENCE, "--out", folder, **cache))
    assert status == 0, printed
    return load(folder, "distances")


def wait_for_chunks(folder, count, process):
    while process.poll() is None and len(list(folder.glob("distances-*.parquet"))) < count:
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_chunk_finish_and_prints_the_command_that_goes_on(tmp_path, cache, uninterrupted, number):
    process = command(*EQUIVALENCE, "--out", tmp_path, **cache)
    wait_for_chunks(tmp_path, 1, process)
    process.send_signal(number)
    status, printed = finished(process)
    assert status == 128 + number, printed
    arguments = " ".join([*EQUIVALENCE, "--out", str(tmp_path)])
    assert f"Go on with: python -m experiments {arguments}" in printed
    assert not list(tmp_path.glob(".*.parquet.*"))
    status, printed = finished(command(*arguments.split(), **cache))
    assert status == 0, printed
    same_bits(load(tmp_path, "distances"), uninterrupted)


@pytest.mark.slow
def test_eight_devices_give_the_records_of_one_to_rounding(tmp_path, cache):
    frames = []
    for devices in ("1", "8"):
        out = tmp_path / devices
        arguments = [
            "run",
            "equivalence",
            "--grid.horizon",
            "1",
            "--grid.pairs",
            "8",
            "16",
            "--seeds",
            "5",
            "--out",
            out,
        ]
        status, printed = finished(command(*arguments, JAX_NUM_CPU_DEVICES=devices, **cache))
        assert status == 0, printed
        assert {made["devices"] for made in records.provenances(folder_at(out)).values()} == {int(devices)}
        frames.append(load(out, "distances"))
    one, eight = frames
    assert one.schema == eight.schema
    for name, dtype in one.schema.items():
        if dtype in (pl.Float32, pl.Float64):
            np.testing.assert_allclose(one[name], eight[name], rtol=1e-9, atol=1e-9)
        else:
            assert one[name].equals(eight[name]), name
