"""Cells of large grids: one call for all values of a field that is only passed on; the same cells as one a point."""

import copy
import itertools
import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gvgap_jax.sweep.cells import Cell, batches
from gvgap_jax.sweep.grid import Grid, points
from gvgap_jax.sweep.passed import Passed, can_be_passed
from gvgap_jax.sweep.plan import fields_of, make_plan


@dataclass(frozen=True)
class Config:
    size: int = 1
    beta: float = 1.0
    noise: float = 1.0
    count: int = 3
    word: str = "a"


def one_by_one(config, cells, grid):
    """Rows of every batch, and for every row the points that ask for it, by one call a point."""
    groups = {}
    for point in points(config, grid):
        for cell in cells(point):
            key = (cell.table, cell.program, tuple(cell.labels.items()), tuple(cell.numbers))
            groups.setdefault(key, {}).setdefault(tuple(cell.numbers.values()), []).append(point)
    return groups


def experiment(cells) -> Any:
    return SimpleNamespace(MEANING=1, Config=Config, cells=cells, run=None)


def passes(config):
    return [Cell("t", config.size, {"word": config.word}, {"beta": config.beta, "noise": config.noise, "of": 0})]


def shares(config):
    """A table that no field but ``size`` matters to, and one cell for a field and for a constant of its values."""
    rows = [Cell("shared", "p", {}, {"size": config.size}), Cell("mixed", "p", {}, {"beta": 0.5, "x": 1})]
    return [*rows, Cell("mixed", "p", {}, {"beta": config.beta, "x": 1}), *passes(config)]


def looks(config):
    return [Cell("t", "low" if config.beta < 1 else "high", {}, {"noise": config.noise})]


def computes(config):
    return [Cell("t", "p", {}, {"twice": 2 * config.beta, "noise": math.log(config.noise)})]


def labels(config):
    return [Cell("t", "p", {"text": f"{config.beta}"}, {"noise": config.noise})]


def programs(config):
    return [Cell("t", (config.beta, config.count), {}, {"noise": config.noise})]


def loops(config):
    return [Cell("t", "p", {}, {"order": order, "beta": config.beta}) for order in range(config.count)]


def impossible_at_first(config):
    return [] if config.size == 1 else looks(config)


def truth(config):
    return [Cell("t", bool(config.beta), {}, {"beta": config.beta, "noise": np.float32(config.noise).item()})]


KINDS = [passes, shares, looks, computes, labels, programs, loops, impossible_at_first, truth]
GRIDS = {
    "floats": Grid({"size": (1, 2), "beta": (0.5, 1.0, 2.0), "noise": (0.25, 4.0)}, seeds=2),
    "integers and floats": Grid({"beta": (1, 0.5), "count": (2, 3), "word": ("a", "b")}, seeds=1),
    "integers": Grid({"beta": (1, 2), "noise": (1, 3), "count": (5, 2)}, seeds=1),
    "values that are there twice": Grid({"beta": (1.0, 2.0, 1.0), "size": (2, 1)}, seeds=1),
    "zipped": Grid({"size": (1, 2), "beta": (0.5, 1.0), "noise": (2.0, 4.0)}, zipped=(("beta", "noise"),), seeds=1),
    "zipped with a word": Grid({"word": ("a", "b"), "beta": (0.5, 1.0)}, zipped=(("beta", "word"),), seeds=1),
    "not finite": Grid({"beta": (1.0, float("inf")), "size": (1, 2)}, seeds=1),
}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("cells", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_cells_are_those_of_one_call_a_point_in_the_same_order(cells, grid):
    wanted = one_by_one(Config, cells, grid)
    if not wanted:
        with pytest.raises(ValueError, match="the grid has no cells"):
            batches(Config, cells, grid)
        return
    found = batches(Config, cells, grid)
    assert [batch.key for batch in found] == list(wanted)
    for batch, rows in zip(found, wanted.values(), strict=True):
        for name, values in zip(batch.numbers, zip(*rows, strict=True), strict=True):
            kind = np.int32 if all(isinstance(value, int) for value in values) else np.float32
            assert batch.numbers[name].dtype == kind
            np.testing.assert_array_equal(batch.numbers[name], np.array(values, kind))


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("cells", [passes, shares, loops, computes], ids=lambda kind: kind.__name__)
def test_every_cell_has_the_fields_of_the_points_that_ask_for_it(cells, grid):
    plan = make_plan("toy", experiment(cells), grid)
    table, start = fields_of(plan), 0
    for number, (batch, rows) in enumerate(zip(plan.batches, one_by_one(Config, cells, grid).values(), strict=True)):
        own = table[start : start + len(batch.points)]
        assert set(own["batch"]) == {number}
        start += len(own)
        for row, asking in zip(own.iter_rows(named=True), rows.values(), strict=True):
            for name in own.columns[1:]:
                values = {getattr(point, name) for point in asking}
                assert row[name] == (values.pop() if len(values) == 1 else None)
    assert start == len(table)
    assert set(table.columns[1:]) == {name for name, values in grid.axes.items() if len(values) > 1}


def test_a_field_that_is_only_passed_on_costs_one_call():
    calls = []

    def counted(config):
        calls.append(config)
        return passes(config)

    (batch,) = batches(Config, counted, Grid({"beta": tuple(np.linspace(1, 2, 1000)), "noise": (1.0, 2.0)}, seeds=1))
    assert batch.size == 2000
    assert len(calls) < 10


def test_a_check_that_refuses_some_of_many_values_names_one():
    @dataclass(frozen=True)
    class Checked(Config):
        def __post_init__(self):
            if not self.beta > 0:
                raise ValueError(f"beta must be positive, got {self.beta}.")

    with pytest.raises(ValueError, match=r"beta must be positive, got -0\.5"):
        batches(Checked, passes, Grid({"beta": (1.0, -0.5, 2.0)}))


def test_numbers_beyond_what_records_hold_are_refused():
    with pytest.raises(ValueError, match="count must be at most 2,147,483,647, got 2,147,483,648"):
        batches(Config, lambda config: [Cell("t", "p", {}, {"count": config.count})], Grid({"count": (1, 2**31)}))


USES = {
    "compared with itself": lambda x: x < x,
    "compared with a word": lambda x: x == "a",
    "compared with a truth value": lambda x: x > True,
    "compared with a number between": lambda x: x < 1.5,
    "compared with one of its values": lambda x: x == 1.0,
    "added to": lambda x: x + 1,
    "written out": lambda x: f"{x}",
    "copied": copy.deepcopy,
}
USES |= {use.__name__: use for use in (hash, bool, str, repr, float, int, len, iter, range, math.sqrt, np.isfinite)}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_stand_in_refuses_what_depends_on_its_value(use):
    with pytest.raises(TypeError):
        use(Passed("beta", (1.0, 2.0)))


def test_a_stand_in_is_compared_where_all_its_values_compare_alike():
    both = Passed("beta", (1.0, 2.0))
    assert both > 0
    assert 0 < both <= 2
    assert not both >= 3
    assert both != 3.0
    assert not both == 3.0  # noqa: SIM201  the other operator


@pytest.mark.parametrize("values", [(1.0,), ("a", "b"), (True, False), (1.0, None), (1.0, math.nan), (1, 2**60)])
def test_other_values_have_no_stand_in(values):
    assert not can_be_passed(values)


def test_what_another_machine_is_sent_has_the_same_rows():
    plan = make_plan("toy", experiment(shares), GRIDS["floats"])
    for chunk in plan.chunks:
        alone = chunk.alone()
        assert alone[:1] + alone[3:] == chunk[:1] + chunk[3:]
        assert list(alone.columns) == list(chunk.columns)
        for (name, one), other in zip(chunk.columns.items(), alone.columns.values(), strict=True):
            np.testing.assert_array_equal(one, other, err_msg=name)
            assert one.dtype == other.dtype


def crossed():
    """Every field of the configuration with three values, and all of them together."""
    values = {"size": (1, 2, 3), "beta": (0.5, 1.0, 2.0), "noise": (0.5, 1.0, 2.0), "word": ("a", "b", "c")}
    return [dict(each) for each in itertools.combinations(values.items(), 2)]


@pytest.mark.parametrize("axes", crossed(), ids=",".join)
def test_chunks_keep_their_names_however_their_cells_were_found(axes, monkeypatch):
    module = experiment(shares)
    quick = [chunk.name for chunk in make_plan("toy", module, Grid(axes, seeds=3)).chunks]
    monkeypatch.setattr("gvgap_jax.sweep.cells.can_be_passed", lambda values: False)
    assert quick == [chunk.name for chunk in make_plan("toy", module, Grid(axes, seeds=3)).chunks]
