"""An experiment whose records are known: powers of a number, by a loop whose length is the program's."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gvgap_jax.sweep import Cell, Grid

MEANING = 1


@dataclass(frozen=True)
class Config:
    """One point: ``base + seed`` to the ``power``; an odd ``power`` has a table of its own."""

    power: int = 2
    base: float = 1.5
    name: str = "toy"

    def __post_init__(self):
        if self.power < 0:
            raise ValueError(f"power must not be negative, got {self.power}.")


class Program(NamedTuple):
    """What decides the program."""

    power: int


def cells(config: Config) -> list[Cell]:
    if config.power == 0:
        return []
    table = "odd" if config.power % 2 else "even"
    return [Cell(table, Program(config.power), {"name": config.name}, {"base": config.base})]


def run(program: Program, cell: dict) -> dict:
    base = cell["base"] + cell["seed"]
    value = jax.lax.fori_loop(0, program.power, lambda _, found: found * base, jnp.ones_like(base))
    return {"value": value, "converged": value < 1e6}


GRID = Grid({"power": (1, 2, 4), "base": (0.5, 1.5, 2.5)}, seeds=7)


def expected(grid: Grid = GRID) -> dict[str, set[tuple]]:
    """Rows (base, seed, value) of every table, by plain Python."""
    rows: dict[str, set[tuple]] = {}
    for power in grid.axes["power"]:
        for base in grid.axes["base"]:
            for seed in range(grid.seeds):
                rows.setdefault("odd" if power % 2 else "even", set()).add((base, seed, (base + seed) ** power))
    return rows
