"""Run batches of cells: one compiled program a batch, chunks of one shape, finished chunks skipped."""

import hashlib
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import polars as pl
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gvgap_jax.parallel import over_devices
from gvgap_jax.sweep import store

Cells = dict[str, np.ndarray[Any, Any]]


class Batch(NamedTuple):
    """Cells that share a compiled program.

    Attributes:
      table: the table their records belong to.
      program: what decides the compiled program; hashable, with a stable repr.
      labels: columns that are the same in every record of the batch.
      cells: columns of equal length, one row a cell: everything that is data.
      chunk: cells in one call of the program, and so in one file.
    """

    table: str
    program: Hashable
    labels: dict[str, str | int]
    cells: Cells
    chunk: int = 128

    @property
    def size(self) -> int:
        """Number of cells."""
        return _size(self.cells)


class Report(NamedTuple):
    """What a run cost: cells computed and skipped, compilations, seconds spent compiling and running."""

    computed: int
    skipped: int
    compilations: int
    compile_seconds: float
    run_seconds: float

    def __str__(self):
        rate = self.computed / self.run_seconds if self.run_seconds else 0.0
        return (
            f"{self.computed:,} cells computed, {self.skipped:,} found done; {self.compilations} compilations in "
            f"{self.compile_seconds:.1f} s, then {self.run_seconds:.1f} s of runs ({rate:,.0f} cells a second)"
        )


class _Chunk(NamedTuple):
    name: str
    cells: Cells
    padded: Cells


def run_batches(run: Callable, batches: list[Batch], folder: Path) -> Report:
    """Compute ``run(program, cell) -> dict of scalars`` for every cell and store the records in ``folder``.

    ``run`` is pure; ``cell`` holds one row of the batch's columns as scalars. A record is a cell's
    columns and its results. The folder must be open (``store.open_folder``).
    """
    waiting = [(batch, chunk) for batch in batches for chunk in _chunks(batch) if not store.exists(folder, chunk.name)]
    total = sum(batch.size for batch in batches)
    todo = sum(_size(chunk.cells) for _, chunk in waiting)
    started = time.perf_counter()
    with _progress() as progress:
        compiled = _compile(run, waiting, progress)
        compile_seconds = time.perf_counter() - started
        bar = progress.add_task("cells", total=total, completed=total - todo)
        for batch, chunk in waiting:
            results = jax.device_get(compiled[batch.program](chunk.padded))
            records = _records(batch.labels, chunk.cells, results)
            store.save(folder, chunk.name, records)
            progress.advance(bar, len(records))
    return Report(todo, total - todo, len(compiled), compile_seconds, time.perf_counter() - started - compile_seconds)


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns)


def _compile(run: Callable, waiting, progress: Progress) -> dict:
    """Compile every program that is needed, two at a time: the compiler leaves a core idle on its own."""
    examples = {batch.program: chunk.padded for batch, chunk in waiting}
    bar = progress.add_task("compiling programs", total=len(examples), visible=bool(examples))

    def build(program):
        executable = over_devices(partial(run, program)).lower(examples[program]).compile()
        progress.advance(bar)
        return executable

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(examples, pool.map(build, examples), strict=True))


def _chunks(batch: Batch) -> list[_Chunk]:
    """Split a batch into chunks of one padded shape, named by the hash of the program and of their cells."""
    size = batch.size
    shape = min(batch.chunk, size)
    chunks = []
    for start in range(0, size, batch.chunk):
        cells = {name: values[start : start + batch.chunk] for name, values in batch.cells.items()}
        digest = hashlib.sha256(repr(batch.program).encode())
        for name, values in sorted(cells.items()):
            digest.update(name.encode() + values.dtype.str.encode() + values.tobytes())
        rows = np.minimum(np.arange(shape), _size(cells) - 1)
        padded = {name: values[rows] for name, values in cells.items()}
        chunks.append(_Chunk(f"{batch.table}-{digest.hexdigest()[:16]}", cells, padded))
    return chunks


def _records(labels: dict, cells: Cells, results: dict) -> pl.DataFrame:
    size = _size(cells)
    constants = [pl.lit(value).alias(name) for name, value in labels.items()]
    columns = cells | {name: np.asarray(values)[:size] for name, values in results.items()}
    return pl.DataFrame(columns).select(*constants, pl.all())


def _size(cells: Cells) -> int:
    return len(next(iter(cells.values())))
