"""Look at a folder of records, and tidy it."""

from collections import defaultdict
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gvgap_jax.runtime import files
from gvgap_jax.sweep import folder_at, records, store

console = Console()


class ProgramStatus(NamedTuple):
    """How far one compiled program has come.

    Attributes:
      cells, done: of its plan, and stored.
      seconds: spent in runs; ``left_seconds`` is an estimate for what is not stored, for one process.
      compile_seconds: each process that compiled it, once.
    """

    program: str
    cells: int
    done: int
    seconds: float
    left_seconds: float
    compile_seconds: list[float]


def programs(folder: files.Folder) -> list[ProgramStatus]:
    """One row a program of the folder's plan."""
    plan, makers = records.manifest(folder), records.provenances(folder)
    groups: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for name, (size, program) in plan["chunks"].items():
        groups[program].append((name, size))
    pace = _pace(makers, [chunk for group in groups.values() for chunk in group])
    rows = []
    for program, group in sorted(groups.items()):
        done = [(name, size) for name, size in group if name in makers]
        cells, stored = sum(size for _, size in group), sum(size for _, size in done)
        compiled = {(m["host"], m["process"]): m["compile_seconds"] for m in (makers[name] for name, _ in done)}
        seconds = sum(makers[name]["seconds"] for name, _ in done)
        left = (cells - stored) * (_pace(makers, done) or pace)
        rows.append(ProgramStatus(plan["programs"][program], cells, stored, seconds, left, sorted(compiled.values())))
    return rows


def _pace(makers: dict[str, files.Provenance], chunks: list[tuple[str, int]]) -> float:
    """Seconds a cell over the chunks that are stored; 0 if none is."""
    done = [(makers[name]["seconds"], size) for name, size in chunks if name in makers]
    return sum(seconds for seconds, _ in done) / max(1, sum(size for _, size in done))


def status(folder: str) -> None:
    """What a folder of records holds: done, left, failed, time left, and what each program cost to compile.

    Args:
      folder: the --out of a run, finished or not.
    """
    path = folder_at(folder)
    plan, rows = records.manifest(path), programs(path)
    table = Table(title=f"{plan['experiment']} in {folder}", title_justify="left")
    table.add_column("program", overflow="fold")
    for heading in ("cells", "done", "run", "left", "compiled in"):
        table.add_column(heading, justify="right")
    for row in rows:
        compiled = " + ".join(f"{seconds:.1f}" for seconds in row.compile_seconds)
        left = f"{row.left_seconds:.0f} s" if row.done < row.cells else ""
        cost = f"{compiled} s" if compiled else ""
        table.add_row(row.program, f"{row.cells:,}", f"{row.done:,}", f"{row.seconds:.1f} s", left, cost)
    console.print(table)
    cells, done = sum(row.cells for row in rows), sum(row.done for row in rows)
    left = sum(row.left_seconds for row in rows)
    console.print(
        f"{done:,} of {cells:,} cells done, {cells - done:,} left"
        + (f": about {left:.0f} s of runs in one process" if left else "")
    )
    for name, reason in records.failures(path).items():
        console.print(f"[red]{name} failed: {escape(reason)}[/red]", soft_wrap=True)
    aside = path / store.SET_ASIDE
    if aside.exists():
        console.print(f"[yellow]set aside: {', '.join(sorted(file.name for file in aside.iterdir()))}[/yellow]")


def compact(folder: str) -> None:
    """Put the chunks of every table into one file; runs and ``load`` understand it.

    Args:
      folder: the --out of a run that nobody is computing.
    """
    for table, chunks in records.compact(folder_at(folder)).items():
        console.print(f"{table}.parquet: {chunks:,} chunks")
