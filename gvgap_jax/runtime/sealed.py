"""Folders that are written once: the digests of all their files, by which damage is noticed before anything is read."""

import functools
import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from gvgap_jax.runtime.files import Folder, explained, is_local, read_json, write
from gvgap_jax.runtime.messages import first_few

FILES = "files"


def seal(folder: Folder, place: Folder, note: dict[str, Any] | None = None, but: Collection[str] = ()) -> None:
    """Note the digests of all files below a folder, and what else there is to say of it, in the JSON file ``place``.

    Files of the names ``but`` are left out.

    Raises:
      OSError: the file cannot be written.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in but)
    found = {path.relative_to(str(folder)).as_posix(): digest(path) for path in paths}
    with explained(place.parent):
        place.parent.mkdir(parents=True, exist_ok=True)
        write(place, json.dumps((note or {}) | {FILES: found}, indent=1).encode())


def damage(folder: Folder, place: Folder) -> str:
    """What is wrong with a folder that ``place`` seals, in words that go on after its name; empty where it is whole.

    Files that the seal does not name are passed over.

    Raises:
      ValueError: the seal itself is damaged.
      OSError: it cannot be read.
    """
    wanted = read_json(place).get(FILES, {})
    lost = [name for name in wanted if not (folder / name).is_file()]
    if lost:
        return f"lacks {first_few(lost)}"
    other = [name for name in wanted if digest(folder / name) != wanted[name]]
    return f"has other bytes in {first_few(other)} than were written" if other else ""


def digest(path: Folder) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; a file of this machine that has not changed since is read once."""
    if not is_local(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    seen = path.stat()
    return _digest(path.absolute(), seen.st_ino, seen.st_mtime_ns, seen.st_size)


@functools.lru_cache(4096)
def _digest(path: Path, *version: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
