"""Records on disk: a folder of immutable Parquet files, one a chunk, beside a manifest of the plan that makes them.

A folder may be local or in an object store (``gs://…``, ``s3://…``, ``memory://…``): paths are universal_pathlib's.
Local processes that share a folder claim chunks by file locks, which the system drops when a process
dies. Object stores have no locks: there, give every process its own shard.
"""

import contextlib
import dataclasses
import errno
import io
import json
import os
import platform
import socket
import subprocess
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import filelock
import jax
import polars as pl
from upath import UPath

from gvgap_jax.sweep.grid import Chunk, Plan

MANIFEST = "manifest.json"
SET_ASIDE = "set_aside"
LOCKS = ".locks"
MADE_BY = "gvgap_jax"  # key of the provenance in a file's metadata

Folder = UPath | Path
Provenance = dict[str, Any]


def folder_at(path: str | Folder) -> Folder:
    """The folder at a local path or at the address of an object store.

    Raises:
      ValueError: the package that reads such addresses is not installed, or there is none.
    """
    folder = UPath(path)
    if not _is_local(folder):
        try:
            folder.fs  # noqa: B018  looked up on first use
        except ImportError as error:
            raise ValueError(f"{path}: {error}, or name a local folder.") from error
    return folder


def open_folder(folder: Folder, plan: Plan) -> list[str]:
    """Make ``folder`` ready for the records of a plan.

    Returns:
      what was found wrong with files that were there, one sentence each; those files are set aside.

    Raises:
      ValueError: the folder holds records of another experiment, meaning or grid.
      OSError: the folder cannot be written.
    """
    path, wanted = folder / MANIFEST, _identity(plan)
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder, MANIFEST) if _is_local(folder) else contextlib.nullcontext():
            if not path.exists():
                _write(path, (json.dumps(wanted | environment(), indent=1) + "\n").encode())
    differing = _differences(json.loads(path.read_text()), wanted)
    if differing:
        raise ValueError(
            f"{folder} holds records of another plan ({differing}). Choose another --out, or remove that folder."
        )
    return _set_bad_files_aside(folder, plan)


def _identity(plan: Plan) -> dict:
    programs = list(dict.fromkeys(repr(chunk.batch.program) for chunk in plan.chunks))
    index = {program: number for number, program in enumerate(programs)}
    identity = {
        "experiment": plan.experiment,
        "meaning": plan.meaning,
        "grid": dataclasses.asdict(plan.grid) | {"axes": {name: list(v) for name, v in plan.grid.axes.items()}},
        "programs": programs,
        "chunks": {chunk.name: [chunk.size, index[repr(chunk.batch.program)]] for chunk in plan.chunks},
    }
    return json.loads(json.dumps(identity))


def _differences(found: dict, wanted: dict) -> str:
    if found.get("experiment") != wanted["experiment"]:
        return f"experiment {found.get('experiment')!r}, wanted {wanted['experiment']!r}"
    if found.get("meaning") != wanted["meaning"]:
        return (
            f"the experiment's records meant something else when they were made: meaning {found.get('meaning')} "
            f"there, {wanted['meaning']} now"
        )
    old, new = ({"seeds": None, **each["grid"]["axes"], **each["grid"]} for each in (found, wanted))
    changed = [
        f"{name} {old.get(name)} there, {new.get(name)} now"
        for name in old | new
        if name != "axes" and old.get(name) != new.get(name)
    ]
    if changed:
        return "; ".join(changed)
    return "" if found["chunks"] == wanted["chunks"] else "the same grid, cut by another version of the experiment"


def environment() -> Provenance:
    """Versions, device kind, host and revision: what made a file."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": _revision(),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("gvgap_jax", "jax", "jaxlib", "numpy", "optax", "flax")},
        "device": jax.local_devices()[0].device_kind,
        "devices": jax.local_device_count(),
    }


def _revision() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"
    return found.stdout.strip()


@contextlib.contextmanager
def _explained(folder: Folder) -> Iterator[None]:
    """Say what to do about a folder that cannot be written."""
    try:
        yield
    except OSError as error:
        reason = {
            errno.ENOSPC: "no space is left on its device; free some, or choose another --out",
            errno.EDQUOT: "its quota is used up; free some space, or choose another --out",
            errno.EROFS: "its file system is read-only; choose another --out",
            errno.EACCES: "this user may not write there; change its permissions, or choose another --out",
            errno.EEXIST: "a file is in its way; choose another --out",
            errno.ENOTDIR: "a file is in its way; choose another --out",
        }.get(error.errno or 0, str(error))
        raise OSError(error.errno, f"{folder} cannot be written: {reason}. Chunks stored so far are kept") from error


def _write(path: Folder, content: bytes) -> None:
    """Write a whole file or none; one process at a time. An object store does so by itself."""
    if not _is_local(path):
        path.write_bytes(content)
        return
    temporary = Path(path).with_name(f".{path.name}.part")  # what a killed process left is written over
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _lock(folder: Path, name: str) -> filelock.BaseFileLock:
    locks = Path(folder) / LOCKS
    locks.mkdir(exist_ok=True)
    return filelock.FileLock(locks / name)


def _is_local(path: Folder) -> TypeGuard[Path]:
    return isinstance(path, Path)


def save(folder: Folder, name: str, records: pl.DataFrame, made_by: Provenance) -> None:
    """Store one chunk of records, with what made it in the file's metadata.

    Raises:
      OSError: the folder cannot be written; the message says why, and what to do.
    """
    buffer = io.BytesIO()
    records.write_parquet(buffer, metadata={MADE_BY: json.dumps(made_by)})
    with _explained(folder):
        _write(_file(folder, name), buffer.getvalue())
        _failure(folder, name).unlink(missing_ok=True)


def save_failure(folder: Folder, name: str, reason: str) -> None:
    """Note why a chunk could not be computed; the note goes when the chunk is stored."""
    with _explained(folder):
        _write(_failure(folder, name), reason.encode())


def _file(folder: Folder, name: str) -> Folder:
    return folder / f"{name}.parquet"


def _failure(folder: Folder, name: str) -> Folder:
    return folder / f"{name}.failed"


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
        for name in _made_by(_file(folder, table))
    }
    return Stored({name for name in names if "-" in name}, compacted)


def exists(folder: Folder, name: str) -> bool:
    """Whether the chunk called ``name`` is in a file of its own."""
    return _file(folder, name).exists()


class Claims(contextlib.AbstractContextManager):
    """The chunks that this process alone is computing. Leaving the context gives all of them up."""

    def __init__(self, folder: Folder):
        self._folder = folder
        self._held: dict[str, filelock.BaseFileLock] = {}

    def take(self, name: str) -> bool:
        """Claim a chunk; False if another process is at it, or has stored it."""
        if not _is_local(self._folder):
            return not exists(self._folder, name)
        with _explained(self._folder):
            lock = _lock(self._folder, name)
            try:
                lock.acquire(blocking=False)
            except filelock.Timeout:
                return False
        self._held[name] = lock
        if exists(self._folder, name):
            self.release(name)
            return False
        return True

    def release(self, name: str) -> None:
        """Give a chunk up."""
        lock = self._held.pop(name, None)
        if lock is None:
            return
        if exists(self._folder, name):  # nobody needs the lock again
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()

    def __exit__(self, *_):
        for name in list(self._held):
            self.release(name)


def _set_bad_files_aside(folder: Folder, plan: Plan) -> list[str]:
    known = {chunk.name: chunk for chunk in plan.chunks}
    complaints = []
    for path in sorted(folder.glob("*.parquet")):
        if "-" not in path.stem:
            continue
        chunk = known.get(path.stem)
        reason = "is no chunk of this plan" if chunk is None else _what_is_wrong(path, chunk)
        if reason:
            aside = folder / SET_ASIDE
            with _explained(folder):
                aside.mkdir(exist_ok=True)
                with contextlib.suppress(FileNotFoundError):  # another process has just done so
                    path.rename(str(aside / path.name))
            complaints.append(f"{path.name} {reason}: set aside in {aside}.")
    return complaints


def _what_is_wrong(path: Folder, chunk: Chunk) -> str:
    """Why a file is not the chunk that it is called, or nothing."""
    try:
        records, made_for = _read(path), _made_by(path).get("chunk")
    except (pl.exceptions.PolarsError, OSError, ValueError, KeyError) as error:
        return f"cannot be read, truncated perhaps ({str(error).splitlines()[0][:80]})"
    if made_for != chunk.name:
        return f"was made as {made_for}"
    if len(records) != chunk.size:
        return f"has {len(records)} rows instead of {chunk.size}"
    for name, values in chunk.batch.columns.items():
        if name not in records.columns or not (records[name].to_numpy() == values).all():
            return f"holds other cells than its name says (column {name!r})"
    return ""


def _read(path: Folder) -> pl.DataFrame:
    return pl.read_parquet(io.BytesIO(path.read_bytes()))


def _made_by(path: Folder) -> Any:
    source = str(path) if _is_local(path) else io.BytesIO(path.read_bytes())
    return json.loads(pl.read_parquet_metadata(source)[MADE_BY])


def manifest(folder: Folder) -> dict:
    """The manifest of a folder of records.

    Raises:
      FileNotFoundError: the folder has none.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no records. Run the experiment first, or name its --out folder.")
    return json.loads(path.read_text())


def folder_tables(folder: Folder) -> dict[str, int]:
    """Tables of a folder's plan, and how many of their chunks are still missing."""
    there, names = stored(folder), manifest(folder)["chunks"]
    missing = dict.fromkeys((_table(name) for name in names), 0)
    for name in names:
        missing[_table(name)] += name not in there
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
    tables = folder_tables(root)
    if table is None:
        if len(tables) > 1:
            raise ValueError(f"{folder} holds several tables; name one of {', '.join(tables)}.")
        (table,) = tables
    sizes = {name: size for name, (size, _) in manifest(root)["chunks"].items() if _table(name) == table}
    there = stored(root)
    present = [name for name in sizes if name in there]
    if not present:
        raise FileNotFoundError(
            f"{folder} holds no records of {table!r}. Run the experiment first, or name its --out folder."
        )
    missing = len(sizes) - len(present)
    if missing:
        warnings.warn(f"{folder}: {missing} of {len(sizes)} chunks of {table!r} are not computed yet.", stacklevel=2)
    frames, makers = zip(*_chunks(root, table, there), strict=True)
    by_name = dict(zip((name for name, _ in makers), frames, strict=True))
    made_for = {name: made["chunk"] for name, made in makers}
    for name in present:
        if len(by_name[name]) != sizes[name] or made_for[name] != name:
            raise ValueError(f"{folder}/{name}.parquet is damaged; the command that made it will compute it again.")
    kinds = {json.dumps([made["versions"], made["device"]]) for _, made in makers}
    if len(kinds) > 1:
        warnings.warn(f"{folder}: records come from {len(kinds)} kinds of device or version: {kinds}.", stacklevel=2)
    return pl.concat([by_name[name] for name in present])


def _table(name: str) -> str:
    return name.rpartition("-")[0]


def _chunks(folder: Folder, table: str, there: Stored) -> Iterator[tuple[pl.DataFrame, tuple[str, Provenance]]]:
    """Every stored chunk of a table: its records, name and provenance."""
    if table in there.compacted.values():
        path = _file(folder, table)
        together, start = _read(path), 0
        for name, made_by in _made_by(path).items():
            yield together[start : start + made_by["rows"]], (name, made_by)
            start += made_by["rows"]
    for name in sorted(there.single):
        if _table(name) == table and name not in there.compacted:
            yield _read(_file(folder, name)), (name, _made_by(_file(folder, name)))


def provenances(folder: Folder) -> dict[str, Provenance]:
    """What made every stored chunk: versions, device, seconds."""
    there = stored(folder)
    single = {name: _made_by(_file(folder, name)) for name in there.single}
    tables = set(there.compacted.values())
    return {name: made for table in tables for name, made in _made_by(_file(folder, table)).items()} | single


def failures(folder: Folder) -> dict[str, str]:
    """Chunks that could not be computed, and why."""
    return {path.stem: path.read_text() for path in folder.glob("*.failed")}


def compact(folder: Folder) -> dict[str, int]:
    """Put the chunks of every table into one file, which later runs and ``load`` understand.

    Returns:
      number of chunks in the file of each table.

    Raises:
      OSError: the folder cannot be written.
    """
    there, plan = stored(folder), manifest(folder)["chunks"]
    counts = {}
    for table in sorted({_table(name) for name in plan}):
        found = {name: (frame, made) for frame, (name, made) in _chunks(folder, table, there) if name in plan}
        if not found:
            continue
        names = [name for name in plan if name in found]
        makers = {name: found[name][1] | {"rows": len(found[name][0])} for name in names}
        save(folder, table, pl.concat([found[name][0] for name in names]), makers)
        for name in names:
            _file(folder, name).unlink(missing_ok=True)
        counts[table] = len(names)
    return counts
