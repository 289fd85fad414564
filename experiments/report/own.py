"""Runs of a reader's own below a folder of results: experiments on other grids than a preset's, or in other folders."""

import shlex

from experiments.kit.backends import BackendName, of_name, on_backend
from experiments.kit.findings import Question
from experiments.kit.presets import BACKEND_NAMES, FIRST_SEEDS, default_folder
from experiments.questions import questions
from experiments.report.evidence import Evidence, trouble, with_records, words_of
from gvgap_jax.runtime.files import Damaged, Folder
from gvgap_jax.sweep import Grid
from gvgap_jax.sweep.grid import contains
from gvgap_jax.sweep.identity import grids_of
from gvgap_jax.sweep.look import MANIFEST, manifest
from gvgap_jax.sweep.plan import with_defaults

UNKNOWN = Question("", "", "")


def own_runs(root: Folder) -> list[Evidence]:
    """What the folders of records below ``root`` say that are no preset's of an experiment."""
    if not root.is_dir():
        return []
    folders = sorted((each for each in root.iterdir() if (each / MANIFEST).exists()), key=lambda each: each.name)
    return [found for folder in folders if (found := _run_in(folder, root)) is not None]


def _run_in(folder: Folder, root: Folder) -> Evidence | None:
    """The run in a folder; None where the folder is a preset's, whose experiment speaks of it."""
    presets = {
        default_folder(name, preset, str(root), backend): (name, preset, backend)
        for backend in BACKEND_NAMES
        for name, module in on_backend(questions(), backend).items()
        for preset in module.PRESETS
    }
    of_preset = presets.get(str(folder))
    try:
        stored = manifest(folder)
    except (Damaged, ValueError, OSError) as error:
        return None if of_preset else _unreadable(folder, str(error))
    wanted = stored["experiment"]
    name, backend = of_name(wanted)
    module = on_backend(questions(), backend).get(name)
    if module is None:
        return (
            None
            if of_preset
            else _unreadable(folder, f"There is no experiment {wanted!r} here, whose records these are.")
        )
    grid = grids_of(stored)[-1]
    if of_preset and (stored["meaning"] != module.MEANING or _is_of(module, grid, of_preset[1])):
        return None
    question, setting = words_of(module)
    about = module.QUESTION._replace(label=f"a run of {name} on a grid of its own")
    problems = trouble(folder, (wanted, module, grid))
    parts = question, setting, about, module.CAPTIONS, "", str(folder), command(name, module, grid, backend, folder)
    found = Evidence(folder.name, backend, *parts, problems, [], [], [], [], {})
    return found if problems else with_records(found, module)


def _is_of(module, grid: Grid, preset: str) -> bool:
    """Whether a grid is a preset's, or a part of it that the preset's run goes on from."""
    return contains(with_defaults(module.Config, module.PRESETS[preset]), grid)


def _unreadable(folder: Folder, problem: str) -> Evidence:
    command = f"python -m experiments status {shlex.quote(str(folder))}"
    parts = folder.name, "", UNKNOWN, {}, "", str(folder), command, [problem]
    return Evidence(folder.name, "tree", *parts, [], [], [], [], {})


def command(name: str, module, grid: Grid, backend: BackendName, folder: Folder) -> str:
    """The command that makes the records of a grid in a folder: what differs from the preset with its first seed."""
    preset = next((each for each in module.PRESETS if FIRST_SEEDS[each] == grid.first_seed), "quick")
    usual = with_defaults(module.Config, module.PRESETS[preset])
    words = ["python", "-m", "experiments", "run", name, "--preset", preset]
    words += ["--backend", backend] if backend != "tree" else []
    for axis, values in grid.axes.items():
        words += [f"--grid.{axis}", *map(str, values)] if values != usual.axes[axis] else []
    words += ["--zip", *(",".join(group) for group in grid.zipped)] if grid.zipped != usual.zipped else []
    words += ["--seeds", str(grid.seeds)] if grid.seeds != usual.seeds else []
    return shlex.join([*words, "--out", str(folder)])
