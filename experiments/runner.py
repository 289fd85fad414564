"""Run one experiment into a folder of records and print its verdicts."""

from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

from gvgap_jax.sweep import load, run_batches, store

console = Console()


def default_folder(name: str, preset: str) -> Path:
    """Where an experiment's records go unless --out says otherwise."""
    return Path("results") / f"{name}-{preset}"


def execute(name: str, module, config, folder: Path) -> None:
    """Compute what is missing in ``folder``, then print the findings."""
    batches = module.batches(config)
    store.open_folder(folder, name, module.MEANING, config)
    console.print(f"[bold]{name}[/bold] into {folder}")
    report = run_batches(module.run, batches, folder)
    console.print(str(report))
    table = batches[0].table
    show(name, module.findings(load(folder, table)), load(folder, table))


def show(name: str, findings, records: pl.DataFrame) -> None:
    """Print the claims with their intervals and verdicts, and how many fits to distrust."""
    table = Table(title=f"{name}: estimates and 95 % intervals over seeds", title_justify="left")
    for heading in ("claim", "estimate", "95 % interval", "seeds", "verdict"):
        table.add_column(heading)
    for finding in findings:
        estimate, low, high, seeds, failed = finding.interval
        table.add_row(
            finding.claim,
            f"{estimate:.3g} {finding.unit}",
            f"{low:.3g} to {high:.3g}",
            f"{seeds}" + (f" ({failed} failed)" if failed else ""),
            finding.verdict,
        )
    console.print(table)
    doubtful = records.filter(~pl.col("converged"))
    if len(doubtful):
        console.print(
            f"[yellow]{len(doubtful):,} of {len(records):,} records did not meet the tolerance: "
            "column 'converged'.[/yellow]"
        )
