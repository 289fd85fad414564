"""The recipe, killed in every stage by SIGKILL and by SIGTERM, ends at the numbers of an undisturbed run."""

import itertools
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

import polars as pl

from experiments.benchmarks import tables
from experiments.benchmarks.commands import POLL_SECONDS, Command
from experiments.benchmarks.tables import console
from experiments.tldr.settings import STAGES, TABLES, Stage
from gvgap_jax.runtime import files

SIGNALS = (signal.SIGKILL, signal.SIGTERM)
DELAY = 4.0  # seconds after the beginning of a stage in which a process is killed, at most


class Death(NamedTuple):
    """A process that was sent a signal: in which stage, after how many seconds of it, and how it ended."""

    stage: str
    signal: str
    seconds: float
    status: int


def main(out: Path, arguments: tuple[str, ...] = (), stages: tuple[Stage, ...] = STAGES) -> None:
    """Run everything under ``out``, print how each process died, and write kills.csv.

    Raises:
      SystemExit: with status 1, the tables differ, or a process was not killed in its stage.
    """
    out.mkdir(parents=True, exist_ok=True)
    command = Command(("tldr", *arguments), out)
    numbers, deaths = random.Random(0), []
    for stage, number in itertools.product(stages, SIGNALS):
        deaths.append(_kill(command, out / "killed", stage, number, numbers.uniform(0, DELAY)))
        console.print(f"{stage}: {deaths[-1].signal} after {deaths[-1].seconds:.1f} s, status {deaths[-1].status}")
    for folder in ("killed", "undisturbed"):
        command.finish(out / folder)
    differing = [table for table in TABLES if not same(out / "killed", out / "undisturbed", table)]
    _show(deaths, differing)
    pl.DataFrame(deaths).write_csv(out / "kills.csv")
    if differing or any(death.status == 0 for death in deaths):
        sys.exit(1)


def _kill(command: Command, folder: Path, stage: str, number: signal.Signals, delay: float) -> Death:
    """Run until the stage begins and so many seconds longer; a stage that is over sooner was not killed: status 0."""
    with command.running(folder) as process:
        while process.is_alive() and f", {stage}\n" not in command.log(folder).read_text():
            time.sleep(POLL_SECONDS)
        began = time.monotonic()
        process.join(delay)
        if process.is_alive() and process.pid:
            os.kill(process.pid, number)
        process.join()
        return Death(stage, number.name, time.monotonic() - began, process.exitcode or 0)


def same(one: Path, other: Path, table: str) -> bool:
    """Whether a table has the same numbers in all seeds of two runs."""
    places = sorted(path.relative_to(one) for path in one.glob(f"seed-*/evaluate/{table}.parquet"))
    return bool(places) and all(files.read(one / path).equals(files.read(other / path)) for path in places)


def _show(deaths: list[Death], differing: list[str]) -> None:
    headings = "stage", "signal", "seconds into it", "exit status"
    made = tables.table("killed, and begun again by the same command", *headings, words=("stage", "signal"))
    for death in deaths:
        made.add_row(death.stage, death.signal, f"{death.seconds:.1f}", str(death.status))
    console.print(made)
    console.print(f"differ from the undisturbed run: {', '.join(differing) or 'no tables'}")
