"""Plans: the cells of a grid cut into chunks, each named by the hash of all that decides its records."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import polars as pl

from gvgap_jax.sweep.cells import Batch, Cell, Columns, Key, batches
from gvgap_jax.sweep.grid import Factor, Grid, factors, length

CHUNK = 128  # cells in one file, and at most so many in one call of a program
NAMED_TOGETHER = 1024  # chunks


class Chunk(NamedTuple):
    """Rows of a batch that are computed and stored together.

    Attributes:
      name: of its file: the table and a hash of everything that decides the records.
      batch: that they are of.
      start, size: which rows, without padding.
      rows: the shape that the columns are padded to; all chunks of a batch have the same.
    """

    name: str
    batch: Batch
    start: int
    size: int
    rows: int

    @property
    def first_seed(self) -> int:
        """The lowest seed of its rows."""
        return self.batch.seeds[self.start // len(self.batch.points)]

    @property
    def columns(self) -> Columns:
        """Its rows."""
        return self.batch.rows(self.start, self.start + self.size)

    def padded(self) -> Columns:
        """Columns of ``rows`` rows; the last one repeated."""
        index = np.minimum(np.arange(self.rows), self.size - 1)
        return {name: values[index] for name, values in self.columns.items()}

    def alone(self) -> "Chunk":
        """The same chunk with no more of its batch than its own rows: what another machine is sent."""
        points = self.batch.points[np.arange(self.start, self.start + self.size) % len(self.batch.points)]
        batch = self.batch._replace(numbers=self.columns, seeds=range(1), points=points)
        return self._replace(batch=batch, start=0)


class Experiment(Protocol):
    """What the sweep asks of an experiment's module.

    Attributes:
      MEANING: a number that grows when its records change their meaning.
      Config: frozen dataclass of the settings of one point; it refuses what makes no sense.
      cells: a point's cells, none where the point is impossible.
      run: the pure function of a program and of one row's columns (as scalars) -> scalars.
    """

    MEANING: int
    Config: type

    @staticmethod
    def cells(config, /) -> list[Cell]: ...

    @staticmethod
    def run(program, cell, /) -> dict: ...


class Plan(NamedTuple):
    """Everything a sweep will compute, decided by the experiment and the grid alone.

    Attributes:
      experiment, meaning, run: its name, ``MEANING`` and ``run``.
      grid: whose cells are computed, with the defaults of all fields it does not name.
      earlier: smaller grids that were run into the same folder before, in order, whose chunks are kept.
      swept: the factors of the grid that have several values.
      batches: all cells.
      chunks: the batches in pieces, in the same order.
    """

    experiment: str
    meaning: int
    run: Callable[[Any, Any], dict]
    grid: Grid
    earlier: tuple[Grid, ...]
    swept: list[Factor]
    batches: list[Batch]
    chunks: list[Chunk]


def make_plan(name: str, experiment: Experiment, grid: Grid, earlier: Sequence[Grid] = ()) -> Plan:
    """The plan of a grid; where smaller grids were run before, their chunks and those of the cells that are new.

    Raises:
      ValueError: a grid is not sound (see ``batches``).
    """
    grids = [with_defaults(experiment.Config, each) for each in (*earlier, grid)]
    grouped = batches(experiment.Config, experiment.cells, grids[-1])
    if earlier:
        before = [batches(experiment.Config, experiment.cells, each) for each in grids[:-1]]
        grouped = list(_grown([*before, grouped]))
    swept = [factor for factor in factors(experiment.Config, grids[-1]) if length(factor) > 1]
    cut = [chunk for batch in grouped for chunk in chunks(batch, name, experiment.MEANING)]
    return Plan(name, experiment.MEANING, experiment.run, grids[-1], tuple(grids[:-1]), swept, grouped, cut)


def with_defaults(config: type, grid: Grid) -> Grid:
    """The same grid with an axis for every field that has a default."""
    fields = dataclasses.fields(config)
    defaults = {field.name: (field.default,) for field in fields if field.default is not dataclasses.MISSING}
    return dataclasses.replace(grid, axes=defaults | dict(grid.axes))


def fields_of(plan: Plan) -> pl.DataFrame:
    """The fields of ``Config`` that the plan's grid gives several values: one row for every cell of every batch.

    Null where points with several values of a field share the cell: its records do not depend on that field, or not
    there. A column ``batch`` numbers the batches.
    """
    owners = np.repeat(np.arange(len(plan.batches)), [len(batch.points) for batch in plan.batches])
    points = np.concatenate([batch.points for batch in plan.batches])
    columns = {"batch": pl.Series(owners)}
    for index, factor in zip(points.T, plan.swept, strict=True):
        several = pl.Series(index < 0)
        for name, values in factor.items():
            columns[name] = pl.Series(values, strict=False).gather(index.clip(0)).set(several, None)
    return pl.DataFrame(columns)


def _grown(levels: list[list[Batch]]) -> Iterator[Batch]:
    """Batches of ever larger grids without what the grid before has; their points are those of the last grid."""
    last = {batch.key: batch for batch in levels[-1]}
    before: dict[Key, Batch] = {}
    for level in levels:
        for batch in level:
            place = _places(batch, last[batch.key])
            batch = batch._replace(points=last[batch.key].points[place])
            smaller = before.get(batch.key)
            old = _places(batch, smaller) >= 0 if smaller else np.zeros(len(place), bool)
            parts = [(~old, batch.seeds)]
            if smaller:
                parts += [(old, range(batch.seeds.start, smaller.seeds.start))]
                parts += [(old, range(smaller.seeds.stop, batch.seeds.stop))]
            yield from (_some(batch, cells)._replace(seeds=seeds) for cells, seeds in parts if cells.any() and seeds)
        before = {batch.key: batch for batch in level}


def _some(batch: Batch, cells: np.ndarray) -> Batch:
    numbers = {name: values[cells] for name, values in batch.numbers.items()}
    return batch._replace(numbers=numbers, points=batch.points[cells])


def _places(batch: Batch, other: Batch) -> np.ndarray:
    """Where each cell of a batch stands among those of another, which has the same columns; -1 where it does not."""
    known = {row: place for place, row in enumerate(_tuples(other))}
    return np.array([known.get(row, -1) for row in _tuples(batch)])


def _tuples(batch: Batch) -> Iterator[tuple]:
    columns = [values.tolist() for values in batch.numbers.values()]
    return zip(*columns, strict=True) if columns else iter([()] * len(batch.points))


def chunks(batch: Batch, experiment: str, meaning: int, most: int = CHUNK) -> list[Chunk]:
    """The batch in chunks of one shape, of at most ``most`` rows, each named by the hash of all that decides it."""
    count = -(-batch.size // most)
    rows = -(-batch.size // count)
    decides = (experiment, meaning, batch.program, sorted(batch.labels.items()), rows)
    beginning = hashlib.sha256(repr(decides).encode())
    parts = []
    for block in range(0, batch.size, NAMED_TOGETHER * rows):
        columns = batch.rows(block, min(block + NAMED_TOGETHER * rows, batch.size))
        named = [(name.encode() + values.dtype.str.encode(), values) for name, values in sorted(columns.items())]
        for start in range(0, len(columns["seed"]), rows):
            digest = beginning.copy()
            for name, values in named:
                digest.update(name + values[start : start + rows].tobytes())
            size = min(rows, batch.size - block - start)
            parts.append(Chunk(f"{batch.table}-{digest.hexdigest()[:16]}", batch, block + start, size, rows))
    return parts


def shard(parts: list[Chunk], index: int, count: int) -> list[Chunk]:
    """Every ``count``-th chunk from ``index`` on: the shards of a plan are disjoint, and all of it together."""
    if not 0 <= index < count:
        raise ValueError(f"a shard is i/n with 0 <= i < n, got {index}/{count}.")
    return parts[index::count]
