"""Nothing is lost: runs that were killed, and runs that were shared, end at the bits of an undisturbed run.

One experiment is run through the command line into several folders: undisturbed; by processes that are
killed (SIGKILL) at random moments of start-up, compiling and computing, each time begun again by the same
command; and by two shards and a whole run at once. Then all tables are compared bit by bit.
"""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from rich.table import Table

import experiments
from experiments.benchmarks.tables import console, table
from gvgap_jax.runtime import files
from gvgap_jax.sweep import load, records
from gvgap_jax.sweep.look import MANIFEST, manifest

POLL_SECONDS = 0.02  # between looks at a folder
COMPARED = (
    ("folder", "columns that differ", "unexpected files", "verdict"),
    ("processes", "rows", "lost", "twice", "stale files"),
)
AFTER = (1, 0, 2)  # new chunks that a process may store before a random delay and its end, in turn


class Command(NamedTuple):
    """``python -m experiments run`` with these arguments, its logs and compiled programs under ``root``."""

    arguments: tuple[str, ...]
    root: Path

    @contextlib.contextmanager
    def running(self, folder: Path, *options: str) -> Iterator[subprocess.Popen]:
        """A process that runs into ``folder``; leaving the context kills it if it is still there."""
        variables = {
            "JAX_COMPILATION_CACHE_DIR": str(self.root / "compiled"),
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # a GPU is shared, too
        }
        command = [sys.executable, "-m", "experiments", "run", *self.arguments, "--out", str(folder), *options]
        with self.log(folder, *options).open("w") as log:
            process = subprocess.Popen(
                command,
                cwd=Path(experiments.__file__).parents[1],
                env=os.environ | variables,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    def log(self, folder: Path, *options: str) -> Path:
        """What the last such process printed."""
        return self.root / f"{'-'.join([folder.name, *options]).replace('/', '-')}.log"

    def finish(self, folder: Path, *processes: tuple[str, ...]) -> None:
        """Run into ``folder`` to the end, by one process or by several with these options at once.

        Raises:
          RuntimeError: a process failed; the message names its log.
        """
        with contextlib.ExitStack() as stack:
            options = processes or ((),)
            running = [stack.enter_context(self.running(folder, *each)) for each in options]
            for each, process in zip(options, running, strict=True):
                self.check(process.wait(), folder, *each)

    def check(self, status: int, folder: Path, *options: str) -> None:
        """Raise RuntimeError for an exit status that is not 0."""
        if status:
            raise RuntimeError(f"a run ended with status {status}: see {self.log(folder, *options)}")


class Kill(NamedTuple):
    """A process that was killed.

    Attributes:
      seconds: that it lived.
      stage: start-up until it opened the folder, compiling until it stored a chunk, then running; ending when
        all chunks were stored.
      stored, chunks: in the folder after its death, and in the plan.
    """

    folder: str
    seconds: float
    stage: str
    stored: int
    chunks: int


class Comparison(NamedTuple):
    """A folder against the undisturbed one.

    Attributes:
      processes: whose chunks the folder holds.
      rows: read by ``load``, of all tables.
      lost, twice: rows of the plan that are not there, and rows in files beyond those of the plan.
      differing: columns whose bits are not those of the undisturbed run.
      unexpected: files that should not be there, such as those that were set aside.
      stale: unfinished files and locks of killed processes, which nothing reads.
    """

    folder: str
    processes: int
    rows: int
    lost: int
    twice: int
    differing: tuple[str, ...]
    unexpected: tuple[str, ...]
    stale: int

    @property
    def same(self) -> bool:
        """Whether nothing was lost, doubled, changed or left behind."""
        return not (self.lost or self.twice or self.differing or self.unexpected)


def main(out: Path, arguments: tuple[str, ...] = ("sample_complexity",), kills: int = 20) -> None:
    """Run everything, print both tables, and write kills.csv and comparisons.csv into ``out``.

    The records are kept only if something differs.

    Raises:
      SystemExit: with status 1, something differs.
    """
    out.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="records-", dir=out)).resolve()
    killed, comparisons = demonstrate(Command(arguments, root), kills)
    pl.DataFrame(killed).write_csv(out / "kills.csv")
    columns = pl.col("differing", "unexpected").list.join(" ")
    pl.DataFrame(comparisons).with_columns(columns).write_csv(out / "comparisons.csv")
    console.print(kill_table(killed))
    conclude(comparisons, root)
    shutil.rmtree(root)


def demonstrate(command: Command, kills: int) -> tuple[list[Kill], list[Comparison]]:
    """Every kill, and every folder against the undisturbed one."""
    undisturbed, shared = command.root / "undisturbed", command.root / "shared"
    with console.status("an undisturbed run") as status:
        command.finish(undisturbed)
        killed = []
        for kill in killed_runs(command, kills, undisturbed):
            killed.append(kill)
            status.update(f"kill {len(killed)} of {kills}: {kill.stage}, {kill.stored} of {kill.chunks} chunks stored")
        status.update("two shards and a whole run at once")
        command.finish(shared, ("--shard", "0/2"), ("--shard", "1/2"), ())
    folders = [*sorted(command.root.glob("killed-*/")), shared]
    return killed, [compare(folder, undisturbed) for folder in folders]


def killed_runs(command: Command, kills: int, undisturbed: Path) -> Iterator[Kill]:
    """Kill processes; a folder that is finished nevertheless gives way to a fresh one, and the last is finished."""
    numbers, after = np.random.default_rng(0), itertools.cycle(AFTER)
    seconds = [made["seconds"] for made in records.provenances(undisturbed).values()]
    chunks, a_chunk, to_first_chunk = len(seconds), float(np.mean(seconds)), 0.0
    folder, folders, count = command.root / "killed-01", 1, 0
    while count < kills:
        new, before = next(after), chunks_in(folder)
        status, reached, lived = live(command, folder, new, numbers.uniform(0, a_chunk if new else to_first_chunk))
        if status == -signal.SIGKILL:
            to_first_chunk = reached if new == 1 else to_first_chunk
            stored, opened = chunks_in(folder), "into" in command.log(folder).read_text()
            stage = "ending" if stored == chunks else "running" if stored > before else "compiling"
            count += 1
            yield Kill(folder.name, lived, stage if opened else "start-up", stored, chunks)
        else:
            command.check(status, folder)
            folders += 1
            folder = command.root / f"killed-{folders:02}"
    command.finish(folder)


def live(command: Command, folder: Path, new: int, delay: float) -> tuple[int, float, float]:
    """Let a process store ``new`` chunks, and kill it ``delay`` seconds later unless it has ended by itself.

    Returns:
      its exit status, and the seconds until those chunks were stored and until its end.
    """
    began, before = time.perf_counter(), chunks_in(folder)
    with command.running(folder) as process:
        while process.poll() is None and chunks_in(folder) < before + new:
            time.sleep(POLL_SECONDS)
        reached = time.perf_counter() - began
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay)
    return process.returncode, reached, time.perf_counter() - began


def chunks_in(folder: Path) -> int:
    """Number of chunks that are stored."""
    return len(list(folder.glob("*.parquet")))


def compare(folder: Path, undisturbed: Path) -> Comparison:
    """What is lost, doubled, changed or left over in a finished folder."""
    plan = manifest(undisturbed)["chunks"]
    differing, rows = [], 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of chunks that are missing: they are counted here
        for each in records.folder_tables(undisturbed):
            there, wanted = load(folder, each), load(undisturbed, each)
            differing += [f"{each}.{name}" for name in records.differing_columns(there, wanted)]
            rows += len(there)
    in_files = sum(len(pl.read_parquet(path)) for path in folder.glob("*.parquet"))
    unexpected, stale = left_over(folder, set(plan))
    return Comparison(
        folder=folder.name,
        processes=len({made["process"] for made in records.provenances(folder).values()}),
        rows=rows,
        lost=sum(size for size, _ in plan.values()) - rows,
        twice=in_files - rows,
        differing=tuple(differing),
        unexpected=tuple(unexpected),
        stale=len(stale),
    )


def left_over(folder: Path, plan: set[str]) -> tuple[list[str], list[str]]:
    """Files that are neither the manifest nor a chunk: those that should not be there, and stale ones."""
    unexpected, stale = [], []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.suffix == files.DIGEST and path.with_suffix("").exists():
            continue
        is_lock = path.parent.name == files.LOCKS and (folder / f"{path.name}.parquet").exists()
        is_unfinished = path.parent == folder and path.name.startswith(".")
        is_chunk = path.suffix == ".parquet" and name.removesuffix(".parquet") in plan
        if is_lock or is_unfinished:
            stale.append(name)
        elif path.name != MANIFEST and not is_chunk:
            unexpected.append(name)
    return unexpected, stale


def kill_table(kills: list[Kill]) -> Table:
    """One row a kill."""
    headings = "kill", "folder", "lived, s", "stage", "chunks stored"
    made = table("processes killed with SIGKILL", *headings, words=("folder", "stage"))
    for number, kill in enumerate(kills, 1):
        made.add_row(str(number), kill.folder, f"{kill.seconds:.2f}", kill.stage, f"{kill.stored} of {kill.chunks}")
    return made


def conclude(comparisons: list[Comparison], root: Path) -> None:
    """Print the comparisons; raises SystemExit with status 1 if something differs."""
    words, numbers = COMPARED
    made = table("against an undisturbed run, bit by bit", *words, *numbers, words=words)
    for row in comparisons:
        made.add_row(
            row.folder,
            ", ".join(row.differing) or "none",
            ", ".join(row.unexpected) or "none",
            "[green]the same[/green]" if row.same else "[red]different[/red]",
            *(f"{count:,}" for count in (row.processes, row.rows, row.lost, row.twice, row.stale)),
        )
    console.print(made)
    if not all(row.same for row in comparisons):
        console.print(f"[red]something differs; the records are kept in {root}[/red]", soft_wrap=True)
        sys.exit(1)
