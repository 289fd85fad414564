"""Cells at once apart from chunk files: an accelerator's way on two CPU devices, against the CPU's own."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvgap_jax.runtime.units import GIB
from gvgap_jax.sweep import at_once, compute, load, make_plan, records, run_plan, store
from gvgap_jax.sweep import run as running
from gvgap_jax.sweep.at_once import Place, Work
from gvgap_jax.sweep.engines import Ray, on_ray
from gvgap_jax.sweep.grid import Grid
from gvgap_jax.sweep.look import single
from gvgap_jax.sweep.run import on_devices
from tests.sweep import toy_experiment as toy
from tests.sweep.test_run import TABLES, opened, same_bits, toy_plan

GRID = Grid({"power": (1, 2, 4), "base": tuple(np.arange(0.5, 30.5))}, seeds=10)
"""Three programs, 300 cells each, in 3 chunks of 100."""


def accelerator(most=128):
    """Both devices, as if they computed batches; they have room for 2 of 3 chunks."""
    return Place(tuple(jax.local_devices()), GIB, most)


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory):
    plan = toy_plan(GRID)
    folder = opened(tmp_path_factory.mktemp("cpu"), plan)
    run_plan(plan, folder)
    return folder


@pytest.fixture(scope="module")
def on_accelerator(tmp_path_factory):
    plan = toy_plan(GRID)
    folder = opened(tmp_path_factory.mktemp("accelerator"), plan)
    report = run_plan(plan, folder, engine=on_devices(accelerator()))
    assert (report.compilations, report.computed, report.left, report.at_once) == (3, 900, 0, 200)
    assert "cells a second, 200 at once" in str(report)
    return folder


def test_an_accelerator_gives_the_records_of_the_cpu_in_the_same_chunks(on_cpu, on_accelerator):
    makers, cpu = records.provenances(on_accelerator), records.provenances(on_cpu)
    assert makers.keys() == cpu.keys()
    assert {made["rows_at_once"] for made in makers.values()} == {200}
    assert {made["rows_at_once"] for made in cpu.values()} == {100}
    assert all(made["chunk"] == name for name, made in makers.items())
    for table in TABLES:
        found, expected = load(on_accelerator, table), load(on_cpu, table)
        assert found.drop("value").equals(expected.drop("value"))
        np.testing.assert_allclose(found["value"], expected["value"], rtol=1e-12)


def test_a_chunk_is_charged_its_share_of_the_seconds(on_accelerator):
    """The first two chunks of a program are one call, and have as many cells; the third fills another alone."""
    makers = records.provenances(on_accelerator)
    seconds = sorted(makers[chunk.name]["seconds"] for chunk in toy_plan(GRID).chunks)
    assert len(seconds) == 9
    assert len(set(seconds)) == 6
    assert all(value > 0 for value in seconds)


@pytest.mark.parametrize("stored", [1, 2, 4, 7])
def test_a_run_that_was_stopped_goes_on_with_the_same_program_to_the_same_bits(tmp_path, on_accelerator, stored):
    plan, engine = toy_plan(GRID), on_devices(accelerator())
    folder = opened(tmp_path, plan)
    claimed = []
    report = run_plan(plan, folder, engine=engine, stopped=lambda: len(claimed) >= stored or claimed.append(1))
    assert report.computed == 100 * (stored - 1), "the first question is whether to begin"
    assert run_plan(plan, folder, engine=engine).computed == 900 - 100 * (stored - 1)
    assert {made["rows_at_once"] for made in records.provenances(folder).values()} == {200}
    for table in TABLES:
        same_bits(load(folder, table), load(on_accelerator, table))


def test_shards_compute_with_the_program_of_the_whole_plan(tmp_path, on_accelerator):
    plan, engine = toy_plan(GRID), on_devices(accelerator())
    folder = opened(tmp_path, plan)
    assert [run_plan(plan, folder, (index, 4), engine).at_once for index in range(4)] == [200] * 4
    for table in TABLES:
        same_bits(load(folder, table), load(on_accelerator, table))


def test_chunks_of_several_shapes_share_one_call(tmp_path):
    """A folder that grew: 43 seeds of 3 bases, then 47 more; the second and the last chunk have a row of padding."""

    def run(program, cell):
        return toy.run(program, cell)

    module = SimpleNamespace(MEANING=toy.MEANING, Config=toy.Config, cells=toy.cells, run=run)
    earlier, grid = (Grid({"power": (2,), "base": (0.5, 1.5, 2.5)}, seeds=seeds) for seeds in (43, 90))
    plan = make_plan("toy", module, grid, [earlier])
    assert [(chunk.rows, chunk.size) for chunk in plan.chunks] == [(65, 65), (65, 64), (71, 71), (71, 70)]
    folder = opened(tmp_path, plan)
    report = run_plan(plan, folder, engine=on_devices(accelerator(200)))
    assert (report.compilations, report.computed) == (1, 270)
    assert {made["rows_at_once"] for made in records.provenances(folder).values()} == {284}  # whole chunks, of 71
    shares = {made["seconds"] / chunk.size for chunk, made in _made(plan, folder)}
    assert max(shares) == pytest.approx(min(shares))
    frame = load(folder, "even")
    assert set(zip(frame["base"], frame["seed"], frame["value"], strict=True)) == toy.expected(grid)["even"]


def _made(plan, folder):
    makers = records.provenances(folder)
    return [(chunk, makers[chunk.name]) for chunk in plan.chunks]


def test_an_accelerator_computes_a_batch_and_a_cpu_row_after_row():
    plan = toy_plan(GRID)
    batch, one = "tensor<100xf32>", "tensor<f32>"
    for place, shape, other in ((accelerator(), batch, one), (at_once.place(), one, batch)):
        lowered = compute.lowered(at_once.works(plan, place.most)(plan.chunks[0]), place, 200).as_text()
        products = [line for line in lowered.splitlines() if "stablehlo.multiply" in line]
        assert any(line.endswith(shape) for line in products)
        assert not any(line.endswith(other) for line in products)


def test_a_chunk_that_may_not_be_claimed_lets_the_next_program_have_its_turn():
    """As they come: the first seeds of all programs before the second ones."""
    plan = toy_plan(GRID)
    work_of = at_once.works(plan, 128)
    (chunks,) = running.by_programs(plan.chunks, work_of)
    refused = chunks[0]
    found = list(at_once.calls(chunks, work_of, lambda work: 200, lambda chunk: chunk is not refused))
    assert [[chunk.name for chunk in together] for _, together in found] == [
        [chunks[number].name for number in numbers] for numbers in ((1, 4), (2, 5), (3, 6), (7,), (8,))
    ]


def test_a_chunk_that_another_process_has_is_left_out_and_the_next_takes_its_place(tmp_path, monkeypatch):
    plan, seen = toy_plan(GRID), []
    folder = opened(tmp_path, plan)
    program = plan.chunks[0].batch.program
    own = [chunk.name for chunk in plan.chunks if chunk.batch.program == program]
    holder, compute_call = store.Claims(folder), running.compute
    assert holder.take(own[1])

    def watched(work, chunks, place):
        seen.append([chunk.name for chunk in chunks])
        return compute_call(work, chunks, place)

    monkeypatch.setattr(running, "compute", watched)

    def stopped():
        if len(single(folder)) == 8:  # the last one that is left is waited for
            holder.release(own[1])
        return False

    assert run_plan(plan, folder, engine=on_devices(accelerator()), stopped=stopped).computed == 900
    assert [own[0], own[2]] in seen
    assert [own[1]] in seen
    assert len(seen) == 6


def test_an_error_is_noted_for_every_chunk_of_its_call(tmp_path, monkeypatch):
    plan, compute_call = toy_plan(GRID), running.compute
    folder = opened(tmp_path, plan)

    def fails(work, chunks, place):
        if plan.chunks[1] in chunks:
            raise RuntimeError("it rained")
        return compute_call(work, chunks, place)

    monkeypatch.setattr(running, "compute", fails)
    report = run_plan(plan, folder, engine=on_devices(accelerator()))
    assert report.failed == {chunk.name: "RuntimeError: it rained" for chunk in plan.chunks[:2]}
    assert (report.computed, report.left) == (700, 200)


# Rows of a call.


def work_of(rows, largest):
    return Work(toy.run, (1,), (("base", "<f8"), ("seed", "<i4")), rows, largest)


@pytest.mark.parametrize(
    ("rows", "largest", "devices", "most", "expected"),
    [
        (300, 100, 2, 256, 200),  # two calls of two chunks
        (300, 100, 2, 400, 300),  # all in one
        (500, 100, 2, 450, 300),  # two calls: of 3 and 2 chunks, not of 4 and 1
        (50, 50, 8, 4096, 56),  # a multiple of the devices
        (100, 100, 8, 64, 56),  # a chunk in two parts
        (100, 100, 8, 4, 8),  # one row a device
        (1_000_000, 128, 8, 32_768, 32_384),  # 31 calls of 253 chunks, of 256 that there is room for
    ],
)
def test_rows_of_a_call_are_whole_chunks_in_few_and_equal_calls(rows, largest, devices, most, expected):
    assert at_once.rows_at_once(work_of(rows, largest), devices, most) == expected


@given(st.integers(1, 200), st.integers(1, 128), st.integers(1, 8), st.integers(1, 5000))
def test_rows_of_a_call_keep_to_the_devices_and_to_what_is_allowed(chunks, largest, devices, most):
    found = at_once.rows_at_once(work_of(chunks * largest, largest), devices, most)
    assert found % devices == 0
    assert found <= max(most, devices)
    assert found < chunks * largest + devices
    allowed = most // devices * devices
    if allowed >= largest:  # no more calls than there have to be
        assert -(-chunks // (found // largest)) == -(-chunks // (allowed // largest))


def tried(place, work, needed):
    """Rows that are compiled for, one after another."""
    rows = [at_once.wished(work, place)]
    while less := at_once.fewer(work, place, rows[-1], needed(rows[-1])):
        rows.append(less)
    return rows


@pytest.mark.parametrize(("fixed", "each"), [(0, 7), (4_000, 7), (5_000, 1.01), (0, 90), (2_000, 300)])
def test_what_does_not_fit_is_compiled_again_for_as_many_rows_as_the_bytes_of_a_row_allow(fixed, each):
    """Not for half as many and half again: the second is right where a program has few bytes of its own."""
    place, work = Place((0, 1), 100_000, 50_000), work_of(10**6, 1)
    first, last = tried(place, work, lambda rows: fixed + each * rows)
    assert first == 100_000
    assert fixed + each * last <= 100_000
    calls, fewest = (-(-(10**6) // rows) for rows in (last, (100_000 - fixed) / each))
    assert fewest <= calls <= 1.07 * fewest + 1


def test_what_fits_is_compiled_once():
    assert tried(Place((0, 1), 100_000, 500), work_of(10**6, 100), lambda rows: 100 * rows) == [1000]


def test_a_program_that_is_large_itself_takes_more_guesses():
    place, work = Place((0, 1), 100_000, 500), work_of(10**6, 1)
    rows = tried(place, work, lambda rows: 50_000 + 100 * rows)
    assert rows[0] == 1000
    assert 400 <= rows[-1] <= 500
    assert len(rows) <= 5


def test_half_as_many_rows_are_tried_where_a_compiler_does_not_say_what_it_lacks():
    assert at_once.fewer(work_of(200, 1), Place((0, 1), 10, 100), 200, None) == 68  # three calls of at most 95
    assert at_once.fewer(work_of(200, 1), Place((0, 1), 10, 100), 2, None) is None


def test_fewer_rows_than_devices_are_not_asked_for():
    assert tried(Place((0, 1), 10, 100), work_of(200, 1), lambda rows: 10**9)[-1] == 2


def test_a_compiler_that_gives_up_for_lack_of_memory_is_asked_for_fewer(tmp_path, monkeypatch):
    """200 rows would need 4 GiB, and there is 1: fewer than 50 are allowed, a third of a chunk."""
    lower, asked = compute.lowered, []

    def lowered(work, place, rows):
        asked.append(rows)
        if rows < 50:
            return lower(work, place, rows)

        def gives_up():
            raise jax.errors.JaxRuntimeError(
                f"RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
                f"({rows / 50:.2f}G) exceeds available HBM (1.00G)."
            )

        return SimpleNamespace(as_text=str, compile=gives_up)

    monkeypatch.setattr(compute, "lowered", lowered)

    def run(program, cell):
        return toy.run(program, cell)

    plan = toy_plan(Grid({"power": (4,), "base": tuple(np.arange(0.5, 30.5))}, seeds=10), run)
    folder = opened(tmp_path, plan)
    assert run_plan(plan, folder, engine=on_devices(accelerator())).failed == {}
    assert asked == [200, 34]
    assert {made["rows_at_once"] for made in records.provenances(folder).values()} == {34}


def test_a_place_is_known_by_the_kind_of_its_devices():
    assert at_once.place() == Place(tuple(jax.local_devices()), at_once.memory_per_device(), 0)
    gpus = [SimpleNamespace(platform="gpu", device_kind="NVIDIA H100 80GB HBM3") for _ in range(8)]
    assert at_once.place(gpus) == Place(tuple(gpus), int(0.6 * 80 * GIB), 4096)


class InlineRay:
    """Ray, as far as the engine asks it, in this process."""

    exceptions = SimpleNamespace(RayError=RuntimeError)

    def __init__(self):
        self.tasks, self.options = [], {}

    def remote(self, function):
        def call(work, chunks):
            assert all(len(chunk.batch.points) == chunk.size for chunk in chunks), "no more than its own rows is sent"
            self.tasks.append([chunk.name for chunk in chunks])
            return len(self.tasks) - 1, function(work, chunks)

        return SimpleNamespace(options=lambda **options: SimpleNamespace(remote=lambda *each: _Key(*call(*each))))

    def is_initialized(self):
        return True

    def cluster_resources(self):
        return {"CPU": 2, "GPU": 1}

    def nodes(self):
        return [{"Alive": True, "Resources": self.cluster_resources()}]

    def wait(self, running, num_returns):
        return running[:num_returns], running[num_returns:]

    def get(self, ready):
        return ready.value


class _Key:
    def __init__(self, number, value):
        self.number, self.value = number, value


@pytest.mark.parametrize(("gpus", "together"), [(0, [1] * 9), (1, [3] * 3)])
def test_a_ray_task_has_a_chunk_or_what_an_accelerator_computes_at_once(tmp_path, monkeypatch, on_cpu, gpus, together):
    ray = InlineRay()
    monkeypatch.setattr("gvgap_jax.sweep.engines.optional", lambda name: ray)
    plan = toy_plan(GRID)
    folder = opened(tmp_path, plan)
    assert run_plan(plan, folder, engine=on_ray(Ray(gpus=gpus))).computed == 900
    assert [len(task) for task in ray.tasks] == together
    for table in TABLES:
        same_bits(load(folder, table), load(on_cpu, table))
