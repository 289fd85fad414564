"""What a folder of records holds, at one look: every command asks here, and so all of them say the same of it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gvgap_jax.runtime.files import (
    Damaged,
    Folder,
    Provenance,
    chunk_file,
    is_local,
    made_by_of,
    read_bytes,
    read_json,
    table_of,
    wrong_by,
)
from gvgap_jax.runtime.messages import first_few
from gvgap_jax.sweep.fields import FIELDS, read_fields

MANIFEST = "manifest.json"
FORMAT = 1  # of the manifest; a version that writes it otherwise raises it
MENDED = "Run the command that made these records again: it sets such files aside and computes what is missing"


class Look(NamedTuple):
    """What a folder holds.

    Attributes:
      manifest: of the folder.
      makers: what made every chunk that is whole.
      single: whole chunks in files of their own.
      compacted: whole chunks in the compacted file of a table, which may be there twice.
      wrong: what is wrong with each other file of records, a phrase; none of them is read.
    """

    manifest: dict[str, Any]
    makers: dict[str, Provenance]
    single: set[str]
    compacted: set[str]
    wrong: dict[str, str]

    @property
    def plan(self) -> dict[str, list[int]]:
        """Cells and number of the program of every chunk of the folder's plan, by name."""
        return self.manifest["chunks"]

    def missing(self, table: str | None = None) -> list[str]:
        """Chunks of the plan, or of one of its tables, that are not there or not whole."""
        return [name for name in self.plan if name not in self.makers and table in (None, table_of(name))]

    def complaint(self) -> str:
        """A sentence on the files that are wrong, and what to do."""
        phrases = [f"{name} {what}" for name, what in self.wrong.items()]
        return f"{first_few(phrases, '; ')}. {MENDED}."


def manifest(folder: Folder) -> dict[str, Any]:
    """The manifest of a folder of records.

    Raises:
      FileNotFoundError: the folder has none.
      Damaged: it is not what was written.
      ValueError: a newer version of the package wrote it.
      OSError: it cannot be read.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no records. Run the experiment first, or name its --out folder.")
    found = read_json(path)
    version = found.get("format", FORMAT)
    if isinstance(version, int) and version > FORMAT:
        raise ValueError(
            f"{path} has format {version}, and this version of gvgap_jax reads {FORMAT}: a newer one wrote these "
            "records. Update the package, or choose another folder."
        )
    for key, is_right in _PARTS.items():
        if not is_right(found.get(key)):
            raise Damaged(
                path, f"is damaged, or of another version of gvgap_jax: its {key!r} is missing or of another type"
            )
    return found


def _is_grid(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("axes"), dict)


def _are_chunks(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(each, list) and len(each) == 2 and all(type(number) is int for number in each)
        for each in value.values()
    )


_PARTS = {
    "experiment": lambda value: isinstance(value, str),
    "meaning": lambda value: isinstance(value, int),
    "grid": _is_grid,
    "programs": lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
    "chunks": _are_chunks,
}


def look(folder: Folder, table: str | None = None) -> Look:
    """What a folder holds, or what it holds of one table: the bytes of every file are checked by its digest.

    Raises:
      FileNotFoundError, ValueError, OSError: its manifest cannot be read, see ``manifest``.
    """
    found = manifest(folder)
    plan = found["chunks"]
    tables = {table_of(name) for name in plan}
    seen, folder = Look(found, {}, set(), set(), {}), Path(folder) if is_local(folder) else folder  # a Path is quicker
    if "batches" in found:  # earlier versions had no fields
        with _noted(seen, folder / FIELDS):
            read_fields(folder)
    for name in _files(folder):
        of = table_of(name) if "-" in name else name
        if table not in (None, of):
            continue
        path = chunk_file(folder, name)
        with _noted(seen, path):
            if name in plan:
                seen.makers.setdefault(name, _maker_of(path, name))
                seen.single.add(name)
            elif name in tables:  # comes before its chunks
                inside = _makers_in(path, plan)
                seen.makers.update(inside)
                seen.compacted.update(inside)
            else:
                seen.wrong[path.name] = "is no chunk of this folder's plan"
    return seen


@contextlib.contextmanager
def _noted(seen: Look, path: Folder) -> Iterator[None]:
    try:
        yield
    except (Damaged, OSError) as error:
        seen.wrong[path.name] = wrong_by(error)


def _files(folder: Folder) -> list[str]:
    return sorted(path.name.removesuffix(".parquet") for path in folder.glob("*.parquet"))


def _maker_of(path: Folder, name: str) -> Provenance:
    made_by = made_by_of(path)
    if made_by.get("chunk") != name:
        raise Damaged(path, f"was made as {made_by.get('chunk', 'no chunk')}")
    return made_by


def _makers_in(path: Folder, plan: dict[str, list[int]]) -> dict[str, Provenance]:
    makers = made_by_of(path)
    foreign = [name for name in makers if name not in plan]
    if foreign:
        raise Damaged(path, f"holds chunks that are not of this folder's plan ({first_few(foreign)})")
    for name, made_by in makers.items():
        if not isinstance(made_by, dict) or made_by.get("rows") != plan[name][0] or made_by.get("chunk") != name:
            raise Damaged(path, f"holds another chunk than {name}, or not all of its rows")
    return makers


def single(folder: Folder) -> set[str]:
    """Names of the chunks that have a file of their own; ``look`` says whether it is whole."""
    return {name for name in _files(folder) if "-" in name}


def stored(folder: Folder) -> set[str]:
    """Names of the chunks that have a file of their own, or that a compacted table has."""
    names = _files(folder)
    inside = (made_by_of(chunk_file(folder, name)) for name in names if "-" not in name)
    return {name for name in names if "-" in name}.union(*inside)


def exists(folder: Folder, name: str) -> bool:
    """Whether the chunk called ``name`` is in a file of its own."""
    return chunk_file(folder, name).exists()


def failures(folder: Folder) -> dict[str, str]:
    """Chunks that could not be computed, and why."""
    return {path.stem: _note(path) for path in sorted(folder.glob("*.failed"))}


def _note(path: Folder) -> str:
    try:
        return read_bytes(path).decode(errors="replace")
    except (Damaged, OSError) as error:
        return f"why, nobody knows: the note {wrong_by(error)}"
