"""Sweeps, measured: fits per second against chunk size and devices, and what a run costs beside its fits.

Every number of devices, and every run with a cold or a warm cache of compiled programs, has a fresh process.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
from rich.table import Table

from experiments.benchmarks import report, run_costs, tables, throughput
from experiments.benchmarks.fresh import in_fresh_process
from experiments.benchmarks.run_costs import ProgramCost, RunCost
from experiments.benchmarks.tables import console, table, warn_if_busy
from experiments.benchmarks.throughput import Throughput
from experiments.questions import questions
from gvgap_jax.runtime.machine import number_of_cores
from gvgap_jax.sweep import Grid

WORDS = ("device", "arm", "limit", "experiment", "cache", "program")


@dataclass(frozen=True)
class Bench:
    """Sizes of the benchmark.

    Attributes:
      experiment, grid: of the run whose costs are measured.
      arms, horizon, order, pairs: of the fits of ``sample_complexity`` whose throughput is measured.
      rows: of their chunks.
      devices: numbers of CPU devices; an accelerator always works with all of its own.
    """

    experiment: str
    grid: Grid
    arms: tuple[str, ...] = ("DPO", "RLHF")
    horizon: int = 6
    order: int = 2
    pairs: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048)
    rows: tuple[int, ...] = (8, 32, 128, 512)
    devices: tuple[int, ...] = ()


def default_experiment() -> str:
    """The largest sweep that there is."""
    return next(name for name in ("phase_diagram", "sample_complexity") if name in questions())


def main(out: Path, bench: Bench) -> None:
    """Run everything, print the tables, and write them and machine.json into ``out``."""
    cores = number_of_cores()
    # An accelerator may belong to one process at a time: this one must not touch it.
    machine, backend = in_fresh_process({"JAX_NUM_CPU_DEVICES": str(cores)}, look)
    counts = (bench.devices or powers_up_to(cores)) if backend == "cpu" else (machine["devices"],)
    rows = [row for count in counts for arm in bench.arms for row in fitted(bench, arm, count)]
    costs, programs = run_twice(bench, cores)
    warn_if_busy(machine)
    for each in (throughput_table(rows), cost_table(costs), program_table(programs)):
        console.print(each)
    write(out, rows, costs, programs, machine)


def look() -> tuple[dict, str]:
    """What a process finds itself on: the machine, and jax's name of the kind of device."""
    return report.machine(), jax.default_backend()


def using(devices: int, cache: str) -> dict[str, str]:
    """Environment variables of a process with so many CPU devices, and with its compiled programs in ``cache``."""
    return {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_COMPILATION_CACHE_DIR": cache}


def powers_up_to(cores: int) -> tuple[int, ...]:
    """1, 2, 4, … and all cores."""
    return tuple(sorted({2**power for power in range(cores.bit_length())} | {cores}))


def fitted(bench: Bench, arm: str, devices: int) -> list[Throughput]:
    """Throughput of one arm on so many devices, nothing compiled before."""
    console.print(f"{arm} on {devices} device(s), {bench.rows} rows at once", highlight=False)
    arguments = arm, bench.horizon, bench.order, bench.pairs, bench.rows
    with tempfile.TemporaryDirectory() as cache:
        return in_fresh_process(using(devices, cache), throughput.measure, *arguments)


def run_twice(bench: Bench, devices: int) -> tuple[list[RunCost], list[ProgramCost]]:
    """The run with a cold and then with a warm cache of compiled programs, and its programs."""
    with tempfile.TemporaryDirectory() as cache:
        (cold, _), (warm, programs) = (
            in_fresh_process(using(devices, cache), run_costs.measure, bench.experiment, bench.grid, state)
            for state in ("cold", "warm")
        )
    return [cold, warm], programs


def throughput_table(rows: list[Throughput]) -> Table:
    """One row a program, number of devices and chunk size."""
    one = {(row.arm, row.rows): row.fits_per_second for row in rows if row.devices == 1}
    made = table(
        "fits per second against rows of a chunk; scaling: over as many times one device",
        *("device", "arm", "devices", "rows", "fits/s", "scaling", "compile s", "MB/device", "peak MB"),
        *("limit", "share"),
        words=WORDS,
    )
    for row in rows:
        alone = one.get((row.arm, row.rows))
        made.add_row(
            row.device,
            row.arm,
            f"{row.devices}",
            f"{row.rows}",
            f"{row.fits_per_second:.1f}",
            f"{row.fits_per_second / alone / row.devices:.0%}" if alone else "",
            f"{row.compile_seconds:.1f}",
            f"{row.bytes / 1e6:.1f}",
            f"{row.peak_bytes / 1e6:,.0f}",
            row.limit,
            f"{row.share:.0%}",
        )
    return made


def cost_table(costs: list[RunCost]) -> Table:
    """One row a run."""
    made = table(
        "a run beside its fits; floors: the slowest program compiled alone, and the same files written again",
        *("experiment", "cache"),
        *("cells", "compile s", "of all", "floor s", "run s", "storing s", "of run", "floor s", "digests s", "of all"),
        *("peak MB", "of memory"),
        words=WORDS,
    )
    for cost in costs:
        made.add_row(
            cost.experiment,
            cost.cache,
            f"{cost.cells:,}",
            f"{cost.compile_seconds:.1f}",
            f"{cost.compile_share:.0%}",
            f"{cost.slowest_program_seconds:.1f}",
            f"{cost.run_seconds:.1f}",
            f"{cost.overhead_seconds:.2f}",
            f"{cost.overhead_share:.1%}",
            f"{cost.disk_seconds:.2f}",
            f"{cost.digest_seconds:.2f}",
            f"{cost.digest_share:.1%}",
            f"{cost.peak_bytes / 1e6:,.0f}",
            f"{cost.peak_bytes / cost.memory:.1%}",
        )
    return made


def program_table(programs: list[ProgramCost]) -> Table:
    """One row a compiled program of the run."""
    made = table(
        "memory of the run's programs", "program", "rows at once", "MB/device", "of usable memory", words=WORDS
    )
    for row in programs:
        share = f"{row.bytes / row.available:.2%}"
        made.add_row(row.program, f"{row.rows_at_once}", f"{row.bytes / 1e6:.1f}", share)
    return made


def write(
    out: Path, rows: list[Throughput], costs: Sequence[RunCost], programs: list[ProgramCost], machine: dict
) -> None:
    """throughput.csv, run_costs.csv, programs.csv and machine.json."""
    tables.write(
        out,
        machine,
        throughput=[
            row._asdict() | {"fits_per_second": row.fits_per_second, "limit": row.limit, "share": row.share}
            for row in rows
        ],
        run_costs=[
            cost._asdict() | {"compile_share": cost.compile_share, "overhead_share": cost.overhead_share}
            for cost in costs
        ],
        programs=[row._asdict() for row in programs],
    )
