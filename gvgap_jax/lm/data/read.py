"""Preference data in files, folders and on the Hugging Face hub, read as text, split by prompt, and written again.

Rows keep their order. In which order a run sees them is ``objectives.shuffled`` of its key and the step: nothing is
shuffled here, and a resumed run needs no position. What is malformed is counted and named, see ``rows``.
"""

import contextlib
import gzip
import hashlib
import io
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Generic, NamedTuple, TypeVar

import polars as pl

from gvgap_jax.lm.data.rows import (
    POST,
    Comparison,
    ComparisonForm,
    Demonstration,
    DemonstrationForm,
    Dropped,
    check_form,
    comparison,
    demonstration,
    report,
)
from gvgap_jax.lm.data.tokenizer import Prompt
from gvgap_jax.runtime import foreign
from gvgap_jax.runtime.files import Folder, digest_file, explained, folder_at, is_local, read_bytes, write
from gvgap_jax.runtime.messages import reason
from gvgap_jax.runtime.packages import optional

FILES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
LONGEST, WHOLE = 2**24, 2**31  # bytes of a row on a line of its own, and of a file that is one JSON list
LEAST, TIMES = 2**24, 100  # what is compressed may become so many bytes, and so many times its size more

Kind = TypeVar("Kind", Comparison, Demonstration)
Rows = Iterator[tuple[str, Any]]


class Corpus(NamedTuple, Generic[Kind]):
    """The rows that could be read, and those that could not."""

    rows: list[Kind]
    dropped: list[Dropped]

    def report(self) -> str:
        """One sentence on what is malformed, and where."""
        return report(len(self.rows), self.dropped)


def read_comparisons(
    source: str | Folder,
    form: ComparisonForm | None = None,
    *,
    part: str = "train",
    name: str | None = None,
    revision: str | None = None,
    most_malformed: float = 0.5,
) -> Corpus[Comparison]:
    """The comparisons of a file (JSONL or JSON, also .gz, or Parquet), or of a folder or repository of ``datasets``.

    Args:
      source: a file's path or address; else what ``datasets.load_dataset`` takes, or a folder that it has saved.
      form: of all rows; None to see it from each row's keys.
      part: such as "validation", of a data set of ``datasets``.
      name: of one data set among several of a repository.
      revision: of the repository, to read the same rows next year.
      most_malformed: share of the rows that may be malformed.

    Raises:
      ValueError: it cannot be read, has no rows, or too many are malformed.
    """
    check_form(form, ComparisonForm)
    rows = _rows(source, part, name, revision)
    return _corpus(source, rows, lambda row, where: comparison(row, form, where), most_malformed)


def read_demonstrations(
    source: str | Folder,
    form: DemonstrationForm | None = None,
    *,
    part: str = "train",
    name: str | None = None,
    revision: str | None = None,
    most_malformed: float = 0.5,
) -> Corpus[Demonstration]:
    """Demonstrations, with the arguments and errors of ``read_comparisons``."""
    check_form(form, DemonstrationForm)
    rows = _rows(source, part, name, revision)
    return _corpus(source, rows, lambda row, where: demonstration(row, form, where), most_malformed)


def split(rows: Sequence[Kind], held_out_share: float) -> tuple[list[Kind], list[Kind]]:
    """Rows to train on and rows to hold out, by a hash of the prompt.

    A prompt is on one side only, the same one in every file and whatever other rows there are.

    Raises:
      ValueError: ``held_out_share`` is not at least 0 and below 1.
    """
    if not 0 <= held_out_share < 1:
        raise ValueError(f"held_out_share must be at least 0 and below 1, got {held_out_share}.")
    held = [_place(row.prompt) < held_out_share for row in rows]
    return (
        [row for row, out in zip(rows, held, strict=True) if not out],
        [row for row, out in zip(rows, held, strict=True) if out],
    )


def write_comparisons(path: str | Folder, rows: Iterable[Comparison]) -> None:
    """JSONL (.gz by its name) that ``read_comparisons`` reads again, whole or not at all.

    Posts are written in the form ``choice``, the chosen summary first; texts and messages in the form ``pair``.

    Raises:
      OSError: it cannot be written.
    """
    lines = "".join(json.dumps(_written(row), ensure_ascii=False) + "\n" for row in rows).encode()
    file = folder_at(path)
    with explained(file):
        write(file, gzip.compress(lines, mtime=0) if file.name.endswith(".gz") else lines)


def _written(row: Comparison) -> dict[str, Any]:
    reference = {} if row.reference is None else {"reference": row.reference}
    if isinstance(row.prompt, dict) and set(row.prompt) == set(POST):
        info = {name: row.prompt[name] for name in POST}
        return {"info": info, "summaries": [{"text": row.chosen}, {"text": row.rejected}], "choice": 0} | reference
    return {"prompt": row.prompt, "chosen": row.chosen, "rejected": row.rejected} | reference


def _place(prompt: Prompt) -> float:
    """Of a prompt in [0, 1)."""
    digest = hashlib.sha256(json.dumps(prompt, sort_keys=True).encode()).digest()
    return (int.from_bytes(digest[:8]) >> 11) / 2**53


def _corpus(source, rows: Rows, parse: Callable[[Any, str], Kind], most_malformed: float) -> Corpus[Kind]:
    corpus = Corpus([], [])
    for where, row in rows:
        try:
            if isinstance(row, _Unread):
                raise ValueError(row.reason)
            corpus.rows.append(parse(row, where))
        except ValueError as error:
            corpus.dropped.append(Dropped(where, str(error)))
    total = len(corpus.rows) + len(corpus.dropped)
    if not total:
        raise ValueError(f"{source} has no rows.")
    if not corpus.rows or len(corpus.dropped) > most_malformed * total:
        raise ValueError(f"{source}: {corpus.report()} Name the form, or mend the file.")
    return corpus


class _Unread(NamedTuple):
    reason: str


def _rows(source: str | Folder, part: str, name: str | None, revision: str | None) -> Rows:
    """(where, row) of every row."""
    if not str(source).endswith(FILES):
        return _of_datasets(str(source), part, name, revision)
    file = folder_at(source)
    foreign.check_file(file)
    if file.name.endswith(".parquet"):
        return _of_parquet(file)
    return _of_lines(file) if ".jsonl" in Path(file.name).suffixes else _of_list(file)


def _of_parquet(file: Folder) -> Rows:
    content = read_bytes(file)
    try:
        rows = pl.scan_parquet(io.BytesIO(content)).select(pl.len()).collect().item()
        if rows > LEAST + len(content):
            raise ValueError(
                f"{file} claims {rows:,} rows in {len(content):,} bytes, which no text takes; fetch it again."
            )
        table = pl.read_parquet(io.BytesIO(content))
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{file} is no Parquet file: {error}") from error
    return ((f"{file.name}:{number}", row) for number, row in enumerate(table.iter_rows(named=True), 1))


def _of_lines(file: Folder) -> Rows:
    with _unpacked(file) as stream:
        for number in itertools.count(1):
            line = stream.readline(LONGEST + 1)
            if not line:
                return
            if len(line) > LONGEST and not line.endswith(b"\n"):
                yield f"{file.name}:{number}", _Unread(f"is longer than {LONGEST / 2**20:g} MiB")
                while line and not line.endswith(b"\n"):
                    line = stream.readline(LONGEST)
            elif line.strip():
                yield f"{file.name}:{number}", _parsed(line)


def _of_list(file: Folder) -> Rows:
    with _unpacked(file) as stream:
        content = stream.read(WHOLE + 1)
    if len(content) > WHOLE:
        raise ValueError(f"{file} is larger than {WHOLE / 2**30:g} GiB: write one row a line into a .jsonl file.")
    rows = _parsed(content)
    if not isinstance(rows, list):
        raise ValueError(f"{file} is no JSON list of rows; write one row a line into a .jsonl file, or a list.")
    return ((f"{file.name}:{number}", row) for number, row in enumerate(rows, 1))


@contextlib.contextmanager
def _unpacked(file: Folder) -> Iterator[IO[bytes]]:
    """What a file holds, decompressed as it is read: up to ``TIMES`` its size, which no text is compressed by."""
    streams = is_local(file) and not digest_file(file).exists()  # else the whole of it is looked at first
    with file.open("rb") if streams else io.BytesIO(read_bytes(file)) as stored:
        if not file.name.endswith(".gz"):
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
        return json.loads(line.decode())
    except UnicodeDecodeError:
        return _Unread("is no UTF-8")
    except (ValueError, RecursionError):
        return _Unread("is no JSON")


def _of_datasets(source: str, part: str, name: str | None, revision: str | None) -> Rows:
    datasets = optional("datasets")
    try:
        if (Path(source) / "dataset_dict.json").exists():
            table = datasets.load_from_disk(source)[part]
        elif (Path(source) / "state.json").exists():
            table = datasets.load_from_disk(source)
        else:
            table = datasets.load_dataset(source, name, split=part, revision=revision)
    except Exception as error:  # of the network, of the hub, of a reader: each has its own
        raise ValueError(
            f"{source} does not end in {', '.join(FILES)}, and datasets cannot read its part {part!r}: {reason(error)}"
        ) from error
    return ((f"{source}/{part}:{number}", row) for number, row in enumerate(table, 1))
