"""Records as they are read: one data frame a table, whatever files they lie in, and what made them."""

import json
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import polars as pl

from gvgap_jax.runtime.files import (
    Folder,
    Provenance,
    chunk_file,
    folder_at,
    made_by_of,
    read_bytes,
    read_json,
    read_with_maker,
    remove,
    save,
    table_of,
)

MANIFEST = "manifest.json"


def manifest(folder: Folder) -> dict:
    """The manifest of a folder of records.

    Raises:
      FileNotFoundError: the folder has none.
      ValueError: it is damaged.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no records. Run the experiment first, or name its --out folder.")
    return read_json(path)


class Stored(NamedTuple):
    """Names of the chunks in a folder: in files of their own, and inside the compacted file of each table."""

    single: set[str]
    compacted: dict[str, str]

    def __contains__(self, name: str) -> bool:
        return name in self.single or name in self.compacted


def stored(folder: Folder) -> Stored:
    """Which chunks a folder holds."""
    names = {path.stem for path in folder.glob("*.parquet")}
    compacted = {
        name: table
        for table in sorted(name for name in names if "-" not in name)
        for name in made_by_of(chunk_file(folder, table))
    }
    return Stored({name for name in names if "-" in name}, compacted)


def exists(folder: Folder, name: str) -> bool:
    """Whether the chunk called ``name`` is in a file of its own."""
    return chunk_file(folder, name).exists()


def folder_tables(folder: Folder) -> dict[str, int]:
    """Tables of a folder's plan, and how many of their chunks are still missing."""
    there, names = stored(folder), manifest(folder)["chunks"]
    missing = dict.fromkeys((table_of(name) for name in names), 0)
    for name in names:
        missing[table_of(name)] += name not in there
    return missing


def load(folder: str | Folder, table: str | None = None) -> pl.DataFrame:
    """All records of one table of a folder, as one data frame in the order of the plan.

    The table may be left out where there is only one.

    Files that are no chunk of the folder's plan are not read. Warns of chunks that are still missing, and of
    records that were made by different versions or kinds of device.

    Raises:
      FileNotFoundError: the folder holds no records of that table.
      ValueError: a chunk is damaged, or there are several tables and none is named.
    """
    root = folder_at(folder)
    plan, there = manifest(root)["chunks"], stored(root)
    if table is None:
        tables = list(dict.fromkeys(table_of(name) for name in plan))
        if len(tables) > 1:
            raise ValueError(f"{folder} holds several tables; name one of {', '.join(tables)}.")
        (table,) = tables
    sizes = {name: size for name, (size, _) in plan.items() if table_of(name) == table}
    present = [name for name in sizes if name in there]
    if not present:
        raise FileNotFoundError(
            f"{folder} holds no records of {table!r}. Run the experiment first, or name its --out folder."
        )
    missing = len(sizes) - len(present)
    if missing:
        warnings.warn(f"{folder}: {missing} of {len(sizes)} chunks of {table!r} are not computed yet.", stacklevel=2)
    chunks = dict(_chunks(root, table, there, plan))
    for name in present:
        records, made_by = chunks[name]
        if len(records) != sizes[name] or made_by["chunk"] != name:
            raise ValueError(f"{folder}/{name}.parquet is damaged; the command that made it will compute it again.")
    kinds = {json.dumps([made_by["versions"], made_by["device"]]) for _, made_by in chunks.values()}
    if len(kinds) > 1:
        warnings.warn(f"{folder}: records come from {len(kinds)} kinds of device or version: {kinds}.", stacklevel=2)
    return pl.concat([chunks[name][0] for name in present])


def _chunks(
    folder: Folder, table: str, there: Stored, plan: dict
) -> Iterator[tuple[str, tuple[pl.DataFrame, Provenance]]]:
    """Every stored chunk of a table: its name, records and provenance."""
    if table in there.compacted.values():
        (together, makers), start = read_with_maker(chunk_file(folder, table)), 0
        for name, made_by in makers.items():
            yield name, (together[start : start + made_by["rows"]], made_by)
            start += made_by["rows"]
    for name in sorted(there.single):
        if table_of(name) == table and name in plan and name not in there.compacted:
            yield name, read_with_maker(chunk_file(folder, name))


def provenances(folder: Folder) -> dict[str, Provenance]:
    """What made every stored chunk: versions, device, seconds."""
    there = stored(folder)
    single = {name: made_by_of(chunk_file(folder, name)) for name in there.single}
    tables = set(there.compacted.values())
    return {name: made for table in tables for name, made in made_by_of(chunk_file(folder, table)).items()} | single


def failures(folder: Folder) -> dict[str, str]:
    """Chunks that could not be computed, and why."""
    return {path.stem: read_bytes(path).decode(errors="replace") for path in folder.glob("*.failed")}


def compact(folder: Folder) -> dict[str, int]:
    """Put the chunks of every table into one file, which later runs and ``load`` understand.

    Returns:
      number of chunks in the file of each table.

    Raises:
      OSError: the folder cannot be written.
    """
    there, plan = stored(folder), manifest(folder)["chunks"]
    counts = {}
    for table in sorted({table_of(name) for name in plan}):
        kept = {name: chunk for name, chunk in _chunks(folder, table, there, plan) if name in plan}
        if not kept:
            continue
        names = [name for name in plan if name in kept]
        makers = {name: kept[name][1] | {"rows": len(kept[name][0])} for name in names}
        save(folder, table, pl.concat([kept[name][0] for name in names]), makers)
        for name in names:
            remove(chunk_file(folder, name))
        counts[table] = len(names)
    return counts
