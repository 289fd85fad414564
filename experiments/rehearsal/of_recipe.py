"""What the recipe's run compiles, stage by stage, for devices that need not be there; no weights, data or tokenizer."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments.rehearsal.programs import Program
from experiments.tldr import parts, passes, plan, stages
from experiments.tldr.options import Options
from experiments.tldr.parts import Task
from experiments.tldr.settings import Recipe, training
from gvgap_jax.lm.budget.work import Work
from gvgap_jax.lm.model import transformer
from gvgap_jax.lm.model.decode import Decoding
from gvgap_jax.lm.model.shape import Shape
from gvgap_jax.runtime.targets import Target
from gvgap_jax.training import layouts, programs
from gvgap_jax.training.layouts import Layout
from gvgap_jax.types import Demonstrations, Params, Preferences

END = (0,)  # the token that ends a response: a constant of the program, on which no array depends


START = ": start"  # in the names of programs that make a training's first state


def of_recipe(options: Options, target: Target) -> Iterator[Program]:
    """Every program with a matrix product of a run of all seeds, and the starts of its trainings.

    What is left out copies, or computes a few numbers. Numbers of rows are assumed as ``--dry_run`` assumes them: no
    array depends on them but the stored data. A gold model is assumed to read as many tokens as the policy.

    Raises:
      ValueError: the options contradict each other, or the layout is not one of so many devices.
    """
    layout = layouts.layout(**plan.sizes_of(options, len(target.devices)), devices=target.devices)
    wanted = [task for task in tasks_of(options, target) if options.stage in ("all", task.stage)]
    return of_tasks(wanted, options.recipe, layout, options.seeds)


def tasks_of(options: Options, target: Target) -> list[Task]:
    """All parts of a run of one seed on a target; ValueError as ``of_recipe`` raises."""
    recipe, sizes = options.recipe, plan.sizes_of(options, len(target.devices))
    return parts.tasks_of(recipe, sizes, parts.numbers_of(recipe), plan.platform_of(target.chip))


def part(name: str, tasks: Sequence[Task]) -> Task:
    """The part that a program of this name belongs to."""
    return max((task for task in tasks if f"{name}: ".startswith(f"{task.name}: ")), key=lambda task: len(task.name))


def of_tasks(tasks: Sequence[Task], recipe: Recipe, layout: Layout, seeds: int = 1) -> Iterator[Program]:
    """The programs of these parts, each once, under the name of the first part that calls it."""
    alike: dict[Task, int] = {}
    for task in tasks:
        # What is left decides the program; names go by the first.
        same = next((other for other in alike if _decides(other) == _decides(task)), task)
        alike[same] = alike.get(same, 0) + task.batches
    for task, batches in alike.items():
        found = _trainings if task.training else _pass
        yield from found(task, recipe, layout, seeds * batches)


def _decides(task: Task) -> Any:
    """What decides the programs of a part."""
    drawn = task.temperature if task.kind is parts.SAMPLING else None
    return task.kind, task.work, task.training, task.samples, drawn


def _trainings(task: Task, recipe: Recipe, layout: Layout, batches: int) -> Iterator[Program]:
    assert task.training is not None
    work, settings = task.work, training(task.training, recipe, task.work.stored_rows)
    build, first = stages.built(task.training, work.shape, recipe), _parameters(work.shape, work.outputs)
    runs = batches // settings.steps
    for lowered in programs.lowered(build, _stored(work), settings, layout, first):
        rows = work.rows * max(lowered.steps, 1)
        name = f"{task.name}: {lowered.steps} steps" if lowered.steps else f"{task.name}{START}"
        yield Program(name, lowered.lower, runs * lowered.calls, rows, recipe.dtype, task.options, layout.mesh)


def _pass(task: Task, recipe: Recipe, layout: Layout, batches: int) -> Iterator[Program]:
    work, samples = task.work, task.samples
    params = layout.put_parameters(_parameters(work.shape, work.outputs))
    number, prompts = jax.ShapeDtypeStruct((), jnp.int32), _tokens(recipe.chunk, work.prompt_tokens)
    responses = _tokens(recipe.chunk, samples, work.response_tokens)
    if task.kind is parts.SAMPLING:
        decoding, key = Decoding(task.temperature, end=END), jax.eval_shape(lambda: jax.random.key(0))
        drawn = passes.sampler(work.shape, work.response_tokens, decoding, samples, layout)
        lower = partial(drawn.lower, params, number, prompts, key=key)
    elif work.kind == "reward":
        lower = partial(passes.scorer(work.shape, layout).lower, params, number, prompts, responses)
    else:
        score = passes.likelihood(work.shape, recipe.data.response_tokens, layout)
        lower = partial(score.lower, params, number, prompts, responses)
    rows = recipe.chunk * samples
    yield Program(task.name, lower, batches, rows, recipe.dtype, task.options, layout.mesh)


def _parameters(shape: Shape, outputs: int) -> Params:
    return jax.eval_shape(lambda: transformer.init(shape, outputs, jax.random.key(0)))


def _stored(work: Work) -> Demonstrations | Preferences:
    """The data set of a training, as shapes."""
    rows = work.stored_rows
    prompts, responses = _tokens(rows, work.prompt_tokens), _tokens(rows, work.response_tokens)
    numbers: Any = jax.ShapeDtypeStruct((rows,), jnp.float32)
    if work.kind == "sft":
        return Demonstrations(prompts, responses, numbers)
    return Preferences(prompts, responses, responses, numbers, numbers)


def _tokens(*sizes: int) -> Any:
    return jax.ShapeDtypeStruct(sizes, jnp.int32)
