"""Rows of files, of folders of files, and of the ``datasets`` library, each with the place where it stands.

A file is JSONL, JSON, Parquet, CSV or TSV, also compressed with gzip, in UTF-8. What cannot be a row is handed on as
``Unread``; what cannot be a file is refused.
"""

import contextlib
import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import polars as pl

from gvgap_jax.lm.data.values import out_of_cell
from gvgap_jax.runtime import foreign, hub
from gvgap_jax.runtime.files import Folder, digest_file, folder_at, is_local, read_bytes
from gvgap_jax.runtime.messages import first_few, reason
from gvgap_jax.runtime.packages import optional

KINDS = (".jsonl", ".json", ".parquet", ".csv", ".tsv")
FILES = (*KINDS, *(f"{kind}.gz" for kind in KINDS))
LONGEST, WHOLE = 2**24, 2**31  # bytes of a row on a line of its own, and of a file that is read at once
LEAST, TIMES = 2**24, 100  # what is compressed may become so many bytes, and so many times its size more
BOM = b"\xef\xbb\xbf"
NO_TEXT = {  # how what is no text in UTF-8 begins -> what to do
    b"\xff\xfe": "is text in UTF-16: save it as UTF-8",
    b"\xfe\xff": "is text in UTF-16: save it as UTF-8",
    b"\x1f\x8b": "is compressed: let its name end in .gz",
    b"version https://git-lfs": "is what Git LFS leaves in place of the file: fetch it with git lfs pull",
}
HOLDERS = ("data", "rows")  # keys under which a JSON object holds its rows, besides the name of the part
PARTS = ("train", "test", "validation", "valid", "val", "dev", "eval")  # that file names may say
TALKS = ("prompt", "chosen", "rejected", "completion", "response", "question", "context", "reference")
HUB = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
NOT_READ = (".txt", ".md", ".xlsx", ".xls", ".arrow", ".pkl", ".zip", ".tar", ".bz2", ".xz", ".zst", ".7z", ".gz")

Rows = Iterator[tuple[str, Any]]


class Unread(NamedTuple):
    """In place of a row, why there is none."""

    reason: str


def rows(source: str | Folder, part: str = "train", name: str | None = None, revision: str | None = None) -> Rows:
    """(where, row) of every row of a file, of the files of a folder, or of what ``datasets`` reads.

    Raises:
      ValueError: it is not there, or cannot be read.
    """
    text = str(source)
    if text.lower().endswith(FILES):
        return _of_file(folder_at(source), part)
    place = Path(text)
    if place.is_dir() and not (place / "dataset_dict.json").exists() and not (place / "state.json").exists():
        files = _files_in(place, part)
        return itertools.chain.from_iterable(_of_file(folder_at(file), part) for file in files)
    if not place.is_dir():
        _check_name(text, place)
    return _of_datasets(text, part, name, revision)


def _check_name(source: str, place: Path) -> None:
    """Refuse what is no name on the hub."""
    if place.exists() or source.lower().endswith(NOT_READ):
        there = "is none of the files that are read" if place.exists() else "is not there, and would not be read"
        raise ValueError(f"{source} {there}: {', '.join(FILES)}.")
    if not HUB.fullmatch(source):
        raise ValueError(f"there is no file or folder {source}, and no data set of the hub has such a name.")


def _files_in(folder: Path, part: str) -> list[Path]:
    """The files of a part, by their names; all of them where no name says a part."""
    files = [
        file
        for place in (folder, folder / "data")
        if place.is_dir()
        for file in sorted(place.iterdir())
        if file.name.lower().endswith(FILES)
    ]
    words = {file: set(re.split(r"[^a-z]+", file.name.lower())) for file in files}
    if any(words[file] & set(PARTS) for file in files):
        wanted = [file for file in files if part.lower() in words[file]]
        if not wanted:
            names = first_few([file.name for file in files])
            raise ValueError(f"{folder} has no file of the part {part!r} in its name; it has {names}.")
        return wanted
    if not files:
        raise ValueError(f"{folder} has no file that ends in {', '.join(FILES)}, and no data set of datasets.")
    return files


def _of_file(file: Folder, part: str) -> Rows:
    foreign.check_file(file)
    kind = file.name.lower().removesuffix(".gz")
    if kind.endswith(".jsonl"):
        return _of_lines(file, part)
    if kind.endswith(".json"):
        return _of_json(file, part)
    return _of_parquet(file) if kind.endswith(".parquet") else _of_table(file, "," if kind.endswith(".csv") else "\t")


def _numbered(file: Folder, found: Any) -> Rows:
    return ((f"{file.name}:{number}", row) for number, row in enumerate(found, 1))


def _of_parquet(file: Folder) -> Rows:
    content = _content(file)
    _check_start(file, content)
    try:
        count = pl.scan_parquet(io.BytesIO(content)).select(pl.len()).collect().item()
        if count > LEAST + len(content):
            raise ValueError(
                f"{file} claims {count:,} rows in {len(content):,} bytes, which no text takes; fetch it again."
            )
        table = pl.read_parquet(io.BytesIO(content))
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{file} is no Parquet file: {error}") from error
    return _of_cells(file, table)


def _of_table(file: Folder, separator: str) -> Rows:
    """Columns of texts below a line of their names; the first row is 1, whatever lines its texts have."""
    content = _content(file)
    _check_start(file, content)
    try:
        table = pl.read_csv(
            io.BytesIO(content.removeprefix(BOM)), separator=separator, infer_schema=False, raise_if_empty=False
        )
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{file} is no table of columns in UTF-8: {reason(error)}.") from error
    if table.width == 1 and (other := next((mark for mark in ";\t|" if mark in table.columns[0]), None)):
        raise ValueError(
            f"{file} has one column, {table.columns[0]!r}: part columns by {separator!r}, not by {other!r}."
        )
    twice = next((name for name in table.columns if name.endswith("_duplicated_0")), None)
    if twice:
        raise ValueError(f"{file} has two columns of the name {twice.removesuffix('_duplicated_0')}: keep one.")
    return _of_cells(file, table)


def _of_cells(file: Folder, table: pl.DataFrame) -> Rows:
    """Rows of a table, whose cells may hold messages as JSON."""
    texts = [name for name in TALKS if name in table.columns and table[name].dtype == pl.String]
    for number, row in enumerate(table.iter_rows(named=True), 1):
        try:
            yield f"{file.name}:{number}", row | {name: out_of_cell(row[name]) for name in texts}
        except ValueError as error:
            yield f"{file.name}:{number}", Unread(str(error))


def _of_lines(file: Folder, part: str) -> Rows:
    """One row a line, or a list of rows, which some call so as well."""
    with _unpacked(file) as stream:
        starts = stream.readline(LONGEST).removeprefix(BOM).lstrip()[:1]
    if starts == b"[":
        yield from _of_json(file, part)
        return
    with _unpacked(file) as stream:
        yield from _lines(file, stream)


def _lines(file: Folder, stream: IO[bytes]) -> Rows:
    for number in itertools.count(1):
        line = stream.readline(LONGEST + 1)
        if not line:
            return
        if number == 1:
            _check_start(file, line)
        if len(line) > LONGEST and not line.endswith(b"\n"):
            yield f"{file.name}:{number}", Unread(f"is longer than {LONGEST / 2**20:g} MiB")
            while line and not line.endswith(b"\n"):
                line = stream.readline(LONGEST)
        elif line.removeprefix(BOM).strip():
            yield f"{file.name}:{number}", _parsed(line.removeprefix(BOM))


def _of_json(file: Folder, part: str) -> Rows:
    """A list of rows, or an object that holds one, or one row a line, which many call JSON as well."""
    content = _content(file)
    _check_start(file, content)
    content = content.removeprefix(BOM)
    if not content.strip():
        return iter(())
    try:
        found = _loads(content.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8 ({error.reason}); save it as UTF-8.") from error
    except RecursionError:
        raise ValueError(f"{file} is no JSON list of rows: it is nested too deeply.") from None
    except json.JSONDecodeError as error:
        if content.lstrip().startswith(b"{") and error.msg == "Extra data":
            return _lines(file, io.BytesIO(content))
        raise ValueError(f"{file}, line {error.lineno}: {error.msg} (column {error.colno}); it is no JSON.") from None
    except _Twice as error:
        raise ValueError(f"{file}: a row {error}; write each key of an object once.") from None
    except ValueError as error:  # a number of thousands of digits
        raise ValueError(f"{file} is no JSON list of rows that can be read: {reason(error)}.") from None
    return _numbered(file, _held(file, found, part))


def _held(file: Folder, found: Any, part: str) -> list[Any]:
    if isinstance(found, list):
        return found
    if not isinstance(found, dict):
        raise ValueError(f"{file} is no JSON list of rows, but {foreign.KINDS.get(type(found), 'something else')}.")
    held = next((found[key] for key in (part, *HOLDERS) if isinstance(found.get(key), list)), None)
    if held is not None:
        return held
    if all(isinstance(value, list | dict) for value in found.values()):
        raise ValueError(
            f"{file} is no JSON list of rows, but an object of {first_few(sorted(found)) or 'nothing'}: write a list "
            f"of rows, or hold it under one of the keys {part}, {', '.join(HOLDERS)}."
        )
    return [found]


def _check_start(file: Folder, content: bytes) -> None:
    for start, what in NO_TEXT.items():
        if content.startswith(start):
            raise ValueError(f"{file} {what}.")


def _content(file: Folder) -> bytes:
    """All that a file holds, decompressed."""
    with _unpacked(file) as stream:
        content = stream.read(WHOLE + 1)
    if len(content) > WHOLE:
        raise ValueError(f"{file} is larger than {WHOLE / 2**30:g} GiB: write one row a line into a .jsonl file.")
    return content


@contextlib.contextmanager
def _unpacked(file: Folder) -> Iterator[IO[bytes]]:
    """What a file holds, decompressed as it is read: up to ``TIMES`` its size, which no text is compressed by."""
    streams = is_local(file) and not digest_file(file).exists()  # else the whole of it is looked at first
    with file.open("rb") if streams else io.BytesIO(read_bytes(file)) as stored:
        if not file.name.lower().endswith(".gz"):
            yield stored
            return
        most = LEAST + TIMES * file.stat().st_size
        try:
            with io.BufferedReader(_Bounded(gzip.GzipFile(fileobj=stored), most)) as stream:
                yield stream
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{file} is no whole gzip file: {error}; fetch it again.") from error
        except OverflowError:
            raise ValueError(
                f"{file} unpacks to more than {TIMES} times its size, which no text does; fetch it again."
            ) from None


class _Bounded(io.RawIOBase):
    """A stream that ends in OverflowError after so many bytes."""

    def __init__(self, stream: gzip.GzipFile, most: int):
        self._stream, self._left = stream, most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._stream.read(len(buffer))
        self._left -= len(content)
        if self._left < 0:
            raise OverflowError
        buffer[: len(content)] = content
        return len(content)


def _parsed(line: bytes) -> Any:
    try:
        return _loads(line.decode())
    except UnicodeDecodeError:
        return Unread("is no UTF-8")
    except _Twice as error:
        return Unread(str(error))
    except (ValueError, RecursionError):
        return Unread("is no JSON")


def _loads(text: str) -> Any:
    """JSON whose objects have every key once."""
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Twice("has an object with the same key twice")
    return found


class _Twice(ValueError):  # noqa: N818  a state of an object
    pass


def _of_datasets(source: str, part: str, name: str | None, revision: str | None) -> Rows:
    datasets = optional("datasets")
    try:
        if (Path(source) / "dataset_dict.json").exists():
            table = datasets.load_from_disk(source)[part]
        elif (Path(source) / "state.json").exists():
            table = datasets.load_from_disk(source)
        else:
            with hub.quiet():
                table = datasets.load_dataset(source, name, split=part, revision=revision)
    except Exception as error:  # of the network, of the hub, of a reader: each has its own
        raise ValueError(
            f"{source} does not end in {', '.join(FILES)}, and datasets cannot read its part {part!r}: {reason(error)}"
        ) from error
    return ((f"{source}/{part}:{number}", row) for number, row in enumerate(table, 1))
