"""``python -m experiments ship`` and ``verify``: records that come with the project, made and checked."""

import hashlib
import shutil
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from rich.markup import escape

from experiments.kit.backends import BackendName, everywhere, is_of_networks, named
from experiments.kit.comparison import settings_of, unlike
from experiments.kit.presets import RESULTS, default_folder
from experiments.kit.shipped import CORES, SHIPPED, minutes, place_of, shipped
from experiments.kit.terminal import console
from experiments.questions import questions
from experiments.report.evidence import trouble
from gvgap_jax.runtime.files import LOCKS, SET_ASIDE, Folder
from gvgap_jax.runtime.provenance import environment
from gvgap_jax.sweep import Plan, at_once, load, plan_in, records
from gvgap_jax.sweep.compute import compute, drop_programs
from gvgap_jax.sweep.plan import Chunk

ROWS = 8  # of a chunk, at most, that are computed again: compiling takes longer


class Experiment(NamedTuple):
    """An experiment on a backend."""

    name: str
    backend: BackendName
    module: Any

    @property
    def key(self) -> str:
        """Its name in plans and folders."""
        return named(self.name, self.backend)

    @property
    def plan(self) -> tuple:
        """What its plan is made of."""
        return self.key, self.module, self.module.PRESETS[SHIPPED]


def ship(results: str = RESULTS) -> None:
    """Take complete records of preset standard into the project.

    Compacted, they replace those that are there, of the same experiments.

    Args:
      results: local folder of the folders NAME-standard, as ``run NAME --preset standard`` makes them.
    """
    total = 0
    for each in map(Experiment._make, everywhere(questions())):
        folder = Path(default_folder(each.name, SHIPPED, results, each.backend))
        problems = trouble(folder, each.plan)
        if problems:
            console.print(f"[yellow]{each.key} not shipped: {escape(' '.join(problems))}[/yellow]", soft_wrap=True)
            continue
        target = place_of(each.name, each.backend)
        _replace(folder, target)
        size = sum(path.stat().st_size for path in target.iterdir())
        total += size
        console.print(
            f"{each.key}: {size / 1e3:,.0f} kB, made in {minutes(target):.1f} minutes of {CORES} cores",
            highlight=False,
        )
    console.print(f"{total / 1e6:.1f} MB shipped", highlight=False)


def _replace(folder: Path, target: Path) -> None:
    """Put a compacted copy of a folder of records in the place of another one."""
    made = target.with_name(f".{target.name}.part")
    for old in (made, target):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(folder, made, ignore=shutil.ignore_patterns(LOCKS, SET_ASIDE))
    records.compact(made)
    made.rename(target)


def verify(commit: str | None = None) -> None:
    """Compute a piece of every shipped experiment again, and compare.

    Which piece is decided by the commit. Settings must be the same and results within a fit's tolerance;
    of networks, whose rows rounding decides, the means over rows within chance.

    Args:
      commit: any text that chooses the pieces; the hash of the commit at hand if left out.
    """
    chosen_by, failed, count, started = commit or environment()["revision"], [], 0, time.perf_counter()
    for each in map(Experiment._make, everywhere(questions())):
        folder = shipped(each.name, SHIPPED, each.backend)
        if folder is None:
            continue
        began, count = time.perf_counter(), count + 1
        by_row = not is_of_networks(each.module, each.backend)
        wrong = trouble(folder, each.plan) or _differences(
            folder, plan_in(folder, *each.plan), f"{chosen_by} {each.key}", by_row
        )
        took = f"{time.perf_counter() - began:.0f} s"
        for phrase in wrong:
            console.print(f"[red]{each.key}: {escape(phrase)}[/red]", highlight=False, soft_wrap=True)
        if wrong:
            failed.append(each.key)
        else:
            console.print(f"{each.key}: the same, {took}", highlight=False)
        drop_programs()
    console.print(
        f"{count - len(failed)} of {count} shipped experiments computed again with the same results, pieces chosen by "
        f"{chosen_by[:12]}, in {time.perf_counter() - started:.0f} s",
        highlight=False,
    )
    if failed:
        sys.exit(1)


def _differences(folder: Folder, plan: Plan, chosen_by: str, by_row: bool) -> list[str]:
    piece, first = piece_of(plan, chosen_by)
    table = piece.batch.table
    (computed,) = (result.records for result in compute(at_once.alone(plan.run, piece), [piece], at_once.place()))
    stored = load(folder, table)[first : first + piece.size].select(computed.columns)
    where = f"{piece.name}, rows {piece.start} to {piece.start + piece.size - 1} of its batch"
    settings = settings_of(plan, table, computed.columns)
    return [f"{where}: {phrase}" for phrase in unlike(computed, stored, settings, by_row)]


def piece_of(plan: Plan, chosen_by: str) -> tuple[Chunk, int]:
    """Rows of one chunk, and the place of the first of them in the records of their table: chosen by a text's hash."""
    number = int.from_bytes(hashlib.blake2b(chosen_by.encode(), digest_size=8).digest())
    chunk = plan.chunks[number % len(plan.chunks)]
    before = sum(each.size for each in plan.chunks[: plan.chunks.index(chunk)] if each.batch.table == chunk.batch.table)
    skipped = number // len(plan.chunks) % max(1, chunk.size - ROWS + 1)
    size = min(ROWS, chunk.size)
    return chunk._replace(start=chunk.start + skipped, size=size, rows=size), before + skipped
