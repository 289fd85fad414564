"""Where every parameter lies in the tensors that Hugging Face stores: one map, read in both directions.

Pure: files are opened in ``load`` and written in ``save``. Names and layouts are those of the package
transformers, [outputs, inputs] with heads folded into one axis; ours are [inputs, outputs] with heads apart.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from gvgap_jax.types import Params

HEADS = {"gpt_neox": ("embed_out.weight", "lm_head.weight"), "llama": ("lm_head.weight",), "qwen2": ("lm_head.weight",)}
SCALAR_HEAD = "score.weight"
BUFFERS = ("attention.bias", "attention.masked_bias", "rotary_emb.inv_freq")  # what older files hold beside parameters

_LLAMA = {
    "embedding": "model.embed_tokens",
    "norm": "model.norm",
    "norm_attention": "model.layers.{}.input_layernorm",
    "norm_feed": "model.layers.{}.post_attention_layernorm",
    "query": "model.layers.{}.self_attn.q_proj",
    "key": "model.layers.{}.self_attn.k_proj",
    "value": "model.layers.{}.self_attn.v_proj",
    "attended": "model.layers.{}.self_attn.o_proj",
    "gate": "model.layers.{}.mlp.gate_proj",
    "up": "model.layers.{}.mlp.up_proj",
    "down": "model.layers.{}.mlp.down_proj",
}
_NEOX = {
    "embedding": "gpt_neox.embed_in",
    "norm": "gpt_neox.final_layer_norm",
    "norm_attention": "gpt_neox.layers.{}.input_layernorm",
    "norm_feed": "gpt_neox.layers.{}.post_attention_layernorm",
    **dict.fromkeys(("query", "key", "value"), "gpt_neox.layers.{}.attention.query_key_value"),
    "attended": "gpt_neox.layers.{}.attention.dense",
    "up": "gpt_neox.layers.{}.mlp.dense_h_to_4h",
    "down": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
}
NAMES = {"gpt_neox": _NEOX, "llama": _LLAMA, "qwen2": _LLAMA}
INTERLEAVED = {"gpt_neox": ("query", "key", "value"), "llama": (), "qwen2": ()}


class Part(NamedTuple):
    """Where one leaf of the parameters lies in stored tensors.

    Attributes:
      tensor: name; {} stands for the number of a layer.
      folded: for every axis of the tensor, the sizes that it is folded from.
      axes: the leaf's axes, in its order, among these sizes (without the third one).
      third: which of query, key and value the leaf is, where they lie head by head in one tensor [heads, 3, W, D].
    """

    tensor: str
    folded: tuple[tuple[int, ...], ...]
    axes: tuple[int, ...]
    third: int | None = None

    @property
    def size(self) -> tuple[int, ...]:
        """Of the stored tensor."""
        return tuple(math.prod(sizes) for sizes in self.folded)


def parts(kind: str, places: Params, head: str | None) -> Params:
    """The part of every leaf; ``places`` are parameters or their shapes, ``head`` names the head's tensor."""

    def part(path, leaf) -> Part | None:
        group, *names = (entry.key for entry in path)
        if group == "head":
            return None if head is None else Part(head, ((leaf.shape[1],), (leaf.shape[0],)), (1, 0))
        module, number = names
        tensor = NAMES[kind][module] + (".bias" if number == "bias" else ".weight")
        third = INTERLEAVED[kind].index(module) if module in INTERLEAVED[kind] else None
        sizes = leaf.shape[1:] if group == "blocks" else leaf.shape
        if number in ("embedding", "scale"):
            return Part(tensor, tuple((size,) for size in sizes), tuple(range(len(sizes))))
        inputs = {"bias": 0, "kernel": 2 if module == "attended" else 1}[number]
        outputs = len(sizes) - inputs
        folded = sizes[inputs:] if third is None else (sizes[-2], 3, sizes[-1])
        axes = (*range(outputs, len(sizes)), *range(outputs))
        return Part(tensor, (folded, sizes[:inputs]) if inputs else (folded,), axes, third)

    return jax.tree.map_with_path(part, places)


Fetch = Callable[[str, tuple[slice, ...]], np.ndarray]
"""A stored tensor's name and slices of it -> its numbers there."""


def piece(part: Part, layer: int, index: tuple[slice, ...], fetch: Fetch) -> np.ndarray:
    """The numbers of a leaf in one layer at ``index``; nothing else is fetched.

    Every slice of the index has a start and a stop.
    """
    wanted: list[slice] = [slice(0)] * len(part.axes)
    for axis, along in zip(part.axes, index, strict=True):
        wanted[axis] = along
    if part.third is not None:
        wanted.insert(1, slice(part.third, part.third + 1))
    runs, rest = [], iter(wanted)
    for sizes in part.folded:
        runs.append(_runs(sizes, [next(rest) for _ in sizes]))
    name = part.tensor.format(layer)
    if len(runs) == 1:
        found = np.concatenate([fetch(name, (rows,)) for rows in runs[0]])
    else:
        found = np.block([[fetch(name, (rows, columns)) for columns in runs[1]] for rows in runs[0]])
    unfolded = found.reshape([along.stop - along.start for along in wanted])
    return (unfolded if part.third is None else unfolded[:, 0]).transpose(part.axes)


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
    """What lies in every stored tensor, by its name: one leaf, or three where they are interleaved."""
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
        place = unfolded if part.third is None else unfolded[:, part.third]
        place.transpose(part.axes)[...] = gather(leaf, layer)
    return tensor
