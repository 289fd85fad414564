"""The demonstration that nothing is lost tells sameness from any difference."""

import json
import shutil

import numpy as np
import polars as pl
import pytest

from experiments.benchmarks import damage, kills
from experiments.benchmarks.commands import Command
from experiments.cli import main as command
from gvgap_jax.runtime import files
from gvgap_jax.sweep import records
from gvgap_jax.sweep.look import MANIFEST

ARGUMENTS = ("equivalence", "--grid.horizon", "1", "--grid.pairs", "16", "--seeds", "1000")
KILLS, CHUNKS, ROWS = 20, 8, 1000


@pytest.fixture(scope="module")
def demonstrated(tmp_path_factory):
    """The command, its kills and comparisons: eight chunks, twenty processes killed."""
    command = Command(ARGUMENTS, tmp_path_factory.mktemp("kills"))
    return command, *kills.demonstrate(command, KILLS)


@pytest.fixture
def copy(demonstrated, tmp_path):
    """The shared folder, to be spoilt."""
    command, *_ = demonstrated
    return shutil.copytree(command.root / "shared", tmp_path / "copy")


def compared(demonstrated, folder):
    return kills.compare(folder, demonstrated[0].root / "undisturbed")


@pytest.mark.slow
def test_killed_and_shared_runs_end_at_the_same_bits(demonstrated, capsys):
    command, killed, comparisons = demonstrated
    assert len(killed) == KILLS
    assert {kill.stage for kill in killed} >= {"compacting", "running"}
    assert {kill.damage.partition(" ")[0] for kill in killed} >= {"", "bit", "no"}
    assert all(0 <= kill.stored <= kill.chunks == CHUNKS for kill in killed)
    assert {row.folder for row in comparisons} >= {"killed-01", "shared"}
    assert all(row.same and row.rows == ROWS for row in comparisons)
    kills.console.print(kills.kill_table(killed))
    kills.conclude(comparisons, command.root)
    assert "the same" in capsys.readouterr().out


@pytest.mark.slow
def test_an_altered_number_is_a_difference(demonstrated, copy, capsys):
    path = sorted(copy.glob("*.parquet"))[0]
    table, made_by = files.read_with_maker(path)
    files.save(copy, path.stem, table.with_columns(kl=pl.col("kl") * (1 + np.finfo(np.float32).eps)), made_by)
    row = compared(demonstrated, copy)
    assert row.differing == ("distances.kl",)
    with pytest.raises(SystemExit) as stopped:
        kills.conclude([row], copy.parent)
    assert stopped.value.code == 1
    assert "different" in capsys.readouterr().out


@pytest.mark.slow
def test_a_lost_chunk_is_a_difference(demonstrated, copy):
    sorted(copy.glob("*.parquet"))[0].unlink()
    row = compared(demonstrated, copy)
    assert row.lost == 125
    assert not row.same


@pytest.mark.slow
def test_rows_that_are_there_twice_are_a_difference(demonstrated, copy):
    first = sorted(copy.glob("*.parquet"))[0]
    shutil.copy(first, copy / "distances-0000000000000000.parquet")
    row = compared(demonstrated, copy)
    assert row.twice == 125
    assert row.unexpected == ("distances-0000000000000000.parquet",)


@pytest.mark.slow
def test_what_a_killed_process_leaves_is_told_from_what_should_not_be_there(demonstrated, copy):
    chunk = next(iter(json.loads((copy / MANIFEST).read_text())["chunks"]))
    (copy / files.LOCKS).mkdir(exist_ok=True)
    (copy / files.LOCKS / chunk).touch()
    (copy / f".{chunk}.parquet.host.1").touch()
    assert compared(demonstrated, copy).same
    assert compared(demonstrated, copy).stale == 2
    (copy / files.SET_ASIDE).mkdir()
    (copy / files.SET_ASIDE / f"{chunk}.parquet").touch()
    assert compared(demonstrated, copy).unexpected == (f"set_aside/{chunk}.parquet",)


@pytest.mark.slow
def test_one_bit_of_one_file_is_flipped_and_remembered(copy):
    before = {path: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    assert damage.flip(copy, np.random.default_rng(0)).startswith("bit ")
    (path,) = (path for path, content in before.items() if path.read_bytes() != content)
    number = [int.from_bytes(content) for content in (before[path], path.read_bytes())]
    assert (number[0] ^ number[1]).bit_count() == 1
    assert damage.flipped(copy) == {path.name.removesuffix(files.DIGEST)}
    assert damage.flip(copy / "nothing", np.random.default_rng(0)) == ""


@pytest.mark.parametrize(
    ("found", "wanted", "differing"),
    [
        ([1.0, float("nan")], [1.0, float("nan")], []),
        ([0.0], [-0.0], ["x"]),
        ([1.0], [1.0, 1.0], ["x"]),
        ([1.0], [1], ["x"]),
        (["ok"], ["not converged"], ["x"]),
    ],
)
def test_columns_are_compared_by_their_bits(found, wanted, differing):
    assert records.differing_columns(pl.DataFrame({"x": found}), pl.DataFrame({"x": wanted})) == differing


def test_a_missing_column_differs():
    assert records.differing_columns(pl.DataFrame({"x": [1]}), pl.DataFrame({"x": [1], "y": [1]})) == ["y"]


def test_a_run_that_fails_names_its_log(tmp_path):
    command = Command(("equivalence", "--seeds", "0"), tmp_path)
    with pytest.raises(RuntimeError, match=r"status 2: see .*undisturbed.log"):
        command.finish(tmp_path / "undisturbed")


@pytest.mark.slow
def test_the_command_writes_tables_and_keeps_no_records(demonstrated, tmp_path, monkeypatch):
    monkeypatch.setattr(kills, "demonstrate", lambda command, count: demonstrated[1:])
    command.main(["bench", "kills", "--out", str(tmp_path)])
    assert {path.name for path in (tmp_path / "kills").iterdir()} == {"kills.csv", "comparisons.csv"}
    assert len(pl.read_csv(tmp_path / "kills" / "kills.csv")) == KILLS
