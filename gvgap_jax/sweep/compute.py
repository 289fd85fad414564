"""Chunks of cells in, a data frame of records out for each: compiled once a program, and fitted to the memory."""

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
from gvgap_jax.runtime.devices import is_out_of_memory, memory_asked, memory_needed, over_devices
from gvgap_jax.runtime.machine import give_back_memory
from gvgap_jax.sweep.at_once import Place, Work, fewer, wished
from gvgap_jax.sweep.cells import Columns
from gvgap_jax.sweep.plan import Chunk


class Result(NamedTuple):
    """A computed chunk: its records, and what made it."""

    records: pl.DataFrame
    made_by: files.Provenance

    @property
    def seconds(self) -> float:
        """That the chunk ran, without compiling: its share of those of its call."""
        return self.made_by["seconds"]


class Compiled(NamedTuple):
    """A program for ``rows`` rows at once, of many chunks or of a part of one; ``bytes`` on each device."""

    call: Callable[[Columns], dict]
    rows: int
    bytes: int
    seconds: float


PRECISION = "highest"  # of matrix products: a GPU's default is TF32, and a TPU's bfloat16
PROGRAMS = 8  # kept at once: each takes hundreds of the 65,530 memory maps that Linux allows a process
LARGE = 1_000_000  # characters of a program
_alone = threading.Lock()
_most_rows: dict[Hashable, int] = {}  # what the devices have been seen to hold, for programs that ran out of memory


def compute(work: Work, chunks: list[Chunk], place: Place) -> list[Result]:
    """Compute ``run(program, row)`` for every row of chunks of one work, together.

    Records are a chunk's columns, its labels, the results, and a ``status``: ``ok``, ``not converged``
    (by the result ``converged``), or ``not finite``. A program that runs out of memory runs on half as many rows at
    once, and again on half of those.
    """
    each = [chunk.padded() for chunk in chunks]
    padded = {name: np.concatenate([columns[name] for columns in each]) for name in each[0]}
    while True:
        executable = program_of(work, place)
        started = time.perf_counter()
        try:
            results = _in_pieces(executable, padded)
            break
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error) or executable.rows <= len(place.devices):
                raise
            _most_rows[work, place] = executable.rows // 2
    cells = sum(chunk.size for chunk in chunks)
    seconds, processors = (time.perf_counter() - started) / cells, _processor_seconds() / cells
    start, computed = 0, []
    for chunk in chunks:
        own = {name: values[start : start + chunk.size] for name, values in results.items()}
        start += chunk.rows
        cost = {
            "chunk": chunk.name,
            "seconds": seconds * chunk.size,
            "processor_seconds": processors * chunk.size,
            "compile_seconds": executable.seconds,
            "rows_at_once": executable.rows,
            "bytes": executable.bytes,
            "precision": PRECISION,
            "process": os.getpid(),
        }
        computed.append(Result(_records(chunk, own), _environment() | cost))
    return computed


_environment = functools.cache(provenance.environment)
_counted = [0.0]  # processor seconds of this process that its chunks have in their provenance


def _processor_seconds() -> float:
    """What all processors spent for this process since the last chunks: on them, on compiling, on all else.

    Unlike seconds, it is much the same on a machine that is busy with other work.
    """
    before, _counted[0] = _counted[0], time.process_time()
    return _counted[0] - before


def program_of(work: Work, place: Place) -> Compiled:
    """The compiled program, for no more rows at once than the devices have been seen to hold."""
    return compiled(work, place, _most_rows.get((work, place)))


@functools.lru_cache(PROGRAMS)
def compiled(work: Work, place: Place, most: int | None = None) -> Compiled:
    """Compile for as many rows as are computed at once: ``most`` if given, and what fits into memory.

    What is needed is the compiler's own measure, or what it says that it lacks.
    """
    started, rows = time.perf_counter(), wished(work, place, most)
    while True:
        program = lowered(work, place, rows)
        with _large_ones_alone(program):
            try:
                executable = program.compile()
                less = fewer(work, place, rows, memory_needed(executable))
            except jax.errors.JaxRuntimeError as error:
                less = fewer(work, place, rows, memory_asked(error)) if is_out_of_memory(error) else None
                if less is None:
                    raise
        if less is None:
            return Compiled(executable, rows, memory_needed(executable), time.perf_counter() - started)
        rows = less


def lowered(work: Work, place: Place, rows: int) -> jax.stages.Lowered:
    """The program for ``rows`` rows before it is compiled. Its matrix products, networks' too, have ``PRECISION``."""
    shapes = {name: jax.ShapeDtypeStruct((rows,), np.dtype(dtype)) for name, dtype in work.columns}
    run = partial(work.run, work.program)
    with jax.default_matmul_precision(PRECISION):
        return over_devices(run, devices=place.devices, batched=place.most > 0).lower(shapes)


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


def _records(chunk: Chunk, outputs: dict[str, np.ndarray]) -> pl.DataFrame:
    constants = [pl.lit(value).alias(name) for name, value in chunk.batch.labels.items()]
    status = pl.Series("status", list(_statuses(outputs)))
    return pl.DataFrame(chunk.columns | outputs).select(*constants, pl.all(), status)


def _statuses(outputs: dict[str, Any]) -> Iterator[str]:
    numbers = [values for values in outputs.values() if np.issubdtype(values.dtype, np.floating)]
    finite = np.all([np.isfinite(values) for values in numbers], axis=0)
    converged = outputs.get("converged", finite)
    for is_finite, is_converged in zip(finite, converged, strict=True):
        yield "not finite" if not is_finite else "ok" if is_converged else "not converged"
