"""Nothing is lost: runs that were killed, and runs that were shared, end at the bits of an undisturbed run.

One experiment is run through the command line into several folders: undisturbed; by processes that are
killed (SIGKILL) at random moments of start-up, compiling, computing and compacting, each time begun again by the same
command, on folders in which bits were flipped and writes failed before; and by two shards and a whole run at once. Then
all tables are compared bit by bit.
"""

import contextlib
import itertools
import shutil
import signal
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

from experiments.benchmarks import damage
from experiments.benchmarks.commands import POLL_SECONDS, Command
from experiments.benchmarks.tables import console, table
from gvgap_jax.runtime import files
from gvgap_jax.sweep import load, records
from gvgap_jax.sweep.fields import FIELDS
from gvgap_jax.sweep.look import MANIFEST, look, manifest

COMPARED = (
    ("folder", "columns that differ", "unexpected files", "verdict"),
    ("processes", "rows", "lost", "twice", "stale files"),
)
AFTER = (1, None, 0, None, 2)  # new chunks that a run may store before a random delay and its end; None: a compaction
COMPACTING = 0.02  # seconds after the first file of a compaction in which it is killed, at most
DAMAGES = ("bit", "", "disk", "bit")  # done to a folder before a process is begun and killed, in turn


class Kill(NamedTuple):
    """A process that was killed.

    Attributes:
      seconds: that it lived.
      stage: start-up until it opened the folder, compiling until it stored a chunk, then running; ending when
        all chunks were stored; or compacting.
      damage: what was done to the folder before.
      stored, chunks: whole in the folder after its death, and in the plan.
    """

    folder: str
    seconds: float
    stage: str
    damage: str
    stored: int
    chunks: int


class Comparison(NamedTuple):
    """A folder against the undisturbed one.

    Attributes:
      processes: whose chunks the folder holds.
      rows: read by ``load``, of all tables.
      lost, twice: rows of the plan that are not there, and rows in files beyond those of the plan.
      differing: columns whose bits are not those of the undisturbed run.
      unexpected: files that should not be there, such as those that were set aside though no bit in them was flipped.
      stale: unfinished files, digests and locks of killed processes, which nothing reads.
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
    numbers, after, damages = np.random.default_rng(0), itertools.cycle(AFTER), itertools.cycle(DAMAGES)
    seconds = [made["seconds"] for made in records.provenances(undisturbed).values()]
    chunks, a_chunk, to_first_chunk = len(seconds), float(np.mean(seconds)), 0.0
    folder, folders, count = command.root / "killed-01", 1, 0
    while count < kills:
        done = _damaged(command, folder, next(damages), numbers)
        new, before = next(after), chunks_in(folder)
        if new is None:
            status, lived = compacted(command, folder, numbers.uniform(0, COMPACTING))
        else:
            status, reached, lived = live(command, folder, new, numbers.uniform(0, a_chunk if new else to_first_chunk))
            to_first_chunk = reached if new == 1 and status == -signal.SIGKILL else to_first_chunk
        if status == -signal.SIGKILL:
            stored, opened = chunks_in(folder), new is None or "into" in command.log(folder).read_text()
            stage = "ending" if stored == chunks else "running" if stored > before else "compiling"
            stage = "compacting" if new is None else stage if opened else "start-up"
            count += 1
            yield Kill(folder.name, lived, stage, done, stored, chunks)
        elif new is not None:
            command.check(status, folder)
            folders += 1
            folder = command.root / f"killed-{folders:02}"
    command.finish(folder)


def _damaged(command: Command, folder: Path, kind: str, numbers: np.random.Generator) -> str:
    """Flip a bit in a file of the folder, or let a run fail at a write; what was done."""
    if kind == "bit":
        return damage.flip(folder, numbers)
    if kind == "disk":
        most = int(numbers.integers(damage.SMALLEST, damage.LARGEST))
        with command.running(folder, most_bytes=most) as process:
            process.join()
        if process.exitcode not in (0, 2):  # all was there, or a file was too large
            command.check(process.exitcode, folder)
        return f"no room for {most:,} bytes"
    return ""


def live(command: Command, folder: Path, new: int, delay: float) -> tuple[int | None, float, float]:
    """Let a process store ``new`` chunks, and kill it ``delay`` seconds later unless it has ended by itself.

    Returns:
      its exit status, and the seconds until those chunks were stored and until its end.
    """
    began, before = time.perf_counter(), chunks_in(folder)
    with command.running(folder) as process:
        while process.is_alive() and chunks_in(folder) < before + new:
            time.sleep(POLL_SECONDS)
        reached = time.perf_counter() - began
        process.join(delay)
    return process.exitcode, reached, time.perf_counter() - began


def compacted(command: Command, folder: Path, delay: float) -> tuple[int | None, float]:
    """Let a compaction begin to write or end, and kill it ``delay`` seconds later; exit status and seconds."""

    def tables() -> set[tuple[str, int]]:
        return {(path.name, path.stat().st_ino) for path in folder.glob(f"*{files.DIGEST}") if "-" not in path.name}

    began, before = time.perf_counter(), tables()
    with command.compacting(folder) as process:
        while process.is_alive() and tables() == before:
            time.sleep(POLL_SECONDS)
        process.join(delay)
    if process.exitcode not in (0, 2, -signal.SIGKILL):  # 2: it refuses a folder with damaged files
        command.check(process.exitcode, folder, "compact")
    return process.exitcode, time.perf_counter() - began


def chunks_in(folder: Path) -> int:
    """Number of chunks that are stored whole."""
    with contextlib.suppress(ValueError, OSError):  # of the manifest
        return len(look(folder).makers)
    return 0


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
    """Files that are none of records, manifest and digests: those that should not be there, and stale ones."""
    unexpected, stale, tables = [], [], {files.table_of(name) for name in plan}
    flipped = tuple(damage.flipped(folder))
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        is_lock = path.parent.name == files.LOCKS and path.name in plan
        is_unfinished = path.parent == folder and path.name.startswith(".")
        is_digest = path.parent == folder and path.suffix == files.DIGEST
        is_record = path.suffix == ".parquet" and name.removesuffix(".parquet") in plan | tables
        is_aside = path.parent.name == files.SET_ASIDE and path.name.startswith(flipped)
        if is_lock or is_unfinished or (is_digest and not path.with_suffix("").exists()):
            stale.append(name)
        elif path.name not in (FIELDS, MANIFEST) and not (is_record or is_digest or is_aside):
            unexpected.append(name)
    return unexpected, stale


def kill_table(kills: list[Kill]) -> Table:
    """One row a kill."""
    headings = "kill", "folder", "lived, s", "stage", "before it", "chunks stored"
    made = table("processes killed with SIGKILL", *headings, words=("folder", "stage", "before it"))
    for number, kill in enumerate(kills, 1):
        stored = f"{kill.stored} of {kill.chunks}"
        made.add_row(str(number), kill.folder, f"{kill.seconds:.2f}", kill.stage, kill.damage, stored)
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
