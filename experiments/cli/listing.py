"""``python -m experiments list``: everything that can be run, and its size."""

from collections.abc import Mapping
from dataclasses import replace

from rich.table import Table

from experiments.cli.bench import BENCHES
from experiments.kit.backends import BackendName, on_backend
from experiments.kit.presets import BACKEND_NAMES
from experiments.kit.shipped import CORES, SHIPPED, minutes, shipped
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
        title = f"{PROGRAM} run NAME --preset PRESET{option}"
        console.print(_sizes(on_backend(questions(), backend), title, backend))
    console.print(
        "14x8 is 14 points of a grid and 8 seeds; 1,856/8 is 1,856 cells (a fit or so each) in 8 compiled programs. "
        f"min: minutes on {CORES} cores, half of the processor seconds that the shipped records of standard took; of "
        "quick as many for each cell. Paper takes about an hour on a GPU, full is for a cluster: a cell there has "
        f"longer responses and more pairs, and takes longer. What each of them asks: {PROGRAM} run --help\n",
        highlight=False,
    )
    console.print(names(PROGRAM, OTHERS))
    console.print(f"\n[bold]python -m theory[/bold] checks the theorems; with --only some of {', '.join(CHECKS)}")


def _sizes(modules: Mapping, title: str, backend: BackendName) -> Table:
    sizes = table(title, "NAME", "quick", "min", "standard", "cells/\nprograms", "min", "paper", "full")
    for name, module in modules.items():
        quick, standard, paper, full = (module.PRESETS[preset] for preset in ("quick", SHIPPED, "paper", "full"))
        cells, programs = _made(module, standard)
        folder = shipped(name, SHIPPED, backend)
        each = minutes(folder) / cells if folder else None
        sizes.add_row(
            name,
            _points(quick),
            _cost(each, _made(module, quick)[0]),
            _points(standard),
            f"{cells:,}/{programs}",
            _cost(each, cells),
            _points(paper),
            _points(full),
        )
    return sizes


def _points(grid: Grid) -> str:
    return f"{number_of_points(grid)}x{grid.seeds}"


def _cost(each: float | None, cells: int) -> str:
    """Minutes of so many cells; nothing where a cell was not measured."""
    return f"{each * cells:.1f}" if each else "–"


def _made(module, grid: Grid) -> tuple[int, int]:
    """Cells and compiled programs of a grid."""
    made = batches(module.Config, module.cells, replace(grid, seeds=1))
    return grid.seeds * sum(batch.size for batch in made), len({batch.program for batch in made})
