"""``python -m experiments rehearse NAME --slice v5e-8``: compile what a run would, before the devices are rented."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from rich.markup import escape

from experiments.cli.arguments import backend_in, grid_of, known_experiment, options_of, parsed, preset_in
from experiments.cli.run import run_tldr
from experiments.kit.backends import named, on_backend
from experiments.kit.presets import RESULTS, default_folder
from experiments.kit.terminal import PROGRAM, console, names, signals_caught, stop
from experiments.questions import questions
from experiments.rehearsal import of_sweeps, table
from experiments.rehearsal.programs import Program
from experiments.rehearsal.rehearse import TOO_LARGE, fits
from experiments.rehearsal.rehearse import rehearse as rehearse_all
from experiments.rehearsal.rows import Row
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
RECIPE = "tldr --preset pythia-410m --slice v5e-64 --layout.fsdp 64 --chunk 64 --dtype bfloat16"
DOCUMENTED = {
    "phase_diagram on v5e-8": "phase_diagram --preset full --slice v5e-8 --first 12",
    "phase_diagram on h100x8": "phase_diagram --preset full --slice h100x8 --first 12",
    "pythia-410m on v5e-64": RECIPE,
    "llama-3.1-8b on v5e-64": f"{RECIPE} --model experiments/rehearsal/shapes/llama-3.1-8b",
}


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


class Rehearsed(NamedTuple):
    """What came of one rehearsal.

    Attributes:
      title: of its table.
      target: the devices.
      rows: of the programs that are compiled.
      left: programs that are not.
      wrong: what keeps the run from running as it should, a sentence each.
    """

    title: str
    target: Target
    rows: list[Row]
    left: int
    wrong: list[str]


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
    done = {name: (line, of_run(line.split())) for name, line in DOCUMENTED.items()}
    text = rewritten(write.read_text(encoding="utf-8"), {name: _page(*each) for name, each in done.items()})
    write.write_text(text, encoding="utf-8")


def _page(line: str, done: "Rehearsed") -> str:
    """One rehearsal as documentation has it: its command, its table, and what is said below."""
    left = f" {done.left:,} more programs were not compiled." if done.left else ""
    parts = [f"```bash\n{PROGRAM} rehearse {line}\n```", table.as_markdown(done.rows, done.target)]
    parts.append(table.summary(done.rows, done.target, None).replace("\n", " ") + left)
    return "\n\n".join([*parts, *(f"- {sentence}" for sentence in done.wrong)])


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
    return _rehearsed(title, asked, there, list(of_sweeps.of_sweep(plan, there.devices)), lambda row: "")


def of_recipe_run(asked: Any) -> Rehearsed:
    """Compile what the stages of the recipe compute with."""
    there, of_recipe = target_of(asked), optional("experiments.rehearsal.of_recipe")
    programs = list(of_recipe.of_recipe(asked.run, there))
    return _rehearsed(f"tldr-{asked.run.preset}", asked, there, programs, partial(_nearest, asked.run, there))


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
    name: str, asked: Rehearsal, there: Target, programs: list[Program], advice: Callable[[Row], str]
) -> Rehearsed:
    """Compile programs and print their table; ``advice`` says what fits where one of them does not."""
    wanted = programs[: asked.first]
    folder = folder_at(RESULTS) / "rehearsals" / f"{name}-{there.name}"
    compiling = contextlib.nullcontext() if asked.slice == "here" else kept_for_a_slice(asked.keep)
    with signals_caught() as caught, compiling:
        rows = rehearse_all(wanted, there, folder, asked.minutes, lambda: bool(caught))
    title = f"{name} on {there.name}: {len(there.devices)} x {there.chip.name}"
    table.show(rows, title, there, asked.price)
    if left := len(programs) - len(rows):
        console.print(f"{left:,} of {len(programs):,} programs are not compiled.", highlight=False)
    if caught:
        stop(caught)
    wrong = [f"{sentence}. {advice(row)}".rstrip() for row, sentence in table.wrong(rows, there)]
    for sentence in wrong:
        console.print(f"[red]{escape(sentence)}[/red]", highlight=False, soft_wrap=True)
    return Rehearsed(title, there, rows, left, wrong)


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
