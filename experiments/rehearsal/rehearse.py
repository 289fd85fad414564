"""Compile every program of a run for a target, or read what an earlier rehearsal found out about it."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
from rich.progress import Progress

from experiments.rehearsal.programs import Program
from experiments.rehearsal.rows import Row, key, reason_of, store, stored
from gvgap_jax.runtime.compiled import Facts, facts
from gvgap_jax.runtime.devices import is_out_of_memory, memory_asked
from gvgap_jax.runtime.files import Folder
from gvgap_jax.runtime.machine import give_back_memory
from gvgap_jax.runtime.progress import BAR
from gvgap_jax.runtime.targets import Target

TOO_LARGE = "does not fit"  # by a compiler that gave up
AT_ONCE = 2  # the compiler leaves cores idle on its own, and three would take gigabytes


def rehearse(
    programs: Sequence[Program],
    target: Target,
    folder: Folder,
    minutes: float | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> list[Row]:
    """The row of every program; each is stored as soon as it is known.

    No compilation begins after so many minutes, or once ``stopped`` says so: programs that are left have no row.
    """
    started = time.perf_counter()

    def may_compile() -> bool:
        return not stopped() and (minutes is None or time.perf_counter() - started < 60 * minutes)

    with Progress(*BAR, transient=True) as progress, ThreadPoolExecutor(AT_ONCE) as pool:
        bar = progress.add_task(f"compiling for {target.name}", total=len(programs))

        def row(program: Program) -> Row | None:
            found = one(program, target, folder, may_compile)
            progress.advance(bar)
            return found

        rows = [found for found in pool.map(row, programs) if found]
    give_back_memory()
    return rows


def one(program: Program, target: Target, folder: Folder, may_compile: Callable[[], bool]) -> Row | None:
    """The row of one program, or of the one with fewer rows that a run compiles where memory is too small for it.

    Stored, or compiled now; None where it may not be compiled any more.
    """
    try:
        lowered = program.lower()
    except Exception as error:  # whatever a platform refuses with, the other programs go on
        return Row(program, None, wrong=f"cannot be traced: {reason_of(error)}")
    name = key(lowered.as_text(), target)
    row = stored(folder, program, name)
    if row is None:
        if not may_compile():
            return None
        try:
            row = Row(program, compiled(lowered, program), program.operations and program.operations())
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                return Row(program, None, wrong=f"does not compile: {reason_of(error)}")
            row = Row(program, None, wrong=f"{TOO_LARGE}: {reason_of(error)}", asked=memory_asked(error))
        store(folder, row, name)
    fewer = program.fewer(row.facts.memory if row.facts else row.asked)
    return one(fewer, target, folder, may_compile) if fewer else row


def compiled(lowered: jax.stages.Lowered, program: Program) -> Facts:
    """Compile a program and say what it is; JaxRuntimeError where the compiler refuses it."""
    started = time.perf_counter()
    executable = lowered.compile()
    return facts(lowered, executable, time.perf_counter() - started, program.mesh)


def fits(program: Program, target: Target, folder: Folder) -> bool:
    """Whether a program compiles and has the memory that it needs on every device."""
    row = one(program, target, folder, lambda: True)
    return row is not None and row.fits(target)
