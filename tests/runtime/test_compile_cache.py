"""Programs of devices that are not there: kept in a folder that is asked for, and nowhere else."""

import os

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from gvgap_jax.runtime.compile_cache import OF_A_TPU_MACHINE, kept_for_a_slice
from gvgap_jax.runtime.targets import target


@pytest.mark.parametrize(("name", "plugin"), [("v5e-1", "libtpu"), ("l4x1", "jax_cuda12_plugin")])
def test_a_program_is_written_once_and_compiled_again_without_a_warning(tmp_path, monkeypatch, name, plugin):
    pytest.importorskip(plugin)
    users, taken = tmp_path / "user's", tmp_path / "taken along"
    sharding = SingleDeviceSharding(target(name).devices[0])
    shape = jax.ShapeDtypeStruct((4096,), jnp.float32, sharding=sharding)
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(users))
    least = jax.config.values["jax_persistent_cache_min_compile_time_secs"]
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    try:
        for folder in (None, taken, taken):
            with kept_for_a_slice(folder):
                jax.jit(lambda x: jnp.sort(x)).lower(shape).compile()
            assert jax.config.values["jax_compilation_cache_dir"] == str(users)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
    assert not users.exists()
    assert len([file for file in taken.rglob("*-cache") if file.is_file()]) == 1


def test_flags_are_those_of_a_tpu_machine_inside_and_the_users_own_outside(tmp_path, monkeypatch):
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    with kept_for_a_slice(tmp_path):
        assert os.environ["LIBTPU_INIT_ARGS"] == OF_A_TPU_MACHINE
    assert "LIBTPU_INIT_ARGS" not in os.environ
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--mine")
    with kept_for_a_slice(tmp_path):
        assert os.environ["LIBTPU_INIT_ARGS"] == "--mine"
    assert os.environ["LIBTPU_INIT_ARGS"] == "--mine"
