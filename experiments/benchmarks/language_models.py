"""Tokens per second of training and decoding against PyTorch, TRL and transformers, and many seeds at once, in one run.

Both sides get the same model, parameters, batches, optimiser and precision (float32), and must give the same losses
before anything is timed: this is also the check that our blocks are GPT-NeoX and Llama.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from experiments.benchmarks import lm_contest, lm_limits, lm_report, lm_seeds
from experiments.benchmarks.lm_work import LOADS, Load, Size
from experiments.benchmarks.tables import console
from gvgap_jax.lm.model import shape
from gvgap_jax.runtime.packages import command

SMALL = Size(shape.neox(8, start=False), prompt_length=4, horizon=10, batch=64, steps=20)
LARGE = Size(
    shape.llama(1024, layers=4, width=256, heads=4, start=False), prompt_length=64, horizon=64, batch=8, steps=2
)


@dataclass(frozen=True)
class Bench:
    """Sizes of the benchmark.

    Attributes:
      sizes: of models and batches: the experiments' (overheads count), and one where arithmetic counts.
      loads: what is trained.
      compile: which of them torch.compile takes part in.
      repeats: of every measurement; the median counts.
      seeds, one_by_one: runs at once, and how many of them by ``fit`` one after another.
      seed_size: of these runs, trained by DPO.
    """

    sizes: tuple[Size, ...] = (SMALL, LARGE)
    loads: tuple[Load, ...] = LOADS
    compile: tuple[Load, ...] = LOADS
    repeats: int = 5
    seeds: int = 32
    one_by_one: int = 2
    seed_size: Size = field(default_factory=lambda: replace(SMALL, steps=10))


def main(out: Path, bench: Bench | None = None) -> None:
    """Run everything, print the tables, and write transformers.csv, seeds.csv and machine.json into ``out``."""
    bench = bench or Bench()
    if not lm_contest.peers_are_installed():
        console.print(f"the peers are not installed and have no numbers: {command('transformers')}", markup=False)
    speeds = lm_limits.machine(bench.sizes[0].shape.dtype)
    machine = lm_report.machine(speeds)
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    rows, seeds = [], []
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("")
        for size in bench.sizes:
            for load in bench.loads:
                progress.update(task, description=f"{load}: {size.name}")
                rows += lm_contest.training(load, size, speeds, bench.repeats, load in bench.compile)
            progress.update(task, description=f"decoding: {size.name}")
            rows += lm_contest.decoding(size, speeds, bench.repeats)
        progress.update(task, description=f"{bench.seeds} seeds")
        seeds = lm_seeds.measure("DPO", bench.seed_size, bench.seeds, bench.one_by_one)
        progress.remove_task(task)
    lm_report.show(rows, seeds, machine)
    lm_report.write(out, rows, seeds, machine)
