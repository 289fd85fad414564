"""What fits where a program of the recipe does not: the arithmetic proposes, and the compiler decides."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

from experiments.rehearsal.of_recipe import of_tasks, part, tasks_of
from experiments.rehearsal.programs import Program
from experiments.tldr.options import Options
from experiments.tldr.parts import Task
from experiments.tldr.settings import Sizes
from gvgap_jax.lm.budget import memory
from gvgap_jax.lm.budget.work import Work
from gvgap_jax.runtime import targets
from gvgap_jax.runtime.targets import Target
from gvgap_jax.training import layouts


class Proposal(NamedTuple):
    """Another setting of the same run.

    Attributes:
      settings: what differs, as on the command line.
      target: the slice; a larger one where there are too few devices.
      options: of the whole run.
      programs: of the part that did not fit.
    """

    settings: str
    target: Target
    options: Options
    programs: tuple[Program, ...]


def nearest(options: Options, target: Target, name: str, fits: Callable[[Program, Target], bool]) -> Proposal | None:
    """The first proposal whose programs all fit, as the compiler says; None if none does.

    Args:
      options: of the run.
      target: whose devices are too small.
      name: of the program that does not fit.
      fits: compiles a program, and compares what it needs with what a device of the target has.
    """
    for proposal in proposals(options, target, name):
        if all(fits(program, proposal.target) for program in proposal.programs):
            return proposal
    return None


def proposals(options: Options, target: Target, name: str) -> Iterator[Proposal]:
    """Settings under which that program fits by arithmetic, cheapest first; those that cannot be run are left out.

    Smaller parts of a batch, then recomputing, then splitting parameters more, then twice as many devices, and so on.
    """
    task = part(name, tasks_of(options, target))
    for other in memory.neighbours(task.kind.needed, task.work):
        if other != task.work and memory.fits(task.kind.needed, other, target.chip):
            with contextlib.suppress(ValueError):  # no such slice, or rows that its devices cannot share
                yield _proposed(options, target, task, other)


def _proposed(options: Options, target: Target, task: Task, other: Work) -> Proposal:
    recipe, before, settings = options.recipe, task.work, []
    if other.rows != before.rows:
        chunk, rest = divmod(other.rows * recipe.chunk, before.rows)
        if rest:
            raise ValueError("no whole number of prompts")
        recipe, settings = dataclasses.replace(recipe, chunk=chunk), [f"--chunk {chunk}"]
    if other.accumulate != before.accumulate and task.training:
        how = dataclasses.replace(getattr(recipe, task.training), accumulate=other.accumulate)
        recipe = dataclasses.replace(recipe, **{task.training: how})
        settings += [f"--{task.training}.accumulate {other.accumulate}"]
    if other.shape.remat != before.shape.remat:
        recipe, settings = dataclasses.replace(recipe, remat=True), [*settings, "--remat"]
    layout = Sizes(other.data, other.fsdp, other.tensor)
    if layout != Sizes(before.data, before.fsdp, before.tensor):
        settings += [f"--layout.{axis} {size}" for axis, size in dataclasses.asdict(layout).items()]
    changed = dataclasses.replace(options, recipe=recipe, layout=layout)
    larger = target if other.devices == before.devices else _larger(target, other.devices // before.devices)
    settings += [] if larger is target else [f"--slice {larger.name}"]
    same = part(task.name, tasks_of(changed, larger))
    programs = of_tasks([same], recipe, layouts.layout(**dataclasses.asdict(layout), devices=larger.devices))
    return Proposal(" ".join(settings), larger, changed, tuple(programs))


def _larger(target: Target, times: int) -> Target:
    """The slice of the same kind with so many times as many devices; ValueError if there is none."""
    family, number = targets.parsed(target.name)
    known = {size: name for name, (of, size) in targets.slices().items() if of == family}
    if number * times not in known:
        raise ValueError(f"no slice of {family} has {number * times}")
    return targets.target(known[number * times])
