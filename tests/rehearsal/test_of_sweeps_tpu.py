"""A sweep's program compiled for a slice of TPUs that is not there: its cells at once follow from its memory."""

import jax
import jax.numpy as jnp
import pytest

from experiments.rehearsal import rehearse
from experiments.rehearsal.of_sweeps import of_sweep
from gvgap_jax.runtime import devices
from gvgap_jax.runtime.compile_cache import kept_for_a_slice
from gvgap_jax.runtime.targets import target
from gvgap_jax.sweep.grid import Grid
from tests.sweep.test_run import toy_plan

pytest.importorskip("libtpu")

SIDE = 1000


def large(program, cell):
    """4 MB of a row are there at once."""
    row = cell["base"] + jnp.arange(SIDE, dtype=jnp.float32)
    turned = jax.lax.fori_loop(0, cell["seed"], lambda _, found: found.T + 1, row[:, None] - row[None, :])
    return {"value": jnp.max(turned)}


def facts_of(program):
    with kept_for_a_slice():
        return rehearse.compiled(program.lower(), program)


@pytest.fixture(autouse=True)
def single_precision():
    """TPUs have no other."""
    with jax.enable_x64(False):
        yield


def test_many_cells_at_once_and_as_many_as_memory_allows():
    """A device is allowed 9.6 GiB of its 16, and the compiler refuses what needs 15.75 or more."""
    slice_ = target("v5e-4")
    plan = toy_plan(Grid({"power": (2,), "base": tuple(0.5 + step for step in range(100))}, seeds=150), large)
    (program,) = of_sweep(plan, slice_.devices)
    assert program.rows == 15_104  # 118 chunks of 128, the last one with padding
    with pytest.raises(jax.errors.JaxRuntimeError) as refused:
        facts_of(program)
    asked = devices.memory_asked(refused.value)
    assert asked > program.rows / 4 * 4 * SIDE**2
    tried = [program]
    while less := program.fewer(asked):
        tried.append(program := less)
        asked = facts_of(program).memory
    assert 0.3 * 16 * 2**30 < asked <= 0.6 * 16 * 2**30, "no straight line: with more room the compiler copies more"
    assert len(tried) == 2, "refused, and right"
    assert program.rows % 4 == 0
    assert program.calls == pytest.approx(15_104 / program.rows, rel=0.2)


def test_a_machine_of_a_larger_slice_computes_its_shard():
    plan = toy_plan(Grid({"power": (2,), "base": (0.5, 1.5)}, seeds=64))
    (program,) = of_sweep(plan, target("v5e-16").devices)
    assert (program.rows, program.calls) == (4 * 128, 0.25)
    found = facts_of(program)
    assert found.collectives == ()
    assert 0 < found.memory < 2**24
