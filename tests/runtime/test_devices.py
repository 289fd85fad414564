"""Batches over all local devices."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvgap_jax.runtime import machine
from gvgap_jax.runtime.devices import memory_asked, over_devices, rows_over_devices, use_all_cores


def run(key, start):
    """A loop whose length depends on the row, as optimisers have."""
    noise = jax.random.normal(key, (3,))
    value, steps = jax.lax.while_loop(
        lambda state: jnp.abs(state[0]) > 1e-3, lambda state: (state[0] / 2, state[1] + 1), (start, 0)
    )
    return {"value": value + noise, "steps": steps}


@pytest.mark.parametrize(
    ("variables", "updates"),
    [
        ({}, 1),
        ({"JAX_NUM_CPU_DEVICES": "1"}, 0),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, 0),
        ({"XLA_FLAGS": "--xla_dump_to=x"}, 1),
    ],
)
def test_every_core_is_a_device_unless_the_environment_says_otherwise(monkeypatch, variables, updates):
    made = []
    monkeypatch.setattr(type(jax.config), "update", lambda *_: made.append(1))
    for name in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    use_all_cores()
    assert len(made) == updates


def test_the_suite_has_two_devices():
    assert jax.local_device_count() == 2


@pytest.mark.parametrize("size", [2, 6])
def test_a_batch_is_what_vmap_gives_on_one_device(size):
    keys, starts = jax.random.split(jax.random.key(0), size), jnp.linspace(1.0, 100.0, size)
    found, expected = over_devices(run)(keys, starts), jax.jit(jax.vmap(run))(keys, starts)
    assert found["value"].shape == (size, 3)
    np.testing.assert_array_equal(found["steps"], expected["steps"])
    np.testing.assert_allclose(found["value"], expected["value"], rtol=1e-12)


def test_the_same_batch_gives_the_same_bits():
    keys, starts = jax.random.split(jax.random.key(1), 6), jnp.linspace(1.0, 100.0, 6)
    mapped = over_devices(run)
    first, second = mapped(keys, starts), mapped(keys, starts)
    np.testing.assert_array_equal(first["value"], second["value"])


def test_the_batch_lies_on_all_devices():
    result = over_devices(lambda x: 2 * x)(jnp.arange(6.0))
    assert len(result.sharding.device_set) == jax.local_device_count()
    assert {shard.data.shape for shard in result.addressable_shards} == {(3,)}


@pytest.mark.parametrize(("rows", "padded"), [(1, 2), (2, 2), (3, 4), (128, 128)])
def test_rows_are_padded_to_a_multiple_of_the_devices(rows, padded):
    assert rows_over_devices(rows) == padded


def test_no_device_waits_for_another():
    """A CPU device that waits a minute for a slow one in a collective operation ends the process."""
    compiled = over_devices(run).lower(jax.random.split(jax.random.key(0), 4), jnp.ones(4)).compile().as_text()
    for operation in ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter"):
        assert operation not in compiled


def test_rows_that_cannot_be_split_evenly_are_refused():
    with pytest.raises(ValueError, match="3 rows cannot be split evenly over 2 devices; pad them to 4"):
        over_devices(jnp.sin)(jnp.zeros(3))


def test_rows_of_different_length_are_refused():
    with pytest.raises(ValueError, match="same number of rows"):
        over_devices(lambda x, y: x + y)(jnp.zeros(4), jnp.zeros(2))


def test_a_batch_lies_on_the_devices_that_are_named():
    last = jax.local_devices()[-1:]
    assert over_devices(jnp.sin, devices=last)(jnp.zeros(3)).devices() == set(last)
    assert rows_over_devices(3, last) == 3


@pytest.mark.parametrize(("batched", "rows_in_a_product"), [(None, 1), (False, 1), (True, 4)])
def test_rows_are_one_batch_or_come_one_after_another(batched, rows_in_a_product):
    """A device has 4 rows of 3 numbers: each by itself in a loop, or all of them in one product."""
    weights = jnp.arange(6.0).reshape(3, 2)
    mapped = over_devices(lambda row: row @ weights, batched=batched)
    rows = jnp.arange(24.0).reshape(8, 3)
    (product,) = (line for line in mapped.lower(rows).as_text().splitlines() if "stablehlo.dot_general" in line)
    assert {1: "(tensor<3xf64>,", 4: "(tensor<4x3xf64>,"}[rows_in_a_product] in product
    np.testing.assert_allclose(mapped(rows), rows @ weights, rtol=1e-12)


def test_shared_arguments_go_whole_to_every_row_and_donated_ones_are_used_up():
    weights, rows = jnp.arange(3.0), over_devices(lambda row: row)(jnp.arange(12.0).reshape(4, 3))
    expected = rows @ weights
    total = over_devices(lambda weights, row: row @ weights + 0 * row, shared=1, donate=(1,))
    np.testing.assert_array_equal(total(weights, rows), jnp.broadcast_to(expected[:, None], (4, 3)))
    assert rows.is_deleted()
    assert not weights.is_deleted()


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (
            "Ran out of memory on HBM, the total memory required for HLO temporaries (95.22G) exceeds available HBM "
            "(15.75G).",
            int(95.22 * 2**30),
        ),
        (
            "XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 31.5M of 15.48G hbm.",
            int(31.5 * 2**20),
        ),
        ("Out of memory allocating 1 bytes", None),
    ],
    ids=["temporaries", "all of it", "not said"],
)
def test_a_compiler_says_how_much_memory_it_lacks(words, size):
    assert memory_asked(RuntimeError(f"RESOURCE_EXHAUSTED: {words}")) == size


def test_cores_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert machine.number_of_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert machine.number_of_cores() == os.cpu_count()
