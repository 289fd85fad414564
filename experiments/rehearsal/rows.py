"""What a rehearsal found out about each program, stored one by one: a rehearsal that was killed goes on."""

import hashlib
import json
from importlib import metadata
from typing import Any, NamedTuple

import jax

from experiments.kit.terminal import console
from experiments.rehearsal.programs import Program
from gvgap_jax.runtime import files
from gvgap_jax.runtime.compiled import Collective, Facts
from gvgap_jax.runtime.files import Damaged, Folder
from gvgap_jax.runtime.targets import Target

READING = 1  # grows when facts are read in another way from the same program
COMPILERS = ("jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin")  # packages that decide what is compiled


class Row(NamedTuple):
    """One program, compiled for a target, or the reason why it was not.

    Attributes:
      program: what was compiled, by whom it is called, and how often.
      facts: of the compiled program; None where it did not compile.
      operations: of one of its rows with its loops as long as they turn out: the mean, and the most of any row; None
        where all lengths are known.
      wrong: why it did not compile, in one line.
      asked: bytes on a device that were too many for its compiler; None where it did not say.
    """

    program: Program
    facts: Facts | None
    operations: tuple[float, float] | None = None
    wrong: str = ""
    asked: float | None = None

    def fits(self, target: Target) -> bool:
        """Whether the program compiled, and its memory is there on every device."""
        return self.facts is not None and self.facts.memory <= target.memory_bytes

    def turns(self, devices: int) -> tuple[float, float]:
        """How many times as many operations a call takes as its facts say, which know one turn of such loops.

        The mean, and where all rows of a batch wait for the one with the most.
        """
        if self.facts is None or self.operations is None or not self.facts.flops:
            return 1.0, 1.0
        mean, most = (each * self.program.rows / devices / self.facts.flops for each in self.operations)
        return mean, most


class Difference(NamedTuple):
    """One program: when it is estimated to be worst, and bytes on a device, estimated and compiled."""

    name: str
    worst: str
    estimate: float
    compiled: float

    @property
    def ratio(self) -> float:
        """Estimate over what was compiled."""
        return self.estimate / self.compiled


def key(text: str, target: Target) -> str:
    """A digest of all that decides what a program compiles to: its text, the devices and the compilers' versions."""
    decides = [READING, text, target.name, [(name, _version(name)) for name in COMPILERS]]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:24]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def stored(folder: Folder, program: Program, name: str) -> Row | None:
    """The row that an earlier rehearsal stored under a key; None where there is none, or where it is damaged."""
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    try:
        found = files.read_json(path)
        if "wrong" in found:
            return Row(program, None, **found)
        counted = found.pop("operations")
        operations = None if counted is None else (float(counted[0]), float(counted[1]))
        collectives = tuple(Collective(**each) for each in found.pop("collectives"))
        return Row(program, Facts(**found, collectives=collectives), operations)
    except (ValueError, TypeError, LookupError, OSError) as error:
        why = files.wrong_by(error) if isinstance(error, Damaged | OSError) else "is not what this version writes"
        aside = files.set_aside(path)
        words = f"{path} {why}. It is set aside ({aside}) and the program is compiled again."
        console.print(words, style="yellow", highlight=False, soft_wrap=True, markup=False)
        return None


def store(folder: Folder, row: Row, name: str) -> None:
    """Store the row of a program that compiled, or that was too large for its compiler, under its key."""
    content: dict[str, Any] = {"wrong": row.wrong, "asked": row.asked}
    if row.facts:
        collectives = [each._asdict() for each in row.facts.collectives]
        content = row.facts._asdict() | {"operations": row.operations, "collectives": collectives}
    with files.explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        files.write(folder / f"{name}.json", json.dumps(content, indent=1).encode())


def reason_of(error: Exception) -> str:
    """The first line of what the compiler said."""
    first = str(error).strip().partition("\n")[0]
    return first if isinstance(error, jax.errors.JaxRuntimeError) else f"{type(error).__name__}: {first}"
