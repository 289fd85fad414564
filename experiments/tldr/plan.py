"""What a run will need of its devices, printed before anything is loaded, and refused where it cannot fit."""

import dataclasses
import math

import jax
from rich.table import Table

from experiments.kit.terminal import console
from experiments.tldr.options import Options
from experiments.tldr.parts import COMPARISONS, DEMONSTRATIONS, Task, numbers_of, tasks_of
from gvgap_jax.lm.budget import memory
from gvgap_jax.lm.budget.work import Platform
from gvgap_jax.runtime import chips
from gvgap_jax.runtime.chips import Chip
from gvgap_jax.runtime.devices import USABLE, memory_per_device
from gvgap_jax.runtime.units import HOUR, readable


def show(options: Options) -> None:
    """Print the estimate of every part of the run.

    Raises:
      ValueError: a part cannot fit; names the nearest setting that does.
    """
    chip, devices = _machine(options)
    recipe, sizes = options.recipe, sizes_of(options, devices)
    tasks = tasks_of(recipe, sizes, numbers_of(recipe), platform_of(chip))
    title = f"estimate for {devices} x {chip.name} with {readable(chip.memory_bytes)} each"
    headings = ("part", "batches", "memory a device", "worst moment", "PFLOP", "time")
    table = Table(*headings, title=title, title_justify="left")
    for task in tasks:
        needed = task.kind.needed(task.work)
        costs = f"{task.flops / 1e15:,.3g}", _time(task.hours(chip))
        table.add_row(task.name, f"{task.batches:,}", readable(needed.total), needed.moment, *costs)
    console.print(table)
    total = _time(options.seeds * sum(task.hours(chip) for task in tasks))
    assumed = f", for {DEMONSTRATIONS:,} demonstrations and {COMPARISONS:,} pairs as in TL;DR"
    most = max(tasks, key=lambda task: task.kind.needed(task.work).total)
    parts = sorted(memory.rows(most.kind.needed(most.work))[:-1], key=lambda part: -part[1])
    console.print(
        f"{most.name} needs most: {', '.join(f'{label} {readable(size)}' for label, size in parts)}.\n"
        f"{total} in all{'' if recipe.in_toy_world else assumed}, at {chip.share_of_peak:.0%} of the chip's peak, "
        "which is assumed; compiling, reading and judges come on top.\n"
        "This is arithmetic; python -m experiments rehearse tldr --slice ... asks the compiler itself.",
        highlight=False,
        soft_wrap=True,
    )
    for task in tasks:
        _check_length(task)
        try:
            memory.check(task.kind.needed, task.work, chip, devices)
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


def platform_of(chip: Chip) -> Platform:
    """Of a chip; one that is not known is taken for a CPU, whose programs need most."""
    gpus = {each.name for each in chips.CHIPS} - {"cpu"}
    return "tpu" if chip.name.startswith("TPU") else "gpu" if chip.name in gpus else "cpu"


def sizes_of(options: Options, devices: int) -> dict[str, int]:
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
