"""What a run of an experiment costs beside its fits: compiling, storing and scheduling, and memory."""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from experiments.benchmarks.throughput import peak_bytes
from experiments.questions import questions
from gvgap_jax.runtime import files
from gvgap_jax.runtime.devices import memory_per_device
from gvgap_jax.runtime.machine import total_memory
from gvgap_jax.sweep import Grid, folder_at, make_plan, open_folder, records, run_plan
from gvgap_jax.sweep.look import manifest


class RunCost(NamedTuple):
    """A run of a whole plan in a fresh process.

    Attributes:
      cache: of compiled programs: cold or warm.
      compile_seconds: of all programs, two at a time; its floor is ``slowest_program_seconds``.
      run_seconds: spent in compiled programs.
      overhead_seconds: storing and scheduling; its floor is ``disk_seconds``, writing the same bytes to as many files.
      digest_seconds: of them, and of one look at all files, spent on their digests.
      peak_bytes: largest resident set of the process; ``memory`` of the machine.
    """

    experiment: str
    cache: str
    cells: int
    chunks: int
    programs: int
    compile_seconds: float
    slowest_program_seconds: float
    run_seconds: float
    overhead_seconds: float
    disk_seconds: float
    digest_seconds: float
    peak_bytes: int
    memory: int

    @property
    def compile_share(self) -> float:
        """Compiling over all seconds."""
        return self.compile_seconds / (self.compile_seconds + self.run_seconds + self.overhead_seconds)

    @property
    def digest_share(self) -> float:
        """Digests over all seconds."""
        return self.digest_seconds / (self.compile_seconds + self.run_seconds + self.overhead_seconds)

    @property
    def overhead_share(self) -> float:
        """Storing and scheduling over the seconds of runs."""
        return self.overhead_seconds / self.run_seconds


class ProgramCost(NamedTuple):
    """A compiled program of that run: bytes on each device by the compiler's own measure, and those it may use."""

    program: str
    rows_at_once: int
    bytes: int
    available: int


def measure(experiment: str, grid: Grid, cache: str) -> tuple[RunCost, list[ProgramCost]]:
    """Run a plan into a folder that is then thrown away.

    Raises:
      RuntimeError: a chunk failed.
    """
    module: Any = questions()[experiment]
    with tempfile.TemporaryDirectory() as name:
        plan, folder = make_plan(experiment, module, grid), folder_at(name)
        open_folder(folder, plan)
        report = run_plan(plan, folder)
        if report.failed:
            raise RuntimeError(f"{experiment}: {report.failed}")
        makers = records.provenances(folder)
        cost = RunCost(
            experiment=experiment,
            cache=cache,
            cells=report.computed,
            chunks=len(makers),
            programs=report.compilations,
            compile_seconds=report.compile_seconds,
            slowest_program_seconds=max(made["compile_seconds"] for made in makers.values()),
            run_seconds=report.run_seconds,
            overhead_seconds=report.overhead_seconds,
            disk_seconds=disk_seconds(Path(name)),
            digest_seconds=digest_seconds(Path(name)),
            peak_bytes=peak_bytes(),
            memory=total_memory(),
        )
        return cost, programs(manifest(folder), makers)


def programs(manifest: dict, makers: dict[str, files.Provenance]) -> list[ProgramCost]:
    """One row a compiled program, from what its chunks say of themselves."""
    found = {}
    for name, (_, index) in manifest["chunks"].items():
        made = makers[name]
        cost = ProgramCost(manifest["programs"][index], made["rows_at_once"], made["bytes"], memory_per_device())
        found[cost] = None
    return list(found)


def disk_seconds(folder: Path) -> float:
    """Seconds of writing every file of a folder again, each of them down to the disk."""
    contents = [path.read_bytes() for path in folder.glob("*.parquet")]
    started = time.perf_counter()
    for number, content in enumerate(contents):
        with (folder / f"{number}.again").open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    return time.perf_counter() - started


def digest_seconds(folder: Path) -> float:
    """What writing every file of a folder once, and reading it once, takes longer with its digest than without."""
    contents = [path.read_bytes() for path in folder.glob("*.parquet")]

    def seconds(kind: str, write: Callable, read: Callable) -> float:
        started = time.perf_counter()
        for number, content in enumerate(contents):
            write(folder / f"{number}.{kind}", content)
            read(folder / f"{number}.{kind}")
        return time.perf_counter() - started

    return seconds("checked", files.write, files.read_bytes) - seconds("plain", files.put, Path.read_bytes)
