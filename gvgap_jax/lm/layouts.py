"""How one run lies on many devices: batches split by rows, parameters on every device or split as well."""

from typing import NamedTuple

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gvgap_jax.lm.objectives import Objective


class Layout(NamedTuple):
    """A row of devices, and whether parameters are split over it or repeated on it."""

    mesh: Mesh
    split: bool

    @property
    def whole(self) -> NamedSharding:
        """Repeated on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def place(self, shapes):
        """The sharding of every array of a state, from their shapes: split along the largest axis that divides."""
        return jax.tree.map(lambda leaf: self._of(leaf.shape) if self.split else self.whole, shapes)

    def spread(self, objective: Objective) -> Objective:
        """The objective with its batches split over the devices, row by row."""

        def rows(batch):
            uneven = [leaf.shape[0] for leaf in jax.tree.leaves(batch) if leaf.shape[0] % self.mesh.size]
            if uneven:
                raise ValueError(
                    f"a batch (or its part, with accumulation) of {uneven[0]} rows cannot be split evenly over "
                    f"{self.mesh.size} devices; choose a multiple."
                )
            return jax.lax.with_sharding_constraint(batch, NamedSharding(self.mesh, PartitionSpec("devices")))

        def draw(key, params, round):
            return rows(objective.draw(key, params, round))

        def loss(params, batch):
            return objective.loss(params, rows(batch))

        return objective._replace(draw=draw, loss=loss)

    def _of(self, shape: tuple[int, ...]) -> NamedSharding:
        even = [axis for axis, size in enumerate(shape) if size and size % self.mesh.size == 0]
        if not even:
            return self.whole
        largest = max(even, key=lambda axis: shape[axis])
        return NamedSharding(self.mesh, PartitionSpec(*largest * (None,), "devices"))


def data_parallel() -> Layout:
    """Every device has all parameters and a share of each batch."""
    return Layout(_mesh(), split=False)


def fully_sharded() -> Layout:
    """Every device has a share of the parameters, of the optimiser's memory and of each batch (arXiv 1910.02054).

    An array that no axis of divides by the number of devices is repeated on all of them.
    """
    return Layout(_mesh(), split=True)


def _mesh() -> Mesh:
    return jax.make_mesh((jax.device_count(),), ("devices",), axis_types=(AxisType.Auto,))
