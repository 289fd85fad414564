"""Records as they are read: one data frame a table, whatever files they lie in, and what made them."""

import json
import warnings
from typing import NamedTuple

import polars as pl

from gvgap_jax.runtime.files import (
    Damaged,
    Folder,
    Provenance,
    chunk_file,
    folder_at,
    read_with_maker,
    remove,
    save,
    table_of,
)
from gvgap_jax.runtime.messages import first_few, reason
from gvgap_jax.sweep.fields import FIELDS, joined
from gvgap_jax.sweep.look import Look, look, manifest


def folder_tables(folder: Folder) -> dict[str, int]:
    """Tables of a folder's plan, and how many of their chunks are still missing."""
    seen = look(folder)
    tables = dict.fromkeys((table_of(name) for name in seen.plan), 0)
    for name in seen.missing():
        tables[table_of(name)] += 1
    return tables


def load(folder: str | Folder, table: str | None = None) -> pl.DataFrame:
    """All records of one table of a folder, as one data frame in the order of the plan, with every field of ``Config``.

    A field that the records do not have themselves is joined from the plan; it is null where points with several of its
    values share the cell, whose records do not depend on it.

    The table may be left out where there is only one.

    Files that are no chunk of the folder's plan are not read. Warns of them, of chunks that are still missing, and of
    records that were made by different versions or kinds of device.

    Raises:
      FileNotFoundError: the folder holds no records of that table.
      ValueError: a chunk is damaged, or there are several tables and none is named.
    """
    root = folder_at(folder)
    if table is None:
        tables = list(dict.fromkeys(table_of(name) for name in manifest(root)["chunks"]))
        if len(tables) > 1:
            raise ValueError(f"{folder} holds several tables; name one of {', '.join(tables)}.")
        (table,) = tables
    seen = look(root, table)
    sizes = {name: size for name, (size, _) in seen.plan.items() if table_of(name) == table}
    missing, hers = seen.missing(table), [f"{name}.parquet" for name in (*sizes, table)]
    if FIELDS in seen.wrong or (missing and any(name in seen.wrong for name in hers)):
        raise ValueError(f"{folder}: {seen.complaint()}")
    if len(missing) == len(sizes):
        raise FileNotFoundError(
            f"{folder} holds no records of {table!r}. Run the experiment first, or name its --out folder."
        )
    if seen.wrong:
        warnings.warn(f"{folder}: {seen.complaint()}", stacklevel=2)
    if missing:
        warnings.warn(
            f"{folder}: {len(missing)} of {len(sizes)} chunks of {table!r} are not computed yet.", stacklevel=2
        )
    makers = [seen.makers[name] for name in sizes if name in seen.makers]
    kinds = {json.dumps([made_by["versions"], made_by["device"]]) for made_by in makers}
    if len(kinds) > 1:
        warnings.warn(f"{folder}: records come from {len(kinds)} kinds of device or version: {kinds}.", stacklevel=2)
    chunks = _chunks(root, table, seen)
    names = [name for name in sizes if name in chunks]
    return joined(root, seen.manifest, names, _together(root, [chunks[name] for name in names]))


def _together(folder: Folder, chunks: list[pl.DataFrame]) -> pl.DataFrame:
    try:
        return pl.concat(chunks)
    except pl.exceptions.PolarsError as error:
        raise ValueError(
            f"{folder} holds chunks of one table with different columns ({reason(error)[:80]}), made by different "
            "versions of the experiment: move the folder away, and make its records again."
        ) from error


def _chunks(folder: Folder, table: str, seen: Look) -> dict[str, pl.DataFrame]:
    """The records of every whole chunk of a table; of those that are there twice, those of the compacted file."""
    singles = {name for name in seen.single - seen.compacted if table_of(name) == table}
    chunks = {name: _single(folder, name, seen) for name in singles}
    if any(table_of(name) == table for name in seen.compacted):
        chunks |= _compacted(folder, table)
    return chunks


def _single(folder: Folder, name: str, seen: Look) -> pl.DataFrame:
    path, size = chunk_file(folder, name), seen.plan[name][0]
    records, _ = read_with_maker(path)
    if len(records) != size:
        raise Damaged(path, f"has {len(records)} rows instead of {size}")
    return records


def _compacted(folder: Folder, table: str) -> dict[str, pl.DataFrame]:
    path = chunk_file(folder, table)
    together, makers = read_with_maker(path)
    chunks, start = {}, 0
    for name, made_by in makers.items():
        chunks[name] = together[start : start + made_by["rows"]]
        start += made_by["rows"]
    if start != len(together):
        raise Damaged(path, f"has {len(together)} rows instead of {start}")
    return chunks


def provenances(folder: Folder) -> dict[str, Provenance]:
    """What made every chunk that is whole: versions, device, seconds."""
    return look(folder).makers


def differing_columns(there: pl.DataFrame, wanted: pl.DataFrame) -> list[str]:
    """Columns of which a type, a row or a bit differs, whatever the number: NaN equals only the same NaN."""
    names = dict.fromkeys([*wanted.columns, *there.columns])
    return [name for name in names if _bits(there, name) != _bits(wanted, name)]


def _bits(frame: pl.DataFrame, name: str) -> tuple | None:
    """A column's type and content, to be compared exactly; None if there is none."""
    if name not in frame.columns:
        return None
    column = frame[name]
    nulls = column.is_null().to_list() if column.null_count() else None
    return column.dtype, nulls, column.to_numpy().tobytes() if column.dtype.is_numeric() else column.to_list()


class Doubles(NamedTuple):
    """Chunks that are in a file of their own and in the compacted one too, with the same records and with others."""

    same: list[str]
    other: list[str]


def doubles(folder: Folder, seen: Look) -> Doubles:
    """The chunks that are there twice, as a compaction leaves them that was killed before it had tidied up."""
    found = Doubles([], [])
    twice = sorted(seen.single & seen.compacted)
    tables = {table: _compacted(folder, table) for table in {table_of(name) for name in twice}}
    for name in twice:
        differing = differing_columns(_single(folder, name, seen), tables[table_of(name)][name])
        (found.other if differing else found.same).append(name)
    return found


def compact(folder: Folder) -> dict[str, int]:
    """Put the chunks of every table into one file, which later runs and ``load`` understand.

    Their own files are removed when the new one has been read again, and has the same bits.

    Returns:
      number of chunks in the file of each table.

    Raises:
      ValueError: files are there that are damaged or no chunks of the plan; nothing was done.
      OSError: the folder cannot be written; no file was removed.
    """
    seen = look(folder)
    if seen.wrong:
        raise ValueError(f"{folder} is not compacted: {seen.complaint()}")
    twice = doubles(folder, seen)
    if twice.other:
        raise ValueError(
            f"{folder} is not compacted: {first_few(twice.other)} have other records in files of their own than in the "
            "compacted table. Run the command that made these records again: it sets the former aside."
        )
    for name in twice.same:
        remove(chunk_file(folder, name))
    counts = {}
    for table in sorted({table_of(name) for name in seen.makers}):
        names = [name for name in seen.plan if name in seen.makers and table_of(name) == table]
        if not seen.compacted.issuperset(names):
            _put_together(folder, table, names, seen)
        counts[table] = len(names)
    return counts


def _put_together(folder: Folder, table: str, names: list[str], seen: Look) -> None:
    chunks, path = _chunks(folder, table, seen), chunk_file(folder, table)
    together = _together(folder, [chunks[name] for name in names])
    makers = {name: seen.makers[name] | {"rows": len(chunks[name])} for name in names}
    save(folder, table, together, makers)
    again, made_by = read_with_maker(path)
    if made_by != makers or differing_columns(again, together):
        raise Damaged(path, "holds other rows than were written; no chunk was removed")
    for name in names:
        remove(chunk_file(folder, name))
