"""All local devices: the one place that knows how many there are."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec


def over_devices(run: Callable) -> Callable:
    """``run`` mapped over the leading axis of its arguments, batched on each device and split over all of them.

    The result is a jitted function. The batch is padded to a multiple of the device count by repeating
    its last row, and the padding is cut off again; the same batch on the same kind and number of
    devices gives the same bits.
    """
    mesh = jax.make_mesh((jax.local_device_count(),), ("batch",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("batch")
    # check_vma: a constant in a loop's carry is not marked as varying over devices, and would be refused.
    mapped = jax.shard_map(jax.vmap(run), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)

    @jax.jit
    def run_all(*batched):
        size = jax.tree.leaves(batched)[0].shape[0]
        padding = -size % mesh.size

        def pad(rows):
            return jnp.concatenate([rows, jnp.repeat(rows[-1:], padding, axis=0)]) if padding else rows

        return jax.tree.map(lambda rows: rows[:size], mapped(*jax.tree.map(pad, batched)))

    return run_all
