"""``python -m theory``: check every statement on random instances in float64, and its negative controls.

A negative control drops one premise, and must break.
The exit status is 0 only if every claim holds and every negative control breaks, 1 if not, 2 for a wrong argument.
"""

import json
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import jax
import tyro
from rich import box
from rich.console import Console, Group
from rich.padding import Padding
from rich.progress import Progress
from rich.table import Table

from gvgap_jax.runtime.messages import print_any_character, unknown
from theory import equivalence, few_pairs, local_rewards, projections, rates, reduced_class, rivals, spin
from theory.rows import Row

CHECKS = {
    "projections": projections.check,
    "equivalence": equivalence.check,
    "spin": spin.check,
    "reduced_class": reduced_class.check,
    "local_rewards": local_rewards.check,
    "rates": rates.check,
    "few_pairs": few_pairs.check,
    "rivals": rivals.check,
}
WORKERS = 2  # programs compile side by side
PACKAGES = ("gvgap_jax", "jax", "jaxlib", "numpy", "optax")
COLUMNS = {
    False: ("claim, and its premises", "instances", "largest residual", "tolerance", "verdict"),
    True: ("negative control, and the premise dropped", "instances", "smallest residual", "margin", "verdict"),
}
VERDICTS = {
    (False, True): "[green]holds[/green]",
    (False, False): "[bold red]FAILS[/bold red]",
    (True, True): "[green]breaks[/green]",
    (True, False): "[bold red]DOES NOT BREAK[/bold red]",
}
PIPED_WIDTH = 120  # columns, where no terminal says how wide it is


@dataclass(frozen=True)
class Arguments:
    """Check the statements of "All Roads Lead to Likelihood" on random instances."""

    only: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help=f"{', '.join(CHECKS)}", help_behavior_hint="(all)")
    ] = ()
    json: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help="where to write the rows", help_behavior_hint="(nowhere)")
    ] = None


def main(arguments: list[str] | None = None) -> int:
    """Run the checks and return the exit status."""
    chosen = tyro.cli(Arguments, prog="python -m theory", args=arguments)
    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
    for name in chosen.only:
        if name not in CHECKS:
            print(unknown("statement", name, CHECKS), file=sys.stderr)
            return 2
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_platforms", "cpu")  # accelerators are slow or inexact in float64
    started = time.perf_counter()
    rows = run(chosen.only or tuple(CHECKS), console)
    seconds = time.perf_counter() - started
    for control in (False, True):
        console.print(table(rows, control))
    failed = sum(not row.holds for _, row in rows)
    console.print(f"{len(rows)} rows, {failed} not as expected, {seconds:.1f} s")
    if chosen.json is not None:
        write(chosen.json, rows, seconds)
    return 1 if failed else 0


def run(names: tuple[str, ...], console: Console) -> list[tuple[str, Row]]:
    """The rows of these checks, in their order, each with its check's name."""
    with Progress(console=console, transient=True) as progress, ThreadPoolExecutor(WORKERS) as pool:
        bar = progress.add_task("checking", total=len(names))
        running = {pool.submit(_check, name): name for name in names}
        rows = {}
        for finished in as_completed(running):
            name = running[finished]
            rows[name] = finished.result()
            progress.console.print(f"{name}: {len(rows[name])} rows")
            progress.advance(bar)
    return [(name, row) for name in names for row in rows[name]]


def _check(name: str) -> list[Row]:
    with jax.default_matmul_precision("highest"):  # a thread's own setting
        return list(CHECKS[name]())


def table(rows: list[tuple[str, Row]], control: bool) -> Table:
    """The claims, or the negative controls."""
    title = "negative controls: without one premise the sides must differ" if control else "claims: both sides agree"
    report = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    statement, *numbers, verdict = COLUMNS[control]
    report.add_column(statement)
    for heading in numbers:
        report.add_column(heading, justify="right", width=9)
    report.add_column(verdict)
    for _, row in rows:
        if row.control == control:
            words = Group(row.statement, Padding(f"[dim]{row.premises}[/dim]", (0, 0, 0, 2)))
            numbers = str(row.instances), f"{row.residual:.2e}", f"{row.bound:.3g}"
            report.add_row(words, *numbers, VERDICTS[control, row.holds])
    return report


def write(path: Path, rows: list[tuple[str, Row]], seconds: float) -> None:
    """The same rows as JSON, with the versions that computed them; a residual of null is not a number."""
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    records = [{"check": name} | row._asdict() for name, row in rows]
    for record in records:
        if record["residual"] != record["residual"]:
            record["residual"] = None
    report = {"versions": versions, "seconds": round(seconds, 1), "rows": records}
    path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    print_any_character()
    sys.exit(main())
