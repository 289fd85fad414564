"""Command line: ``python -m experiments list | run | figures | quickstart | bench``."""

import difflib
import functools
import operator
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro
from rich.console import Console

from experiments import EXPERIMENTS, figures, runner

console = Console()
PRESET_NAMES = ("quick", "paper", "full")


def list_experiments() -> None:
    """Name every experiment, the question it answers and the size of its presets."""
    for name, module in EXPERIMENTS.items():
        console.print(f"[bold]{name}[/bold]: {(module.__doc__ or '').strip().splitlines()[0]}")
        for preset, config in module.PRESETS.items():
            cells = sum(batch.size for batch in module.batches(config))
            console.print(f"    {preset:6} {cells:>9,} cells", highlight=False)


def run_command(name: str, preset: str) -> Callable:
    """The command ``run NAME``, whose defaults are those of the chosen preset."""
    module = EXPERIMENTS[name]

    def command(config, out: Path | None = None, preset: str = preset) -> None:
        runner.execute(name, module, config, out or runner.default_folder(name, preset))

    command.__doc__ = (
        f"{module.__doc__}\n\nArgs:\n  out: folder of the records; results/{name}-PRESET if left out.\n"
        + ("  preset: quick takes about a minute on 2 cores, paper is what a figure should rest on, full is a sweep.")
    )
    command.__annotations__ = {
        "config": Annotated[
            module.Config, tyro.conf.arg(name=""), tyro.conf.subcommand(default=module.PRESETS[preset])
        ],
        "out": Path | None,
        "preset": Literal[PRESET_NAMES],  # pyright: ignore[reportInvalidTypeForm]
    }
    command.__defaults__ = (module.PRESETS[preset], None, preset)
    return command


def draw_figures(name: str, records: Path | None = None, out: Path = Path("results/figures")) -> None:
    """Draw an experiment's figures (PNG and PDF) from its records; nothing is computed.

    Args:
      name: an experiment, or ``all`` for every experiment that has records.
      records: folder of the records; the default folder with the most thorough preset if left out.
      out: folder of the figures.
    """
    names = list(EXPERIMENTS) if name == "all" else [known_experiment(name)]
    drawn = []
    for each in names:
        folder = records or _latest_folder(each)
        if folder is None and name == "all":
            console.print(f"{each}: no records yet; make them with: python -m experiments run {each}")
            continue
        drawn += figures.draw(each, folder or runner.default_folder(each, "quick"), out)
    for path in drawn:
        console.print(str(path))


def _latest_folder(name: str) -> Path | None:
    folders = [runner.default_folder(name, preset) for preset in reversed(PRESET_NAMES)]
    return next((folder for folder in folders if folder.exists()), None)


def quickstart(out: Path = Path("results")) -> None:
    """Check the theorems, run the quick sample-complexity sweep and draw its figure: about two minutes on 2 cores.

    Args:
      out: folder of the records and figures.
    """
    started = time.perf_counter()
    theory = subprocess.run([sys.executable, "-m", "theory"], check=False)
    folder = out / "sample_complexity-quick"
    module = EXPERIMENTS["sample_complexity"]
    runner.execute("sample_complexity", module, module.PRESETS["quick"], folder)
    for path in figures.draw("sample_complexity", folder, out / "figures"):
        console.print(f"figure: {path}")
    console.print(f"quickstart took {time.perf_counter() - started:.0f} s")
    if theory.returncode:
        console.print("[red]a theorem check failed: see the table above[/red]")
        sys.exit(theory.returncode)


def known_experiment(name: str) -> str:
    """``name`` itself; an unknown name raises ValueError with the nearest one."""
    known = name.replace("-", "_")
    if known in EXPERIMENTS:
        return known
    nearest = difflib.get_close_matches(known, EXPERIMENTS, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(f"there is no experiment {name!r}; there are {', '.join(EXPERIMENTS)}.{hint}")


def bench(out: Path = Path("results/benchmarks")) -> None:
    """Fits per second against PyTorch, SciPy and plain JAX doing the same fits to the same optimality.

    Args:
      out: folder of the benchmark's table.
    """
    from experiments.benchmarks import fits  # torch is an extra, and slow to import

    fits.main(out)


def main(arguments: list[str]) -> None:
    """Parse and run one command; bad input ends in one clear line and exit status 2."""
    try:
        if arguments[:1] == ["run"] and len(arguments) > 1 and not arguments[1].startswith("-"):
            arguments = ["run", known_experiment(arguments[1]), *arguments[2:]]
        preset = preset_in(arguments)
        runs = [
            Annotated[Any, tyro.conf.subcommand(name=name, constructor=run_command(name, preset))]
            for name in EXPERIMENTS
        ]

        def run(experiment) -> None:
            """Run one experiment into a folder of records; what is already there is not computed again."""
            del experiment

        run.__annotations__["experiment"] = functools.reduce(operator.or_, runs)
        commands = {
            "list": list_experiments,
            "run": run,
            "figures": draw_figures,
            "quickstart": quickstart,
            "bench": bench,
        }
        tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="python -m experiments",
            description="Experiments on the generation-verification gap.",
            args=arguments,
            use_underscores=True,
            config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes, tyro.conf.PositionalRequiredArgs),
        )
    except (ValueError, FileNotFoundError, PermissionError) as error:
        console.print(f"[red]error:[/red] {error}", highlight=False)
        sys.exit(2)


def preset_in(arguments: list[str]) -> str:
    """The preset named in the arguments; its values are the defaults that the other options override."""
    for option, value in zip(arguments, [*arguments[1:], ""], strict=True):
        for candidate in (value if option == "--preset" else "", option.removeprefix("--preset=")):
            if candidate in PRESET_NAMES:
                return candidate
    return "quick"


def use_all_cores() -> None:
    """One CPU device a core, so that seeds and cells fill the machine; other platforms are not touched."""
    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


if __name__ == "__main__":
    use_all_cores()
    main(sys.argv[1:])
