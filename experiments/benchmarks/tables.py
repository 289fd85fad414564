"""How benchmarks show and store what they measured."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

console = Console(width=None if Console().is_terminal else 160)


def table(title: str, *headings: str, words: Collection[str]) -> Table:
    """An empty table: columns of words begin on the left, those of numbers end on the right and are not broken."""
    made = Table(title=title, title_justify="left")
    for heading in headings:
        if heading in words:
            made.add_column(heading)
        else:
            made.add_column(heading, justify="right", no_wrap=True)
    return made


def warn_if_busy(machine: dict) -> None:
    """Say so if something else was running, for then no number can be trusted."""
    if machine["load_at_start"] > 0.5:
        console.print(f"[yellow]the machine was busy: load {machine['load_at_start']} before the start[/yellow]")


def write(out: Path, machine: dict, **rows: list[dict[str, Any]]) -> None:
    """A file NAME.csv for each of the rows, and machine.json."""
    out.mkdir(parents=True, exist_ok=True)
    for name, each in rows.items():
        pl.DataFrame(each).write_csv(out / f"{name}.csv")
    (out / "machine.json").write_text(json.dumps(machine, indent=2) + "\n")
    console.print(f"written to {out}")
