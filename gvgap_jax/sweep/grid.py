"""Grids as data: axes over the fields of an experiment's ``Config``."""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

from gvgap_jax.runtime.messages import unknown

LARGEST_SEED = 2**31 - 1  # records have them as 32-bit numbers

Factor = dict[str, tuple]  # an axis, or a group of zipped ones: the values of each field, of one length


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


def number_of_points(grid: Grid) -> int:
    """How many points a grid has, impossible ones counted; none is made."""
    return math.prod(map(length, _product(grid, list(grid.axes))))


def points(config: type, grid: Grid) -> list:
    """Every ``config`` of the grid, in the order of its fields, the last one fastest.

    Raises:
      ValueError: see ``factors``, or ``config`` refuses a point.
    """
    product = factors(config, grid)
    steps = itertools.product(*(range(length(factor)) for factor in product))
    return [config(**dict(itertools.chain(*map(fields_at, product, point)))) for point in steps]


def length(factor: Factor) -> int:
    """How many values a factor has."""
    return len(next(iter(factor.values())))


def fields_at(factor: Factor, step: int) -> list[tuple[str, Any]]:
    """The fields of a factor with one of its values."""
    return [(name, values[step]) for name, values in factor.items()]


def factors(config: type, grid: Grid) -> list[Factor]:
    """The factors of a grid, whose product its points are, in the order of the fields of ``config``.

    Raises:
      ValueError: an axis is no field of ``config`` or is empty, zipped axes differ in length, or there are no seeds.
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
    return _product(grid, [name for name in fields if name in grid.axes])


def _product(grid: Grid, axes: list[str]) -> list[Factor]:
    made, placed = [], set()
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
        once = dict.fromkeys(zip(*(grid.axes[other] for other in group), strict=True))
        made.append(dict(zip(group, zip(*once, strict=True), strict=True)))
    return made


def contains(grid: Grid, other: Grid) -> bool:
    """Whether every point and every seed of the other grid is one of this grid. Both need the same axes."""
    return (
        set(grid.axes) == set(other.axes)
        and sorted(map(sorted, grid.zipped)) == sorted(map(sorted, other.zipped))
        and grid.first_seed <= other.first_seed
        and other.first_seed + other.seeds <= grid.first_seed + grid.seeds
        and all(
            set(zip(*(other.axes[name] for name in sorted(factor)), strict=True))
            <= set(zip(*(grid.axes[name] for name in sorted(factor)), strict=True))
            for factor in _product(grid, list(grid.axes))
        )
    )
