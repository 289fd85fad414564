"""The benchmark's tables on screen and its files."""

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax
import psutil
from rich.table import Table

from experiments.benchmarks import tables
from experiments.benchmarks.contest import Row
from experiments.benchmarks.leaf_pass import LeafRow
from experiments.benchmarks.tables import console, table, warn_if_busy
from gvgap_jax.runtime import provenance

FIT_HEADINGS = (
    "solver", "fits", "s a fit", "fits/s", "CPU s", "ratio", "compile s", "times", "s with it", "missed", "gradient",
    "gap", "same",
)  # fmt: skip
LEAF_HEADINGS = (
    "program", "device", "leaves", "MB", "us", "GB/s", "copy GB/s", "call us", "log-softmax us", "limit", "share",
)  # fmt: skip


def machine() -> dict:
    """What the numbers were measured on, and how busy it was at the start."""
    found = provenance.environment()
    for name in ("scipy", "torch", "transformers", "trl"):
        try:
            found["versions"][name] = version(name)
        except PackageNotFoundError:
            found["versions"][name] = "not installed"
    return found | {"cores": os.cpu_count(), "load_at_start": round(psutil.getloadavg()[0], 2)}


def show(rows: list[Row], trees: list[LeafRow], machine: dict) -> None:
    """Print one table a kind of fits, and the leaf pass."""
    warn_if_busy(machine)
    for kind in dict.fromkeys(row.kind for row in rows):
        console.print(fit_table(kind, [row for row in rows if row.kind == kind]))
    console.print(
        "ratio: seconds a fit over those of gvgap_jax, batched, without compiling. s with it: seconds a fit with "
        "compiling. missed: fits with a penalty whose gradient norm missed the tolerance. gradient: largest norm at a "
        "selected penalty, in units of the tolerance, in float64. gap: largest difference of the objective from "
        "gvgap_jax, in nats a pair, over the fits that selected the same penalty; same: how many did."
    )
    console.print(leaf_table(trees))


def fit_table(kind: str, rows: list[Row]) -> Table:
    """Solvers of one kind of fits."""
    made = table(kind, *FIT_HEADINGS, words=("solver",))
    for row in rows:
        made.add_row(
            row.solver,
            f"{row.fits}",
            f"{row.seconds:.4f}",
            f"{1 / row.seconds:.1f}",
            f"{row.cpu_seconds:.4f}",
            f"{row.ratio:.1f}",
            f"{row.compile_seconds:.1f}",
            f"{row.compilations}",
            f"{row.seconds_with_compiling:.3f}",
            f"{row.missed}",
            f"{row.gradient_norm:.2f}",
            f"{row.objective_gap:.1e}",
            f"{row.same_penalty}",
        )
    return made


def leaf_table(trees: list[LeafRow]) -> Table:
    """The leaf pass and its gradient on every tree; a line says so where there is no GPU."""
    title = "leaf pass, one prompt: logits to leaf log-probabilities, and dJ/dlogits"
    made = table(title, *LEAF_HEADINGS, words=("program", "device", "limit"))
    for row in trees:
        made.add_row(
            row.program,
            row.device,
            f"{row.leaves:,}",
            f"{row.bytes / 1e6:.2f}",
            f"{1e6 * row.seconds:,.0f}",
            f"{row.bytes / row.seconds / 1e9:.2f}",
            f"{row.bytes / row.copy / 1e9:.2f}",
            f"{1e6 * row.call:.0f}",
            f"{1e6 * row.log_softmax:,.0f}",
            row.limit,
            f"{row.share:.0%}",
        )
    if jax.default_backend() != "gpu":
        made.add_row("", "GPU", "not measured: bench gpu does it")
    return made


def write(out: Path, rows: list[Row], trees: list[LeafRow], machine: dict) -> None:
    """fits.csv, leaf_pass.csv and machine.json."""
    leaf_rows = [row._asdict() | {"limit": row.limit, "share": row.share} for row in trees]
    tables.write(out, machine, fits=[row._asdict() for row in rows], leaf_pass=leaf_rows)
