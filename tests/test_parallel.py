"""Batches over all local devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvgap_jax.parallel import over_devices


def run(key, start):
    """A loop whose length depends on the row, as optimisers have."""
    noise = jax.random.normal(key, (3,))
    value, steps = jax.lax.while_loop(
        lambda state: jnp.abs(state[0]) > 1e-3, lambda state: (state[0] / 2, state[1] + 1), (start, 0)
    )
    return {"value": value + noise, "steps": steps}


def test_the_suite_has_two_devices():
    assert jax.local_device_count() == 2


@pytest.mark.parametrize("size", [1, 5, 6])
def test_a_batch_of_any_size_is_what_vmap_gives_on_one_device(size):
    keys, starts = jax.random.split(jax.random.key(0), size), jnp.linspace(1.0, 100.0, size)
    found, expected = over_devices(run)(keys, starts), jax.jit(jax.vmap(run))(keys, starts)
    assert found["value"].shape == (size, 3)
    np.testing.assert_array_equal(found["steps"], expected["steps"])
    np.testing.assert_allclose(found["value"], expected["value"], rtol=1e-12)


def test_the_same_batch_gives_the_same_bits():
    keys, starts = jax.random.split(jax.random.key(1), 5), jnp.linspace(1.0, 100.0, 5)
    mapped = over_devices(run)
    first, second = mapped(keys, starts), mapped(keys, starts)
    np.testing.assert_array_equal(first["value"], second["value"])


def test_the_batch_lies_on_all_devices():
    result = over_devices(lambda x: 2 * x)(jnp.arange(6.0))
    assert len(result.sharding.device_set) == jax.local_device_count()
    assert {shard.data.shape for shard in result.addressable_shards} == {(3,)}


def test_rows_of_different_length_are_refused():
    with pytest.raises(ValueError, match="same number of rows"):
        over_devices(lambda x, y: x + y)(jnp.zeros(4), jnp.zeros(2))
