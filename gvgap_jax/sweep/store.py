"""Folders that plans are run into: what is there is checked, what is computed is claimed by one process.

Local processes that share a folder claim chunks by file locks, which the system drops when a process
dies. Object stores have no locks: there, give every process its own shard.
"""

import contextlib
import dataclasses
import json
from pathlib import Path

import filelock

from gvgap_jax.runtime import messages
from gvgap_jax.runtime.files import (
    SET_ASIDE,
    Damaged,
    Folder,
    explained,
    is_local,
    lock_of,
    read_with_maker,
    set_aside,
    write,
)
from gvgap_jax.runtime.provenance import environment
from gvgap_jax.sweep.plan import Chunk, Plan
from gvgap_jax.sweep.records import MANIFEST, exists, manifest


def open_folder(folder: Folder, plan: Plan) -> list[str]:
    """Make ``folder`` ready for the records of a plan.

    Returns:
      what was found wrong with files that were there, one sentence each; those files are set aside.

    Raises:
      ValueError: the folder holds records of another experiment, meaning or grid.
      OSError: the folder cannot be written.
    """
    path = folder / MANIFEST
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with lock_of(folder, MANIFEST) if is_local(folder) else contextlib.nullcontext():
            if not path.exists():
                write(path, (json.dumps(_identity(plan) | environment(), indent=1) + "\n").encode())
    differing = differences(manifest(folder), plan)
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


def differences(stored: dict, plan: Plan) -> str:
    """How the plan of a folder's manifest differs from ``plan``, in words; empty where it does not."""
    wanted = _identity(plan)
    if stored.get("experiment") != wanted["experiment"]:
        return f"experiment {stored.get('experiment')!r}, wanted {wanted['experiment']!r}"
    if stored.get("meaning") != wanted["meaning"]:
        return (
            f"the experiment's records meant something else when they were made: meaning {stored.get('meaning')} "
            f"there, {wanted['meaning']} now"
        )
    changed = messages.differences(*({**grid["axes"], **grid, "axes": {}} for grid in (stored["grid"], wanted["grid"])))
    if changed:
        return "; ".join(changed)
    return "" if stored["chunks"] == wanted["chunks"] else "the same grid, cut by another version of the experiment"


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


def _set_bad_files_aside(folder: Folder, plan: Plan) -> list[str]:
    known = {chunk.name: chunk for chunk in plan.chunks}
    notes = []
    for path in sorted(folder.glob("*.parquet")):
        if "-" not in path.stem:
            continue
        chunk = known.get(path.stem)
        reason = "is no chunk of this plan" if chunk is None else _what_is_wrong(path, chunk)
        if reason:
            set_aside(path)
            notes.append(f"{path.name} {reason}: set aside in {folder / SET_ASIDE}.")
    return notes


def _what_is_wrong(path: Folder, chunk: Chunk) -> str:
    """Why a file is not the chunk that it is called, or nothing."""
    try:
        records, made_by = read_with_maker(path)
    except Damaged as error:
        return error.what
    except OSError as error:
        return f"cannot be read ({messages.reason(error)})"
    made_for = made_by.get("chunk")
    if made_for != chunk.name:
        return f"was made as {made_for}"
    if len(records) != chunk.size:
        return f"has {len(records)} rows instead of {chunk.size}"
    for name, values in chunk.columns.items():
        if name not in records.columns or not (records[name].to_numpy() == values).all():
            return f"holds other cells than its name says (column {name!r})"
    return ""
