"""``python -m experiments list``: everything that can be run, and its size."""

from collections.abc import Mapping
from dataclasses import replace

from rich.table import Table

from experiments.cli.bench import BENCHES
from experiments.kit.backends import on_backend
from experiments.kit.presets import BACKEND_NAMES
from experiments.kit.terminal import PROGRAM, console, names, table
from experiments.questions import questions
from experiments.tldr.settings import PRESETS as RECIPES
from gvgap_jax.sweep.cells import batches
from gvgap_jax.sweep.grid import Grid, number_of_points
from theory.__main__ import CHECKS

OTHERS = {
    "run all": "every experiment at one preset, one after another",
    "run tldr": f"the paper's recipe on language models; presets {', '.join(RECIPES)}; what one needs: --dry_run",
    "rehearse NAME --slice v5e-8": "every program of a run compiled for devices that are not there",
    "quickstart": "theorems, one experiment at quick and its figure: about 2 minutes on 2 cores",
    **{f"bench {name}": words for name, words in BENCHES.items()},
}


def list_everything() -> None:
    """Show everything that can be run, and its size."""
    for backend in BACKEND_NAMES:
        option = "" if backend == "tree" else f" --backend {backend}"
        console.print(_sizes(on_backend(questions(), backend), f"{PROGRAM} run NAME --preset PRESET{option}"))
    console.print(
        "14x8 is 14 points of a grid and 8 seeds; 1,856/8 is 1,856 cells (a fit or so each) in 8 compiled programs. "
        "An experiment takes seconds to minutes on 2 cores at quick, minutes at standard, about an hour on a GPU at "
        f"paper; full is for a cluster. What each of them asks: {PROGRAM} run --help\n",
        highlight=False,
    )
    console.print(names(PROGRAM, OTHERS))
    console.print(f"\n[bold]python -m theory[/bold] checks the theorems; with --only some of {', '.join(CHECKS)}")


def _sizes(modules: Mapping, title: str) -> Table:
    sizes = table(title, "NAME", "quick", "cells/\nprograms", "standard", "cells/\nprograms", "paper", "full")
    for name, module in modules.items():
        grids = [module.PRESETS[preset] for preset in ("quick", "standard", "paper", "full")]
        quick, standard, paper, full = (f"{number_of_points(grid)}x{grid.seeds}" for grid in grids)
        sizes.add_row(name, quick, _made(module, grids[0]), standard, _made(module, grids[1]), paper, full)
    return sizes


def _made(module, grid: Grid) -> str:
    """Cells and compiled programs of a grid."""
    made = batches(module.Config, module.cells, replace(grid, seeds=1))
    return f"{grid.seeds * sum(batch.size for batch in made):,}/{len({batch.program for batch in made})}"
