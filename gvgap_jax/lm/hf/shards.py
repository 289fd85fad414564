"""One leaf of the parameters from stored tensors onto its devices: of every tensor, the slices that a shard has."""

import jax
import numpy as np

from gvgap_jax.lm.hf import tensors
from gvgap_jax.lm.hf.tensors import Fetch, Part


def loaded(fetch: Fetch, leaf: jax.ShapeDtypeStruct, part: Part | None, sharding) -> jax.Array:
    """A leaf on its devices; 0 without a part.

    Shard by shard, because a callback for all of them would hold them all on the host.
    """
    devices: dict[tuple, list] = {}
    for device, index in sharding.addressable_devices_indices_map(leaf.shape).items():
        bounds = tuple(along.indices(size)[:2] for along, size in zip(index, leaf.shape, strict=True))
        devices.setdefault(bounds, []).append(device)
    shards = []
    for bounds, same in devices.items():
        numbers = _numbers(leaf, part, tuple(slice(*bound) for bound in bounds), fetch)
        shards += [jax.block_until_ready(jax.device_put(numbers, device)) for device in same]
    return jax.make_array_from_single_device_arrays(leaf.shape, sharding, shards)


def _numbers(leaf: jax.ShapeDtypeStruct, part: Part | None, index: tuple[slice, ...], fetch: Fetch) -> np.ndarray:
    """One shard of a leaf on the host."""
    found = np.zeros([along.stop - along.start for along in index], leaf.dtype)
    if part is not None and "{}" in part.tensor:
        layers, *rest = index
        for row, layer in enumerate(range(layers.start, layers.stop)):
            found[row] = tensors.piece(part, layer, tuple(rest), fetch)
    elif part is not None:
        found[...] = tensors.piece(part, 0, index, fetch)
    return found
