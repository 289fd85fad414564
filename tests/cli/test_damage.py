"""Every command against every damage: all say the same of a folder, none ends in a traceback, and ``run`` mends it."""

import errno
import html
import json
import os
import shutil
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from experiments.cli import folders, main
from gvgap_jax.runtime import files
from gvgap_jax.sweep import load
from gvgap_jax.sweep.fields import FIELDS
from gvgap_jax.sweep.look import MANIFEST, look
from tests.report import toy_questions

RUN = ("run", "toy", "--preset", "quick", "--out")
MENDED = "Run the command that made these records again: it sets such files aside and computes what is missing"
GENERIC = "Move it away, and make it again as it was made, or fetch it again."


def draw(records):
    return {"toy": plt.figure(figsize=(len(records["even"]) / 6, 1))}


@pytest.fixture(scope="module", autouse=True)
def registered():
    """The toy experiment is the only one there is."""
    with pytest.MonkeyPatch.context() as patch:
        toy_questions.install(patch, {"toy": toy_questions.toy(draw=draw)})
        patch.setattr(folders.console, "_width", 400)
        yield


@pytest.fixture(scope="module")
def made(registered, tmp_path_factory):
    """Roots of records, whole: in files of their own, compacted, and of another grid."""
    root = tmp_path_factory.mktemp("made")
    main.main([*RUN, str(root / "single" / "toy-quick")])
    shutil.copytree(root / "single", root / "compacted")
    main.main(["compact", str(root / "compacted" / "toy-quick")])
    main.main([*RUN, str(root / "other" / "toy-quick"), "--grid.base", "1.5", "2.5"])
    return root


def text_of(capsys, *command, status=0):
    """What a command prints; it ends with this status."""
    ended = 0
    try:
        main.main([str(argument) for argument in command])
    except SystemExit as stopped:
        ended = stopped.code
    captured = capsys.readouterr()
    assert ended == status, captured
    return " ".join((captured.out + captured.err).split())


def run(folder, capsys, status=0):
    return text_of(capsys, *RUN, folder, status=status)


def status_of(folder, capsys, status=0):
    return text_of(capsys, "status", folder, status=status)


def figures(folder, capsys, status=2):
    return text_of(capsys, "figures", "toy", "--records", folder, "--out", folder.parent / "figures", status=status)


def report(folder, capsys, status=0):
    page = folder.parent / "report.html"
    printed = text_of(capsys, "report", "--records", folder.parent, "--out", page, status=status)
    assert "Traceback" not in page.read_text(encoding="utf-8")
    return printed


def loaded(folder, capsys, status=2):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            load(folder, "even")
        except (ValueError, OSError) as error:
            return str(error)
    return " ".join(str(warning.message) for warning in caught)


def compact(folder, capsys, status=2):
    return text_of(capsys, "compact", folder, status=status)


READERS = [status_of, figures, report, loaded, compact]


def cut(path, made, patch):
    path.write_bytes(path.read_bytes()[:-20])


def empty(path, made, patch):
    path.write_bytes(b"")


def flipped(where):
    def flip(path, made, patch):
        content = bytearray(path.read_bytes())
        content[where(bytes(content))] ^= 1
        path.write_bytes(content)

    return flip


def of_another_grid(path, made, patch):
    (other,) = (made / "other" / "toy-quick").glob("even-*.parquet")
    shutil.copy(other, path)


def of_another_grid_with_its_digest(path, made, patch):
    (other,) = (made / "other" / "toy-quick").glob("even-*.parquet")
    shutil.copy(other, path)
    shutil.copy(files.digest_file(other), files.digest_file(path))


def of_another_grid_with_a_digest_made_for_it(path, made, patch):
    (other,) = (made / "other" / "toy-quick").glob("even-*.parquet")
    files.write(path, other.read_bytes())


def a_folder(path, made, patch):
    path.unlink()
    path.mkdir()


def unreadable(path, made, patch):
    """For this user: root may read everything, so that the system's answer is given here."""
    inode, read = path.stat().st_ino, Path.read_bytes

    def refused(self):
        if self.exists() and self.stat().st_ino == inode:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return read(self)

    patch.setattr(Path, "read_bytes", refused)


def digest_emptied(path, made, patch):
    files.digest_file(path).write_bytes(b"")


def digest_is_a_folder(path, made, patch):
    files.digest_file(path).unlink()
    files.digest_file(path).mkdir()


def gone(path, made, patch):
    files.remove(path)


def text(path, made, patch):
    files.write(path, b"no table at all")


IN_A_FILE = {
    cut: "is damaged: its bytes are not those of {}.sha256",
    empty: "is damaged: its bytes are not those of {}.sha256",
    flipped(lambda content: 0): "is damaged",
    flipped(lambda content: content.index(b"toy")): "is damaged",  # a dictionary page
    flipped(lambda content: len(content) // 3): "is damaged",
    flipped(lambda content: content.index(b"ARROW:schema") + 30): "is damaged",  # the footer
    flipped(lambda content: len(content) - 6): "is damaged",  # its length
    of_another_grid: "is damaged",
    of_another_grid_with_its_digest: "was written as even-",
    of_another_grid_with_a_digest_made_for_it: "was made as even-",
    a_folder: "cannot be read (Is a directory)",
    unreadable: "cannot be read (Permission denied)",
    digest_emptied: "cannot be trusted: {}.sha256 is damaged",
    digest_is_a_folder: "cannot be read (Is a directory)",
    text: "is no table of records",
}
NAMES = [damage.__name__ + str(number) for number, damage in enumerate(IN_A_FILE)]
ONLY_SINGLE = of_another_grid_with_a_digest_made_for_it  # a compacted table of other chunks is named otherwise


@pytest.fixture(params=["single", "compacted"])
def whole(request, made, tmp_path):
    """A copy of whole records, and its file of the table ``even``."""
    shutil.copytree(made / request.param, tmp_path / "root")
    (path,) = (tmp_path / "root" / "toy-quick").glob("even*.parquet")
    return path


@pytest.mark.parametrize("damage", IN_A_FILE, ids=NAMES)
def test_every_command_says_the_same_of_a_damaged_file_and_run_mends_it(whole, made, capsys, monkeypatch, damage):
    folder, before = whole.parent, load(whole.parent, "even")
    damage(whole, made, monkeypatch)
    what = IN_A_FILE[damage].format(whole.name)
    if damage is ONLY_SINGLE and "-" not in whole.name:
        what = "holds"
    sentence = f"{whole.name} {what}"
    names = sorted(path.name for path in folder.iterdir())
    for command in READERS:
        said = command(folder, capsys)
        assert sentence in said, command
        assert MENDED in said, command
    assert sorted(path.name for path in folder.iterdir()) == names
    said = run(folder, capsys)
    assert sentence in said
    assert "set aside in" in said
    assert "6 cells computed" in said
    assert load(folder, "even").equals(before)
    assert whole.name in {path.name for path in (folder / files.SET_ASIDE).iterdir()}
    assert sentence not in status_of(folder, capsys)
    assert "even.parquet: 1 chunks" in compact(folder, capsys, status=0)


@pytest.mark.parametrize(
    "damage", [cut, empty, flipped(lambda content: 99), a_folder, unreadable, digest_emptied, text, gone]
)
def test_every_command_says_the_same_of_damaged_fields_and_run_mends_them(whole, capsys, monkeypatch, damage):
    folder, before = whole.parent, load(whole.parent, "even")
    damage(folder / FIELDS, None, monkeypatch)
    for command in READERS:
        said = command(folder, capsys)
        assert f"{FIELDS} " in said, command
        assert MENDED in said, command
    assert "0 cells computed, 12 found done" in run(folder, capsys)
    assert load(folder, "even").equals(before)
    assert not look(folder).wrong


def test_a_file_of_no_chunk_is_named_by_every_command_and_read_by_none(whole, made, capsys):
    folder, before = whole.parent, load(whole.parent, "even")
    (other,) = (made / "other" / "toy-quick").glob("even-*.parquet")
    for path in (other, files.digest_file(other)):
        shutil.copy(path, folder)
    sentence = f"{other.name} is no chunk of this folder's plan"
    assert sentence in status_of(folder, capsys)
    with pytest.warns(UserWarning, match="is no chunk of this folder's plan"):
        figures(folder, capsys, status=0)
    assert "1 of 1 experiments complete" in report(folder, capsys)
    assert sentence in html.unescape((folder.parent / "report.html").read_text(encoding="utf-8"))
    assert sentence in loaded(folder, capsys)
    assert sentence in compact(folder, capsys)
    assert sentence in run(folder, capsys)
    assert load(folder, "even").equals(before)
    assert not look(folder).wrong


MANIFESTS = {
    "no JSON": (b'{"a":', "is no JSON object"),
    "empty": (b"", "is no JSON object"),
    "no UTF-8": (b"\xff\xfe{}", "is no JSON object"),
    "deep": (b"[" * 100_000, "is no JSON object"),
    "a list": (b"[]", "is no JSON object, but a list"),
    "null": (b"null", "is no JSON object, but a NoneType"),
    "nothing in it": (b"{}", "its 'experiment' is missing or of another type"),
    "chunks a list": ({"chunks": []}, "its 'chunks' is missing or of another type"),
    "sizes words": ({"chunks": {"even-1": ["a", 0]}}, "its 'chunks' is missing or of another type"),
    "programs numbers": ({"programs": [1]}, "its 'programs' is missing or of another type"),
    "grid a word": ({"grid": "all"}, "its 'grid' is missing or of another type"),
    "meaning null": ({"meaning": None}, "its 'meaning' is missing or of another type"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_command_names_a_manifest_that_is_none_and_run_writes_it_anew(whole, capsys, name):
    content, what = MANIFESTS[name]
    path, before = whole.parent / MANIFEST, load(whole.parent, "even")
    kept = json.loads(path.read_bytes())
    files.write(path, content if isinstance(content, bytes) else json.dumps(kept | content).encode())
    every_reader_refuses(whole.parent, capsys, what, GENERIC)
    said = run(whole.parent, capsys)
    assert f"{MANIFEST} {what}" in said or f"{MANIFEST} is damaged" in said
    assert "written anew" in said
    assert "0 cells computed, 12 found done" in said
    assert load(whole.parent, "even").equals(before)
    assert json.loads(path.read_bytes())["chunks"] == kept["chunks"]


@pytest.mark.parametrize("damage", [cut, flipped(lambda content: 50), a_folder, unreadable, digest_emptied])
def test_every_command_names_a_manifest_that_was_damaged_and_run_writes_it_anew(whole, capsys, monkeypatch, damage):
    path, before = whole.parent / MANIFEST, load(whole.parent, "even")
    damage(path, None, monkeypatch)
    every_reader_refuses(whole.parent, capsys, "manifest.json", "")
    assert "written anew" in run(whole.parent, capsys)
    assert load(whole.parent, "even").equals(before)


def every_reader_refuses(folder, capsys, what, todo):
    for command in READERS:
        said = command(folder, capsys, status=0 if command is report else 2)
        assert MANIFEST in said, command
        assert what in said, command
        assert todo in said, command


def test_a_manifest_of_a_newer_version_is_refused_by_all_and_left_alone(whole, capsys):
    path = whole.parent / MANIFEST
    files.write(path, json.dumps(json.loads(path.read_bytes()) | {"format": 99, "chunks": "elsewhere"}).encode())
    content = path.read_bytes()
    every_reader_refuses(whole.parent, capsys, "has format 99", "Update the package, or choose another folder")
    assert "Update the package, or choose another folder" in run(whole.parent, capsys, status=2)
    assert path.read_bytes() == content
    assert whole.exists()


def test_without_a_manifest_there_are_no_records_and_run_finds_them_again(whole, capsys):
    (whole.parent / MANIFEST).unlink()
    for command in (status_of, figures, loaded, compact):
        assert "holds no records. Run the experiment first" in command(whole.parent, capsys, status=2)
    report(whole.parent, capsys)
    assert "0 cells computed, 12 found done" in run(whole.parent, capsys)


def test_a_folder_without_digests_is_read_with_one_warning(whole, capsys):
    for path in whole.parent.glob(f"*{files.DIGEST}"):
        path.unlink()
    before = loaded(whole.parent, capsys)
    assert "files without digests" in before
    assert loaded(whole.parent, capsys) == ""
    assert "12 of 12 cells done" in status_of(whole.parent, capsys)
    assert "0 cells computed, 12 found done" in run(whole.parent, capsys)


class Full:
    """A disk that is full from the given write on."""

    def __init__(self, patch, writes):
        self.left, self.sync = writes, os.fsync
        patch.setattr(os, "fsync", self)

    def __call__(self, number):
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.sync(number)


@pytest.mark.parametrize("writes", range(8))
def test_a_disk_that_is_full_at_any_write_of_a_run_loses_nothing_that_was_stored(made, tmp_path, capsys, writes):
    folder = tmp_path / "toy-quick"
    with pytest.MonkeyPatch.context() as patch:
        Full(patch, writes)
        said = run(folder, capsys, status=2)
    assert f"{folder} cannot be written: no space is left on its device; free some, or choose another --out" in said
    assert "Traceback" not in said
    there = look(folder) if (folder / MANIFEST).exists() else None
    assert there is None or not there.wrong
    assert f"{0 if there is None else 6 * len(there.makers)} found done" in run(folder, capsys).replace(",", "")
    assert load(folder, "even").equals(load(made / "single" / "toy-quick", "even"))


@pytest.mark.parametrize("writes", range(4))
def test_a_disk_that_is_full_at_any_write_of_a_compaction_loses_nothing(made, tmp_path, capsys, writes):
    folder, before = tmp_path / "toy-quick", load(made / "single" / "toy-quick", "even")
    shutil.copytree(made / "single" / "toy-quick", folder)
    with pytest.MonkeyPatch.context() as patch:
        Full(patch, writes)
        assert "no space is left on its device" in compact(folder, capsys, status=2)
    assert not look(folder).wrong
    assert load(folder, "even").equals(before)
    assert "0 cells computed, 12 found done" in run(folder, capsys)
    compact(folder, capsys, status=0)
    assert load(folder, "even").equals(before)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="not on this system")
def test_a_page_that_cannot_be_written_is_named(made, capsys):
    said = text_of(capsys, "report", "--records", made / "single", "--out", "/dev/full", status=2)
    assert "/dev/full cannot be written: no space is left on its device" in said
    said = text_of(capsys, "figures", "toy", "--records", made / "single" / "toy-quick", "--out", "/dev/full", status=2)
    assert "/dev/full cannot be written: a file is in its way" in said
