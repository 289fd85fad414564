"""Files of a folder of records, local or in an object store: written whole or not at all, with what made them.

Addresses like ``gs://…``, ``s3://…`` and ``memory://…`` are universal_pathlib's.
"""

import contextlib
import errno
import hashlib
import io
import itertools
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeGuard

import filelock
import polars as pl
from upath import UPath

from gvgap_jax.runtime.messages import reason

LOCKS = ".locks"
SET_ASIDE = "set_aside"
DIGEST = ".sha256"
LINE = re.compile(r"(?P<digest>[0-9a-f]{64}) [ *](?P<name>.+)")
MADE_BY = "gvgap_jax"  # key of the provenance in a file's metadata

Folder = UPath | Path
Provenance = dict[str, Any]
NO_TABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError, OverflowError, MemoryError)

_warned_of: set[str] = set()


class Damaged(ValueError):  # noqa: N818  a state of a file
    """A file does not hold what was written under its name: ``what`` is a phrase that says why."""

    def __init__(self, path: Folder, what: str):
        super().__init__(f"{path} {what}. Move it away, and make it again as it was made, or fetch it again.")
        self.path, self.what = path, what

    def __reduce__(self):
        return type(self), (self.path, self.what)


def wrong_by(error: Damaged | OSError) -> str:
    """What is wrong with a file that could not be read, a phrase that goes on after its name."""
    if isinstance(error, Damaged):
        return error.what
    return f"cannot be read ({error.strerror or reason(error)})"


def folder_at(path: str | Folder) -> Folder:
    """The folder at a local path or at the address of an object store.

    Raises:
      ValueError: the package that reads such addresses is not installed, or there is none.
    """
    folder = UPath(path)
    if not is_local(folder):
        try:
            folder.fs  # noqa: B018  looked up on first use
        except ImportError as error:
            raise ValueError(f"{path}: {error}, or name a local folder.") from error
    return folder


@contextlib.contextmanager
def explained(folder: Folder) -> Iterator[None]:
    """Say what to do about a folder that cannot be written."""
    try:
        yield
    except OSError as error:
        reason = {
            errno.ENOSPC: "no space is left on its device; free some, or choose another --out",
            errno.EDQUOT: "its quota is used up; free some space, or choose another --out",
            errno.EFBIG: "a file would be larger than this user may write; choose another --out",
            errno.EROFS: "its file system is read-only; choose another --out",
            errno.EACCES: "this user may not write there; change its permissions, or choose another --out",
            errno.EEXIST: "a file is in its way; choose another --out",
            errno.ENOTDIR: "a file is in its way; choose another --out",
            errno.EISDIR: "a folder is in the way of a file; remove it, or choose another --out",
        }.get(error.errno or 0, str(error))
        raise OSError(error.errno, f"{folder} cannot be written: {reason}. What is stored is kept") from error


def digest_file(path: Folder) -> Folder:
    """The file beside a file that has the digest of its bytes, in the format of ``sha256sum``."""
    return path.with_name(path.name + DIGEST)


def write(path: Folder, content: bytes) -> None:
    """Write a whole file or none, and its digest beside it; one process at a time.

    The digest is written first. While it replaces another file the digests of both stand there: a kill leaves at any
    moment a file of which one line is right.
    """
    beside, new, old = digest_file(path), _digest(content), _digest_of_whole(path)
    put(beside, _lines(path.name, {new: None, old: None} if old else {new: None}))
    try:
        put(path, content)
    except BaseException:
        with contextlib.suppress(OSError):
            if not path.exists():
                beside.unlink(missing_ok=True)
        raise
    if old not in (None, new):
        put(beside, _lines(path.name, {new: None}))


def put(path: Folder, content: bytes) -> None:
    """Write a whole file or none, without a digest. An object store does so by itself."""
    if not is_local(path):
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


def read_bytes(path: Folder) -> bytes:
    """The bytes of a file, which are right by its digest where it has one: no parser need see others.

    Raises:
      OSError: it cannot be read.
      Damaged: they are not those that were written under its name.
    """
    return _read(path)[0]


def _read(path: Folder) -> tuple[bytes, bool]:
    """The bytes, and whether there is a digest that says that they are right."""
    for _ in range(2):  # another process may be replacing the file between these two lines
        content = path.read_bytes()
        known = _digests(path)
        if known is None or _digest(content) in known:
            return content, known is not None
    raise Damaged(path, f"is damaged: its bytes are not those of {digest_file(path).name}")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _lines(name: str, digests: Iterable[str]) -> bytes:
    return "".join(f"{digest}  {name}\n" for digest in digests).encode()


def _digests(path: Folder) -> set[str] | None:
    """The digests that its file of digests gives a file; None where there is no such file."""
    beside = digest_file(path)
    try:
        lines = beside.read_bytes().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return None
    found = [LINE.fullmatch(line) for line in lines]
    others = [match["name"] for match in found if match and match["name"] != path.name]
    if others:
        raise Damaged(path, f"was written as {others[0]}, by {beside.name}")
    if not found or not all(found):
        raise Damaged(path, f"cannot be trusted: {beside.name} is damaged")
    return {match["digest"] for match in found if match}


def _digest_of_whole(path: Folder) -> str | None:
    """Of the file that is there and whole."""
    try:
        return _digest(read_bytes(path))
    except (OSError, Damaged):
        return None


def remove(path: Folder) -> None:
    """Remove a file, if it is there, and its digest."""
    path.unlink(missing_ok=True)
    digest_file(path).unlink(missing_ok=True)


def set_aside(path: Folder) -> Folder:
    """Move a file, whatever it is, and its digest into the folder ``set_aside`` beside it; the place where it is now.

    Raises:
      OSError: it cannot be moved.
    """
    folder = path.parent / SET_ASIDE
    with explained(folder):
        folder.mkdir(exist_ok=True)
        taken = {each.name for each in folder.iterdir()}
        names = itertools.chain([path.name], (f"{path.name}.{number}" for number in itertools.count(2)))
        name = next(name for name in names if name not in taken and name + DIGEST not in taken)
        for there, then in ((path, name), (digest_file(path), name + DIGEST)):
            with contextlib.suppress(FileNotFoundError):  # another process has just done so, or it has no digest
                there.rename(str(folder / then))
    return folder / name


def lock_of(folder: Path, name: str) -> filelock.BaseFileLock:
    locks = Path(folder) / LOCKS
    locks.mkdir(exist_ok=True)
    return filelock.FileLock(locks / name)


def is_local(path: Folder) -> TypeGuard[Path]:
    return isinstance(path, Path)


def chunk_file(folder: Folder, name: str) -> Folder:
    return folder / f"{name}.parquet"


def failure_file(folder: Folder, name: str) -> Folder:
    return folder / f"{name}.failed"


def table_of(name: str) -> str:
    return name.rpartition("-")[0]


def read(path: Folder) -> pl.DataFrame:
    """The table in a file that ``save`` wrote; raises what ``read_with_maker`` does."""
    return read_with_maker(path)[0]


def made_by_of(path: Folder) -> Any:
    """What made the table in a file, as ``save`` was told; raises what ``read_with_maker`` does."""
    return _parsed(path, _made_by, _read_own(path))


def read_with_maker(path: Folder) -> tuple[pl.DataFrame, Any]:
    """The table in a file that ``save`` wrote, and what made it. Warns once a folder of files that have no digest.

    Raises:
      OSError: it cannot be read.
      Damaged: it is not what was written under its name, or no such table.
    """
    content = _read_own(path)
    return _parsed(path, pl.read_parquet, content), _parsed(path, _made_by, content)


def _read_own(path: Folder) -> bytes:
    content, digested = _read(path)
    folder = str(path.parent)
    if not digested and folder not in _warned_of:
        _warned_of.add(folder)
        warnings.warn(
            f"{folder} has files without digests, such as {path.name}, as earlier versions wrote them: if their bytes "
            "were changed since, nobody will notice.",
            stacklevel=4,
        )
    return content


def _made_by(file: io.BytesIO) -> Any:
    metadata = pl.read_parquet_metadata(file)
    if MADE_BY not in metadata:
        raise ValueError("nothing in it says what made it")
    return json.loads(metadata[MADE_BY], object_pairs_hook=_sharing_words)


def _sharing_words(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; what made a hundred thousand chunks says the same of nearly all."""
    return {sys.intern(key): sys.intern(value) if type(value) is str else value for key, value in pairs}


def _parsed(path: Folder, parse: Callable[[io.BytesIO], Any], content: bytes) -> Any:
    try:
        return parse(io.BytesIO(content))
    except NO_TABLE as error:
        raise Damaged(path, f"is no table of records, truncated perhaps ({reason(error)[:80]})") from error


def read_json(path: Folder) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      OSError: it cannot be read.
      Damaged: there is none in it, or not the one that was written.
    """
    content = read_bytes(path)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Damaged(path, f"is no JSON object ({error}): it is damaged") from error
    if not isinstance(found, dict):
        raise Damaged(path, f"is no JSON object, but a {type(found).__name__}")
    return found


def save(folder: Folder, name: str, records: pl.DataFrame, made_by: Provenance) -> None:
    """Store one chunk of records, with what made it in the file's metadata.

    Raises:
      OSError: the folder cannot be written; the message says why, and what to do.
    """
    buffer = io.BytesIO()
    records.write_parquet(buffer, metadata={MADE_BY: json.dumps(made_by)})
    with explained(folder):
        write(chunk_file(folder, name), buffer.getvalue())
        remove(failure_file(folder, name))


def save_failure(folder: Folder, name: str, reason: str) -> None:
    """Note why a chunk could not be computed; the note goes when the chunk is stored."""
    with explained(folder):
        write(failure_file(folder, name), reason.encode())
