"""What a sweep compiles, for devices that need not be there, and what one of its fits costs."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from experiments.kit.labels import fields_of, short_labels
from experiments.rehearsal.programs import Program
from gvgap_jax.runtime.operations import of_rows
from gvgap_jax.sweep import at_once, compute
from gvgap_jax.sweep.at_once import Place, Work
from gvgap_jax.sweep.plan import Chunk, Plan

LOWEST = "float32"  # of a sweep's matrix products: compute.PRECISION asks for it
ROWS = 16  # whose operations are counted by running them


class Fit(NamedTuple):
    """Floating-point operations of a row of a work, by running some: their mean, and the most of any."""

    mean: float
    most: float


def of_sweep(plan: Plan, devices: Sequence[Any]) -> Iterator[Program]:
    """Every program of a plan, those with most cells first.

    Where devices are on several machines, each of these computes a shard on its own ones, side by side: a program is
    for one of them, its calls are theirs together, and its rows those of all of them.
    """
    place, processes = _place(devices)
    every = works(plan, place)

    def program(name: str, work: Work, chunks: list[Chunk], rows: int) -> Program:
        def fewer(needed: float | None) -> Program | None:
            less = at_once.fewer(work, place, rows, needed)
            return program(name, work, chunks, less) if less else None

        calls = at_once.number_of_calls(work, chunks, rows) / processes
        lower = partial(compute.lowered, work, place, rows)
        count = partial(fit_of, work, chunks)
        return Program(
            name, lower, calls, rows * processes, LOWEST, _options(plan, work), operations=count, fewer=fewer
        )

    programs = dict.fromkeys(repr(work.program) for work in every)
    labels = dict(zip(programs, short_labels(list(programs)), strict=True))
    seen = Counter()
    for work, chunks in every.items():
        label = f"{plan.experiment}: {labels[repr(work.program)]}".removesuffix(": ")
        seen[label] += 1
        name = f"{label} ({seen[label]})" if seen[label] > 1 else label
        yield program(name, work, chunks, at_once.wished(work, place))


def works(plan: Plan, place: Place) -> dict[Work, list[Chunk]]:
    """What a plan has for each of its programs; those with most cells first."""
    chunks, work_of = defaultdict(list), at_once.works(plan, place.most)
    for chunk in plan.chunks:
        chunks[work_of(chunk)].append(chunk)
    return dict(sorted(chunks.items(), key=lambda each: -sum(chunk.size for chunk in each[1])))


def _place(devices: Sequence[Any]) -> tuple[Place, int]:
    """The devices of one machine, and the number of machines."""
    own = [device for device in devices if device.process_index == devices[0].process_index]
    return at_once.place(own), len({device.process_index for device in devices})


def _options(plan: Plan, work: Work) -> str:
    """Those that decide the program."""
    return " ".join(f"--grid.{field}" for field in fields_of(repr(work.program)) if field in plan.grid.axes)


def fit_of(work: Work, chunks: list[Chunk], rows: int = ROWS) -> Fit:
    """Count what a row takes, by running a few from all over the plan on this machine's CPU."""
    picked = [chunks[number] for number in np.linspace(0, len(chunks) - 1, min(rows, len(chunks))).astype(int)]
    each = -(-rows // len(picked))
    some = [_spread(chunk.columns, min(each, chunk.size)) for chunk in picked]
    columns = {name: np.concatenate([own[name] for own in some]) for name in some[0]}
    numbers = of_rows(partial(work.run, work.program), columns)
    return Fit(float(numbers.mean()), float(numbers.max()))


def _spread(columns: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    index = np.linspace(0, len(columns["seed"]) - 1, count).astype(int)
    return {name: values[index] for name, values in columns.items()}
