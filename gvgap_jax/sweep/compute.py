"""One chunk of cells in, one data frame of records out: compiled once a program, and fitted to the memory there is."""

import contextlib
import functools
import gc
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import polars as pl

from gvgap_jax.runtime import files, provenance
from gvgap_jax.runtime.devices import (
    is_out_of_memory,
    memory_needed,
    memory_per_device,
    over_devices,
    rows_over_devices,
)
from gvgap_jax.runtime.machine import give_back_memory
from gvgap_jax.sweep.cells import Columns
from gvgap_jax.sweep.plan import Chunk


class Result(NamedTuple):
    """A computed chunk: its records, and what made it."""

    records: pl.DataFrame
    made_by: files.Provenance

    @property
    def seconds(self) -> float:
        """That the chunk ran, without compiling."""
        return self.made_by["seconds"]


class Compiled(NamedTuple):
    """A program for ``rows`` rows at once, which may be fewer than a chunk has; ``bytes`` on each device."""

    call: Callable[[Columns], dict]
    rows: int
    bytes: int
    seconds: float


PRECISION = "highest"  # of matrix products: a GPU's default is TF32, and a TPU's bfloat16
PROGRAMS = 8  # kept at once: each takes hundreds of the 65,530 memory maps that Linux allows a process
LARGE = 1_000_000  # characters of a program
_alone = threading.Lock()
_most_rows: dict[Hashable, int] = {}  # what the device has been seen to hold, for programs that ran out of memory


def compute(run: Callable[[Any, Any], dict], chunk: Chunk) -> Result:
    """Compute ``run(program, row)`` for every row of a chunk.

    Records are the chunk's columns, its labels, the results, and a ``status``: ``ok``, ``not converged``
    (by the result ``converged``), or ``not finite``. A program that does not fit into memory runs on
    half as many rows at once, and again on half of those.
    """
    padded, (program, columns, most) = chunk.padded(), program_of(chunk)
    key = (run, program, columns)
    while True:
        most = min(most, _most_rows.get(key, most))
        try:
            executable = compiled(*key, most)
            started = time.perf_counter()
            results = _in_pieces(executable, padded)
            break
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error) or most <= rows_over_devices(1):
                raise
            _most_rows[key] = most // 2
    seconds = time.perf_counter() - started
    cost = {
        "chunk": chunk.name,
        "seconds": seconds,
        "compile_seconds": executable.seconds,
        "rows_at_once": executable.rows,
        "bytes": executable.bytes,
        "precision": PRECISION,
        "process": os.getpid(),
    }
    return Result(_records(chunk, results), _environment() | cost)


def program_of(chunk: Chunk) -> tuple[Hashable, tuple[tuple[str, str], ...], int]:
    """What a chunk's program is compiled for: the static configuration, names and dtypes of the columns, the rows."""
    columns = tuple((name, values.dtype.str) for name, values in chunk.columns.items())
    return chunk.batch.program, columns, chunk.rows


_environment = functools.cache(provenance.environment)


@functools.lru_cache(PROGRAMS)
def compiled(run: Callable, program: Hashable, columns: tuple[tuple[str, str], ...], rows: int) -> Compiled:
    """Compile for ``rows`` rows, or for half and half again until the compiler's own measure fits into memory.

    Rows are rounded up to a multiple of the devices.
    """
    started, fewest = time.perf_counter(), rows_over_devices(1)
    while True:
        rows = rows_over_devices(rows)
        program_of_rows = lowered(run, program, columns, rows)
        with _large_ones_alone(program_of_rows):
            executable = program_of_rows.compile()
        needed = memory_needed(executable)
        if needed <= memory_per_device() or rows == fewest:
            return Compiled(executable, rows, needed, time.perf_counter() - started)
        rows = rows // 2


def lowered(run: Callable, program: Hashable, columns: tuple[tuple[str, str], ...], rows: int) -> jax.stages.Lowered:
    """The program for ``rows`` rows before it is compiled. Its matrix products, networks' too, have ``PRECISION``."""
    shapes = {name: jax.ShapeDtypeStruct((rows,), np.dtype(dtype)) for name, dtype in columns}
    with jax.default_matmul_precision(PRECISION):
        return over_devices(partial(run, program)).lower(shapes)


@contextlib.contextmanager
def _large_ones_alone(lowered: jax.stages.Lowered) -> Iterator[None]:
    """Two large programs that are compiled at once would take gigabytes; the compiler has work for all cores in one."""
    if len(lowered.as_text()) < LARGE:
        yield
        return
    with _alone:
        yield
        give_back_memory()


def drop_programs() -> None:
    """Drop all compiled programs, jax's own too, and give their memory back: for a process that goes on to others."""
    compiled.cache_clear()
    jax.clear_caches()
    gc.collect()
    give_back_memory()


def _in_pieces(program: Compiled, padded: Columns) -> dict[str, np.ndarray]:
    size = len(padded["seed"])
    pieces = []
    for start in range(0, size, program.rows):
        index = np.minimum(np.arange(start, start + program.rows), size - 1)
        pieces.append(jax.device_get(program.call({name: values[index] for name, values in padded.items()})))
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _records(chunk: Chunk, results: dict[str, np.ndarray]) -> pl.DataFrame:
    outputs = {name: values[: chunk.size] for name, values in results.items()}
    constants = [pl.lit(value).alias(name) for name, value in chunk.batch.labels.items()]
    status = pl.Series("status", list(_statuses(outputs)))
    return pl.DataFrame(chunk.columns | outputs).select(*constants, pl.all(), status)


def _statuses(outputs: dict[str, Any]) -> Iterator[str]:
    numbers = [values for values in outputs.values() if np.issubdtype(values.dtype, np.floating)]
    finite = np.all([np.isfinite(values) for values in numbers], axis=0)
    converged = outputs.get("converged", finite)
    for is_finite, is_converged in zip(finite, converged, strict=True):
        yield "not finite" if not is_finite else "ok" if is_converged else "not converged"
