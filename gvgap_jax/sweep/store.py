"""Folders that plans are run into: what is there is checked, what is computed is claimed by one process.

Local processes that share a folder claim chunks by file locks, which the system drops when a process
dies. Object stores have no locks: there, give every process its own shard.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from gvgap_jax.runtime.files import (
    DIGEST,
    SET_ASIDE,
    Damaged,
    Folder,
    chunk_file,
    explained,
    is_local,
    lock_of,
    read,
    remove,
    set_aside,
    table_of,
    write,
    wrong_by,
)
from gvgap_jax.runtime.provenance import environment
from gvgap_jax.sweep.fields import save_fields
from gvgap_jax.sweep.identity import changes, differences, grids_of, identity
from gvgap_jax.sweep.look import MANIFEST, Look, exists, look, manifest
from gvgap_jax.sweep.plan import Chunk, Plan
from gvgap_jax.sweep.records import doubles


def open_folder(folder: Folder, plan: Plan) -> list[str]:
    """Make ``folder`` ready for the records of a plan.

    Returns:
      what a reader should know, one sentence each: from which smaller grid the plan goes on, and which files were found
      wrong and are set aside.

    Raises:
      ValueError: the folder holds records of another experiment, meaning or grid.
      OSError: the folder cannot be written.
    """
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        stored, notes = _manifest(folder)
        if stored is not None:
            notes += _going_on(folder, stored, plan)
        notes += save_fields(folder, plan)  # first: a manifest is never without them, and older ones fit newer fields
        if stored is None or "batches" not in stored or len(grids_of(stored)) <= len(plan.earlier):
            _write_manifest(folder, plan)
        return notes + _mended(folder, plan)


@contextlib.contextmanager
def _alone(folder: Folder) -> Iterator[None]:
    """One process at a time looks after a folder; an object store has no locks."""
    if not is_local(folder):
        yield
        return
    with explained(folder):
        held = lock_of(folder, MANIFEST).acquire()
    with held:
        yield


def _manifest(folder: Folder) -> tuple[dict[str, Any] | None, list[str]]:
    """The manifest that can be read, and what was wrong with one that cannot, which is set aside."""
    path = folder / MANIFEST
    try:
        return manifest(folder), []
    except FileNotFoundError:
        return None, []
    except (Damaged, OSError) as error:
        wrong = wrong_by(error)
    set_aside(path)
    return None, [f"{path.name} {wrong}: set aside in {folder / SET_ASIDE}, and written anew."]


def _going_on(folder: Folder, stored: dict[str, Any], plan: Plan) -> list[str]:
    """From which smaller grid the plan goes on, if it does.

    Raises:
      ValueError: it is another plan.
    """
    differing, before = differences(stored, plan), grids_of(stored)
    if differing:
        raise ValueError(
            f"{folder} holds records of another plan ({differing}). A folder goes on with more seeds or more values of "
            "an axis, and keeps all that it has: choose another --out, or remove that folder."
        )
    if len(before) > len(plan.earlier):
        return []
    cells = sum(size for size, _ in stored["chunks"].values())
    return [f"{folder} goes on from {cells:,} cells of a smaller grid ({'; '.join(changes(before[-1], plan.grid))})."]


def _write_manifest(folder: Folder, plan: Plan) -> None:
    entries = (identity(plan) | environment()).items()
    text = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in entries)
    with explained(folder):
        write(folder / MANIFEST, f"{{\n{text}\n}}\n".encode())


class Claims(contextlib.AbstractContextManager):
    """The chunks that this process alone is computing. Leaving the context gives all of them up."""

    def __init__(self, folder: Folder):
        self._folder = folder
        self._held: dict[str, filelock.BaseFileLock] = {}

    def take(self, name: str) -> bool:
        """Claim a chunk; False if another process is at it, or has stored it."""
        if not is_local(self._folder):
            return not exists(self._folder, name)
        with explained(self._folder):
            lock = lock_of(self._folder, name)
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
            with contextlib.suppress(PermissionError):  # Windows keeps a file that is open
                Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()

    def __exit__(self, *_):
        for name in list(self._held):
            self.release(name)


def _mended(folder: Folder, plan: Plan) -> list[str]:
    """Set aside what is no whole chunk of the plan, and remove what is there twice; a sentence on each file."""
    seen = look(folder)
    wrong = seen.wrong | _other_cells(folder, plan, seen)
    for name in wrong:
        set_aside(folder / name)
    twice = doubles(folder, seen._replace(single={name for name in seen.single if f"{name}.parquet" not in wrong}))
    for name in twice.same:
        remove(chunk_file(folder, name))
    for name in twice.other:
        wrong[set_aside(chunk_file(folder, name)).name] = f"has other records than {table_of(name)}.parquet"
    return [f"{name} {what}: set aside in {folder / SET_ASIDE}." for name, what in wrong.items()]


def _other_cells(folder: Folder, plan: Plan, seen: Look) -> dict[str, str]:
    """Files without digests whose cells are not those of their chunk's name."""
    paths = {name: chunk_file(folder, name) for name in seen.single}
    digested = {path.name for path in folder.glob(f"*{DIGEST}")}
    undigested = {name: path for name, path in paths.items() if path.name + DIGEST not in digested}
    known = [chunk for chunk in plan.chunks if chunk.name in undigested]
    found = {f"{chunk.name}.parquet": _difference(undigested[chunk.name], chunk) for chunk in known}
    return {name: what for name, what in found.items() if what}


def _difference(path: Folder, chunk: Chunk) -> str:
    records = read(path)
    if len(records) != chunk.size:
        return f"has {len(records)} rows instead of {chunk.size}"
    for name, values in chunk.columns.items():
        if name not in records.columns or not (records[name].to_numpy() == values).all():
            return f"holds other cells than its name says (column {name!r})"
    return ""
