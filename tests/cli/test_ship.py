"""Records that are shipped: made by one command, read like any other, and computed again piece by piece."""

import shutil

import polars as pl
import pytest

from experiments.cli import figures, folders, main, ship
from experiments.kit import shipped
from experiments.report.evidence import chosen, gather
from gvgap_jax.runtime import files
from gvgap_jax.sweep import load, make_plan
from gvgap_jax.sweep.look import look
from gvgap_jax.sweep.records import provenances
from tests.cli.test_damage import text_of
from tests.report import toy_questions

TOY = toy_questions.toy()
PLAN = make_plan("toy", TOY, TOY.PRESETS["standard"])


@pytest.fixture(scope="module", autouse=True)
def registered(tmp_path_factory):
    """The toy experiment is the only one there is, and nothing is shipped but what is put into a folder here."""
    with pytest.MonkeyPatch.context() as patch:
        toy_questions.install(patch, {"toy": TOY})
        patch.setattr(shipped, "RECORDS", tmp_path_factory.mktemp("project") / "records")
        patch.setattr(folders.console, "_width", 400)
        yield


@pytest.fixture(scope="module")
def results(registered, tmp_path_factory):
    """Results, from which the records were shipped."""
    root = tmp_path_factory.mktemp("made") / "results"
    main.main(["run", "toy", "--preset", "standard", "--out", str(root / "toy-standard")])
    main.main(["ship", "--results", str(root)])
    return root


@pytest.fixture
def elsewhere(results, tmp_path, monkeypatch):
    """A folder with no results of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def changed(change):
    """The shipped records of one table with other numbers, as if they had been written so."""
    path = files.chunk_file(shipped.place_of("toy"), "even")
    records, made_by = files.read_with_maker(path)
    files.save(path.parent, "even", change(records), made_by)


@pytest.fixture
def restored(results, tmp_path):
    """Puts the shipped records back."""
    shutil.copytree(shipped.RECORDS, tmp_path / "kept")
    yield
    shutil.rmtree(shipped.RECORDS)
    shutil.copytree(tmp_path / "kept", shipped.RECORDS)


def test_shipped_records_are_those_of_the_run_in_one_file_a_table_with_what_made_them(results):
    place = shipped.shipped("toy", "standard")
    assert place is not None
    assert sorted(path.name for path in place.glob("*.parquet")) == ["even.parquet", "odd.parquet"]
    for table in ("even", "odd"):
        assert load(place, table).equals(load(results / "toy-standard", table))
    assert provenances(place).keys() == look(results / "toy-standard").makers.keys()
    assert sorted(path.name for path in place.iterdir() if not path.name.endswith(files.DIGEST)) == [
        "even.parquet", "fields.arrow", "manifest.json", "odd.parquet",
    ]  # fmt: skip
    assert 0 < shipped.minutes(place) < 10


def test_nothing_is_shipped_of_other_presets_and_questions(results):
    assert shipped.shipped("toy", "quick") is None
    assert shipped.shipped("other", "standard") is None
    assert shipped.shipped("toy", "standard", "transformer") is None


def test_a_fresh_clone_reads_them(elsewhere, capsys):
    found = chosen("toy", TOY)
    assert (found.preset, found.problems, found.notes) == ("standard", [], [])
    evidence = gather("toy", TOY)
    assert evidence.findings[0].claim == "squares are large"
    assert evidence.command == "python -m experiments run toy --preset standard"
    assert "toy.png" in text_of(capsys, "figures", "all")
    assert "toy_rows" in text_of(capsys, "figures", "toy")
    assert figures._folder_of("toy", "tree") == str(shipped.place_of("toy"))


def test_complete_records_of_ones_own_come_before_the_shipped_ones(elsewhere, results):
    shutil.copytree(results, "results")
    assert chosen("toy", TOY).folder == "results/toy-standard"
    name = next(path for path in (elsewhere / "results/toy-standard").glob("odd-*.parquet"))
    files.remove(name)
    found = chosen("toy", TOY)
    assert found.folder == str(shipped.place_of("toy"))
    assert found.notes == [
        "Records of the preset standard are there too, but: 1 of 2 chunks are missing in results/toy-standard."
    ]
    assert gather("toy", TOY, preset="quick").problems == ["There are no records in results/toy-quick."]


def test_what_is_not_complete_is_not_shipped(elsewhere, results, capsys, restored):
    shutil.copytree(results, "results")
    files.remove(next((elsewhere / "results/toy-standard").glob("odd-*.parquet")))
    printed = text_of(capsys, "ship")
    assert "toy not shipped: 1 of 2 chunks are missing in results/toy-standard." in printed
    assert "0.0 MB shipped" in printed
    assert shipped.shipped("toy", "standard")
    assert "toy not shipped: There are no records in nowhere/toy-standard" in text_of(
        capsys, "ship", "--results", "nowhere"
    )


def test_list_says_what_they_cost(results, capsys):
    printed = text_of(capsys, "list")
    assert f"toy 4x3 {shipped.minutes(shipped.place_of('toy')):.1f} 4x3 12/2" in printed


@pytest.mark.parametrize("commit", ["a", "b", "c"])
def test_pieces_computed_again_are_the_same(results, capsys, commit):
    printed = text_of(capsys, "verify", "--commit", commit)
    assert "toy: the same" in printed
    assert "1 of 1 shipped experiments computed again" in printed


def test_a_number_that_was_changed_is_seen(results, capsys, restored):
    def change(records):
        return records.with_columns(
            value=pl.when(pl.int_range(pl.len()) == 2).then(9e9).otherwise("value").cast(records["value"].dtype)
        )

    changed(change)
    commits = {}
    for commit in map(str, range(40)):
        piece, first = ship.piece_of(PLAN, f"{commit} toy")
        commits[piece.batch.table == "even" and first <= 2 < first + piece.size] = commit
    assert "toy: the same" in text_of(capsys, "verify", "--commit", commits[False])
    printed = text_of(capsys, "verify", "--commit", commits[True], status=1)
    assert "value is " in printed
    assert "and not 9e+09, in 1 of" in printed
    assert "0 of 1 shipped experiments computed again with the same results" in printed


def test_a_setting_that_was_changed_is_seen(results, capsys, restored):
    changed(lambda records: records.with_columns(seed=pl.col("seed") + 1))
    commit = next(str(n) for n in range(40) if ship.piece_of(PLAN, f"{n} toy")[0].batch.table == "even")
    assert "seed is" in text_of(capsys, "verify", "--commit", commit, status=1)


def test_records_of_another_grid_are_seen(results, capsys, monkeypatch):
    monkeypatch.setitem(TOY.PRESETS, "standard", toy_questions.PAPER)
    assert "seeds 3 there, 4 now" in " ".join(text_of(capsys, "verify", status=1).split())


def test_every_chunk_has_its_turn():
    grid = TOY.PRESETS["standard"]
    seen = {(piece.name, first) for piece, first in (ship.piece_of(PLAN, str(number)) for number in range(200))}
    assert {name for name, _ in seen} == {chunk.name for chunk in PLAN.chunks}
    assert grid.seeds == 3
    for piece, first in (ship.piece_of(PLAN, str(number)) for number in range(20)):
        table = [row for chunk in PLAN.chunks if chunk.batch.table == piece.batch.table for row in rows(chunk)]
        assert table[first : first + piece.size] == rows(piece)


def rows(chunk):
    columns = chunk.columns
    return list(zip(columns["base"].tolist(), columns["seed"].tolist(), strict=True))
