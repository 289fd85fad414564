"""The cells of every point of a grid, grouped by compiled program."""

import itertools
import math
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import numpy as np
from rich.progress import track

from gvgap_jax.sweep.grid import Factor, Grid, factors, fields_at, length
from gvgap_jax.sweep.passed import Passed, can_be_passed

Columns = dict[str, np.ndarray[Any, Any]]
Key = tuple[str, Hashable, tuple, tuple[str, ...]]  # table, program, labels, names of the numbers

MANY = 10_000  # points, whose walk is shown


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
    """Cells and seeds that share a compiled program and a table: each cell with each seed, seeds slowest.

    Attributes:
      table, program, labels: as in ``Cell``.
      numbers: columns [C], one row a cell. With a column ``seed`` among them they are all rows themselves.
      seeds: the seeds of every cell.
      points: which value of each factor of the grid asks for the cell [C, F]; -1 where several do.
    """

    table: str
    program: Hashable
    labels: dict[str, str | int]
    numbers: Columns
    seeds: range
    points: np.ndarray

    @property
    def key(self) -> Key:
        """What no other batch of its grid has: table, program, labels, and names of the numbers."""
        return self.table, self.program, tuple(self.labels.items()), tuple(self.numbers)

    @property
    def size(self) -> int:
        """Number of rows: cells times seeds."""
        return len(self.points) * len(self.seeds)

    @property
    def columns(self) -> Columns:
        """All rows."""
        return self.rows(0, self.size)

    def rows(self, start: int, stop: int) -> Columns:
        """Some of the rows."""
        seed, cell = np.divmod(np.arange(start, stop), len(self.points))
        columns = {name: values[cell] for name, values in self.numbers.items()}
        return columns if "seed" in columns else columns | {"seed": (self.seeds.start + seed).astype(np.int32)}


def batches(config: type, cells: Callable[[Any], list[Cell]], grid: Grid) -> list[Batch]:
    """The cells of every point of the grid, grouped by compiled program, times the seeds.

    A cell that several points ask for is there once. Seeds vary slowest, so that what a stopped sweep
    has finished is whole seeds. ``cells`` is called once for all values of a field that it only passes on.

    Raises:
      ValueError: the grid is not sound (see ``grid.factors``), or none of its points has a cell.
    """
    product = factors(config, grid)
    passed = [number for number in range(len(product)) if _can_be_passed(config, cells, product, number)]
    try:
        groups = _asked_for(config, cells, product, passed)
    except Exception:  # a field is looked at after all, or the grid is not sound: walking all values finds out
        if not passed:
            raise
        passed = []
        groups = _asked_for(config, cells, product, passed)
    if not groups:
        raise ValueError(f"the grid has no cells: no point of {dict(grid.axes)} is possible. Look at its orders.")
    seeds = range(grid.first_seed, grid.first_seed + grid.seeds)
    walked = [number for number in range(len(product)) if number not in passed]
    return [_batch(key, rows, product, walked, seeds) for key, rows in groups.items()]


Row = tuple[int | float | str, ...]  # numbers of a cell, or the names of the fields that they stand for


class _Asked(NamedTuple):
    """Who asks for a row: the first of its points, counted, and the value of every walked factor; -1 for several."""

    position: int
    point: tuple[int, ...]


def _can_be_passed(config: type, cells: Callable[[Any], list[Cell]], product: list[Factor], number: int) -> bool:
    """Whether ``cells`` only hands a factor's values on, by two points of the others."""
    if not all(map(can_be_passed, product[number].values())):
        return False
    try:
        stand_ins = _stand_ins(product[number])
        for end in (0, -1):
            others = dict(itertools.chain(*(fields_at(factor, end) for factor in product)))
            _keyed(cells(config(**others | stand_ins)))
    except Exception:
        return False
    return True


def _stand_ins(factor: Factor) -> dict[str, Passed]:
    return {name: Passed(name, values) for name, values in factor.items()}


def _asked_for(
    config: type, cells: Callable[[Any], list[Cell]], product: list[Factor], passed: list[int]
) -> dict[Key, dict[Row, _Asked]]:
    """The rows that are asked for, by the batch they belong to, in the order of the points."""
    walked = [number for number in range(len(product)) if number not in passed]
    stand_ins = {name: each for number in passed for name, each in _stand_ins(product[number]).items()}
    groups: dict[Key, dict[Row, _Asked]] = {}
    strides, sizes = _strides(product), [length(product[number]) for number in walked]
    every, count = itertools.product(*map(range, sizes)), math.prod(sizes)
    for point in track(every, "planning", total=count, disable=count < MANY, transient=True):
        values, position = dict(stand_ins), 0
        for number, step in zip(walked, point, strict=True):
            values.update(fields_at(product[number], step))
            position += step * strides[number]
        for key, row in _keyed(cells(config(**values))):
            rows = groups.setdefault(key, {})
            before = rows.get(row)
            if before is None:
                rows[row] = _Asked(position, point)
            else:
                same = (one if one == other else -1 for one, other in zip(before.point, point, strict=True))
                rows[row] = _Asked(before.position, tuple(same))
    return groups


def _keyed(cells: list[Cell]) -> list[tuple[Key, Row]]:
    keyed = []
    for table, program, labels, numbers in cells:
        row = tuple(each.field if isinstance(each, Passed) else each for each in numbers.values())
        key = (table, program, tuple(labels.items()), tuple(numbers))
        hash(key)  # which a stand-in refuses
        keyed.append((key, row))
    return keyed


def _strides(product: list[Factor]) -> list[int]:
    """By how many points a step of each factor moves on; the last factor is the fastest."""
    sizes = [length(factor) for factor in product]
    return [math.prod(sizes[number + 1 :]) for number in range(len(sizes))]


class _Part(NamedTuple):
    """Rows of a batch that stand for the same fields: where they come [R], their points [R, F], their numbers [R]."""

    place: np.ndarray
    points: np.ndarray
    numbers: list[np.ndarray]


def _batch(key: Key, rows: dict[Row, _Asked], product: list[Factor], walked: list[int], seeds: range) -> Batch:
    """All rows that are asked for, in the order of the points, each once."""
    table, program, labels, names = key
    alike: dict[Row, list[tuple[int, Row, _Asked]]] = {}
    for number, (row, asked) in enumerate(rows.items()):
        stands_for = tuple(each if isinstance(each, str) else 0 for each in row)
        alike.setdefault(stands_for, []).append((number, row, asked))
    parts = [_part(stands_for, own, len(rows), product, walked) for stands_for, own in alike.items()]
    place, points = (np.concatenate([getattr(part, name) for part in parts]) for name in ("place", "points"))
    numbers = [np.concatenate([part.numbers[column] for part in parts]) for column in range(len(names))]
    if (np.diff(place) < 0).any():
        sort = np.argsort(place, kind="stable")
        points, numbers = points[sort], [values[sort] for values in numbers]
    if len(parts) > 1:
        points, numbers = _each_once(points, numbers)
    columns: Columns = {}
    for column, (name, values) in enumerate(zip(names, numbers, strict=True)):
        columns[name] = _column(name, values, _are_whole({row[column] for row in rows}, product))
    return Batch(table, program, dict(labels), columns, seeds, points)


def _part(
    stands_for: Row, own: list[tuple[int, Row, _Asked]], most: int, product: list[Factor], walked: list[int]
) -> _Part:
    owner = {name: number for number, factor in enumerate(product) for name in factor}
    passed = sorted({owner[name] for name in stands_for if isinstance(name, str)})
    sizes, strides = [length(product[number]) for number in passed], _strides(product)
    count = math.prod(sizes)
    steps = dict(zip(passed, np.unravel_index(np.arange(count), sizes) if sizes else (), strict=True))
    offset = sum((each * strides[number] for number, each in steps.items()), np.zeros(count, int))
    position = np.array([asked.position for _, _, asked in own])[:, None] + offset
    place = position * most + np.array([number for number, _, _ in own])[:, None]
    swept = [number for number, factor in enumerate(product) if length(factor) > 1]
    points = np.full((len(own), count, len(swept)), -1, np.int32)
    for column, number in enumerate(swept):
        if number in steps:
            points[:, :, column] = steps[number]
        elif number in walked:
            points[:, :, column] = np.array([asked.point[walked.index(number)] for _, _, asked in own])[:, None]
    numbers = []
    for column, name in enumerate(stands_for):
        if isinstance(name, str):
            values = np.array(product[owner[name]][name], float)[steps[owner[name]]]
            numbers.append(np.tile(values, len(own)))
        else:
            numbers.append(np.repeat(np.array([row[column] for _, row, _ in own], float), count))
    return _Part(place.ravel(), points.reshape(place.size, len(swept)), numbers)


def _each_once(points: np.ndarray, numbers: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Rows without those that are there before; where points of equal rows differ, theirs is -1."""
    by = np.lexsort(numbers[::-1]) if numbers else np.arange(len(points))
    is_new = np.full(len(points), False)
    is_new[0] = True
    for values in numbers:
        is_new[1:] |= values[by[1:]] != values[by[:-1]]
    starts = np.flatnonzero(is_new)
    low, high = (each.reduceat(points[by], starts, axis=0) for each in (np.minimum, np.maximum))
    first = by[starts]
    order = np.argsort(first)
    return np.where(low == high, low, -1)[order], [values[first[order]] for values in numbers]


def _are_whole(given: set[int | float | str], product: list[Factor]) -> bool:
    """Whether all numbers of a column are integers."""
    values = itertools.chain(
        (each for each in given if not isinstance(each, str)),
        *(factor[name] for factor in product for name in given.intersection(factor) if isinstance(name, str)),
    )
    return all(isinstance(value, int) for value in values)


def _column(name: str, values: np.ndarray, whole: bool) -> np.ndarray:
    """Numbers as 32-bit integers or floats."""
    largest = np.iinfo(np.int32).max
    if whole and np.abs(values).max(initial=0) > largest:
        raise ValueError(f"{name} must be at most {largest:,}, got {np.abs(values).max():,.0f}.")
    return values.astype(np.int32 if whole else np.float32)
