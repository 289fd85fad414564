"""Folders of records: what is damaged is named and set aside, what is stored is never lost or read twice."""

import errno
import json
import os
import signal
import subprocess
import sys
import warnings

import polars as pl
import pytest

from gvgap_jax.runtime import files
from gvgap_jax.sweep import folder_at, load, make_plan, open_folder, records, run_plan, store
from gvgap_jax.sweep.grid import Grid
from gvgap_jax.sweep.look import failures, manifest, single
from tests.sweep import toy_experiment as toy


@pytest.fixture
def plan():
    return make_plan("toy", toy, toy.GRID)


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    """A folder on disk, and one in an object store that lives in memory."""
    return folder_at(tmp_path / "records" if request.param == "local" else f"memory://{tmp_path.name}/records")


@pytest.fixture
def full(folder, plan):
    open_folder(folder, plan)
    run_plan(plan, folder)
    return folder


def rows(folder, table):
    frame = load(folder, table)
    return list(zip(frame["base"], frame["seed"], frame["value"], strict=True))


def chunk_files(folder, table="even"):
    return sorted(folder.glob(f"{table}-*.parquet"))


@pytest.mark.parametrize("table", ["odd", "even"])
def test_load_gives_every_row_once(full, table):
    found = rows(full, table)
    assert len(found) == len(set(found))
    assert set(found) == toy.expected()[table]
    assert set(load(full, table)["name"]) == {"toy"}


def test_the_only_table_needs_no_name(tmp_path, full):
    with pytest.raises(ValueError, match="name one of odd, even"):
        load(full)
    plan = make_plan("toy", toy, Grid({"power": (2,)}, seeds=2))
    folder = folder_at(tmp_path / "one")
    open_folder(folder, plan)
    run_plan(plan, folder)
    assert load(folder).equals(load(folder, "even"))


def test_a_store_whose_package_is_missing_says_what_to_install():
    with pytest.raises(ValueError, match=r"s3://bucket/x: Install s3fs .*or name a local folder"):
        folder_at("s3://bucket/x")


def test_manifest_holds_the_whole_grid_and_what_made_it(full):
    found = manifest(full)
    assert found["grid"]["axes"] == {"power": [1, 2, 4], "base": [0.5, 1.5, 2.5], "name": ["toy"]}
    assert {"revision", "versions", "device", "devices", "python", "host", "created"} <= found.keys()


def test_every_chunk_says_what_made_it(full, plan):
    made_by = records.provenances(full)
    assert made_by.keys() == {chunk.name for chunk in plan.chunks}
    for made in made_by.values():
        assert {"versions", "device", "devices", "revision", "seconds", "compile_seconds"} <= made.keys()


def test_a_truncated_file_is_set_aside_and_computed_again(full, plan):
    before = load(full, "even")
    victim = chunk_files(full)[0]
    victim.write_bytes(victim.read_bytes()[:-100])
    (note,) = open_folder(full, plan)
    assert f"{victim.name} is damaged: its bytes are not those of {victim.name}.sha256" in note
    assert not victim.exists()
    assert (full / files.SET_ASIDE / victim.name).exists()
    run_plan(plan, full)
    assert load(full, "even").equals(before)


def test_a_file_with_other_cells_is_set_aside(full, plan):
    first, second = chunk_files(full)
    first.write_bytes(second.read_bytes())
    (note,) = open_folder(full, plan)
    assert f"{first.name} is damaged" in note
    assert not first.exists()
    run_plan(plan, full)
    first.write_bytes(second.read_bytes())
    digest = files.digest_file(second).read_bytes()
    files.digest_file(first).write_bytes(digest)
    (note,) = open_folder(full, plan)
    assert f"{first.name} was written as {second.name}" in note
    files.remove(first)
    first.write_bytes(second.read_bytes())
    with pytest.warns(UserWarning, match="files without digests"):
        (note,) = open_folder(full, plan)
    assert f"{first.name} was made as {second.stem}" in note


def test_a_file_whose_cells_were_changed_is_set_aside(full, plan):
    victim = chunk_files(full)[0]
    changed = files.read(victim).with_columns(seed=pl.col("seed") + 1)
    files.save(full, victim.stem, changed, records.provenances(full)[victim.stem])
    files.digest_file(victim).unlink()
    with pytest.warns(UserWarning, match="files without digests"):
        (note,) = open_folder(full, plan)
    assert "other cells than its name says (column 'seed')" in note


def test_a_foreign_file_is_never_averaged_in(full, plan):
    foreign = full / "even-0123456789abcdef.parquet"
    foreign.write_bytes(chunk_files(full)[0].read_bytes())
    with pytest.warns(UserWarning, match=f"{foreign.name} is no chunk of this folder's plan. Run the command"):
        found = rows(full, "even")
    assert set(found) == toy.expected()["even"]
    assert len(found) == len(toy.expected()["even"])
    (note,) = open_folder(full, plan)
    assert "is no chunk of this folder's plan" in note
    assert not foreign.exists()


def test_a_chunk_damaged_after_the_run_is_not_read(full):
    victim = chunk_files(full)[0]
    frame = files.read(victim)
    files.save(full, victim.stem, frame[:-1], records.provenances(full)[victim.stem])
    with pytest.raises(ValueError, match=rf"{victim.name} has \d+ rows instead of \d+. Move it away"):
        load(full, "even")


def test_missing_chunks_are_reported(full):
    chunk_files(full)[0].unlink()
    with pytest.warns(UserWarning, match="1 of 2 chunks of 'even' are not computed yet"):
        assert 0 < len(load(full, "even")) < len(toy.expected()["even"])
    assert records.folder_tables(full) == {"odd": 0, "even": 1}


def test_records_of_different_makers_are_reported(full):
    victim = chunk_files(full)[0]
    made_by = records.provenances(full)[victim.stem] | {"device": "another"}
    files.save(full, victim.stem, files.read(victim), made_by)
    with pytest.warns(UserWarning, match="2 kinds of device or version"):
        load(full, "even")


def test_a_folder_without_records_says_so(folder):
    with pytest.raises(FileNotFoundError, match="Run the experiment first"):
        load(folder, "even")


def test_another_grid_is_refused(full):
    with pytest.raises(ValueError, match=r"another plan \(base \[0.5, 1.5, 2.5\] there, \[1.5\] now\)"):
        open_folder(full, make_plan("toy", toy, Grid({"power": (1, 2, 4)}, seeds=7)))


def test_another_experiment_is_refused(full):
    with pytest.raises(ValueError, match="experiment 'toy', wanted 'other'"):
        open_folder(full, make_plan("other", toy, toy.GRID))


def test_another_meaning_is_refused(full, monkeypatch):
    monkeypatch.setattr(toy, "MEANING", 2)
    with pytest.raises(ValueError, match="meant something else when they were made: meaning 1 there, 2 now"):
        open_folder(full, make_plan("toy", toy, toy.GRID))


def test_compaction_keeps_every_row_in_order_and_is_understood_by_later_runs(full, plan):
    before = {table: load(full, table) for table in ("odd", "even")}
    made_by = records.provenances(full)
    chunk_files(full)[0].unlink()
    run_plan(plan, full)
    assert records.compact(full) == {"even": 2, "odd": 1}
    assert not chunk_files(full)
    assert {table: load(full, table).equals(frame) for table, frame in before.items()} == {"odd": True, "even": True}
    assert records.provenances(full).keys() == made_by.keys()
    assert open_folder(full, plan) == []
    assert run_plan(plan, full).computed == 0


def test_compaction_of_a_part_is_taken_up_again(folder, plan):
    open_folder(folder, plan)
    run_plan(plan, folder, (0, 2))
    records.compact(folder)
    report = run_plan(plan, folder)
    assert 0 < report.computed < report.total
    assert set(rows(folder, "even")) == toy.expected()["even"]
    records.compact(folder)
    assert len(rows(folder, "even")) == len(toy.expected()["even"])


@pytest.mark.parametrize("mends", [open_folder, lambda folder, plan: records.compact(folder)])
def test_a_compaction_killed_before_it_tidied_up_loses_and_doubles_nothing(full, plan, monkeypatch, mends):
    before = load(full, "even")
    with monkeypatch.context() as patched:
        patched.setattr(records, "remove", lambda path: None)
        records.compact(full)
    assert len(chunk_files(full)) == 2
    assert load(full, "even").equals(before)
    assert records.folder_tables(full) == {"odd": 0, "even": 0}
    mends(full, plan)
    assert not chunk_files(full)
    assert load(full, "even").equals(before)


def test_a_chunk_that_is_there_twice_with_other_records_is_named(full, plan):
    before, first = load(full, "even"), chunk_files(full)[0]
    table, made_by = files.read_with_maker(first)
    records.compact(full)
    files.save(full, first.stem, table.with_columns(value=-pl.col("value")), made_by)
    assert load(full, "even").equals(before)
    with pytest.raises(ValueError, match=f"not compacted: {first.stem} have other records in files of their own"):
        records.compact(full)
    assert open_folder(full, plan) == [
        f"{first.name} has other records than even.parquet: set aside in {full / files.SET_ASIDE}."
    ]
    assert load(full, "even").equals(before)


def test_compaction_removes_nothing_before_the_new_file_was_read_again(full, monkeypatch):
    before, put = load(full, "even"), files.put

    def put_spoilt(path, content):
        put(path, content[:-1] if path.name == "even.parquet" else content)

    monkeypatch.setattr(files, "put", put_spoilt)
    with pytest.raises(ValueError, match=r"even.parquet is damaged"):
        records.compact(full)
    assert len(chunk_files(full)) == 2
    with pytest.warns(UserWarning, match=r"even.parquet is damaged"):
        assert load(full, "even").equals(before)


def test_compaction_compares_bits(full, monkeypatch):
    def negated(path):
        table, made_by = files.read_with_maker(path)
        return table.with_columns(value=-1 * pl.col("value")) if "-" not in path.stem else table, made_by

    monkeypatch.setattr(records, "read_with_maker", negated)
    with pytest.raises(ValueError, match=r"even.parquet holds other rows than were written; no chunk was removed"):
        records.compact(full)
    assert len(chunk_files(full)) == 2


@pytest.mark.parametrize("spoil", ["cut", "foreign"])
def test_compaction_refuses_what_is_wrong_by_name(full, plan, spoil):
    victim = chunk_files(full)[0]
    content = {"cut": victim.read_bytes()[:-9], "foreign": chunk_files(full)[1].read_bytes()}[spoil]
    victim.write_bytes(content)
    before = sorted(path.name for path in full.iterdir())
    with pytest.raises(ValueError, match=f"is not compacted: {victim.name} is damaged.* Run the command that made"):
        records.compact(full)
    assert sorted(path.name for path in full.iterdir()) == before
    open_folder(full, plan)
    run_plan(plan, full)
    assert records.compact(full) == {"even": 2, "odd": 1}


@pytest.mark.parametrize("compacted", [False, True])
def test_every_flipped_bit_is_noticed_before_a_parser_sees_it(tmp_path, plan, monkeypatch, compacted):
    """One bit of every seventh byte of a chunk, of a compacted table and of their digests; some would abort polars."""
    folder = folder_at(tmp_path)
    open_folder(folder, plan)
    run_plan(plan, folder)
    if compacted:
        records.compact(folder)
    path = min(folder.glob("even*.parquet"))
    parsed = []
    monkeypatch.setattr(files, "_parsed", lambda path, *_: parsed.append(path.name))
    for each in (path, files.digest_file(path)):
        content = each.read_bytes()
        for place in range(0, len(content), 7):
            each.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
            with pytest.raises(files.Damaged, match=path.name):
                files.read(path)
        each.write_bytes(content)
    assert not parsed
    files.read(path)
    assert parsed


def test_a_damaged_compacted_table_is_computed_again(full, plan):
    before = load(full, "even")
    records.compact(full)
    (full / "even.parquet").write_bytes((full / "even.parquet").read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"even.parquet is damaged.* Run the command that made these records again"):
        load(full, "even")
    assert len(load(full, "odd"))
    (note,) = open_folder(full, plan)
    assert note.startswith("even.parquet is damaged")
    assert run_plan(plan, full).computed == len(before)
    assert load(full, "even").equals(before)


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOSPC, "no space is left"), (errno.EROFS, "read-only"), (errno.EDQUOT, "quota")]
)
def test_a_folder_that_cannot_be_written_says_why_and_keeps_what_is_there(tmp_path, plan, monkeypatch, number, reason):
    folder = folder_at(tmp_path)
    open_folder(folder, plan)
    write, written = files.write, []

    def fails_after_one(path, content):
        if written:
            raise OSError(number, os.strerror(number))
        written.append(path)
        write(path, content)

    monkeypatch.setattr(files, "write", fails_after_one)
    with pytest.raises(OSError, match=reason):
        run_plan(plan, folder)
    monkeypatch.undo()
    assert len(single(folder)) == 1
    report = run_plan(plan, folder)
    assert report.computed < report.total
    assert set(rows(folder, "even")) == toy.expected()["even"]


def test_a_file_in_the_way_is_named(tmp_path, plan):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="a file is in its way"):
        open_folder(folder_at(tmp_path / "file"), plan)


def test_a_claim_is_exclusive_until_it_is_released(tmp_path):
    with store.Claims(folder_at(tmp_path)) as ours, store.Claims(folder_at(tmp_path)) as theirs:
        assert ours.take("even-1")
        assert not theirs.take("even-1")
        assert theirs.take("even-2")
        ours.release("even-1")
        assert theirs.take("even-1")


def test_a_stored_chunk_cannot_be_claimed(tmp_path):
    with store.Claims(folder_at(tmp_path)) as claims:
        files.save(folder_at(tmp_path), "even-1", pl.DataFrame({"value": [1.0]}), {})
        assert not claims.take("even-1")


def test_the_claim_of_a_killed_process_is_free(tmp_path):
    program = (
        "import sys, time\nfrom gvgap_jax.sweep import folder_at, store\n"
        "claims = store.Claims(folder_at(sys.argv[1])); print(claims.take('even-1'), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "True"
        with store.Claims(folder_at(tmp_path)) as claims:
            assert not claims.take("even-1")
            holder.send_signal(signal.SIGKILL)
            holder.wait()
            assert claims.take("even-1")


def test_failures_are_noted_until_the_chunk_is_stored(folder, plan):
    open_folder(folder, plan)
    name = plan.chunks[0].name
    files.save_failure(folder, name, "it rained")
    assert failures(folder) == {name: "it rained"}
    run_plan(plan, folder)
    assert failures(folder) == {}


def test_load_warns_of_nothing_when_all_is_well(full):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert json.dumps(load(full, "odd").columns)
