"""What every stage is handed, and how work in chunks is stored so that a killed stage loses one chunk at most."""

import hashlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import polars as pl
from rich.progress import Progress

from experiments.tldr.settings import Recipe, made_for
from gvgap_jax.runtime import processes, provenance
from gvgap_jax.runtime.files import Folder, chunk_file, explained, read, read_json, save, write
from gvgap_jax.runtime.messages import differences, first_few
from gvgap_jax.runtime.progress import BAR
from gvgap_jax.training.layouts import Layout
from gvgap_jax.types import PRNGKey

MADE_FOR = "made_for.json"
PASSES = "passes"


class Stopped(Exception):  # noqa: N818  it is no error
    """The run was asked to stop, and everything done so far is stored."""


class Run(NamedTuple):
    """One seed of a recipe, in its folder, on a layout of devices."""

    recipe: Recipe
    folder: Folder
    layout: Layout
    stopped: Callable[[], bool]

    def key(self, purpose: str) -> PRNGKey:
        """A key of its own for every purpose."""
        return jax.random.fold_in(jax.random.key(self.recipe.seed), _number(purpose))


def _number(purpose: str) -> int:
    # A hash of all of it: the last letters alone are shared by the samples of all online rounds.
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:4], "big") >> 1


def claim(run: Run) -> None:
    """Make the run's folder, or refuse one that was made for another recipe.

    Raises:
      ValueError: it holds a run of another recipe.
      OSError: it cannot be written.
    """
    path, wanted = run.folder / MADE_FOR, json.dumps(made_for(run.recipe), indent=1)
    if processes.is_first():
        with explained(run.folder):
            run.folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                write(path, wanted.encode())
    processes.barrier("claim")
    differing = differences(read_json(path), json.loads(wanted))
    if differing:
        raise ValueError(
            f"{run.folder} holds a run of another recipe ({first_few(differing, '; ')}). Choose another --out, or "
            "remove that folder."
        )


Rows = Any  # tokens [N, P] or [N, H] in the memory of the host
Compute = Callable[[int, np.ndarray], dict[str, Any]]


def in_chunks(run: Run, name: str, rows: int, start: Callable[[], Compute]) -> pl.DataFrame:
    """Columns that are computed for so many rows, a chunk at a time, or read where they are stored already.

    Args:
      run: whose folder they go to.
      name: of the pass; no other has it.
      rows: how many there are.
      start: makes what computes a chunk, from its number and the numbers of its rows; those of the last chunk repeat
        the last row, so that all chunks have one shape. It is called only if a chunk is missing.

    Raises:
      Stopped: the run was asked to stop.
    """
    folder, size = run.folder / PASSES, run.recipe.chunk
    names = [f"{name}-{number:06d}" for number in range(-(-rows // size))]
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
    return processes.agreed(processes.is_first() and chunk_file(folder, name).exists())


def _compute(folder: Folder, name: str, number: int, size: int, rows: int, compute: Compute) -> None:
    first, last = number * size, min((number + 1) * size, rows)
    columns = compute(number, np.minimum(np.arange(first, first + size), rows - 1))
    if processes.is_first():
        with explained(folder):
            folder.mkdir(exist_ok=True)
        table = pl.DataFrame({column: values[: last - first] for column, values in columns.items()})
        save(folder, name, table.with_columns(row=pl.int_range(first, last)), provenance.environment())
