"""Options of ``run``: a grid over an experiment's ``Config``, where the records go, and what computes them."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import tyro

from experiments.kit.backends import BackendName, on_backend
from experiments.kit.fields import meaning
from experiments.kit.presets import BACKEND_NAMES, PRESET_NAMES, RESULTS, Preset, named_by
from experiments.kit.terminal import PROGRAM
from experiments.questions import questions
from gvgap_jax.runtime.messages import unknown
from gvgap_jax.sweep import Grid
from gvgap_jax.sweep.engines import Ray, Slurm
from gvgap_jax.sweep.plan import shard

ALIASES = {"pairs": ["--grid.n"]}
Parsed = TypeVar("Parsed")


def parsed(command: Callable[..., Parsed], words: str, arguments: list[str]) -> Parsed:
    """Call a command's function, or make its options, from arguments; help and errors name the command by ``words``."""
    return tyro.cli(
        command,
        prog=f"{PROGRAM} {words}",
        args=arguments,
        use_underscores=True,
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.PositionalRequiredArgs),
    )


def known_experiment(name: str, backend: BackendName = "tree") -> str:
    """``name`` itself; ValueError where it is unknown, or not on that backend: why, and which are."""
    known, there = name.replace("-", "_"), on_backend(questions(), backend)
    if known not in questions():
        raise ValueError(unknown("experiment", known, questions()))
    if known not in there:
        reason = questions()[known].NOT_ON_TRANSFORMERS
        raise ValueError(f"{known} does not run on the backend {backend!r}: {reason} These do: {', '.join(there)}.")
    return known


@dataclasses.dataclass(frozen=True)
class Computing:
    """What computes, and which part.

    Attributes:
      preset: tiny takes seconds, to see that it works; quick takes a minute or two on 2 cores; standard takes minutes
        there, and is what the results quote; paper takes about an hour on a GPU; full is for a cluster.
      backend: policies are tables on the tree, or transformers evaluated at all of its leaves.
      shard: i/n computes every n-th chunk from the i-th on, so that n machines share a sweep.
      engine: what computes: this process, a Ray cluster, or Slurm jobs.
      ray: what a Ray task asks for.
      slurm: what a Slurm job asks for.
    """

    preset: Preset = "quick"
    backend: BackendName = "tree"
    shard: str = "0/1"
    engine: Literal["local", "ray", "slurm"] = "local"
    ray: Ray = dataclasses.field(default_factory=Ray)
    slurm: Slurm = dataclasses.field(default_factory=Slurm)


@dataclasses.dataclass(frozen=True)
class Options(Computing):
    """Options that every experiment has.

    Attributes:
      seeds: independent repetitions of every point of the grid.
      zip: groups of axes that are walked together instead of crossed, as in ``--zip horizon,gold_order``.
      out: folder of the records, local or in an object store; results/NAME-PRESET if left out, and
        results/NAME-transformer-PRESET on transformers.
    """

    seeds: int = 8
    zip: tuple[str, ...] = ()
    out: str | None = None


@dataclasses.dataclass(frozen=True)
class All(Computing):
    """Every experiment of the backend, one after another.

    What is there already is not computed again.

    Attributes:
      out: folder, local or in an object store, of the experiments' folders NAME-PRESET.
    """

    out: str = RESULTS


def options_of(name: str, module, preset: str, backend: str = "tree") -> type[Options]:
    """Options of one experiment: those of every experiment, and ``grid.FIELD`` with the preset's values as defaults.

    ``module`` is the experiment on that backend.
    """
    grid = module.PRESETS[preset]
    hints = get_type_hints(module.Config)
    axes = dataclasses.make_dataclass(
        "Axes",
        [
            (
                field.name,
                Annotated[
                    tuple[hints[field.name], ...],
                    tyro.conf.arg(aliases=ALIASES.get(field.name), help=meaning(module.Config, field.name)),
                ],
                dataclasses.field(default=grid.axes.get(field.name, (field.default,))),
            )
            for field in dataclasses.fields(module.Config)
        ],
        frozen=True,
        namespace={"__doc__": module.Config.__doc__},
    )
    zipped = tuple(",".join(group) for group in grid.zipped)
    defaults = {"preset": preset, "backend": backend, "seeds": grid.seeds, "zip": zipped}
    return dataclasses.make_dataclass(
        name,
        [
            ("grid", axes, dataclasses.field(default=axes())),
            *(
                (field.name, field.type, dataclasses.field(default=defaults[field.name]))
                for field in dataclasses.fields(Options)
                if field.name in defaults
            ),
        ],
        bases=(Options,),
        frozen=True,
        namespace={"__doc__": module.__doc__},
    )


def grid_of(options: Any, preset: Grid) -> Grid:
    """The grid that the options ask for; its seeds begin where those of the preset's grid do."""
    axes = {field.name: getattr(options.grid, field.name) for field in dataclasses.fields(options.grid)}
    return Grid(axes, tuple(tuple(group.split(",")) for group in options.zip), options.seeds, preset.first_seed)


def part_of(text: str) -> tuple[int, int]:
    """(i, n) of ``i/n``.

    Raises:
      ValueError: it is not of that form, or not 0 <= i < n.
    """
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit()):
        raise ValueError(f"--shard must be i/n, as in 0/4, got {text!r}.")
    shard([], int(index), int(count))  # refuses an index out of range before anything is written
    return int(index), int(count)


def preset_in(arguments: list[str]) -> Preset:
    """The preset named in the arguments; its values are the defaults that the other options override."""
    return named_by("--preset", PRESET_NAMES, arguments, Computing.preset)


def backend_in(arguments: list[str]) -> BackendName:
    """The backend named in the arguments; it decides which presets there are."""
    return named_by("--backend", BACKEND_NAMES, arguments, Computing.backend)
