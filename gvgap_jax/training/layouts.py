"""How one run lies on many devices: batches split by rows, parameters split by meaning and by size.

The mesh has three axes. Over ``data`` parameters are repeated, over ``fsdp`` they and Adam's moments are split
(arXiv 1910.02054), and both split batches. Over ``tensor`` heads, hidden units and tokens are split (arXiv 1909.08053).
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gvgap_jax.runtime.devices import ROWS
from gvgap_jax.training.objectives import Objective

AXES = ("data", "fsdp", "tensor")
LAYERS = "blocks"  # its leaves have an axis of layers in front, along which they are scanned
TENSOR_AXIS = {  # counted from the end, of the arrays called (layer, kind)
    **{(name, kind): -2 for name in ("query", "key", "value") for kind in ("kernel", "bias")},  # heads
    **{(name, kind): -1 for name in ("up", "gate") for kind in ("kernel", "bias")},  # hidden units
    ("attended", "kernel"): -3,
    ("down", "kernel"): -2,
    ("embedding", "embedding"): -2,  # tokens
    ("head",): -1,
}


class Layout(NamedTuple):
    """A mesh of devices with the axes ``data``, ``fsdp`` and ``tensor``."""

    mesh: Mesh

    @property
    def whole(self) -> NamedSharding:
        """Repeated on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def rows(self) -> NamedSharding:
        """Split along the first axis, over ``data`` and ``fsdp``."""
        return NamedSharding(self.mesh, PartitionSpec(ROWS))

    def place(self, shapes):
        """The sharding of every array of a pytree of parameters, or of a state, from paths and shapes.

        A transformer's heads (query, key, value, attended), hidden units (up, gate, down) and tokens (embedding, head)
        are split over ``tensor``. The largest other axis that divides is split over ``fsdp``, but never that of
        layers. Over ``fsdp`` biases and vectors are repeated, and everything is where no axis divides.
        """
        return jax.tree.map_with_path(lambda path, leaf: self._of(_names(path), leaf.shape), shapes)

    def put(self, data):
        """Data on the devices; every process puts there what its own devices hold.

        Arrays of the host are split by rows where their number divides, and repeated where it does not; arrays that a
        layout has placed stay where they are. Shapes of arrays (``jax.ShapeDtypeStruct``) learn where they would lie.
        """
        return jax.tree.map(lambda leaf: leaf if is_placed(leaf) else _put(leaf, self._of_rows(leaf)), data)

    def even(self, data) -> tuple[Any, Callable[[Any], Any]]:
        """The data in as many rows for every device, and what takes off again, in a program, the rows that this added.

        Those repeat the last row. Taking them off moves nothing between devices.
        """
        added = jax.tree.map(self._missing, data)

        def fill(leaf, rows):
            if rows and isinstance(leaf, jax.ShapeDtypeStruct):
                return jax.ShapeDtypeStruct((len(leaf) + rows, *leaf.shape[1:]), leaf.dtype)
            return np.concatenate([leaf, np.repeat(np.asarray(leaf[-1:]), rows, axis=0)]) if rows else leaf

        def given(filled):
            return jax.tree.map(lambda leaf, rows: leaf[: len(leaf) - rows] if rows else leaf, filled, added)

        return jax.tree.map(fill, data, added), given

    def put_parameters(self, params):
        """Parameters on the devices as ``place`` says; what lies elsewhere is used up."""

        def move(leaf, sharding):
            placed = isinstance(leaf, jax.Array) and is_placed(leaf)
            return jax.device_put(leaf, sharding, donate=True) if placed else _put(leaf, sharding)

        return jax.tree.map(move, params, self.place(params))

    def spread(self, objective: Objective) -> Objective:
        """The objective with its batches and gradients split over the devices."""

        def rows(batch):
            uneven = [leaf.shape[0] for leaf in jax.tree.leaves(batch) if leaf.shape[0] % self._shares]
            if uneven:
                raise ValueError(
                    f"a batch (or its part, with accumulation) of {uneven[0]} rows cannot be split evenly over "
                    f"{self._shares} devices (data x fsdp); choose a multiple."
                )
            return jax.lax.with_sharding_constraint(batch, self.rows)

        def draw(key, params, round):
            return rows(self.traced(objective.draw)(key, params, round))

        def loss(params, batch):
            # What holds for parameters holds for their gradients: they are never whole on one device.
            params = jax.lax.with_sharding_constraint(params, self.place(params))
            return self.traced(objective.loss)(params, rows(batch))

        return objective._replace(draw=draw, loss=loss)

    def traced(self, function: Callable) -> Callable:
        """The function with the rows of a transformer split over the devices, wherever it is compiled.

        ``spread`` does so by itself. Sampling or scoring outside of a run is ``jax.jit(layout.traced(policy.sample))``.
        """

        @functools.wraps(function)
        def traced(*arguments, **options):
            with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):  # ``transformer.by_rows`` looks for it
                return function(*arguments, **options)

        return traced

    @property
    def _shares(self) -> int:
        return math.prod(self.mesh.shape[axis] for axis in ROWS)

    def _of_rows(self, leaf) -> NamedSharding:
        shape = np.shape(leaf)
        return self.rows if shape and shape[0] and shape[0] % self._shares == 0 else self.whole

    def _missing(self, leaf) -> int:
        """Rows that an array of the host lacks to be split evenly."""
        shape = () if is_placed(leaf) or _is_key(leaf) else np.shape(leaf)
        return -shape[0] % self._shares if shape and shape[0] else 0

    def _of(self, names: tuple[str, ...], shape: tuple[int, ...]) -> NamedSharding:
        free = [axis for axis, size in enumerate(shape) if size and not (axis == 0 and LAYERS in names)]
        meant, axes = _tensor_axis(names, len(shape)), {}
        if meant in free and self._divides("tensor", shape[meant]):
            axes[meant] = "tensor"
        even = [axis for axis in free if axis not in axes and self._divides("fsdp", shape[axis])]
        if even and len(free) > 1 and names[-1:] != ("bias",):
            # Not that of heads or tokens, if another one divides: rows would be gathered instead of parameters.
            axes[max(even, key=lambda axis: (axis != meant, shape[axis]))] = "fsdp"
        return NamedSharding(self.mesh, PartitionSpec(*(axes.get(axis) for axis in range(max(axes, default=-1) + 1))))

    def _divides(self, axis: str, size: int) -> bool:
        return self.mesh.shape[axis] > 1 and size % self.mesh.shape[axis] == 0


def layout(data: int = 1, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None) -> Layout:
    """A layout over ``data`` x ``fsdp`` x ``tensor`` devices; all devices of all processes, if left out.

    One of the sizes may be -1: the rest. Devices that are next to each other share a tensor, then a copy of parameters.

    Raises:
      ValueError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = [data, fsdp, tensor]
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and known > 0 and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        raise ValueError(
            f"layout: data={data}, fsdp={fsdp} and tensor={tensor} must multiply to {len(devices)}, the number of "
            "devices; one of them may be -1, the rest."
        )
    return Layout(jax.make_mesh(tuple(sizes), AXES, axis_types=3 * (AxisType.Auto,), devices=devices))


def is_placed(leaf: Any) -> bool:
    """Whether a layout has put an array where it is."""
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) and isinstance(leaf.sharding, NamedSharding)


def abstract(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    """The shape of an array that lies there."""
    weak = getattr(leaf, "weak_type", False)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding, weak_type=weak)


def _put(leaf: Any, sharding: NamedSharding) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return abstract(leaf, sharding)
    if _is_key(leaf):
        return jax.random.wrap_key_data(_put(jax.random.key_data(leaf), NamedSharding(sharding.mesh, PartitionSpec())))
    values = np.asarray(leaf)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _names(path) -> tuple[str, ...]:
    return tuple(str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", "")))) for entry in path)


def _tensor_axis(names: tuple[str, ...], dimensions: int) -> int:
    """Which axis of an array ``tensor`` splits; -1 for none."""
    from_end = TENSOR_AXIS.get(names[-2:], TENSOR_AXIS.get(names[-1:], -dimensions - 1))
    return max(dimensions + from_end, -1)
