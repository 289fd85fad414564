"""What a run will need of its devices, printed before anything is loaded, and refused where it cannot fit."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
from rich.table import Table

from experiments.kit.terminal import console
from experiments.tldr import toy
from experiments.tldr.options import Options
from experiments.tldr.settings import ONLINE_FROM, TOY, Descent, Recipe, Stage, steps
from gvgap_jax.lm.budget import flops, memory
from gvgap_jax.lm.budget.memory import Memory
from gvgap_jax.lm.budget.work import Work
from gvgap_jax.lm.hf import load
from gvgap_jax.lm.model.pythia import pythia
from gvgap_jax.lm.model.shape import Shape
from gvgap_jax.runtime import chips
from gvgap_jax.runtime.chips import Chip
from gvgap_jax.runtime.devices import USABLE, memory_per_device
from gvgap_jax.runtime.units import HOUR, readable

DEMONSTRATIONS, COMPARISONS = 116_722, 92_858  # of TL;DR (arXiv 2403.17031, table 1), where a run's are not known yet

Kind = Literal["sft", "reward_model", "dpo"]


class Task(NamedTuple):
    """One part of a stage.

    Attributes:
      name: what is done.
      work: on which layout, a batch at a time.
      needed: its memory.
      flops: of a batch, on all devices.
      hours: of so many batches on a chip.
      batches: there are.
      options: of the command line that change what it needs.
    """

    name: str
    work: Work
    needed: Callable[[Work], Memory]
    flops: Callable[[Work], float]
    hours: Callable[[Work, Chip, int], float]
    batches: int
    options: str


def show(options: Options) -> None:
    """Print the estimate of every part of the run.

    Raises:
      ValueError: a part cannot fit; names the nearest setting that does.
    """
    chip, devices = _machine(options)
    recipe, tasks = options.recipe, _tasks(options.recipe, _sizes(options, devices))
    title = f"estimate for {devices} x {chip.name} with {readable(chip.memory_bytes)} each"
    headings = ("part", "batches", "memory a device", "worst moment", "PFLOP", "time")
    table = Table(*headings, title=title, title_justify="left")
    for task in tasks:
        needed = task.needed(task.work)
        work = f"{task.batches * task.flops(task.work) / 1e15:,.3g}"
        time = _time(task.hours(task.work, chip, task.batches))
        table.add_row(task.name, f"{task.batches:,}", readable(needed.total), needed.moment, work, time)
    console.print(table)
    total = _time(options.seeds * sum(task.hours(task.work, chip, task.batches) for task in tasks))
    assumed = f", for {DEMONSTRATIONS:,} demonstrations and {COMPARISONS:,} pairs as in TL;DR"
    most = max(tasks, key=lambda task: task.needed(task.work).total)
    parts = sorted(memory.rows(most.needed(most.work))[:-1], key=lambda part: -part[1])
    console.print(
        f"{most.name} needs most: {', '.join(f'{label} {readable(size)}' for label, size in parts)}.\n"
        f"{total} in all{'' if recipe.in_toy_world else assumed}, at {chip.share_of_peak:.0%} of the chip's peak, "
        "which is assumed; compiling, reading and judges come on top.",
        highlight=False,
        soft_wrap=True,
    )
    for task in tasks:
        _check_length(task)
        try:
            memory.check(task.needed, task.work, chip, devices)
        except ValueError as error:
            raise ValueError(f"{task.name}: {error} ({task.options})") from error


def _check_length(task: Task) -> None:
    """Refuse what the model would refuse at its first batch."""
    longest = task.work.shape.longest
    if longest is not None and task.work.length > longest:
        raise ValueError(
            f"{task.name}: rows have {task.work.length:,} tokens, and the model reads up to {longest:,}: choose "
            "fewer --data.prompt_tokens, --data.response_tokens or --data.compared_tokens."
        )


def _time(hours: float) -> str:
    seconds = HOUR * hours
    return f"{seconds:,.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} min" if hours < 2 else f"{hours:,.0f} h"


def _machine(options: Options) -> tuple[Chip, int]:
    """The chip and how many; of the local devices where nothing else is asked for."""
    devices = options.devices or jax.device_count()
    if options.chip is not None:
        return chips.chip_named(options.chip), devices
    kind = jax.devices()[0].device_kind
    known = chips.chip_of(kind) or chips.chip_named("cpu")._replace(name=f"{kind} (speed not known)")
    return known._replace(memory_bytes=int(memory_per_device() / USABLE)), devices


def _sizes(options: Options, devices: int) -> dict[str, int]:
    """Devices along each axis of the layout; ValueError if they are not all of them, or cannot share the rows."""
    sizes = dataclasses.asdict(options.layout)
    known = math.prod(size for size in sizes.values() if size != -1)
    sizes = {name: devices // max(known, 1) if size == -1 else size for name, size in sizes.items()}
    if math.prod(sizes.values()) != devices:
        words = ", ".join(f"--layout.{name} {size}" for name, size in sizes.items())
        raise ValueError(f"{words} must multiply to {devices}, the number of devices.")
    shares, recipe = sizes["data"] * sizes["fsdp"], options.recipe
    trainings = {f"--{name}.batch": getattr(recipe, name) for name in ("sft", "rm", "dpo")}
    rows = {name: how.batch / how.accumulate for name, how in trainings.items()} | {"--chunk": recipe.chunk}
    uneven = {name: each for name, each in rows.items() if each % shares}
    if uneven:
        name, each = next(iter(uneven.items()))
        raise ValueError(f"{name} (or its part, with accumulation) of {each:g} rows does not go into {shares} devices.")
    return sizes


def _shape(recipe: Recipe, name: str) -> Shape:
    """Of a checkpoint, from its name or its configuration; no weights are read or fetched."""
    if name == TOY:
        shape = toy.shape_of_model(tokens=None if recipe.in_toy_world else toy.OWN_TOKENS)
    elif size := re.fullmatch(r"EleutherAI/pythia-([\w.]+?)(-deduped)?", name):
        shape = pythia(size[1])
    else:
        shape = load.shape_of(name, recipe.revision if name == recipe.model else None)
    return dataclasses.replace(shape, dtype=recipe.dtype, remat=recipe.remat)


def _tasks(recipe: Recipe, sizes: dict[str, int]) -> list[Task]:
    """All parts of a run of one seed."""
    policy = _shape(recipe, recipe.model)
    verifier = _shape(recipe, recipe.rm_size) if recipe.rm_size else policy
    toys = toy.DEMONSTRATIONS, toy.COMPARISONS
    shown, compared = toys if recipe.in_toy_world else (DEMONSTRATIONS, COMPARISONS)
    prompts, limit = min(recipe.online_prompts or compared, compared), recipe.data.limit or shown + compared
    shown, compared, prompts = min(shown, limit), min(compared, limit), min(prompts, limit)

    def work(shape: Shape, kind: Kind, rows: int, responses: int, stored: int = 0, parts: int = 1):
        lengths = recipe.data.prompt_tokens, responses
        one = Work(shape, kind, rows, *lengths, accumulate=parts, stored_rows=stored)
        return dataclasses.replace(one, **sizes)

    def trained(name: str, shape: Shape, kind: Kind, stage: Stage, responses: int, stored: int) -> Task:
        how: Descent = getattr(recipe, stage)
        one = work(shape, kind, how.batch, responses, stored, how.accumulate)
        batches = steps(how, stored)
        options = f"--{stage}.accumulate, --layout.fsdp, --remat"
        return Task(name, one, memory.training, flops.training_flops, flops.training_hours, batches, options)

    def scored(name: str, shape: Shape, kind: Kind, responses: int, rows: int) -> Task:
        one, options = work(shape, kind, recipe.chunk // 2, responses), "rows are half of --chunk"
        batches = math.ceil(rows / recipe.chunk)
        return Task(name, one, memory.scoring, flops.scoring_flops, flops.scoring_hours, batches, options)

    def drawn(name: str, rows: int, samples: int) -> Task:
        one, options = work(policy, "sft", recipe.chunk * samples, short), f"rows are --chunk times {samples}"
        batches = math.ceil(rows / recipe.chunk)
        return Task(name, one, memory.generation, flops.generation_flops, flops.generation_hours, batches, options)

    twice, short, long = len(ONLINE_FROM), recipe.data.response_tokens, recipe.data.compared_tokens
    return [
        trained("SFT", policy, "sft", "sft", short, shown),
        *([trained("SFT of the reward model", verifier, "sft", "sft", short, shown)] if recipe.rm_size else []),
        trained("reward model", verifier, "reward_model", "rm", long, compared),
        scored("reference of DPO", policy, "dpo", long, 2 * compared),
        trained("DPO", policy, "dpo", "dpo", long, compared),
        drawn(f"online: {recipe.samples} responses a prompt, {twice} times", twice * prompts, recipe.samples),
        scored("online: their rewards", verifier, "reward_model", short, twice * prompts * recipe.samples),
        trained("online: DPO", policy, "dpo", "dpo", short, prompts),
        drawn("evaluation: answers", 5 * recipe.evaluation_prompts, 1),
        drawn("evaluation: best of n", recipe.evaluation_prompts, recipe.samples),
    ]
