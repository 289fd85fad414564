"""All local devices: the one place that knows about them."""

import os
from collections.abc import Callable
from functools import partial

import jax
from jax.sharding import AxisType, PartitionSpec

from gvgap_jax.runtime.machine import number_of_cores, total_memory

ROWS = ("data", "fsdp")  # axes of a mesh over which rows are split
USABLE = 0.8  # share of a device's memory that a program may count on


def use_all_cores() -> None:
    """One CPU device a core, unless JAX_NUM_CPU_DEVICES or XLA_FLAGS say otherwise; before jax is first used."""
    chosen = "JAX_NUM_CPU_DEVICES" in os.environ or "device_count" in os.environ.get("XLA_FLAGS", "")
    if not chosen:
        jax.config.update("jax_num_cpu_devices", number_of_cores())


def rows_over_devices(rows: int) -> int:
    """The next multiple of the number of local devices: what ``over_devices`` takes."""
    return rows + -rows % jax.local_device_count()


def over_devices(run: Callable, shared: int = 0, donate: tuple[int, ...] = ()) -> Callable:
    """``run`` mapped over the leading axis of its arguments and split evenly over all devices.

    The first ``shared`` arguments have no such axis: every row gets them whole. The arguments numbered in ``donate``
    are used up, so that results may take their memory.

    An accelerator runs its share as one batch; a CPU device runs it one row after another, because its
    cache holds one fit and not a hundred, and a batch would wait for its slowest row.

    The result is a jitted function of as many rows as ``rows_over_devices`` says: pad by repeating a row. The
    same batch on the same kind and number of devices gives the same bits.

    Raises:
      ValueError: (when called) the arguments differ in length, or cannot be split evenly. Uneven shares would make
        devices wait for each other, and a CPU device that waits for a minute ends the process.
    """

    def share(*arguments):
        whole, rows = arguments[:shared], arguments[shared:]
        if jax.default_backend() == "cpu":
            return jax.lax.map(lambda row: run(*whole, *row), rows)
        return jax.vmap(partial(run, *whole))(*rows)

    mesh = jax.make_mesh((jax.local_device_count(),), ("batch",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("batch")

    @partial(jax.jit, donate_argnums=donate)
    def run_all(*arguments):
        batched = arguments[shared:]
        sizes = {rows.shape[0] for rows in jax.tree.leaves(batched)}
        if len(sizes) != 1:
            raise ValueError(f"over_devices: all arguments need the same number of rows, got {sorted(sizes)}.")
        (size,) = sizes
        if size % mesh.size:
            raise ValueError(
                f"over_devices: {size} rows cannot be split evenly over {mesh.size} devices; pad them to "
                f"{rows_over_devices(size)} (rows_over_devices)."
            )
        specs = shared * (PartitionSpec(),) + len(batched) * (spec,)
        # check_vma: a constant in a loop's carry is not marked as varying over devices, and would be refused.
        return jax.shard_map(share, mesh=mesh, in_specs=specs, out_specs=spec, check_vma=False)(*arguments)

    return run_all


def memory_per_device() -> int:
    """Bytes that a program may use on each local device; CPU devices share the machine's memory evenly."""
    device = jax.local_devices()[0]
    statistics = device.memory_stats() if device.platform != "cpu" else None
    if statistics and "bytes_limit" in statistics:
        return int(USABLE * statistics["bytes_limit"])
    return int(USABLE * total_memory() / jax.local_device_count())


def memory_needed(executable) -> int:
    """Bytes that a compiled program uses on each device, by the compiler's own measure."""
    measured = executable.memory_analysis()
    return (
        measured.temp_size_in_bytes
        + measured.argument_size_in_bytes
        + measured.output_size_in_bytes
        + measured.generated_code_size_in_bytes
        - measured.alias_size_in_bytes  # results that take the memory of arguments that are used up
    )


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device ran out of memory."""
    return isinstance(error, jax.errors.JaxRuntimeError) and (
        "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()
    )
