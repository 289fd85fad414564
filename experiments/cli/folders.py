"""Look at a folder of records, and tidy it."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from rich.markup import escape

from experiments.kit.labels import short_labels
from experiments.kit.terminal import console, table
from gvgap_jax.runtime import files
from gvgap_jax.runtime.messages import first_few
from gvgap_jax.sweep import folder_at, records
from gvgap_jax.sweep.identity import changes, grids_of
from gvgap_jax.sweep.look import MENDED, Look, failures, look


class ProgramStatus(NamedTuple):
    """How far one compiled program has come.

    Attributes:
      program: its ``short_labels``.
      cells, done: of its plan, and stored.
      seconds: spent in runs; ``left_seconds`` is an estimate for what is not stored, for one process.
      compile_seconds: each process that compiled it, once.
      at_once: cells that were computed at once, at most.
    """

    program: str
    cells: int
    done: int
    seconds: float
    left_seconds: float
    compile_seconds: list[float]
    at_once: int


def programs(seen: Look, names: Sequence[str]) -> list[ProgramStatus]:
    """One row a program of the folder's plan, whose programs the manifest names so."""
    groups: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for name, (size, program) in seen.plan.items():
        groups[program].append((name, size))
    makers = seen.makers
    pace = _pace(makers, [chunk for group in groups.values() for chunk in group])
    labels = short_labels(names)
    rows = []
    for program, group in sorted(groups.items()):
        done = [(name, size) for name, size in group if name in makers]
        cells, stored = sum(size for _, size in group), sum(size for _, size in done)
        compiled = {(m["host"], m["process"]): m["compile_seconds"] for m in (makers[name] for name, _ in done)}
        seconds = sum(makers[name]["seconds"] for name, _ in done)
        left = (cells - stored) * (_pace(makers, done) or pace)
        most = max((makers[name].get("rows_at_once", 0) for name, _ in done), default=0)
        rows.append(ProgramStatus(labels[program], cells, stored, seconds, left, sorted(compiled.values()), most))
    return rows


def _pace(makers: dict[str, files.Provenance], chunks: list[tuple[str, int]]) -> float:
    """Seconds a cell over the chunks that are stored; 0 if none is."""
    done = [(makers[name]["seconds"], size) for name, size in chunks if name in makers]
    return sum(seconds for seconds, _ in done) / max(1, sum(size for _, size in done))


def status(folder: str) -> None:
    """Show what a folder of records holds, and what is left to do.

    Args:
      folder: the --out of a run, finished or not.
    """
    path = folder_at(folder)
    seen = look(path)
    plan = seen.manifest
    rows = programs(seen, plan["programs"])
    shown = table(
        f"{plan['experiment']} in {folder}", "program", "cells", "done", "at once", "run", "left", "compiled in"
    )
    for row in rows:
        left = f"{row.left_seconds:.0f} s" if row.done < row.cells else ""
        times = f" ({len(row.compile_seconds)} times)" if len(row.compile_seconds) > 1 else ""
        cost = f"{sum(row.compile_seconds):.1f} s{times}" if row.compile_seconds else ""
        at_once = f"{row.at_once:,}" if row.at_once else ""
        run = f"{row.seconds:.1f} s"
        shown.add_row(escape(row.program), f"{row.cells:,}", f"{row.done:,}", at_once, run, left, cost)
    console.print(shown)
    cells, done = sum(row.cells for row in rows), sum(row.done for row in rows)
    left = sum(row.left_seconds for row in rows)
    console.print(
        f"{done:,} of {cells:,} cells done, {cells - done:,} left"
        + (f": about {left:.0f} s of runs in one process" if left else "")
    )
    grids = grids_of(plan)
    for smaller, larger in itertools.pairwise(grids):
        console.print(f"went on from a smaller grid: {escape('; '.join(changes(smaller, larger)))}", soft_wrap=True)
    for name, reason in failures(path).items():
        console.print(f"[red]{name} failed: {escape(reason)}[/red]", soft_wrap=True)
    for name, what in seen.wrong.items():
        console.print(f"[yellow]{escape(f'{name} {what}')}[/yellow]", soft_wrap=True)
    if seen.wrong:
        console.print(f"[yellow]{MENDED}.[/yellow]", soft_wrap=True)
    aside = path / files.SET_ASIDE
    if aside.is_dir():
        names = sorted(file.name for file in aside.iterdir() if not file.name.endswith(files.DIGEST))
        console.print(f"[yellow]set aside: {escape(first_few(names))}[/yellow]", soft_wrap=True)


def compact(folder: str) -> None:
    """Put the many files of a folder of records into one file a table.

    Runs and ``load`` read the folder as before.

    Args:
      folder: the --out of a run that nobody is computing.
    """
    for name, chunks in records.compact(folder_at(folder)).items():
        console.print(f"{name}.parquet: {chunks:,} chunks")
