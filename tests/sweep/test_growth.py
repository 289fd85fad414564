"""Folders that grow: the same command with more seeds or more points goes on from what is there."""

import dataclasses
import json
import warnings
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from gvgap_jax.runtime import files
from gvgap_jax.sweep import Grid, folder_at, load, open_folder, plan_in, run_plan
from gvgap_jax.sweep import look as looking
from gvgap_jax.sweep.fields import FIELDS
from gvgap_jax.sweep.grid import contains
from gvgap_jax.sweep.plan import Plan
from tests.sweep import toy_experiment as toy

SMALL = Grid({"power": (2, 4), "base": (0.5, 1.5)}, seeds=3, first_seed=5)
MORE_SEEDS = dataclasses.replace(SMALL, seeds=7)
EARLIER_SEEDS = dataclasses.replace(SMALL, first_seed=2, seeds=8)
MORE_BASES = dataclasses.replace(SMALL, axes={"power": (2, 4), "base": (0.25, 0.5, 1.5)})
MORE_POWERS = dataclasses.replace(SMALL, axes={"power": (1, 2, 3, 4), "base": (0.5, 1.5)})
ALL_MORE = Grid({"power": (1, 2, 4), "base": (0.5, 0.75, 1.5)}, seeds=9, first_seed=4)
LARGER = {"more seeds": MORE_SEEDS, "seeds before": EARLIER_SEEDS, "more bases": MORE_BASES, "more powers": MORE_POWERS}
LARGER |= {"more of all": ALL_MORE}


TOY: Any = toy


def ran(folder, grid, experiment: Any = TOY) -> tuple[Plan, list[str], int]:
    """A run of the grid: its plan, what opening the folder said, and how many cells were computed."""
    plan = plan_in(folder_at(folder), "toy", experiment, grid)
    notes = open_folder(folder_at(folder), plan)
    return plan, notes, run_plan(plan, folder_at(folder)).computed


def rows(folder) -> dict[str, set[tuple]]:
    tables = {name.rpartition("-")[0] for name in looking.manifest(folder_at(folder))["chunks"]}
    columns = ("base", "seed", "value")
    return {table: set(load(folder, table).select(columns).iter_rows()) for table in tables}


@pytest.mark.parametrize("larger", LARGER.values(), ids=LARGER)
def test_a_larger_grid_computes_only_what_is_new(tmp_path, larger):
    _, _, before = ran(tmp_path / "grown", SMALL)
    files = {path.name: path.read_bytes() for path in (tmp_path / "grown").glob("*.parquet")}
    plan, notes, added = ran(tmp_path / "grown", larger)
    ran(tmp_path / "whole", larger)
    assert rows(tmp_path / "grown") == rows(tmp_path / "whole")
    assert before + added == sum(chunk.size for chunk in plan.chunks)
    assert all((tmp_path / "grown" / name).read_bytes() == content for name, content in files.items())
    assert any("goes on from" in note for note in notes)
    assert ran(tmp_path / "grown", larger)[2] == 0


def test_a_folder_grows_again_and_again(tmp_path):
    computed = sum(ran(tmp_path / "grown", grid)[2] for grid in (SMALL, MORE_SEEDS, ALL_MORE_SEEDS))
    ran(tmp_path / "whole", ALL_MORE_SEEDS)
    assert rows(tmp_path / "grown") == rows(tmp_path / "whole")
    assert computed == sum(len(found) for found in rows(tmp_path / "whole").values())
    assert len(json.loads((tmp_path / "grown" / "manifest.json").read_text())["earlier"]) == 2


ALL_MORE_SEEDS = Grid({"power": (1, 2, 4), "base": (0.5, 0.75, 1.5)}, seeds=9, first_seed=4)


def test_a_shard_that_was_missing_when_the_folder_grew_is_still_computed(tmp_path):
    plan = plan_in(folder_at(tmp_path), "toy", TOY, SMALL)
    open_folder(folder_at(tmp_path), plan)
    run_plan(plan, folder_at(tmp_path), part=(0, 2))
    ran(tmp_path, ALL_MORE)
    ran(tmp_path / "whole", ALL_MORE)
    assert rows(tmp_path) == rows(tmp_path / "whole")


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (dataclasses.replace(SMALL, seeds=2), "seeds 3 there, 2 now"),
        (dataclasses.replace(SMALL, first_seed=6), "first_seed 5 there, 6 now"),
        (dataclasses.replace(SMALL, axes={"power": (2,), "base": (0.5, 1.5, 2.5)}), r"power \[2, 4\] there, \[2\] now"),
        (dataclasses.replace(MORE_SEEDS, zipped=(("power", "base"),)), "zipped"),
        (dataclasses.replace(MORE_SEEDS, axes={**SMALL.axes, "name": ("other",)}), "name"),
    ],
    ids=["fewer seeds", "other seeds", "a value less", "zipped", "another default"],
)
def test_a_grid_that_lacks_what_the_folder_has_is_refused(tmp_path, other, says):
    ran(tmp_path, SMALL)
    with pytest.raises(ValueError, match=says) as caught:
        ran(tmp_path, other)
    assert "keeps all that it has" in str(caught.value)
    assert ran(tmp_path, SMALL)[2] == 0


def test_a_smaller_grid_does_not_undo_a_larger_one(tmp_path):
    ran(tmp_path, SMALL)
    ran(tmp_path, MORE_SEEDS)
    with pytest.raises(ValueError, match="seeds 7 there, 3 now"):
        ran(tmp_path, SMALL)
    assert ran(tmp_path, MORE_SEEDS)[2] == 0


def test_a_grid_contains_itself_and_no_other_axes():
    assert contains(SMALL, SMALL)
    assert not contains(SMALL, Grid({"power": (2,)}, seeds=3, first_seed=5))
    zipped = Grid({"power": (2, 4), "base": (0.5, 1.5)}, (("power", "base"),), seeds=1)
    assert contains(dataclasses.replace(zipped, axes={"power": (4, 2), "base": (1.5, 0.5)}), zipped)
    assert not contains(dataclasses.replace(zipped, axes={"power": (4, 2), "base": (0.5, 1.5)}), zipped)


def of_two_tables(config):
    """``power`` decides the program alone, and nothing in the table ``all`` depends on ``base``."""
    own = toy.cells(config)[0]
    return [own._replace(table="own"), own._replace(table="all", numbers={"base": 1.0, "power": config.power})]


@dataclasses.dataclass(frozen=True)
class Config(toy.Config):
    length: int = 3


SHARING = SimpleNamespace(MEANING=1, Config=Config, cells=of_two_tables, run=toy.run)


def test_every_field_that_is_swept_is_a_column(tmp_path):
    grid = Grid({"power": (2, 4), "base": (0.5, 1.5), "length": (3, 5)}, seeds=2)
    ran(tmp_path, grid, SHARING)
    own, shared = load(tmp_path, "own"), load(tmp_path, "all")
    for row in own.iter_rows(named=True):
        assert row["value"] == pytest.approx((row["base"] + row["seed"]) ** row["power"])
        assert (row["name"], row["length"]) == ("toy", None), "points with both lengths share the cell"
    assert set(own["power"]) == {2, 4}
    assert set(shared["base"]) == {1.0}, "what the records say themselves stays"
    assert own.columns[:2] == ["name", "base"], "columns of the records come first"


def test_fields_follow_a_folder_that_grew(tmp_path):
    ran(tmp_path, Grid({"power": (2,), "base": (0.5, 1.5)}, seeds=2), SHARING)
    assert set(load(tmp_path, "own")["power"]) == {2}
    ran(tmp_path, Grid({"power": (2, 4), "base": (0.5, 1.5, 2.5)}, seeds=3), SHARING)
    for row in load(tmp_path, "own").iter_rows(named=True):
        assert row["value"] == pytest.approx((row["base"] + row["seed"]) ** row["power"])


def test_a_kill_between_fields_and_manifest_leaves_records_that_are_read(tmp_path):
    small = Grid({"power": (2, 4), "length": (3, 5)}, seeds=2)
    ran(tmp_path, small, SHARING)
    whole, older = load(tmp_path, "own"), (tmp_path / "manifest.json").read_bytes()
    ran(tmp_path, dataclasses.replace(small, axes={**small.axes, "base": (0.5, 1.5)}), SHARING)
    files.write(tmp_path / "manifest.json", older)
    with pytest.warns(UserWarning, match="no chunk of this folder's plan"):
        assert load(tmp_path, "own").equals(whole)


def test_fields_belong_to_the_chunks_that_are_there(tmp_path):
    grid = Grid({"power": (2, 4), "base": tuple(number / 2 for number in range(1, 101))}, seeds=3)
    ran(tmp_path, grid, SHARING)
    whole = load(tmp_path, "own").sort("power", "base", "seed")
    for path in sorted(tmp_path.glob("own-*.parquet"))[::2]:
        path.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        part = load(tmp_path, "own")
    assert 0 < len(part) < len(whole)
    assert part.join(whole, on=part.columns, how="anti", nulls_equal=True).is_empty()


@pytest.mark.parametrize("damage", [b"", b"junk", None], ids=["empty", "junk", "gone"])
def test_damaged_fields_are_refused_and_made_again(tmp_path, damage):
    grid = Grid({"power": (2, 4), "length": (3, 5)}, seeds=2)
    ran(tmp_path, grid, SHARING)
    whole = load(tmp_path, "own")
    if damage is None:
        (tmp_path / FIELDS).unlink()
    else:
        (tmp_path / FIELDS).write_bytes(damage)
    with pytest.raises((ValueError, FileNotFoundError), match=FIELDS):
        load(tmp_path, "own")
    _, notes, computed = ran(tmp_path, grid, SHARING)
    assert computed == 0
    assert bool(notes) == (damage is not None)
    assert load(tmp_path, "own").equals(whole)


def test_records_of_an_earlier_version_are_read_with_a_warning_and_named_by_the_next_run(tmp_path):
    grid = Grid({"power": (2, 4), "length": (3, 5)}, seeds=2)
    ran(tmp_path, grid, SHARING)
    whole = load(tmp_path, "own")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for name in ("batches", "earlier", "format"):
        del manifest[name]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "manifest.json.sha256").unlink()
    (tmp_path / FIELDS).unlink()
    with pytest.warns(UserWarning, match="do not say which power, length they are of"):
        assert "length" not in load(tmp_path, "own").columns
    assert ran(tmp_path, grid, SHARING)[2] == 0
    assert load(tmp_path, "own").equals(whole)
    assert isinstance(whole, pl.DataFrame)
