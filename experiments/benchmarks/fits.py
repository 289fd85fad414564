"""Fits per second of the sweep against peers that solve the same problems to the same gradient norm, in one run.

A fit of ``sample_complexity`` follows 11 ridge penalties, warm-started, each to a gradient norm of 1e-3
sqrt(training pairs), and selects one on held-out pairs. Every solver gets the same pairs, penalties,
parameters and tolerance; what it returns is judged in float64 by one piece of code.
"""

from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from experiments.benchmarks import contest, leaf_pass, problems, report
from experiments.benchmarks.problems import Kind
from experiments.benchmarks.tables import console
from gvgap_jax import TokenTree
from gvgap_jax.algorithms import Settings
from gvgap_jax.runtime.packages import command, is_installed


@dataclass(frozen=True)
class Bench:
    """Sizes of the benchmark.

    Attributes:
      vocabulary, horizon: of the tree whose policies and reward models are fitted.
      kinds: of fits.
      pairs, padded: numbers of pairs of the cells, and the number they are padded to.
      gold_orders: orders of the gold rewards.
      seeds, peer_seeds: a batch holds all seeds, as a chunk of the sweep does; peers get the first few.
      adam_steps, adam_fits, adam_peer_fits: of the contest at equal algorithm.
      leaf_trees: of the leaf pass and its gradient: 10^3 to 10^7 leaves.
      settings: of every fit.
    """

    vocabulary: int = 3
    horizon: int = 6
    kinds: tuple[Kind, ...] = (Kind("DPO", 0), Kind("reward model, order 2", 2), Kind("reward model, order 6", 6))
    pairs: tuple[int, ...] = (32, 256, 2048)
    padded: int = 2048
    gold_orders: tuple[int, ...] = (2, 6)
    seeds: int = 21
    peer_seeds: int = 1
    adam_steps: int = 1200
    adam_fits: int = 32
    adam_peer_fits: int = 3
    leaf_trees: tuple[TokenTree, ...] = tuple(TokenTree(10, horizon) for horizon in range(3, 8))
    settings: Settings = field(default_factory=Settings)

    @property
    def tree(self) -> TokenTree:
        """The tree that is fitted."""
        return TokenTree(self.vocabulary, self.horizon)

    def cells(self) -> list[dict]:
        """Cells of the batch; those of the peers come first."""
        return [
            dict(pairs=pairs, gold_order=gold, seed=seed)
            for seed in range(self.seeds)
            for pairs in self.pairs
            for gold in self.gold_orders
        ]

    @property
    def peer_fits(self) -> int:
        """Cells that the peers solve."""
        return self.peer_seeds * len(self.pairs) * len(self.gold_orders)


def main(out: Path, bench: Bench | None = None) -> None:
    """Run everything, print the tables, and write fits.csv, leaf_pass.csv and machine.json into ``out``."""
    bench = bench or Bench()
    if not is_installed("torch"):
        console.print(f"PyTorch is not installed and its rows are left out: {command('torch')}", markup=False)
    machine = report.machine()
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("making pairs")

        def tell(what: str) -> None:
            progress.update(task, description=what)

        rows = all_fits(bench, tell)
        trees = []
        for tree in bench.leaf_trees:
            tell(f"leaf pass of {tree.leaves:,} leaves")
            trees += leaf_pass.measure(tree)
        progress.remove_task(task)
    report.show(rows, trees, machine)
    report.write(out, rows, trees, machine)


def all_fits(bench: Bench, tell) -> list[contest.Row]:
    """Every solver on every kind of fits, then the fixed number of Adam steps."""
    rows = []
    batch = problems.batch(bench.tree, bench.padded, bench.cells())
    data = problems.as_data(bench.tree, batch)
    for kind in bench.kinds:
        entries = contest.penalty_path(bench.tree, kind, bench.settings, batch, data, bench.peer_fits)
        rows += contest.run(bench.tree, kind, data, entries, bench.settings, tell)
    kind = Kind(f"DPO, {bench.adam_steps:,} Adam steps", 0)
    cells = [dict(pairs=bench.padded, gold_order=bench.gold_orders[0], seed=seed) for seed in range(bench.adam_fits)]
    batch = problems.all_train(problems.batch(bench.tree, bench.padded, cells))
    data = problems.as_data(bench.tree, batch)
    entries = contest.equal_steps(bench.tree, kind, bench.adam_steps, batch, data, bench.adam_peer_fits)
    return rows + contest.run(bench.tree, kind, data, entries, bench.settings, tell)
