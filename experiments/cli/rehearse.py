"""``python -m experiments rehearse NAME --slice v5e-8``: compile what a run would, before the devices are rented."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.markup import escape

from experiments.cli.arguments import backend_in, grid_of, known_experiment, options_of, parsed, preset_in
from experiments.cli.run import run_tldr
from experiments.kit.backends import named, on_backend
from experiments.kit.presets import RESULTS, default_folder
from experiments.kit.terminal import PROGRAM, console, names, signals_caught, stop
from experiments.questions import questions
from experiments.rehearsal import of_sweeps, pages, table
from experiments.rehearsal.programs import Program
from experiments.rehearsal.rehearse import TOO_LARGE, fits
from experiments.rehearsal.rehearse import rehearse as rehearse_all
from experiments.rehearsal.rows import Difference, Row
from experiments.rehearsal.table import Rehearsed
from experiments.report.evidence import words_of
from experiments.report.tables import rewritten
from experiments.tldr.options import Options, options_with
from gvgap_jax.runtime.compile_cache import kept_for_a_slice
from gvgap_jax.runtime.files import folder_at
from gvgap_jax.runtime.packages import optional
from gvgap_jax.runtime.targets import Target, here, target
from gvgap_jax.sweep.plan import make_plan

SMALL = "--preset tiny --slice v5e-4 --first 1"
SMOKE = (
    f"sample_complexity {SMALL}",
    f"main_table {SMALL}",
    f"sample_complexity --backend transformer {SMALL}",
    "tldr --preset laptop --steps_a_dispatch 1 --slice v5e-4 --layout.fsdp 2 --layout.tensor 2",
)
SAME = "phase_diagram --preset full --first 6"
RECIPE = "tldr --preset pythia-410m --slice v5e-64 --layout.fsdp 64 --chunk 64 --dtype bfloat16"
DOCUMENTED = {
    "phase_diagram on v5e-8": f"{SAME} --slice v5e-8",
    "phase_diagram on h100x8": f"{SAME} --slice h100x8",
    "pythia-410m on v5e-64": RECIPE,
    "llama-3.1-8b on v5e-64": f"{RECIPE} --model experiments/rehearsal/shapes/llama-3.1-8b",
}
ON_DEVICES = ("phase_diagram on h100x8", "phase_diagram on v5e-8")  # beside this machine, in one table
CELLS = "cells at once"


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """What is rehearsed for, beside the options of the run.

    Attributes:
      slice: the devices, as clouds name them: v5e-8, v6e-16, v5p-32, h100x8; ``here`` for those of this machine.
      price: of an hour of the slice, in any currency.
      first: compile so many programs only, those with most cells first.
      minutes: after which no other compilation begins; the same command goes on with what is left.
      keep: folder of the compiled programs, for a TPU slice with the same versions of jax and libtpu, which is given it
        as JAX_COMPILATION_CACHE_DIR; none are kept if left out.
    """

    slice: str = "here"
    price: float | None = None
    first: int | None = None
    minutes: float | None = None
    keep: Path | None = None


def rehearse(arguments: list[str]) -> None:
    """Compile a run's programs for devices that are not here.

    What follows the name are the options of ``run``, and ``--slice``. Nothing is computed.

    Raises:
      ValueError: there is no experiment or slice of the name, or its compiler is not installed.
      SystemExit: a program does not compile or fit, or computes in a lower precision than it may (status 1), or the
        rehearsal was stopped (status 128 + signal).
    """
    backend = backend_in(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        asked = {name: words_of(module)[0] for name, module in on_backend(questions(), backend).items()}
        others = {"tldr": run_tldr.__doc__ or "", "smoke": smoke.__doc__ or "", "documented": documented.__doc__ or ""}
        console.print(names(f"usage: {PROGRAM} rehearse NAME --slice v5e-8, or rehearse NAME --help", asked | others))
        return
    name, *rest = arguments
    if name.startswith("-"):
        raise ValueError(f"the run's name comes before its options, as in: rehearse equivalence {name} …")
    if name == "smoke":
        parsed(smoke, "rehearse smoke", rest)
    elif name == "documented":
        parsed(documented, "rehearse documented", rest)
    else:
        _end([of_run(arguments)])


def smoke() -> None:
    """What every change must still compile for a TPU: a sweep of each kind, and all stages of the recipe."""
    _end([of_run([*line.split()]) for line in SMOKE])


def documented(write: Path) -> None:
    """The rehearsals that a page of the documentation shows.

    Args:
      write: the page; its tables, between their markers, are written anew.

    Raises:
      ValueError: the page has no place for a table.
    """
    done = {name: of_run(line.split()) for name, line in DOCUMENTED.items()}
    tables = {name: pages.of_run(DOCUMENTED[name], each) for name, each in done.items()}
    everywhere = [of_run([*SAME.split(), "--slice", "here"]), *(done[name] for name in ON_DEVICES)]
    tables[CELLS] = pages.by_device(everywhere)
    write.write_text(rewritten(write.read_text(encoding="utf-8"), tables), encoding="utf-8")


def of_run(arguments: list[str]) -> Rehearsed:
    """Compile the programs of the run that the arguments name, and print what came of it."""
    name, *rest = arguments
    if name == "tldr":
        return of_recipe_run(parsed(_rehearsing(options_with(rest)), "rehearse tldr", rest))
    backend = backend_in(rest)
    name = known_experiment(name, backend)
    module = on_backend(questions(), backend)[name]
    options = _rehearsing(options_of(name, module, preset_in(rest), backend))
    return of_sweep_run(name, module, parsed(options, f"rehearse {name}", rest))


def of_sweep_run(name: str, module: Any, asked: Any) -> Rehearsed:
    """Compile what the sweep of a question computes with."""
    options, there = asked.run, target_of(asked)
    plan = make_plan(named(name, options.backend), module, grid_of(options, module.PRESETS[options.preset]))
    title = Path(default_folder(name, options.preset, backend=options.backend)).name
    return _rehearsed(title, asked, there, list(of_sweeps.of_sweep(plan, there.devices)))


def of_recipe_run(asked: Any) -> Rehearsed:
    """Compile what the stages of the recipe compute with."""
    there = target_of(asked)
    of_recipe, estimates = (optional(f"experiments.rehearsal.{name}") for name in ("of_recipe", "estimates"))
    programs = list(of_recipe.of_recipe(asked.run, there))
    compare, advise = partial(estimates.differences, asked.run, there), partial(_nearest, asked.run, there)
    return _rehearsed(f"tldr-{asked.run.preset}", asked, there, programs, compare, advise)


def _rehearsing(run: type) -> Any:
    """The options of a run, with those of its rehearsal."""
    options = Annotated[run, tyro.conf.arg(name="")]
    return dataclasses.make_dataclass(
        "Rehearsing",
        [("run", options, dataclasses.field(default_factory=run))],
        bases=(Rehearsal,),
        frozen=True,
        namespace={"__doc__": Rehearsal.__doc__},
    )


def target_of(asked: Rehearsal) -> Target:
    """The devices that are rehearsed for."""
    return here() if asked.slice == "here" else target(asked.slice)


def _rehearsed(
    name: str,
    asked: Rehearsal,
    there: Target,
    programs: list[Program],
    compare: Callable[[list[Row]], list[Difference]] = lambda rows: [],
    advise: Callable[[Row], str] = lambda row: "",
) -> Rehearsed:
    """Compile programs and print their tables.

    ``compare`` finds what ``--dry_run`` estimates of them, and ``advise`` what fits where one of them does not.
    """
    wanted = programs[: asked.first]
    folder = folder_at(RESULTS) / "rehearsals" / f"{name}-{there.name}"
    compiling = contextlib.nullcontext() if asked.slice == "here" else kept_for_a_slice(asked.keep)
    with signals_caught() as caught, compiling:
        rows = rehearse_all(wanted, there, folder, asked.minutes, lambda: bool(caught))
    title = f"{name} on {there.name}: {len(there.devices)} x {there.chip.name}"
    share = work_of(row.program for row in rows) / work_of(programs)
    done = Rehearsed(title, there, rows, len(programs) - len(rows), share, compare(rows), [])
    table.show(done, asked.price)
    if done.left:
        console.print(f"{done.left:,} of {len(programs):,} programs are not compiled.", highlight=False)
    if caught:
        stop(caught)
    for row, sentence in table.wrong(rows, there):
        done.wrong.append(f"{sentence}. {advise(row)}".rstrip())
        console.print(f"[red]{escape(done.wrong[-1])}[/red]", highlight=False, soft_wrap=True)
    return done


def work_of(programs: Iterable[Program]) -> float:
    """Rows of all calls."""
    return sum(program.calls * program.rows for program in programs)


def _nearest(options: Options, there: Target, row: Row) -> str:
    """The nearest setting of the recipe that fits, as the compiler says; empty where memory is not what is wrong."""
    if row.fits(there) or (row.wrong and not row.wrong.startswith(TOO_LARGE)):
        return ""
    console.print(f"looking for the nearest setting in which {row.program.name} fits", highlight=False)
    folder = folder_at(RESULTS) / "rehearsals" / "nearest"
    nearest = optional("experiments.rehearsal.nearest")
    found = nearest.nearest(options, there, row.program.name, lambda program, other: fits(program, other, folder))
    return f"Nearest that fits: {found.settings}" if found else "No setting and no slice of its kind is enough"


def _end(done: list[Rehearsed]) -> None:
    if any(each.wrong for each in done):
        sys.exit(1)
