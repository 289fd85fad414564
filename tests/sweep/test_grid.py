"""Grids: products, zips, grouping by program, chunks and shards."""

import itertools
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from gvgap_jax.sweep.cells import Cell, batches
from gvgap_jax.sweep.grid import Grid, number_of_points, points
from gvgap_jax.sweep.plan import chunks, make_plan, shard
from tests.sweep import toy_experiment as toy


@dataclass(frozen=True)
class Point:
    first: int = 1
    second: float = 2.0
    third: str = "c"


def as_tuples(grid):
    return [(point.first, point.second, point.third) for point in points(Point, grid)]


def test_a_grid_is_the_product_of_its_axes():
    grid = Grid({"third": ("a", "b"), "first": (1, 2, 3)})
    assert as_tuples(grid) == [(first, 2.0, third) for first, third in itertools.product((1, 2, 3), ("a", "b"))]


def test_zipped_axes_are_walked_together():
    grid = Grid({"first": (1, 2), "second": (0.1, 0.2), "third": ("a", "b")}, zipped=(("first", "third"),))
    assert as_tuples(grid) == [(1, 0.1, "a"), (1, 0.2, "a"), (2, 0.1, "b"), (2, 0.2, "b")]


def test_no_axes_are_one_point():
    assert as_tuples(Grid()) == [(1, 2.0, "c")]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (Grid({"frist": (1,)}), "Did you mean 'first'"),
        (Grid({"first": ()}), "'first' of the grid is empty"),
        (Grid({"first": (1, 2), "second": (1.0,)}, zipped=(("first", "second"),)), "same number of values"),
        (Grid({"first": (1, 2)}, zipped=(("first", "second"),)), "none for second"),
        (Grid({"first": (1,), "second": (1.0,)}, zipped=(("first", "second"), ("second", "first"))), None),
        (
            Grid({"first": (1,), "second": (1.0,), "third": ("a",)}, zipped=(("first", "second"), ("third", "second"))),
            "zipped twice",
        ),
        (Grid({"first": (1,)}, zipped=(("first", "forth"),)), "no field 'forth'; there are first, second"),
        (Grid(seeds=0), "seeds must be at least 1"),
        (Grid(first_seed=-1), "numbered from 0 to 2,147,483,647, got 8 from -1"),
        (Grid(first_seed=2**31 - 8), "numbered from 0 to 2,147,483,647"),
    ],
)
def test_unsound_grids_are_refused(grid, message):
    if message is None:
        assert as_tuples(grid) == [(1, 1.0, "c")]
        return
    with pytest.raises(ValueError, match=message):
        points(Point, grid)


def test_a_point_is_checked_by_its_configuration():
    with pytest.raises(ValueError, match="power must not be negative, got -1"):
        batches(toy.Config, toy.cells, Grid({"power": (2, -1)}))


def test_a_grid_without_cells_is_refused():
    with pytest.raises(ValueError, match="the grid has no cells"):
        batches(toy.Config, toy.cells, Grid({"power": (0,)}))


def test_cells_are_grouped_by_program_and_data_is_batched():
    found = batches(toy.Config, toy.cells, toy.GRID)
    assert [batch.program.power for batch in found] == [1, 2, 4]
    for batch in found:
        assert batch.size == 3 * 7
        rows = set(zip(batch.columns["base"].tolist(), batch.columns["seed"].tolist(), strict=True))
        assert rows == set(itertools.product((0.5, 1.5, 2.5), range(7)))
        assert batch.columns["seed"].tolist() == sorted(batch.columns["seed"].tolist())


def test_seeds_are_counted_from_the_first():
    plan = make_plan("toy", toy, Grid({"power": (1, 2)}, seeds=3, first_seed=40))
    seeds = {seed for chunk in plan.chunks for seed in chunk.columns["seed"].tolist()}
    assert seeds == {40, 41, 42}
    other = make_plan("toy", toy, Grid({"power": (1, 2)}, seeds=3))
    assert not {chunk.name for chunk in plan.chunks} & {chunk.name for chunk in other.chunks}


def test_a_cell_that_two_points_ask_for_is_there_once():
    def cells(point):
        return [Cell("table", "program", {}, {"second": point.second})]

    (batch,) = batches(Point, cells, Grid({"first": (1, 2), "second": (0.5, 1.5)}, seeds=1))
    assert batch.columns["second"].tolist() == [0.5, 1.5]


@pytest.mark.parametrize(("most", "shape", "sizes"), [(128, 21, [21]), (10, 7, [7, 7, 7]), (20, 11, [11, 10])])
def test_chunks_share_one_shape_and_hold_every_row_once(most, shape, sizes):
    batch = batches(toy.Config, toy.cells, toy.GRID)[0]
    found = chunks(batch, "toy", 1, most)
    assert [chunk.size for chunk in found] == sizes
    for name, values in batch.columns.items():
        np.testing.assert_array_equal(np.concatenate([chunk.columns[name] for chunk in found]), values)
        for chunk in found:
            padded = chunk.padded()[name]
            assert len(padded) == shape
            assert (padded[chunk.size :] == padded[chunk.size - 1]).all()


def names(grid=toy.GRID, experiment="toy", meaning=1, run=toy.run):
    module = SimpleNamespace(MEANING=meaning, Config=toy.Config, cells=toy.cells, run=run)
    return [chunk.name for chunk in make_plan(experiment, module, grid).chunks]


def test_a_plan_is_decided_by_the_grid_alone():
    assert names() == names()
    assert len(set(names())) == len(names())
    reordered = Grid(dict(reversed(toy.GRID.axes.items())), seeds=7)
    assert names(reordered) == names()


@pytest.mark.parametrize(
    "changed",
    [
        {"meaning": 2},
        {"experiment": "other"},
        {"grid": Grid({**toy.GRID.axes, "name": ("label",)}, seeds=7)},
        {"grid": Grid({**toy.GRID.axes, "base": (0.5, 1.5, 2.25)}, seeds=7)},
        {"grid": Grid(toy.GRID.axes, seeds=8)},
    ],
)
def test_a_chunk_is_named_by_all_that_decides_its_records(changed):
    assert not set(names(**changed)) & set(names())


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_are_disjoint_and_together_the_plan(count):
    plan = make_plan("toy", toy, Grid({"power": (1, 2, 3, 4), "base": tuple(np.arange(40.0).tolist())}, seeds=7))
    shards = [shard(plan.chunks, index, count) for index in range(count)]
    assert sorted(chunk.name for part in shards for chunk in part) == sorted(chunk.name for chunk in plan.chunks)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("part", [(2, 2), (-1, 2), (0, 0)])
def test_impossible_shards_are_refused(part):
    with pytest.raises(ValueError, match="0 <= i < n"):
        shard([], *part)


@pytest.mark.parametrize("zipped", [(), (("first", "third"),)])
def test_points_are_counted_without_making_them(zipped):
    grid = Grid({"first": (1, 2), "second": (0.1, 0.2, 0.3), "third": ("a", "b")}, zipped)
    assert number_of_points(grid) == len(points(Point, grid))
