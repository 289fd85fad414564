"""What a folder's manifest says of its plan, how another plan differs from that, and which plans go on from it."""

import dataclasses
import itertools
from typing import Any

from gvgap_jax.runtime import messages
from gvgap_jax.runtime.files import Damaged, Folder
from gvgap_jax.sweep.grid import Grid, contains
from gvgap_jax.sweep.look import FORMAT, manifest
from gvgap_jax.sweep.plan import Experiment, Plan, make_plan, with_defaults


def plan_in(folder: Folder, name: str, experiment: Experiment, grid: Grid) -> Plan:
    """The plan of a grid in a folder: where smaller grids were run into it, it goes on from what they left.

    Raises:
      ValueError: a grid is not sound (see ``cells.batches``), or a newer version of the package wrote the folder.
    """
    try:
        stored = manifest(folder)
    except (Damaged, OSError):  # opening the folder says so
        return make_plan(name, experiment, grid)
    if (stored["experiment"], stored["meaning"]) != (name, experiment.MEANING):
        return make_plan(name, experiment, grid)
    before, wanted = grids_of(stored), with_defaults(experiment.Config, grid)
    if wanted == before[-1]:
        return make_plan(name, experiment, grid, before[:-1])
    return make_plan(name, experiment, grid, before if contains(wanted, before[-1]) else ())


def grids_of(stored: dict[str, Any]) -> list[Grid]:
    """The grids that were run into a folder, by its manifest: the smallest first."""
    return [
        Grid(
            {name: tuple(values) for name, values in each["axes"].items()},
            tuple(map(tuple, each["zipped"])),
            each["seeds"],
            each.get("first_seed", 0),
        )
        for each in (*stored.get("earlier", ()), stored["grid"])
    ]


def identity(plan: Plan) -> dict[str, Any]:
    """What decides a plan's records, as a manifest has it."""
    programs = dict.fromkeys(repr(batch.program) for batch in plan.batches)
    index = {program: number for number, program in enumerate(programs)}
    cut = [list(chunks) for _, chunks in itertools.groupby(plan.chunks, key=lambda chunk: id(chunk.batch))]
    return {
        "format": FORMAT,
        "experiment": plan.experiment,
        "meaning": plan.meaning,
        "grid": _as_json(plan.grid),
        "earlier": [_as_json(grid) for grid in plan.earlier],
        "programs": list(programs),
        "batches": [len(chunks) for chunks in cut],
        "chunks": {
            chunk.name: [chunk.size, index[repr(batch.program)]]
            for batch, chunks in zip(plan.batches, cut, strict=True)
            for chunk in chunks
        },
    }


def _as_json(grid: Grid) -> dict[str, Any]:
    return dataclasses.asdict(grid) | {"axes": {name: list(values) for name, values in grid.axes.items()}}


def differences(stored: dict[str, Any], plan: Plan) -> str:
    """How the plan of a folder's manifest differs from ``plan``, in words; empty where it does not, or where the plan
    goes on from it.
    """
    if stored["experiment"] != plan.experiment:
        return f"experiment {stored['experiment']!r}, wanted {plan.experiment!r}"
    if stored["meaning"] != plan.meaning:
        return (
            f"the experiment's records meant something else when they were made: meaning {stored['meaning']} "
            f"there, {plan.meaning} now"
        )
    grids, wanted = grids_of(stored), [*plan.earlier, plan.grid]
    if grids != wanted[: len(grids)]:
        return "; ".join(changes(grids[-1], plan.grid)) or "it was made of smaller grids, one after another"
    chunks = {chunk.name: chunk.size for chunk in plan.chunks}
    same = all(chunks.get(name) == size for name, (size, _) in stored["chunks"].items())
    whole = len(grids) < len(wanted) or len(chunks) == len(stored["chunks"])
    return "" if same and whole else "the same grid, cut by another version of the experiment"


def changes(before: Grid, after: Grid) -> list[str]:
    """How one grid differs from another, a phrase each."""
    return messages.differences(*({**grid["axes"], **grid, "axes": {}} for grid in map(_as_json, (before, after))))
