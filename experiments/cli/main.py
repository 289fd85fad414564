"""Command line: ``python -m experiments list | run | status | figures | …``."""

import difflib
import functools
import operator
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.markup import escape

from experiments.cli import predict as theory
from experiments.cli import runner
from experiments.cli.arguments import All, backend_in, options_of, preset_in
from experiments.cli.doctor import doctor
from experiments.cli.folders import compact, status
from experiments.cli.report import report
from experiments.cli.run_all import run_all
from experiments.kit.backends import BackendName, has_transformer, named, on_backend
from experiments.kit.plots import save
from experiments.kit.presets import PRESET_NAMES, default_folder
from experiments.questions import phase_diagram, questions
from experiments.report.evidence import words_of
from experiments.tldr.settings import Options, options_with
from gvgap_jax.sweep.grid import Grid, number_of_points

console = Console()


def list_experiments() -> None:
    """Name every experiment, the question it answers and the size of its presets."""
    for name, module in questions().items():
        console.print(f"[bold]{name}[/bold]: {words_of(module)[0]}")
        _list_presets(module.PRESETS)
        if has_transformer(module):
            console.print("    on transformers (--backend transformer):")
            _list_presets(module.TRANSFORMER_PRESETS)


def _list_presets(presets: Mapping[str, Grid]) -> None:
    for preset, grid in presets.items():
        console.print(f"    {preset:6} {number_of_points(grid):>9,} points x {grid.seeds} seeds", highlight=False)


def draw_figures(
    name: str, backend: BackendName = "tree", records: str | None = None, out: Path = Path("results/figures")
) -> None:
    """Draw an experiment's figures (PNG and PDF) from its records; nothing is computed.

    Args:
      name: an experiment, or ``all`` for every experiment that has records.
      backend: whose records they are.
      records: folder of the records; the default folder with the most thorough preset if left out.
      out: folder of the figures.
    """
    names = list(on_backend(questions(), backend)) if name == "all" else [known_experiment(name, backend)]
    drawn = []
    for each in names:
        folder = records or _latest_folder(each, backend)
        if folder is None and name == "all":
            option = "" if backend == "tree" else f" --backend {backend}"
            console.print(f"{each}: no records yet; make them with: python -m experiments run {each}{option}")
            continue
        drawn += draw(each, folder or default_folder(each, "quick", backend=backend), out, backend)
    for path in drawn:
        console.print(str(path))


def draw(name: str, folder: str | Path, out: Path, backend: BackendName = "tree") -> list[Path]:
    """Draw one experiment's figures from a backend's records in ``folder``; returns the files written.

    Raises:
      FileNotFoundError: the folder holds no such records.
    """
    drawn = questions()[name].draw(folder).items()
    return [path for title, figure in drawn for path in save(figure, out, named(title, backend))]


def _latest_folder(name: str, backend: BackendName) -> str | None:
    folders = [default_folder(name, preset, backend=backend) for preset in reversed(PRESET_NAMES)]
    return next((folder for folder in folders if Path(folder).exists()), None)


def quickstart(out: Path = Path("results")) -> None:
    """Check the theorems, run the quick sample-complexity sweep and draw its figure: about two minutes on 2 cores.

    Args:
      out: folder of the records and figures.
    """
    started = time.perf_counter()
    checks = subprocess.run([sys.executable, "-m", "theory"], check=False)
    folder = out / "sample_complexity-quick"
    module = questions()["sample_complexity"]
    runner.execute("sample_complexity", module, module.PRESETS["quick"], folder)
    for path in draw("sample_complexity", folder, out / "figures"):
        console.print(f"figure: {path}")
    console.print(f"quickstart took {time.perf_counter() - started:.0f} s")
    if checks.returncode:
        console.print("[red]a theorem check failed: see the table above[/red]")
        sys.exit(checks.returncode)


def known_experiment(name: str, backend: BackendName = "tree") -> str:
    """``name`` itself; a name that is unknown, or not on that backend, raises ValueError with those that are."""
    known, there = name.replace("-", "_"), on_backend(questions(), backend)
    if known in there:
        return known
    if known in questions():
        raise ValueError(f"{known} does not run on the backend {backend!r}; these do: {', '.join(there)}.")
    nearest = difflib.get_close_matches(known, questions(), n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(f"there is no experiment {name!r}; there are {', '.join(questions())}.{hint}")


def predict(config: Annotated[phase_diagram.Config, tyro.conf.arg(name="")], golds: int = 8) -> None:
    """Would two-stage RL beat offline DPO here, by how much, and from how many pairs? From theory; nothing is fitted.

    Args:
      config: the point that is asked about.
      golds: random gold rewards that the answer is averaged over.
    """
    theory.show(config, theory.predict(config, golds), console)


def bench(
    what: tyro.conf.Positional[Literal["fits", "sweeps", "kills", "transformers", "memory"]] = "fits",
    out: Path = Path("results/benchmarks"),
    experiment: str | None = None,
    preset: Literal["quick", "paper", "full"] = "quick",
    kills: int = 20,
) -> None:
    """Measure speed, or show that nothing is lost to kills.

    fits: against PyTorch, SciPy and plain JAX doing the same fits to the same optimality, and the leaf pass.
    sweeps: fits per second against chunk size and devices; storing, compiling and memory of a run.
    kills: a run that is killed again and again, and one that is shared, against an undisturbed one.
    transformers: training and decoding against PyTorch, TRL and transformers, and many seeds at once.
    memory: what a run is estimated to need against compiled and run training steps.

    Args:
      what: fits, sweeps, kills, transformers or memory.
      out: folder of the tables; those of all but fits go into folders of these names in it.
      experiment: that sweeps and kills run; if left out the largest quick one, and sample_complexity. For kills also
        tldr, which is killed in every stage.
      preset: of that experiment.
      kills: processes that are killed.
    """
    from experiments.benchmarks import fits, language_models, sweeps  # torch is an extra, and slow to import
    from experiments.benchmarks import kills as killing

    if what == "fits":
        fits.main(out)
    elif what == "transformers":
        language_models.main(out / "transformers")
    elif what == "memory":
        from experiments.benchmarks import memory

        memory.main(out / "memory")
    elif what == "sweeps":
        name = known_experiment(experiment or sweeps.default_experiment())
        sweeps.main(out / "sweeps", sweeps.Bench(name, questions()[name].PRESETS[preset]))
    else:
        name = experiment if experiment == "tldr" else known_experiment(experiment or "sample_complexity")
        if name == "tldr":
            from experiments.benchmarks import tldr_kills  # the recipe's packages are an extra

            tldr_kills.main(out / "kills-tldr")
        else:
            killing.main(out / "kills", (name, "--preset", preset), kills)


def run_tldr(options: Options) -> None:
    """Fine-tune a language model on preferences, stage by stage.

    Raises:
      ValueError: a package of the extra ``tldr`` is not installed, or as its command raises.
    """
    try:
        from experiments.tldr import command  # its packages are an extra
    except ImportError as error:
        raise ValueError(f'tldr needs {error.name}: pip install -e ".[tldr]".') from error
    command.run(options)


def main(arguments: list[str]) -> None:
    """Parse and run one command; bad input ends in one clear line and exit status 2."""
    try:
        preset, backend = preset_in(arguments), backend_in(arguments)
        if arguments[:1] == ["run"] and len(arguments) > 1 and not arguments[1].startswith("-"):
            name = arguments[1] if arguments[1] in ("all", "tldr") else known_experiment(arguments[1], backend)
            arguments = ["run", name, *arguments[2:]]
        modules = on_backend(questions(), backend)
        runs: list[Any] = [
            Annotated[options_of(name, module, preset, backend), tyro.conf.subcommand(name=name)]
            for name, module in modules.items()
        ]
        runs.append(Annotated[All, tyro.conf.subcommand(name="all")])
        runs.append(Annotated[options_with(arguments), tyro.conf.subcommand(name="tldr")])

        def run(experiment) -> None:
            """Run one experiment, or all, into folders of records; what is already there is not computed again."""
            if isinstance(experiment, All):
                run_all(modules, experiment)
            elif isinstance(experiment, Options):
                run_tldr(experiment)
            else:
                runner.run(experiment.name, modules[experiment.name], experiment)

        run.__annotations__["experiment"] = Annotated[functools.reduce(operator.or_, runs), tyro.conf.arg(name="")]
        commands = {
            "list": list_experiments,
            "run": run,
            "status": status,
            "figures": draw_figures,
            "report": report,
            "predict": predict,
            "compact": compact,
            "doctor": doctor,
            "quickstart": quickstart,
            "bench": bench,
        }
        tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="python -m experiments",
            description="Experiments on the generation-verification gap.",
            args=arguments,
            use_underscores=True,
            config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.PositionalRequiredArgs),
        )
    except (ValueError, OSError) as error:
        console.print(f"[red]error:[/red] {escape(describe(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)


def describe(error: Exception) -> str:
    """Its message, without the number that an OSError puts before it."""
    return str(error.strerror if isinstance(error, OSError) and error.strerror else error)
