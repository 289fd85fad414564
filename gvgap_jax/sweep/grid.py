"""Grids as data: axes over the fields of an experiment's ``Config``, and the batches of cells that they make."""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from gvgap_jax.runtime.messages import unknown

Columns = dict[str, np.ndarray[Any, Any]]

LARGEST_SEED = 2**31 - 1  # records have them as 32-bit numbers
CHUNK = 128  # cells in one file, and at most so many in one call of a program


@dataclasses.dataclass(frozen=True)
class Grid:
    """Points of a sweep, as data.

    Attributes:
      axes: values of every field of the experiment's ``Config`` that is not at its default. A grid is
        the product of its axes.
      zipped: groups of fields whose axes are walked together instead; they must have equal lengths.
      seeds: independent repetitions of every point.
      first_seed: number of the first of them; the others follow.
    """

    axes: Mapping[str, tuple] = dataclasses.field(default_factory=dict)
    zipped: tuple[tuple[str, ...], ...] = ()
    seeds: int = 8
    first_seed: int = 0


class Cell(NamedTuple):
    """A cell of an experiment before its seeds.

    Attributes:
      table: the table its records belong to.
      program: what decides the compiled program; hashable, with a stable repr.
      labels: columns of its records that are words, or that the program decides.
      numbers: columns that are data: what varies without changing the program.
    """

    table: str
    program: Hashable
    labels: dict[str, str | int]
    numbers: dict[str, int | float]


class Batch(NamedTuple):
    """Cells and seeds that share a compiled program and a table: ``Cell`` with columns of equal length for numbers."""

    table: str
    program: Hashable
    labels: dict[str, str | int]
    columns: Columns

    @property
    def size(self) -> int:
        """Number of rows: cells times seeds."""
        return len(self.columns["seed"])


class Chunk(NamedTuple):
    """Rows of a batch that are computed and stored together.

    Attributes:
      name: of its file: the table and a hash of everything that decides the records.
      rows: the shape that the columns are padded to; all chunks of a batch have the same.
    """

    name: str
    batch: Batch
    rows: int

    @property
    def size(self) -> int:
        """Number of rows, without padding."""
        return self.batch.size

    def padded(self) -> Columns:
        """Columns of ``rows`` rows; the last one repeated."""
        index = np.minimum(np.arange(self.rows), self.size - 1)
        return {name: values[index] for name, values in self.batch.columns.items()}


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
    """Everything a sweep will compute, decided by the experiment and the grid alone."""

    experiment: str
    meaning: int
    grid: Grid
    run: Callable[[Any, Any], dict]
    chunks: list[Chunk]


def make_plan(name: str, experiment: Experiment, grid: Grid) -> Plan:
    """The plan of a grid; raises ValueError for a grid that is not sound (see ``batches``)."""
    grouped = batches(experiment.Config, experiment.cells, grid)
    defaults = {field.name: (field.default,) for field in dataclasses.fields(experiment.Config)}
    grid = dataclasses.replace(grid, axes=defaults | dict(grid.axes))
    cut = [chunk for batch in grouped for chunk in chunks(batch, name, experiment.MEANING)]
    return Plan(name, experiment.MEANING, grid, experiment.run, cut)


def number_of_points(grid: Grid) -> int:
    """How many points a grid has, impossible ones counted; none is made."""
    return math.prod(len(factor) for factor in _factors(grid, list(grid.axes)))


def points(config: type, grid: Grid) -> list:
    """Every ``config`` of the grid, in the order of its fields, the last one fastest.

    Raises:
      ValueError: an axis is no field of ``config`` or is empty, zipped axes differ in length, there are no
        seeds, or ``config`` refuses a point.
    """
    fields = [field.name for field in dataclasses.fields(config)]
    for name in [*grid.axes, *itertools.chain(*grid.zipped)]:
        if name not in fields:
            raise ValueError(f"axes of a grid are fields of the experiment, and {unknown('field', name, fields)}")
    for name, values in grid.axes.items():
        if not len(values):
            raise ValueError(f"the axis {name!r} of the grid is empty; give it at least one value.")
    if grid.seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {grid.seeds}.")
    if not 0 <= grid.first_seed <= LARGEST_SEED - grid.seeds:
        raise ValueError(f"seeds are numbered from 0 to {LARGEST_SEED:,}, got {grid.seeds} from {grid.first_seed}.")
    axes = [name for name in fields if name in grid.axes]
    return [config(**dict(itertools.chain(*point))) for point in itertools.product(*_factors(grid, axes))]


def _factors(grid: Grid, axes: list[str]) -> list[list[tuple[tuple[str, Any], ...]]]:
    """Factors of the product: an axis, or a group of zipped ones; each a list of (field, value) tuples."""
    factors, placed = [], set()
    for name in axes:
        if name in placed:
            continue
        group = next((group for group in grid.zipped if name in group), (name,))
        missing = [other for other in group if other not in grid.axes]
        lengths = {other: len(grid.axes[other]) for other in group if other in grid.axes}
        if missing or len(set(lengths.values())) > 1:
            raise ValueError(
                f"zipped axes need the same number of values, got {lengths}"
                + (f" and none for {', '.join(missing)}." if missing else ".")
                + " Give each as many, or cross them (--zip without a group)."
            )
        if placed & set(group):
            raise ValueError(f"a field can be zipped once; {', '.join(sorted(placed & set(group)))} is zipped twice.")
        placed |= set(group)
        values = zip(*(grid.axes[other] for other in group), strict=True)
        factors.append([tuple(zip(group, value, strict=True)) for value in values])
    return factors


def batches(config: type, cells: Callable[[Any], list[Cell]], grid: Grid) -> list[Batch]:
    """The cells of every point of the grid, grouped by compiled program, times the seeds.

    A cell that several points ask for is there once. Seeds vary slowest, so that what a stopped sweep
    has finished is whole seeds.

    Raises:
      ValueError: the grid is not sound (see ``points``), or none of its points has a cell.
    """
    groups: dict[Hashable, dict[tuple, None]] = {}
    for point in points(config, grid):
        for cell in cells(point):
            key = (cell.table, cell.program, tuple(cell.labels.items()), tuple(cell.numbers))
            groups.setdefault(key, {})[tuple(cell.numbers.values())] = None
    if not groups:
        raise ValueError(f"the grid has no cells: no point of {dict(grid.axes)} is possible. Look at its orders.")
    return [_batch(*key, rows=list(rows), grid=grid) for key, rows in groups.items()]  # pyright: ignore


def _batch(table: str, program: Hashable, labels: tuple, names: tuple[str, ...], rows: list[tuple], grid: Grid):
    columns: Columns = {}
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        kind = np.int32 if all(isinstance(value, int) for value in values) else np.float32
        columns[name] = np.tile(np.array(values, kind), grid.seeds)
    columns["seed"] = np.repeat(grid.first_seed + np.arange(grid.seeds, dtype=np.int32), len(rows))
    return Batch(table, program, dict(labels), columns)


def chunks(batch: Batch, experiment: str, meaning: int, most: int = CHUNK) -> list[Chunk]:
    """The batch in chunks of one shape, of at most ``most`` rows, each named by the hash of all that decides it."""
    count = -(-batch.size // most)
    rows = -(-batch.size // count)
    parts = []
    for start in range(0, batch.size, rows):
        columns = {name: values[start : start + rows] for name, values in batch.columns.items()}
        digest = hashlib.sha256(repr((experiment, meaning, batch.program, sorted(batch.labels.items()), rows)).encode())
        for name, values in sorted(columns.items()):
            digest.update(name.encode() + values.dtype.str.encode() + values.tobytes())
        parts.append(Chunk(f"{batch.table}-{digest.hexdigest()[:16]}", batch._replace(columns=columns), rows))
    return parts


def shard(parts: list[Chunk], index: int, count: int) -> list[Chunk]:
    """Every ``count``-th chunk from ``index`` on: the shards of a plan are disjoint, and all of it together."""
    if not 0 <= index < count:
        raise ValueError(f"a shard is i/n with 0 <= i < n, got {index}/{count}.")
    return parts[index::count]
