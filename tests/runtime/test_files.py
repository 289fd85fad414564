"""Files are whole and known by their digests: what was cut, changed or copied from elsewhere is never parsed."""

import errno
import io
import os
import pickle
import shutil
import subprocess

import polars as pl
import pytest

from gvgap_jax.runtime import files
from gvgap_jax.runtime.files import Damaged, folder_at


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    """A folder on disk, and one in an object store that lives in memory."""
    made = folder_at(tmp_path / "with space, ü" if request.param == "local" else f"memory://{tmp_path.name}/records")
    made.mkdir(parents=True)
    return made


def digests(path):
    return files.digest_file(path).read_text().splitlines()


def test_what_is_written_is_read_with_its_digest_checked(folder):
    path = folder / "even-1.parquet"
    for content in (b"", b"first", b"second"):
        files.write(path, content)
        assert files.read_bytes(path) == content
        assert len(digests(path)) == 1
    files.remove(path)
    files.remove(path)
    assert not list(folder.iterdir())


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="not on this system")
def test_sha256sum_checks_the_digests(tmp_path):
    files.write(folder_at(tmp_path) / "a b.json", b"{}")
    subprocess.run(["sha256sum", "--strict", "-c", "a b.json.sha256"], cwd=tmp_path, check=True, capture_output=True)


@pytest.mark.parametrize("other", [b"conten", b"content\0", b"", b"Content"])
def test_other_bytes_are_refused(folder, other):
    path = folder / "even-1.parquet"
    files.write(path, b"content")
    path.write_bytes(other)
    with pytest.raises(
        Damaged, match=r"even-1.parquet is damaged: .* of even-1.parquet.sha256. Move it away"
    ) as caught:
        files.read_bytes(path)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("digest", [b"", b"something", b"\xff" * 70, b"0" * 63 + b"  even-1.parquet\n"])
def test_a_damaged_digest_is_said(folder, digest):
    path = folder / "even-1.parquet"
    files.write(path, b"content")
    files.digest_file(path).write_bytes(digest)
    with pytest.raises(Damaged, match=r"cannot be trusted: even-1.parquet.sha256 is damaged"):
        files.read_bytes(path)


def test_a_file_copied_with_its_digest_under_another_name_is_refused(folder):
    path, other = folder / "even-1.parquet", folder / "even-2.parquet"
    files.write(path, b"content")
    other.write_bytes(path.read_bytes())
    files.digest_file(other).write_bytes(files.digest_file(path).read_bytes())
    with pytest.raises(Damaged, match=r"even-2.parquet was written as even-1.parquet, by even-2.parquet.sha256"):
        files.read_bytes(other)


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("steps", range(4))
def test_a_kill_between_any_two_steps_leaves_a_whole_file_or_none(tmp_path, monkeypatch, old, steps):
    path, replace, done = folder_at(tmp_path) / "even-1.parquet", os.replace, []
    if old is not None:
        files.write(path, old)

    def replaced(*names):
        if len(done) == steps:
            raise Killed
        done.append(names)
        replace(*names)

    monkeypatch.setattr(os, "replace", replaced)
    try:
        files.write(path, b"new")
    except Killed:
        assert steps < 3
    monkeypatch.undo()
    if path.exists():
        assert files.read_bytes(path) in (b"new", old)
    else:
        assert old is None
    files.write(path, b"newest")
    assert files.read_bytes(path) == b"newest"
    assert len(digests(path)) == 1


def test_a_reader_of_a_file_that_is_being_replaced_sees_the_old_or_the_new(tmp_path, monkeypatch):
    path = folder_at(tmp_path) / "even-1.parquet"
    files.write(path, b"old")
    known = files._digests

    def replaced_meanwhile(asked):
        monkeypatch.setattr(files, "_digests", known)
        files.write(path, b"new")
        return known(asked)

    monkeypatch.setattr(files, "_digests", replaced_meanwhile)
    assert files.read_bytes(path) == b"new"


@pytest.mark.parametrize("calls", range(2))
def test_a_write_that_fails_leaves_no_file(tmp_path, monkeypatch, calls):
    def fail(number):
        if not left:
            raise OSError(errno.ENOSPC, "full")
        left.pop()

    left = [None] * calls
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        files.write(folder_at(tmp_path) / "some.parquet", b"content")
    assert list(tmp_path.iterdir()) == []


def test_tables_without_digests_are_read_with_one_warning_a_folder(folder):
    for name in ("even-1", "even-2"):
        files.save(folder, name, pl.DataFrame({"value": [1.0]}), {"chunk": name})
        files.digest_file(files.chunk_file(folder, name)).unlink()
    with pytest.warns(UserWarning, match=r"files without digests, such as even-1.parquet"):
        table, made_by = files.read_with_maker(files.chunk_file(folder, "even-1"))
    assert (table["value"].to_list(), made_by) == ([1.0], {"chunk": "even-1"})
    assert len(files.read(files.chunk_file(folder, "even-2"))) == 1


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\0" * 50 + b"PAR1", b"text"])
def test_what_is_no_table_is_said_although_its_digest_is_right(folder, content):
    files.write(folder / "even-1.parquet", content)
    for read in (files.read, files.made_by_of):
        with pytest.raises(Damaged, match="is no table of records"):
            read(folder / "even-1.parquet")


def test_a_table_of_somebody_else_has_no_maker(folder):
    buffer = io.BytesIO()
    pl.DataFrame({"value": [1.0]}).write_parquet(buffer)
    files.write(folder / "some.parquet", buffer.getvalue())
    with pytest.raises(Damaged, match="nothing in it says what made it"):
        files.read(folder / "some.parquet")


def test_what_is_set_aside_keeps_its_digest_and_what_was_there_before(folder):
    path = folder / "even-1.parquet"
    for content in (b"first", b"second"):
        files.write(path, content)
        aside = files.set_aside(path)
        assert not list(folder.glob("even-1*"))
        assert aside.read_bytes() == content
        assert files.digest_file(aside).exists()
    assert sorted(each.name for each in aside.parent.glob("*.sha256")) == [
        "even-1.parquet.2.sha256",
        "even-1.parquet.sha256",
    ]
