"""What the devices of a compiled program send to each other, and along which axis of their mesh.

Bytes are those that a device sends over its links when the n devices of a group form a ring. With B the bytes of a
device's operand: 2 B (n - 1) / n for an all-reduce, B (n - 1) for an all-gather, B (n - 1) / n for a reduce-scatter
or an all-to-all, and B for a collective-permute.
"""

import itertools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jax.sharding import AbstractMesh, Mesh

from gvgap_jax.runtime.hlo import Instruction, Program, nested, results_of, schedule

SENT = {  # times the bytes of a device's operand, in a ring of n
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: n - 1,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
}
FUSED = "all-reduce-scatter"  # how a TPU's fusion of an all-reduce and the slice of its result is called
EXPLICIT = re.compile(r"\b(?:replica_groups|source_target_pairs)=(\{(?:\{[\d,]*\},?)*\})")
IOTA = re.compile(r"\breplica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
NAMED = re.compile(r"\breplica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")
Groups = tuple[tuple[int, ...], ...]


class Collective(NamedTuple):
    """All communication of a kind along an axis.

    Attributes:
      kind: as XLA names it: ``all-reduce``, ``all-gather``, ``reduce-scatter``, ``all-to-all``, ``collective-permute``.
      axis: of the mesh, or several with a plus between; without a mesh, or along no axis, how many devices talk.
      bytes: that a device sends in a call of the program.
      times: it happens in a call.
    """

    kind: str
    axis: str
    bytes: float
    times: float


def collectives(program: Program, devices: int, mesh: Mesh | AbstractMesh | None = None) -> tuple[Collective, ...]:
    """What the devices of a program send, the most first. Groups of one device send nothing and are left out."""
    total: dict[tuple[str, str], tuple[float, float]] = {}
    for kind, instruction, sent, times in _found(program):
        groups = parsed_groups(instruction.attributes, devices)
        size = max(map(len, groups))
        if size > 1:
            key = (kind, axis_of(groups, devices, mesh, kind == "collective-permute"))
            before = total.get(key, (0.0, 0.0))
            total[key] = (before[0] + times * SENT[kind](size) * sent, before[1] + times)
    return tuple(sorted((Collective(*key, *sums) for key, sums in total.items()), key=lambda each: -each.bytes))


def _found(program: Program) -> Iterator[tuple[str, Instruction, float, float]]:
    """Kinds, instructions, bytes of their operands, and how often they run.

    A TPU writes a collective that goes on beside other work into the fusions at its start, amid it and at its end: all
    of one channel in one computation are one.
    """
    seen: set[tuple[str, str]] = set()
    for run in schedule(program):
        around = [(run.instruction, run.computation, "")]
        around += [(inner, name, outer.called("calls")[0]) for inner, name, outer in nested(program, run.instruction)]
        for instruction, name, fusion in around:
            kind = instruction.operation.removesuffix("-start")
            if kind not in SENT:
                continue
            channel = re.search(r"channel_id=(\d+)", instruction.attributes)
            key = (run.computation, channel[1] if channel else instruction.name)
            if fusion and key in seen:
                continue
            seen.add(key)
            sent = sum(array.bytes for array in results_of(program.computations[name], instruction.operands))
            yield "reduce-scatter" if fusion[1:].startswith(FUSED) else kind, instruction, sent, run.times


def parsed_groups(attributes: str, devices: int) -> Groups:
    """Groups of devices that talk to each other, in each of the forms that XLA writes; pairs of a permutation too."""
    explicit, iota, named = (form.search(attributes) for form in (EXPLICIT, IOTA, NAMED))
    if iota:
        shape, sizes = _numbers(iota[1]), _numbers(iota[2])
        ids = np.arange(math.prod(sizes)).reshape(sizes)
        ids = ids.transpose(_numbers(iota[3])) if iota[3] else ids
        return tuple(map(tuple, ids.reshape(shape).tolist()))
    if named:
        return _along(named[1], named[2])
    groups = re.findall(r"\{([\d,]+)\}", explicit[1]) if explicit else []
    return tuple(map(_numbers, groups)) or (tuple(range(devices)),)


def _along(sizes: str, chosen: str) -> Groups:
    """Groups along axes of a mesh: ``'a'=2,'b'=4`` and ``'a'``, or ``'b':(2)2`` for the last two of its four."""
    axes = {name: int(size) for name, size in re.findall(r"'?([\w.\-]+)'?=(\d+)", sizes)}
    parts = [(name, int(before or 1), int(size or 0)) for name, before, size in PART.findall(chosen)]
    split: list[tuple[int, int]] = []  # sizes of parts of axes, and whether devices along them talk
    for name, size in axes.items():
        mine = next(((before, part or size) for each, before, part in parts if each == name), None)
        split += [(size, 0)] if mine is None else [(mine[0], 0), (mine[1], 1), (size // math.prod(mine), 0)]
    ids = np.arange(math.prod(axes.values())).reshape([size for size, _ in split])
    order = sorted(range(len(split)), key=lambda index: split[index][1])
    talking = math.prod(size for size, talks in split if talks)
    return tuple(map(tuple, ids.transpose(order).reshape(-1, talking).tolist()))


PART = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")


def axis_of(groups: Groups, devices: int, mesh: Mesh | AbstractMesh | None, permutes: bool = False) -> str:
    """The axes of the mesh along which groups, or pairs of a permutation, lie; how many devices where none do."""
    size = max(map(len, groups))
    if mesh is None:
        return f"{size} devices" if not permutes else "neighbours"
    talking = {frozenset(group) for group in groups if len(group) > 1}
    ids = np.arange(mesh.size).reshape(tuple(mesh.shape.values()))
    for count in range(1, len(mesh.axis_names) + 1):
        for chosen in itertools.combinations(range(len(mesh.axis_names)), count):
            lines = np.moveaxis(ids, chosen, range(-count, 0)).reshape(-1, math.prod(ids.shape[i] for i in chosen))
            along = {frozenset(line) for line in lines.tolist()}
            if talking == along or (permutes and all(any(pair <= line for line in along) for pair in talking)):
                return "+".join(str(mesh.axis_names[index]) for index in chosen)
    return f"{size} of {devices} devices"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))
