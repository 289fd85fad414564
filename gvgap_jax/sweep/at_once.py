"""How many cells are computed at once: by the plan and the devices alone, apart from which cells make a chunk file.

A CPU computes a chunk a call, one cell after another. An accelerator computes many chunks that share a program in one
call. Every process that works on a plan finds the same number, so that all of them compute with the same program,
whatever was computed before and whichever shard is theirs.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from gvgap_jax.runtime.chips import chip_of
from gvgap_jax.runtime.devices import is_accelerator, memory_per_device
from gvgap_jax.sweep.plan import Chunk, Plan

# Cells that an accelerator computes as one batch. Enough to fill it: the smallest fit has tens of numbers, and a GPU
# runs about 100,000 threads. More would only cost: a batch waits for its slowest cell, and a kill loses the call.
MOST = 4096
# Of an accelerator's memory, by its maker's figure, which a rehearsal knows too: JAX takes 3/4 of a GPU's at most.
SHARE = 0.6
AIM = 0.95  # of the memory, where a program was compiled for more rows than fit

Run = Callable[[Any, Any], dict]
Static = tuple[Hashable, tuple[tuple[str, str], ...]]  # configuration, and names and dtypes of a row's columns


class Place(NamedTuple):
    """Devices that programs are compiled for, here or elsewhere.

    Attributes:
      devices: all of one kind.
      memory_bytes: that a program may use on each.
      most: cells that each computes as one batch at most; 0 where cells come one after another, a chunk a call.
    """

    devices: tuple[Any, ...]
    memory_bytes: int
    most: int


class Work(NamedTuple):
    """A program, and all that a plan has for it.

    Attributes:
      run, program: what is computed: ``run(program, row)``.
      columns: names and dtypes of a row's columns.
      rows: of all chunks, with their padding.
      largest: rows of the largest chunk.
    """

    run: Run
    program: Hashable
    columns: tuple[tuple[str, str], ...]
    rows: int
    largest: int


WorkOf = Callable[[Chunk], Work]
"""What a chunk is a part of."""


def place(devices: Sequence[Any] | None = None) -> Place:
    """The devices of one process, the local ones, as a sweep uses them."""
    devices = tuple(devices or jax.local_devices())
    if not is_accelerator(devices[0]):
        return Place(devices, memory_per_device(), 0)
    chip = chip_of(devices[0].device_kind)
    return Place(devices, int(SHARE * chip.memory_bytes) if chip else memory_per_device(), MOST)


def works(plan: Plan, most: int) -> WorkOf:
    """The work that every chunk of a plan is a part of; all there is for it is that chunk where ``most`` is 0."""
    if not most:
        return lambda chunk: alone(plan.run, chunk)
    rows: dict[Static, list[int]] = defaultdict(list)
    for chunk in plan.chunks:
        rows[_program(chunk)].append(chunk.rows)
    every = {program: Work(plan.run, *program, sum(own), max(own)) for program, own in rows.items()}
    return lambda chunk: every[_program(chunk)]


def alone(run: Run, chunk: Chunk) -> Work:
    """The work of a chunk with no others."""
    return Work(run, *_program(chunk), chunk.rows, chunk.rows)


def _program(chunk: Chunk) -> Static:
    columns = chunk.batch.rows(chunk.start, chunk.start + 1)
    return chunk.batch.program, tuple((name, values.dtype.str) for name, values in columns.items())


def rows_at_once(work: Work, devices: int, most: int) -> int:
    """Rows of one call: at most ``most``, a multiple of the devices.

    The calls are as few as that allows, and all of one size: whole chunks, or a part of one.
    """
    most -= most % devices
    if most < work.largest:
        rows = _even(work.largest, max(most, devices))
    else:
        rows = work.largest * _even(-(-work.rows // work.largest), most // work.largest)
    return rows + -rows % devices


def _even(count: int, most: int) -> int:
    """The largest of as few and as equal parts as possible."""
    return -(-count // -(-count // most))


def wished(work: Work, place: Place, most: int | None = None) -> int:
    """Rows at once where memory is no matter; ``most`` if memory was."""
    devices = len(place.devices)
    return rows_at_once(work, devices, most or place.most * devices or work.largest + devices)


def fewer(work: Work, place: Place, rows: int, needed: float | None) -> int | None:
    """Rows at once to compile for instead, where so many need more bytes on a device than there are; None where not.

    It aims a little below what the bytes of a row allow: a program also has some that no row needs. Half of the rows
    where it is not known what is ``needed``.
    """
    needed = 2 * place.memory_bytes if needed is None else needed
    if needed <= place.memory_bytes or rows <= len(place.devices):
        return None
    return wished(work, place, max(1, min(int(AIM * rows * place.memory_bytes / needed), rows - 1)))


def number_of_calls(work: Work, chunks: list[Chunk], rows: int) -> int:
    """Calls of so many rows for all chunks of a work."""
    together = calls(chunks, lambda chunk: work, lambda work: rows, lambda chunk: True)
    return sum(-(-sum(chunk.rows for chunk in each) // rows) for _, each in together)


def calls(
    chunks: list[Chunk], work_of: WorkOf, room: Callable[[Work], int], claim: Callable[[Chunk], bool]
) -> Iterator[tuple[Work, list[Chunk]]]:
    """The chunks that are computed together, call by call, as their first ones come.

    A call has room for so many rows, and for a chunk in any case. A chunk is claimed just before its call; what may not
    be claimed is left out.
    """
    queues: dict[Work, list[Chunk]] = defaultdict(list)
    for chunk in reversed(chunks):
        queues[work_of(chunk)].append(chunk)
    for chunk in chunks:
        work = work_of(chunk)
        queue, together, left = queues[work], [], 0
        if not queue or queue[-1] is not chunk:  # computed with one before
            continue
        while queue and (not together or queue[-1].rows <= left):
            after = queue.pop()
            if claim(after):
                left = (left if together else room(work)) - after.rows
                together.append(after)
            elif not together:  # the others wait for their turn
                break
        if together:
            yield work, together
