"""What every stage is handed, and how work in chunks is stored so that a killed stage loses one chunk at most."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import polars as pl
from rich.progress import Progress

from experiments.kit.terminal import console
from experiments.tldr.keys import Made, digest
from experiments.tldr.settings import MEANING, Recipe
from gvgap_jax.runtime import processes, provenance
from gvgap_jax.runtime.files import (
    Damaged,
    Folder,
    chunk_file,
    explained,
    read,
    read_json,
    save,
    set_aside,
    write,
    wrong_by,
)
from gvgap_jax.runtime.progress import BAR
from gvgap_jax.training.layouts import Layout
from gvgap_jax.types import PRNGKey

LATEST = "stages.json"  # what each stage was made of when it was last wanted; it says why, and decides nothing
PASSES = "passes"


class Stopped(Exception):  # noqa: N818  it is no error
    """The run was asked to stop, and everything done so far is stored."""


class Run(NamedTuple):
    """One seed of a recipe, in its folder, on a layout of devices.

    Attributes:
      made: what each stage is made of; known once the data are read.
    """

    recipe: Recipe
    folder: Folder
    layout: Layout
    stopped: Callable[[], bool]
    made: Mapping[str, Made] = {}

    def key(self, purpose: str) -> PRNGKey:
        """A key of its own for every purpose."""
        return jax.random.fold_in(jax.random.key(self.recipe.seed), _number(purpose))

    def place(self, stage: str) -> Folder:
        """The folder of a stage, under its key."""
        return self.folder / f"{stage}-{self.made[stage].key}"


def _number(purpose: str) -> int:
    # A hash of all of it: the last letters alone are shared by the samples of all online rounds.
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:4], "big") >> 1


def say_again(run: Run, made: Made) -> None:
    """Say that a stage is computed again, and why, if there was another one before."""
    before = _latest(run).get(made.stage)
    if before is not None:
        why = made.since(before) or "what was there is gone"
        console.print(f"{made.stage}: computed again: {why}", highlight=False, soft_wrap=True)


def say_kept(run: Run, made: Made, place: Folder) -> None:
    """Say that a stage is there already."""
    before = _latest(run).get(made.stage)
    back = "" if before is None or before == made else f", made before it was last changed: {made.since(before)}"
    console.print(f"{made.stage}: kept ({place.name}{back})", highlight=False, soft_wrap=True)


def note(run: Run, made: Made) -> None:
    """Remember what a stage that is done was made of."""
    if processes.is_first():
        with explained(run.folder):
            latest = _latest(run) | {made.stage: made}
            content = {stage: each._asdict() | {"key": each.key} for stage, each in latest.items()}
            write(run.folder / LATEST, json.dumps(content, indent=1).encode())


def _latest(run: Run) -> dict[str, Made]:
    path = run.folder / LATEST
    if not processes.is_first() or not path.exists():
        return {}
    try:
        return {stage: Made(*(each[name] for name in Made._fields)) for stage, each in read_json(path).items()}
    except (ValueError, KeyError, TypeError) as error:
        console.print(f"[yellow]{path} is set aside ({error}); results are found without it.[/yellow]", soft_wrap=True)
        set_aside(path)
        return {}


Rows = Any  # tokens [N, P] or [N, H] in the memory of the host
Compute = Callable[[int, np.ndarray], dict[str, Any]]


def in_chunks(run: Run, name: str, rows: int, of: dict[str, Any], start: Callable[[], Compute]) -> pl.DataFrame:
    """Columns that are computed for so many rows, a chunk at a time, or read where they are stored already.

    Args:
      run: whose folder they go to.
      name: of the pass; no other has it.
      rows: how many there are.
      of: what decides the columns, beside the name, the seed and the size of a chunk; they are stored under its digest.
      start: makes what computes a chunk, from its number and the numbers of its rows; those of the last chunk repeat
        the last row, so that all chunks have one shape. It is called only if a chunk is missing or damaged.

    Raises:
      Stopped: the run was asked to stop.
    """
    folder, size = run.folder / PASSES, run.recipe.chunk
    of = of | {"meaning": MEANING, "name": name, "seed": run.recipe.seed, "chunk": size, "dtype": run.recipe.dtype}
    names = [f"{name}-{digest(of)[:12]}-{number:06d}" for number in range(-(-rows // size))]
    missing = [number for number, each in enumerate(names) if not _is_there(folder, each)]
    if missing:
        compute = start()
        with Progress(*BAR, disable=not processes.is_first()) as bars:
            task = bars.add_task(name, total=len(names), completed=len(names) - len(missing))
            for number in missing:
                if processes.agreed(run.stopped()):
                    raise Stopped
                _compute(folder, names[number], number, size, rows, compute)
                bars.advance(task)
        processes.barrier(name)
    return pl.concat([read(chunk_file(folder, each)) for each in names])


def _is_there(folder: Folder, name: str) -> bool:
    """Whether a chunk is stored and whole; what is damaged is set aside."""
    return processes.agreed(processes.is_first() and is_whole(chunk_file(folder, name)))


def is_whole(path: Folder) -> bool:
    """Whether a table is there as it was written; what is damaged is named and set aside."""
    if not path.exists():
        return False
    try:
        read(path)
    except (Damaged, OSError) as error:
        tell_damage(path, wrong_by(error), set_aside(path))
        return False
    return True


def tell_damage(path: Folder, what: str, aside: Folder) -> None:
    """Say that something damaged was set aside."""
    words = f"{path} {what}. It is set aside ({aside}) and will be computed again."
    console.print(words, style="yellow", highlight=False, soft_wrap=True, markup=False)


def _compute(folder: Folder, name: str, number: int, size: int, rows: int, compute: Compute) -> None:
    first, last = number * size, min((number + 1) * size, rows)
    columns = compute(number, np.minimum(np.arange(first, first + size), rows - 1))
    if processes.is_first():
        with explained(folder):
            folder.mkdir(exist_ok=True)
        table = pl.DataFrame({column: values[: last - first] for column, values in columns.items()})
        save(folder, name, table.with_columns(row=pl.int_range(first, last)), provenance.environment())
