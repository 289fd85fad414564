"""Files of rows that are no files, never end, explode or are nested without end: refused or dropped in one sentence."""

import gzip
import json
import os

import polars as pl
import pytest

from gvgap_jax.lm.data import read, sources

GOOD = {"prompt": "p", "chosen": "good", "rejected": "bad"}
LINE = json.dumps(GOOD).encode() + b"\n"
FILES = ["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "a.parquet"]


def packed(path, content):
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("name", FILES)
def test_a_folder_or_a_pipe_in_the_place_of_a_file_is_named(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=rf"{name} should be a file, and is a folder; put the file there"):
        read.read_comparisons(tmp_path / name)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / f"pipe_{name}")
        with pytest.raises(ValueError, match=rf"{name} should be a file, and is a pipe, a socket or a device"):
            read.read_comparisons(tmp_path / f"pipe_{name}")
    (tmp_path / f"link_{name}").symlink_to(tmp_path / f"link_{name}")
    with pytest.raises(ValueError, match="there is no file"):
        read.read_demonstrations(tmp_path / f"link_{name}")
    with pytest.raises(ValueError, match=r"should be a file, and is a pipe, a socket or a device|there is no file"):
        read.read_comparisons(f"/dev/{name}")
    (tmp_path / f"zero_{name}").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"should be a file, and is a pipe, a socket or a device|there is no file"):
        read.read_comparisons(tmp_path / f"zero_{name}")


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_row_that_is_too_long_is_dropped_and_the_next_ones_are_read(tmp_path, name, monkeypatch):
    monkeypatch.setattr(sources, "LONGEST", 2**16)
    long = json.dumps(GOOD | {"prompt": "p" * 2**18}).encode() + b"\n"
    fits = json.dumps(GOOD | {"prompt": "p" * (2**16 - len(LINE) + 1)}).encode() + b"\n"
    found = read.read_comparisons(packed(tmp_path / name, LINE + long + fits + long[:-1] + b"\n" + LINE + long[:-1]))
    assert [row.where for row in found.rows] == [f"{name}:1", f"{name}:3", f"{name}:5"]
    assert [tuple(row)[:2] for row in found.dropped] == [
        (f"{name}:{n}", "is longer than 0.0625 MiB") for n in (2, 4, 6)
    ]


BOMBS = {
    "one line of zeros": bytes(2**22),
    "one line that is a text": b'{"prompt": "' + b"a" * 2**22,
    "empty lines": b"\n" * 2**22,
    "lists inside of lists": b"[" * 2**22,
}


@pytest.mark.parametrize("what", BOMBS)
@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz"])
def test_what_explodes_is_refused(tmp_path, name, what, monkeypatch):
    monkeypatch.setattr(sources, "LEAST", 2**18)
    path = packed(tmp_path / name, BOMBS[what])
    assert path.stat().st_size * 150 < 2**22
    with pytest.raises(ValueError, match=rf"{name} unpacks to more than 100 times its size"):
        read.read_comparisons(path)


def test_rows_that_are_much_alike_are_no_bomb(tmp_path):
    path = packed(tmp_path / "a.jsonl.gz", LINE * 100_000)
    assert path.stat().st_size * 100 < len(LINE) * 100_000
    assert len(read.read_comparisons(path).rows) == 100_000


def test_a_list_that_is_too_long_to_be_read_at_once_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "WHOLE", 2**10)
    with pytest.raises(ValueError, match=r"a\.json is larger than .* write one row a line into a \.jsonl file"):
        read.read_comparisons(packed(tmp_path / "a.json", b"[" + b" " * 2**11 + b"]"))


def test_more_rows_than_a_file_can_have_are_refused(tmp_path):
    pl.DataFrame({"prompt": [None]}, schema={"prompt": pl.String}).select(
        pl.col("prompt").repeat_by(2**24 + 2**16).explode()
    ).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet claims 16,842,752 rows in [\d,]+ bytes, which no text takes"):
        read.read_comparisons(tmp_path / "a.parquet")


DEEP = {
    "lists": b"[" * 100_000 + b"]" * 100_000,
    "objects": b'{"prompt":' * 100_000 + b"1" + b"}" * 100_000,
    "a prompt of lists": b'{"chosen": "a", "rejected": "b", "prompt": ' + b"[" * 900 + b"]" * 900 + b"}",
    "a number of 5,000 digits": b'{"chosen": "a", "rejected": "b", "prompt": ' + b"9" * 5000 + b"}",
    "no number": b'{"chosen": "a", "rejected": "b", "prompt": NaN}',
    "a zero in a text": b'{"chosen": "a", "rejected": "b", "prompt": "\0"}',
    "half a character": b'{"chosen": "a", "rejected": "b", "prompt": "\\ud800"}',
    "a message inside of itself": b'{"chosen": "a", "rejected": "b", "prompt": [{"role": {"role": "user"}}]}',
}


@pytest.mark.parametrize("what", DEEP)
def test_a_row_of_another_form_is_dropped(tmp_path, what):
    found = read.read_comparisons(packed(tmp_path / "a.jsonl", LINE + DEEP[what] + b"\n" + LINE))
    assert [row.where for row in found.dropped] == ["a.jsonl:2"]
    assert len(found.rows) == 2
    assert len(found.report()) < 300


GZIPS = {
    "text": b"plain",
    "nothing but a head": gzip.compress(b"x")[:5],
    "half of it": gzip.compress(LINE * 99)[:-9],
    "another sum": gzip.compress(LINE)[:-8] + bytes(8),
    "another byte": gzip.compress(os.urandom(999))[:500] + bytes(500),
    "more behind it": gzip.compress(LINE) + b"more",
}


@pytest.mark.parametrize("what", GZIPS)
@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz"])
def test_a_damaged_compression_is_named(tmp_path, name, what):
    (tmp_path / name).write_bytes(GZIPS[what])
    with pytest.raises(ValueError, match=rf"{name} is no whole gzip file: .*; fetch it again"):
        read.read_comparisons(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" * 9, b"PAR1" + bytes(99) + b"PAR1", b"{}"])
def test_a_damaged_parquet_file_is_named(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.parquet is no Parquet file: "):
        read.read_comparisons(tmp_path / "a.parquet")


def test_a_file_with_a_digest_is_read_only_while_it_is_right(tmp_path):
    path = tmp_path / "a.jsonl"
    read.write_comparisons(path, read.read_comparisons(packed(tmp_path / "b.jsonl", LINE)).rows)
    assert len(read.read_comparisons(path).rows) == 1
    path.write_bytes(path.read_bytes() + LINE)
    with pytest.raises(ValueError, match="its bytes are not those of"):
        read.read_comparisons(path)
