"""All local devices: the one place that knows how many there are."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec


def over_devices(run: Callable) -> Callable:
    """``run`` mapped over the leading axis of its arguments and split over all devices.

    An accelerator runs its share as one batch; a CPU device runs it one row after another, because its
    cache holds one fit and not a hundred, and a batch would wait for its slowest row.

    The result is a jitted function. The batch is padded to a multiple of the device count by repeating
    its last row, and the padding is cut off again; the same batch on the same kind and number of
    devices gives the same bits. Arguments of different length raise ValueError.
    """

    def one_by_one(*rows):
        return jax.lax.map(lambda row: run(*row), rows)

    share = one_by_one if jax.default_backend() == "cpu" else jax.vmap(run)
    mesh = jax.make_mesh((jax.local_device_count(),), ("batch",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("batch")
    # check_vma: a constant in a loop's carry is not marked as varying over devices, and would be refused.
    mapped = jax.shard_map(share, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)

    @jax.jit
    def run_all(*batched):
        sizes = {rows.shape[0] for rows in jax.tree.leaves(batched)}
        if len(sizes) != 1:
            raise ValueError(f"over_devices: all arguments need the same number of rows, got {sorted(sizes)}.")
        (size,) = sizes
        padding = -size % mesh.size

        def pad(rows):
            return jnp.concatenate([rows, jnp.repeat(rows[-1:], padding, axis=0)]) if padding else rows

        return jax.tree.map(lambda rows: rows[:size], mapped(*jax.tree.map(pad, batched)))

    return run_all
