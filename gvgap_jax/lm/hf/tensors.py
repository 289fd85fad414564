"""Where every parameter lies in the tensors that Hugging Face stores: one map, read in both directions.

Pure: files are opened in ``load`` and written in ``save``. Names and layouts are those of the package
transformers, [outputs, inputs] with heads folded into one axis; ours are [inputs, outputs] with heads apart.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from gvgap_jax.lm.hf.families import Family
from gvgap_jax.types import Params

SCALAR_HEAD = "score.weight"


class Part(NamedTuple):
    """Where one leaf of the parameters lies in stored tensors.

    Attributes:
      tensor: name; {} stands for the number of a layer.
      folded: for every axis of the tensor, the sizes that it is folded from.
      axes: the leaf's axes, in its order, among these sizes.
      begins: where the leaf begins along each of these sizes; of one that is none of its axes, it has this index alone.
    """

    tensor: str
    folded: tuple[tuple[int, ...], ...]
    axes: tuple[int, ...]
    begins: tuple[int, ...]

    @property
    def size(self) -> tuple[int, ...]:
        """Of the stored tensor."""
        return tuple(math.prod(sizes) for sizes in self.folded)

    def within(self, index: tuple[slice, ...]) -> list[slice]:
        """Slices of the leaf, as slices along the sizes that the tensor is folded from."""
        wanted = [slice(begin, begin + 1) for begin in self.begins]
        for axis, along in zip(self.axes, index, strict=True):
            wanted[axis] = slice(self.begins[axis] + along.start, self.begins[axis] + along.stop)
        return wanted


def parts(family: Family, places: Params, head: str | None, is_bare: bool = False) -> Params:
    """The part of every leaf; ``places`` are parameters or their shapes.

    Args:
      family: whose tensors they are.
      places: parameters or their shapes.
      head: name of the head's tensor; None has none.
      is_bare: whether names of tensors are without the family's prefix.
    """
    prefix = "" if is_bare else family.prefix

    def part(path, leaf) -> Part | None:
        group, *names = (entry.key for entry in path)
        if group == "head":
            return None if head is None else Part(head, ((leaf.shape[1],), (leaf.shape[0],)), (1, 0), (0, 0))
        module, number = names
        tensor = prefix + family.names[module] + (".bias" if number == "bias" else ".weight")
        sizes = leaf.shape[1:] if group == "blocks" else leaf.shape
        if number in ("embedding", "scale"):
            return Part(tensor, tuple((size,) for size in sizes), tuple(range(len(sizes))), (0,) * len(sizes))
        inputs = {"bias": 0, "kernel": 2 if module == "attended" else 1}[number]
        folded, axes, begin = _fused(family, places["blocks"], module, sizes[inputs:])
        begins = (*begin, *(0 for _ in range(inputs)))
        if not inputs:
            return Part(tensor, (folded,), axes, begins)
        if family.transposed:  # [inputs, outputs], as the leaf is
            axes = (*range(inputs), *(axis + inputs for axis in axes))
            return Part(tensor, (sizes[:inputs], folded), axes, (*begins[len(folded) :], *begin))
        return Part(tensor, (folded, sizes[:inputs]), (*range(len(folded), len(folded) + inputs), *axes), begins)

    return jax.tree.map_with_path(part, places)


def _fused(
    family: Family, blocks: Params, module: str, outputs: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The sizes that a stored axis of outputs is folded from, a module's axes among them, and where it begins."""
    axes = tuple(range(len(outputs)))
    if module in family.interleaved:  # [heads, 3, W]
        place = family.interleaved.index(module)
        return (outputs[0], len(family.interleaved), *outputs[1:]), (0, 2), (0, place, 0)
    for together in (group for group in family.joined if module in group):
        rows = [blocks[one]["kernel"].shape[2] for one in together]
        before = sum(rows[: together.index(module)])
        return (sum(rows), *outputs[1:]), axes, (before, *(0 for _ in outputs[1:]))
    return outputs, axes, (0,) * len(outputs)


Fetch = Callable[[str, tuple[slice, ...]], np.ndarray]
"""A stored tensor's name and slices of it -> its numbers there."""


def piece(part: Part, layer: int, index: tuple[slice, ...], fetch: Fetch) -> np.ndarray:
    """The numbers of a leaf in one layer at ``index``; nothing else is fetched.

    Every slice of the index has a start and a stop.
    """
    wanted = part.within(index)
    runs, rest = [], iter(wanted)
    for sizes in part.folded:
        runs.append(_runs(sizes, [next(rest) for _ in sizes]))
    name = part.tensor.format(layer)
    if len(runs) == 1:
        found = np.concatenate([fetch(name, (rows,)) for rows in runs[0]])
    else:
        found = np.block([[fetch(name, (rows, columns)) for columns in runs[1]] for rows in runs[0]])
    ordered = _ordered(part, found.reshape([along.stop - along.start for along in wanted]))
    return ordered.reshape(ordered.shape[: len(part.axes)])


def _ordered(part: Part, unfolded: np.ndarray) -> np.ndarray:
    """A view with the leaf's axes first, in its order, of an array along all sizes that a tensor is folded from."""
    return unfolded.transpose(*part.axes, *(axis for axis in range(unfolded.ndim) if axis not in part.axes))


def _runs(sizes: tuple[int, ...], wanted: list[slice]) -> list[slice]:
    """The stretches of a folded axis that hold a product of slices."""
    first, inner = wanted[0], math.prod(sizes[1:])
    if all(along == slice(0, size) for along, size in zip(wanted[1:], sizes[1:], strict=True)):
        return [slice(first.start * inner, first.stop * inner)]
    below = _runs(sizes[1:], wanted[1:])
    return [
        slice(outer * inner + run.start, outer * inner + run.stop)
        for outer in range(first.start, first.stop)
        for run in below
    ]


class Home(NamedTuple):
    """A leaf, or one layer of it, in a stored tensor."""

    part: Part
    leaf: Any
    layer: int | None


def homes(parts: Params, params: Params) -> dict[str, list[Home]]:
    """What lies in every stored tensor, by its name: one leaf, or several where they are fused."""
    found: dict[str, list[Home]] = {}
    every = jax.tree.leaves(parts, is_leaf=lambda node: isinstance(node, Part))
    for part, leaf in zip(every, jax.tree.leaves(params), strict=True):
        for layer in range(leaf.shape[0]) if "{}" in part.tensor else [None]:
            found.setdefault(part.tensor.format(layer), []).append(Home(part, leaf, layer))
    return found


def assembled(found: list[Home], gather: Callable[[Any, int | None], np.ndarray]) -> np.ndarray:
    """A stored tensor; ``gather`` brings a leaf, or one layer of it, to the host."""
    part, leaf, _ = found[0]
    tensor = np.empty(part.size, leaf.dtype)
    unfolded = tensor.reshape([size for sizes in part.folded for size in sizes])
    for part, leaf, layer in found:
        numbers = gather(leaf, layer)
        place = _ordered(part, unfolded[tuple(part.within(tuple(slice(0, size) for size in numbers.shape)))])
        place[...] = numbers.reshape(place.shape)
    return tensor
