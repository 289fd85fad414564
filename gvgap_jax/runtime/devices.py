"""Devices, the local ones or others: the one place that knows about them."""

import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec

from gvgap_jax.runtime.machine import number_of_cores, total_memory

ROWS = ("data", "fsdp")  # axes of a mesh over which rows are split
USABLE = 0.8  # share of a device's memory that a program may count on


def use_all_cores() -> None:
    """One CPU device a core, unless JAX_NUM_CPU_DEVICES or XLA_FLAGS say otherwise; before jax is first used."""
    chosen = "JAX_NUM_CPU_DEVICES" in os.environ or "device_count" in os.environ.get("XLA_FLAGS", "")
    if not chosen:
        jax.config.update("jax_num_cpu_devices", number_of_cores())


def rows_over_devices(rows: int, devices: Sequence[Any] | None = None) -> int:
    """The next multiple of the number of devices (the local ones): what ``over_devices`` takes."""
    return rows + -rows % len(devices or jax.local_devices())


def over_devices(
    run: Callable,
    shared: int = 0,
    donate: tuple[int, ...] = (),
    devices: Sequence[Any] | None = None,
    batched: bool | None = None,
) -> Callable:
    """``run`` mapped over the leading axis of its arguments and split evenly over ``devices``, the local ones.

    The first ``shared`` arguments have no such axis: every row gets them whole. The arguments numbered in ``donate``
    are used up, so that results may take their memory.

    An accelerator runs its share as one batch; a CPU device runs it one row after another, because its
    cache holds one fit and not a hundred, and a batch would wait for its slowest row. ``batched`` overrules that.

    The result is a jitted function of as many rows as ``rows_over_devices`` says: pad by repeating a row. The
    same batch on the same kind and number of devices gives the same bits. It can be lowered for devices that are not
    there.

    Raises:
      ValueError: (when called) the arguments differ in length, or cannot be split evenly. Uneven shares would make
        devices wait for each other, and a CPU device that waits for a minute ends the process.
    """
    devices = devices or jax.local_devices()
    as_one_batch = is_accelerator(devices[0]) if batched is None else batched

    def share(*arguments):
        whole, rows = arguments[:shared], arguments[shared:]
        if as_one_batch:
            return jax.vmap(partial(run, *whole))(*rows)
        return jax.lax.map(lambda row: run(*whole, *row), rows)

    mesh = Mesh(np.array(devices), ("batch",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("batch")

    @partial(jax.jit, donate_argnums=donate)
    def run_all(*arguments):
        split = arguments[shared:]
        sizes = {rows.shape[0] for rows in jax.tree.leaves(split)}
        if len(sizes) != 1:
            raise ValueError(f"over_devices: all arguments need the same number of rows, got {sorted(sizes)}.")
        (size,) = sizes
        if size % mesh.size:
            raise ValueError(
                f"over_devices: {size} rows cannot be split evenly over {mesh.size} devices; pad them to "
                f"{rows_over_devices(size, devices)} (rows_over_devices)."
            )
        specs = shared * (PartitionSpec(),) + len(split) * (spec,)
        # check_vma: a constant in a loop's carry is not marked as varying over devices, and would be refused.
        return jax.shard_map(share, mesh=mesh, in_specs=specs, out_specs=spec, check_vma=False)(*arguments)

    return run_all


def is_accelerator(device: Any) -> bool:
    """Whether it computes many rows in the time of one."""
    return device.platform != "cpu"


def memory_per_device() -> int:
    """Bytes that a program may use on each local device; CPU devices share the machine's memory evenly."""
    device = jax.local_devices()[0]
    statistics = device.memory_stats() if is_accelerator(device) else None
    if statistics and "bytes_limit" in statistics:
        return int(USABLE * statistics["bytes_limit"])
    return int(USABLE * total_memory() / jax.local_device_count())


def memory_needed(executable) -> int:
    """Bytes that a compiled program uses on each device, by the compiler's own measure.

    What a TPU's compiler calls temporary counts memory twice whose arrays take turns: it gives 19 GiB to a program
    that it accepts for a device of 16. Its peak is that of all arrays at once, those in the cores' own memory included.
    """
    measured = executable.memory_analysis()
    whole = (
        measured.temp_size_in_bytes
        + measured.argument_size_in_bytes
        + measured.output_size_in_bytes
        + measured.generated_code_size_in_bytes
        - measured.alias_size_in_bytes  # results that take the memory of arguments that are used up
    )
    places = jax.tree.leaves((executable.input_shardings, executable.output_shardings))
    if not any(device.platform == "tpu" for device in places[0].device_set):
        return whole
    return min(whole, measured.peak_memory_in_bytes + measured.generated_code_size_in_bytes)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device ran out of memory."""
    return isinstance(error, jax.errors.JaxRuntimeError) and (
        "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()
    )


def memory_asked(error: Exception) -> int | None:
    """Bytes on each device that a compiler needed when it gave up for lack of memory; None where it does not say."""
    said = re.search(r"(?:HLO temporaries \(|Used )([\d.]+)([KMGT])", str(error))
    return int(float(said[1]) * 1024 ** ("KMGT".index(said[2]) + 1)) if said else None
