"""Rows of ``bench gpu`` and ``bench tpu`` in a folder: a small file each, with its digest, or a note why it failed."""

import hashlib
import json
import re
from statistics import median
from typing import Any, NamedTuple

from gvgap_jax.runtime import files
from gvgap_jax.runtime.files import Damaged, Folder

MEASURED, FAILED = ".json", ".failed"


class Measured(NamedTuple):
    """What one row measured.

    Attributes:
      unit, amount: what is counted, and how many of them a call does.
      seconds: of a call without compiling, one for every repetition.
      compile_seconds: before the first call.
      floors: seconds of a call if one thing alone limited it, by its name: matrix units, memory, or dispatch, the fixed
        costs of a call, however small. All devices together.
      peaks: where the speeds behind the first two are from: published or measured.
      how: sizes and precision, in words.
    """

    unit: str
    amount: float
    seconds: list[float]
    compile_seconds: float
    floors: dict[str, float]
    peaks: str
    how: str

    @property
    def a_second(self) -> float:
        """Units a second, by the median."""
        return self.amount / median(self.seconds)

    def share(self, floor: str) -> float:
        """How near the calls come to that floor: 1 is at it."""
        return self.floors[floor] / median(self.seconds)

    @property
    def limit(self) -> str | None:
        """The highest floor, if there is any."""
        return max(self.floors, key=self.floors.__getitem__, default=None)


class Key(NamedTuple):
    """What a row is of: one that differs in any of it is another row."""

    row: str
    settings: dict[str, Any]
    device: str
    devices: int
    versions: dict[str, str]

    @property
    def name(self) -> str:
        """Of its file, without the ending."""
        content = json.dumps(self._asdict(), sort_keys=True).encode()
        words = re.sub(r"\W+", "-", self.row.lower()).strip("-")
        return f"{words}-{hashlib.sha256(content).hexdigest()[:12]}"


class Stored(NamedTuple):
    """A row of a folder: what it is of, what made it, and what it measured, or the sentence that says why not."""

    key: Key
    made_by: dict[str, Any]
    measured: Measured | None
    failed: str = ""


def save(folder: Folder, stored: Stored) -> None:
    """Store a row, and drop the note that says that it failed; or store this note.

    Raises:
      OSError: the folder cannot be written.
    """
    content = stored._asdict() | {"key": stored.key._asdict()}
    content |= {"measured": stored.measured and stored.measured._asdict()}
    path = folder / f"{stored.key.name}{MEASURED if stored.measured else FAILED}"
    with files.explained(folder):
        files.write(path, (json.dumps(content, indent=1) + "\n").encode())
        if stored.measured:
            files.remove(folder / f"{stored.key.name}{FAILED}")


def load(folder: Folder) -> tuple[list[Stored], list[str]]:
    """Every row of a folder that is whole, oldest first, and a sentence on each damaged file, which is set aside.

    Raises:
      OSError: the folder or a file of it cannot be read, or a damaged one not be moved.
    """
    found, damaged = [], []
    for path in sorted(folder.iterdir()) if folder.exists() else []:
        if path.suffix not in (MEASURED, FAILED):
            continue
        try:
            found.append(_stored(path))
        except Damaged as error:
            damaged.append(f"{path.name} {error.what}; it is now {files.set_aside(path)}, and the row is missing.")
    return sorted(found, key=lambda stored: str(stored.made_by["created"])), damaged


def _stored(path: Folder) -> Stored:
    content = files.read_json(path)
    try:
        key, measured = Key(**content["key"]), content["measured"]
        found = Stored(key, content["made_by"], measured and Measured(**measured), content["failed"])
        whole = (found.measured is None or found.measured.a_second > 0) and "created" in found.made_by
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise Damaged(path, f"is no row of this benchmark ({error!r})") from error
    if not whole or key.name != path.name.removesuffix(path.suffix):
        raise Damaged(path, "is not the row that its name says")
    return found
