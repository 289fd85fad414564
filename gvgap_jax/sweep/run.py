"""Run a plan into a folder: finished chunks skipped, nothing lost to a kill, other processes welcome."""

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
from rich.progress import Progress

from gvgap_jax.runtime import files
from gvgap_jax.runtime.devices import is_out_of_memory
from gvgap_jax.runtime.machine import give_back_memory
from gvgap_jax.runtime.progress import BAR
from gvgap_jax.sweep import at_once, store
from gvgap_jax.sweep.at_once import Place, Work, WorkOf
from gvgap_jax.sweep.compute import PROGRAMS, Result, compiled, compute, program_of
from gvgap_jax.sweep.look import single, stored
from gvgap_jax.sweep.plan import Chunk, Plan, shard

POLL_SECONDS = 0.3  # between looks at chunks that other processes have claimed

Claim = Callable[[Chunk], bool]


class Engine(NamedTuple):
    """Where chunks are computed.

    Attributes:
      most: cells that each of its devices computes as one batch at most, as in ``at_once.Place``.
      parts: waiting chunks -> those that are prepared and computed together, part by part.
      prepare: the works of a part, progress -> number of programs compiled.
      compute: a part, claim -> (chunk, its result or the exception that it raised) as they come.
        It claims a chunk before it computes it, and leaves alone what it may not claim.
    """

    most: int
    parts: Callable[[list[Chunk], WorkOf], list[list[Chunk]]]
    prepare: Callable[[list[Work], Progress], int]
    compute: Callable[[list[Chunk], WorkOf, Claim], Iterator[tuple[Chunk, Result | Exception]]]


class Report(NamedTuple):
    """What a run cost.

    Attributes:
      total, computed: cells of the shard, and those computed by this call.
      left: cells that are not stored, because the run was stopped or because they failed.
      failed: chunks that could not be computed, and why.
      compilations, compile_seconds: programs compiled here, and the time spent on it.
      run_seconds: spent in compiled programs.
      overhead_seconds: the rest: storing, scheduling, waiting for others.
      at_once: cells that were computed at once, at most.
    """

    total: int
    computed: int
    left: int
    failed: dict[str, str]
    compilations: int
    compile_seconds: float
    run_seconds: float
    overhead_seconds: float
    at_once: int

    def __str__(self):
        rate = self.computed / self.run_seconds if self.run_seconds else 0.0
        return (
            f"{self.computed:,} cells computed, {self.total - self.computed - self.left:,} found done, {self.left:,} "
            f"left; {self.compilations} compilations in {self.compile_seconds:.1f} s, then {self.run_seconds:.1f} s "
            f"of runs ({rate:,.0f} cells a second, {self.at_once:,} at once), {self.overhead_seconds:.1f} s of storing "
            "and scheduling"
        )


def run_plan(
    plan: Plan,
    folder: files.Folder,
    part: tuple[int, int] = (0, 1),
    engine: Engine | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Report:
    """Compute the chunks of shard ``part`` that ``folder`` does not hold yet, and store each as it is done.

    The folder must be open (``store.open_folder``). Other processes may work on it: a chunk that one of
    them has claimed is waited for, and computed here if that process dies. ``stopped`` is asked before
    every chunk. A chunk that cannot be computed is noted in the folder, and the others go on.

    Raises:
      OSError: the folder cannot be written; what was stored is kept.
    """
    engine = engine or on_devices()
    mine, work_of = shard(plan.chunks, *part), at_once.works(plan, engine.most)
    total, computed, most, failed = cells_of(mine), 0, 0, {}
    compilations, compile_seconds, run_seconds = 0, 0.0, 0.0
    started = time.perf_counter()
    with Progress(*BAR) as progress, store.Claims(folder) as claims:

        def claim(chunk: Chunk) -> bool:
            return not stopped() and claims.take(chunk.name)

        waiting = missing(folder, mine)
        parts = iter(engine.parts(waiting, work_of))
        bar = progress.add_task(plan.experiment, total=total, completed=total - cells_of(waiting))
        while waiting and not stopped():
            chunks = next(parts, None)
            if chunks is None:
                time.sleep(POLL_SECONDS)  # the rest is claimed by others
                chunks = waiting
            else:
                chunks, began = unfinished(folder, chunks), time.perf_counter()
                compilations += engine.prepare(list(dict.fromkeys(map(work_of, chunks))), progress)
                compile_seconds += time.perf_counter() - began
            for chunk, result in engine.compute(chunks, work_of, claim):
                if isinstance(result, Exception):
                    failed[chunk.name] = f"{type(result).__name__}: {result}"
                    files.save_failure(folder, chunk.name, failed[chunk.name])
                else:
                    files.save(folder, chunk.name, result.records, result.made_by)
                    computed, run_seconds = computed + chunk.size, run_seconds + result.seconds
                    most = max(most, result.made_by["rows_at_once"])
                claims.release(chunk.name)
                progress.advance(bar, chunk.size)
            waiting = [chunk for chunk in unfinished(folder, waiting) if chunk.name not in failed]
            progress.update(bar, completed=total - cells_of(waiting))
    left = cells_of(waiting) + cells_of([chunk for chunk in mine if chunk.name in failed])
    overhead = time.perf_counter() - started - compile_seconds - run_seconds
    return Report(total, computed, left, failed, compilations, compile_seconds, run_seconds, overhead, most)


def missing(folder: files.Folder, chunks: list[Chunk]) -> list[Chunk]:
    """The chunks that a folder does not hold."""
    there = stored(folder)
    return [chunk for chunk in chunks if chunk.name not in there]


def unfinished(folder: files.Folder, chunks: list[Chunk]) -> list[Chunk]:
    """Those of the missing chunks that are missing still: while they are computed nobody compacts."""
    there = single(folder)
    return [chunk for chunk in chunks if chunk.name not in there]


def cells_of(chunks: list[Chunk]) -> int:
    """Number of cells, without padding."""
    return sum(chunk.size for chunk in chunks)


def by_programs(chunks: list[Chunk], work_of: WorkOf) -> list[list[Chunk]]:
    """The chunks in parts of no more programs than are kept.

    In a part all programs' first chunks come first, then their second ones: what a stopped sweep has done is its
    first seeds.
    """
    numbers = {work: number for number, work in enumerate(dict.fromkeys(map(work_of, chunks)))}

    def part(chunk: Chunk) -> int:
        return numbers[work_of(chunk)] // PROGRAMS

    ordered = sorted(chunks, key=lambda chunk: (part(chunk), chunk.first_seed))
    return [list(together) for _, together in itertools.groupby(ordered, part)]


def on_devices(place: Place | None = None) -> Engine:
    """The engine of this process, on all of its devices."""
    own = place or at_once.place()

    def prepare(works: list[Work], progress: Progress) -> int:
        """Compile every program that is needed, two at a time: the compiler leaves a core idle on its own."""
        before = compiled.cache_info().misses
        bar = progress.add_task("compiling programs", total=len(works), visible=bool(works))

        def build(work: Work) -> None:
            room(work)
            progress.advance(bar)

        with ThreadPoolExecutor(2) as pool:
            for _ in pool.map(build, works):
                pass
        progress.remove_task(bar)
        give_back_memory()
        return compiled.cache_info().misses - before

    def room(work: Work) -> int:
        try:
            return program_of(work, own).rows
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return 0  # computing it fails in the same way, which is noted

    def compute_all(chunks: list[Chunk], work_of: WorkOf, claim: Claim) -> Iterator[tuple[Chunk, Result | Exception]]:
        for work, together in at_once.calls(chunks, work_of, room, claim):
            try:
                results = compute(work, together, own)
            except Exception as error:
                results = [error] * len(together)
            yield from zip(together, results, strict=True)

    return Engine(own.most, by_programs, prepare, compute_all)
