"""``python -m theory``: every statement over random instances in float64, then its negative controls.

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

import jax
import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from gvgap_jax.runtime.messages import unknown
from theory import equivalence, local_rewards, projections, rates, reduced_class, rivals, spin
from theory.rows import Row

CHECKS = {
    "projections": projections.check,
    "equivalence": equivalence.check,
    "spin": spin.check,
    "reduced_class": reduced_class.check,
    "local_rewards": local_rewards.check,
    "rates": rates.check,
    "rivals": rivals.check,
}
WORKERS = 2  # programs compile side by side
PACKAGES = ("gvgap_jax", "jax", "jaxlib", "numpy", "optax")
COLUMNS = {
    False: ("statement", "premises", "instances", "worst residual", "tolerance", "verdict"),
    True: ("statement", "premise dropped", "instances", "smallest residual", "required margin", "verdict"),
}
VERDICTS = {
    (False, True): "[green]holds[/green]",
    (False, False): "[bold red]FAILS[/bold red]",
    (True, True): "[green]breaks, as it must[/green]",
    (True, False): "[bold red]DOES NOT BREAK[/bold red]",
}


@dataclass(frozen=True)
class Arguments:
    """Check the statements of "All Roads Lead to Likelihood" on random instances.

    Attributes:
      only: statements to check; all of them by default.
      json: file to write the rows to.
    """

    only: tuple[str, ...] = ()
    json: Path | None = None


def main(arguments: list[str] | None = None) -> int:
    """Run the checks and return the exit status."""
    chosen = tyro.cli(Arguments, prog="python -m theory", args=arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
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
    console.print(f"{len(rows)} rows, {failed} not as they must be, {seconds:.1f} s")
    if chosen.json is not None:
        write(chosen.json, rows, seconds)
    return 1 if failed else 0


def run(names: tuple[str, ...], console: Console) -> list[tuple[str, Row]]:
    """The rows of these checks, in their order, each with its check's name."""
    with Progress(console=console, transient=True) as progress, ThreadPoolExecutor(WORKERS) as pool:
        bar = progress.add_task("checking", total=len(names))
        running = {pool.submit(lambda name=name: list(CHECKS[name]())): name for name in names}
        found = {}
        for finished in as_completed(running):
            name = running[finished]
            found[name] = finished.result()
            progress.console.print(f"{name}: {len(found[name])} rows")
            progress.advance(bar)
    return [(name, row) for name in names for row in found[name]]


def table(rows: list[tuple[str, Row]], control: bool) -> Table:
    """The claims, or the negative controls."""
    report = Table(title="negative controls: one premise dropped" if control else "claims", title_justify="left")
    for heading in COLUMNS[control]:
        report.add_column(heading)
    for _, row in rows:
        if row.control == control:
            numbers = f"{row.residual:.2e}", f"{row.bound:.3g}"
            report.add_row(row.statement, row.premises, str(row.instances), *numbers, VERDICTS[control, row.holds])
    return report


def write(path: Path, rows: list[tuple[str, Row]], seconds: float) -> None:
    """The same rows as JSON, with the versions that computed them; a residual of null is not a number."""
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    records = [{"check": name} | row._asdict() for name, row in rows]
    for record in records:
        if record["residual"] != record["residual"]:
            record["residual"] = None
    report = {"versions": versions, "seconds": round(seconds, 1), "rows": records}
    path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
