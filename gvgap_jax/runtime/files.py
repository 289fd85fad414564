"""Files of a folder of records, local or in an object store: written whole or not at all, with what made them.

Addresses like ``gs://…``, ``s3://…`` and ``memory://…`` are universal_pathlib's.
"""

import contextlib
import errno
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

import filelock
import polars as pl
from upath import UPath

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
            errno.EROFS: "its file system is read-only; choose another --out",
            errno.EACCES: "this user may not write there; change its permissions, or choose another --out",
            errno.EEXIST: "a file is in its way; choose another --out",
            errno.ENOTDIR: "a file is in its way; choose another --out",
        }.get(error.errno or 0, str(error))
        raise OSError(error.errno, f"{folder} cannot be written: {reason}. Chunks stored so far are kept") from error


def write(path: Folder, content: bytes) -> None:
    """Write a whole file or none; one process at a time. An object store does so by itself."""
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
    return pl.read_parquet(io.BytesIO(path.read_bytes()))


def made_by_of(path: Folder) -> Any:
    source = str(path) if is_local(path) else io.BytesIO(path.read_bytes())
    return json.loads(pl.read_parquet_metadata(source)[MADE_BY])


def read_json(path: Folder) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      ValueError: there is none in it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON object ({error}): it is damaged; fetch or make it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no JSON object, but a {type(content).__name__}; fetch or make it again.")
    return content


def save(folder: Folder, name: str, records: pl.DataFrame, made_by: Provenance) -> None:
    """Store one chunk of records, with what made it in the file's metadata.

    Raises:
      OSError: the folder cannot be written; the message says why, and what to do.
    """
    buffer = io.BytesIO()
    records.write_parquet(buffer, metadata={MADE_BY: json.dumps(made_by)})
    with explained(folder):
        write(chunk_file(folder, name), buffer.getvalue())
        failure_file(folder, name).unlink(missing_ok=True)


def save_failure(folder: Folder, name: str, reason: str) -> None:
    """Note why a chunk could not be computed; the note goes when the chunk is stored."""
    with explained(folder):
        write(failure_file(folder, name), reason.encode())
