"""Names of presets and backends, and where the records of each go."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar, get_args

from experiments.kit.backends import BackendName, named
from gvgap_jax.sweep import Grid, folder_at

Preset = Literal["tiny", "quick", "standard", "paper", "full"]
PRESET_NAMES: tuple[Preset, ...] = get_args(Preset)
BACKEND_NAMES: tuple[BackendName, ...] = get_args(BackendName)
FIRST_SEEDS = {"tiny": 0, "quick": 1_000_000, "standard": 4_000_000, "paper": 2_000_000, "full": 3_000_000}
RESULTS = "results"
Choice = TypeVar("Choice", bound=str)


def disjoint(grids: Mapping[str, Grid]) -> dict[str, Grid]:
    """The grids of an experiment's presets, no two of them with a seed in common: each is evidence of its own."""
    return {preset: dataclasses.replace(grid, first_seed=FIRST_SEEDS[preset]) for preset, grid in grids.items()}


def named_by(wanted: str, choices: Sequence[Choice], arguments: list[str], default: Choice) -> Choice:
    """The choice that an option names, or the default."""
    for option, value in zip(arguments, [*arguments[1:], ""], strict=False):
        given = value if option == wanted else option.removeprefix(f"{wanted}=")
        if given in choices:
            return choices[choices.index(given)]
    return default


def default_folder(name: str, preset: str, root: str = RESULTS, backend: BackendName = "tree") -> str:
    """Where an experiment's records go unless --out says otherwise."""
    return str(folder_at(root) / f"{named(name, backend)}-{preset}")
