"""The transformer benchmark's tables on screen and its files."""

from pathlib import Path

import jax
import numpy as np
from rich.table import Table

from experiments.benchmarks import report, tables
from experiments.benchmarks.lm_contest import Row
from experiments.benchmarks.lm_limits import Machine
from experiments.benchmarks.lm_seeds import SeedRow
from experiments.benchmarks.tables import console, table, warn_if_busy

HEADINGS = (
    "side", "tokens/s", "ratio", "ms", "one row", "spread", "compile s", "first", "last", "arithmetic", "memory",
    "limit", "share",
)  # fmt: skip
SEED_HEADINGS = "way", "runs", "measured", "s", "ratio", "s with compiling", "ratio", "difference"
LEFT = ("side", "limit", "way")


def machine(speeds: Machine) -> dict:
    """What the numbers were measured on, its peers' versions, and its measured speeds."""
    return report.machine() | {"operations_per_second": speeds.arithmetic, "bytes_per_second": speeds.memory}


def show(rows: list[Row], seeds: list[SeedRow], machine: dict) -> None:
    """Print one table for each kind of work and size, and the seeds."""
    warn_if_busy(machine)
    for work, size in dict.fromkeys((row.work, row.size) for row in rows):
        console.print(_table(f"{work}: {size}", [row for row in rows if (row.work, row.size) == (work, size)]))
    console.print(
        "tokens/s: of all sequences in training, of responses in decoding. ratio: ours over these. ms: of a gradient "
        "step, or of a batch of responses; one row: the same with a batch of 1. spread: of the repetitions, over their "
        "median. first, last: relative difference from our loss at the first and last step of the first call; in "
        "decoding the share of responses that differ where both are greedy. arithmetic, memory: shares of the "
        f"{machine['operations_per_second'] / 1e9:,.0f} GFLOP/s of a large matrix product and of the "
        f"{machine['bytes_per_second'] / 1e9:,.1f} GB/s of a large copy, both measured on {machine['device']}. "
        "limit: the highest floor of one row (fixed costs), arithmetic and memory; share: that floor over the time."
    )
    if jax.default_backend() != "gpu":
        console.print("shares of an accelerator's speeds, and the seeds on one: not measured here; bench gpu does it")
    for work, size in dict.fromkeys((row.work, row.size) for row in seeds):
        console.print(_seed_table(f"{work}, seeds: {size}", seeds))
    console.print(
        "s: of all runs, scaled from the measured ones, without compiling. ratio: over fit_many. difference: largest "
        "relative difference of a last loss from fit_many's. On CPU devices fit_many runs one after another on every "
        "core, on accelerators all at once."
    )


def write(out: Path, rows: list[Row], seeds: list[SeedRow], machine: dict) -> None:
    """transformers.csv, seeds.csv and machine.json."""
    tables.write(out, machine, transformers=[row._asdict() for row in rows], seeds=[row._asdict() for row in seeds])


def _table(title: str, rows: list[Row]) -> Table:
    made = table(title, *HEADINGS, words=LEFT)
    for row in rows:
        if row.note:
            made.add_row(row.side, row.note)
            continue
        made.add_row(
            row.side,
            f"{row.tokens_per_second:,.0f}",
            f"{row.ratio:.2f}",
            f"{1e3 * row.seconds:.2f}",
            _unless_nan(1e3 * row.one_row, ".2f"),
            f"{row.spread:.0%}",
            _unless_nan(row.compile_seconds, ".1f"),
            f"{row.first:.0e}",
            _unless_nan(row.last, ".0e"),
            f"{row.arithmetic:.0%}",
            f"{row.memory:.0%}",
            row.limit,
            _unless_nan(row.share, ".0%"),
        )
    return made


def _seed_table(title: str, rows: list[SeedRow]) -> Table:
    made = table(title, *SEED_HEADINGS, words=LEFT)
    for row in rows:
        made.add_row(
            row.way,
            f"{row.runs}",
            f"{row.measured}",
            f"{row.seconds:.2f}",
            f"{row.ratio:.2f}",
            f"{row.with_compiling:.1f}",
            f"{row.ratio_with_compiling:.2f}",
            f"{row.difference:.0e}",
        )
    return made


def _unless_nan(value: float, form: str) -> str:
    return "" if np.isnan(value) else format(value, form)
