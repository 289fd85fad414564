"""The estimate of ``gvgap_jax.lm.budget.memory`` against the memory of compiled training steps, and of one that is run.

The compiler's numbers are those of the device that is there: arguments, results and temporaries of the program that
``train.fit`` runs, compiled for abstract arrays, so that nothing large is made. The run is a process of its own, whose
peak is what the operating system saw beyond the memory before the first array.
"""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import psutil

import experiments
from experiments.benchmarks.tables import console, table
from experiments.benchmarks.throughput import peak_bytes
from gvgap_jax.lm.budget import memory
from gvgap_jax.lm.budget.work import Work
from gvgap_jax.lm.model import classes
from gvgap_jax.lm.model.shape import neox
from gvgap_jax.runtime.devices import memory_needed
from gvgap_jax.runtime.units import MIB
from gvgap_jax.training import loop, objectives
from gvgap_jax.training.loop import Training
from gvgap_jax.training.objectives import Objective
from gvgap_jax.types import Demonstrations, Preferences

TOLERANCE = 0.15  # share of the measured memory that an estimate may miss it by
SIZES = ((3, 128, 4), (4, 256, 4), (6, 512, 8))  # layers, width, heads; two layers would not be scanned
VOCABULARY, PROMPT, RESPONSE, BATCH = 50_304, 512, 53, 4
HEADINGS = ("work", "parts", "remat", "worst", "estimate MiB", "measured MiB", "ratio", "by")


class Row(NamedTuple):
    """One program: bytes estimated and measured, when it is estimated to be worst, and who measured."""

    work: Work
    worst: str
    estimate: float
    measured: float
    by: str

    @property
    def ratio(self) -> float:
        """Estimate over measurement."""
        return self.estimate / self.measured


def main(out: Path) -> None:
    """Measure, print the table, and write memory.csv into ``out``."""
    rows = run()
    show(rows)
    out.mkdir(parents=True, exist_ok=True)
    columns = ("kind", "rows", "prompt_tokens", "response_tokens", "accumulate")
    measured = [
        {name: getattr(row.work, name) for name in columns}
        | {name: getattr(row.work.shape, name) for name in ("layers", "width", "vocabulary", "remat")}
        | {"estimate": row.estimate, "measured": row.measured, "ratio": row.ratio, "by": row.by}
        for row in rows
    ]
    pl.DataFrame(measured).write_csv(out / "memory.csv")


def run(sizes=SIZES, kinds=("sft", "reward_model", "dpo"), parts=(1, 2)) -> list[Row]:
    """Every size, kind, number of parts and both ways to keep activations, compiled; and its SFT, run."""
    works = [
        work_of(size, kind, accumulate, remat)
        for size in sizes
        for kind in kinds
        for remat in (False, True)
        for accumulate in parts
    ]
    return [compiled(work) for work in works] + [taken(work_of(size, "sft", 1, False)) for size in sizes]


def work_of(size: tuple[int, int, int], kind: Any, accumulate: int, remat: bool) -> Work:
    """A batch of sequences as long as TL;DR's, of Pythia's vocabulary."""
    layers, width, heads = size
    shape = neox(VOCABULARY, layers, width, heads, start=False, remat=remat)
    return Work(shape, kind, BATCH, PROMPT, RESPONSE, accumulate, stored_rows=BATCH, platform=jax.devices()[0].platform)


def compiled(work: Work) -> Row:
    """What the compiler reports of one gradient step."""
    return _row(work, memory_needed(program(work)), "compiler")


def program(work: Work):
    """One gradient step, compiled for abstract arrays; the state that goes in is used up."""
    training = _training(work)

    def begin(data, key):
        return loop.start(objective(work, data), training, key)

    def advance(data, state):
        return loop.advance(objective(work, data), training, 1, 1e-5, state)

    data = stored(work)
    state = jax.eval_shape(begin, data, jax.random.key(0))
    return jax.jit(advance, donate_argnums=1).lower(data, state).compile()


def taken(work: Work) -> Row:
    """What a process that takes three steps needs beyond what it had before."""
    settings = (work.shape.layers, work.shape.width, work.shape.heads, work.kind, work.accumulate, work.shape.remat)
    command = [sys.executable, "-m", "experiments.benchmarks.memory", *map(str, settings)]
    folder = Path(experiments.__file__).parents[1]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return _row(work, float(found.stdout), "process")


def show(rows: list[Row]) -> None:
    """Print the table, and by how much the worst estimate missed."""
    made = table("memory of a gradient step", *HEADINGS, words=("work", "worst", "by"))
    for row in rows:
        shape, work = row.work.shape, row.work
        made.add_row(
            f"{work.kind}: {shape.layers} layers of {shape.width}",
            str(work.accumulate),
            "yes" if shape.remat else "no",
            row.worst,
            f"{row.estimate / MIB:,.0f}",
            f"{row.measured / MIB:,.0f}",
            f"{row.ratio:.2f}",
            row.by,
        )
    console.print(made)
    worst = max(abs(row.ratio - 1) for row in rows)
    console.print(
        f"V {VOCABULARY}, {PROMPT} + {RESPONSE} tokens, {BATCH} rows. The worst estimate misses by {worst:.0%}. By the "
        "compiler: arguments, results and temporaries of the program; by a process: its peak beyond what it had before."
    )


def _row(work: Work, measured: float, by: str) -> Row:
    estimate = memory.training(work)
    return Row(work, estimate.moment, estimate.total, measured, by)


def _training(work: Work, steps: int = 1) -> Training:
    return Training(steps, accumulate=work.accumulate, evaluate_every=steps, steps_a_dispatch=steps)


def objective(work: Work, data) -> Objective:
    """What a run of that work minimises."""
    if work.kind == "reward_model":
        return objectives.reward_model(classes.transformer_verifier(work.shape), data, batch=work.rows)
    policy = classes.transformer_policy(work.shape, work.response_tokens)
    if work.kind == "sft":
        return objectives.sft(policy, data, batch=work.rows)
    return objectives.dpo(policy, data, batch=work.rows, beta=0.05)


def stored(work: Work) -> Any:
    """The data set as shapes."""
    count = work.stored_rows

    def array(dtype, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((count, *shape), dtype)

    prompts, responses = array(jnp.int32, work.prompt_tokens), array(jnp.int32, work.response_tokens)
    numbers = array(jnp.float32)
    if work.kind == "sft":
        return Demonstrations(prompts, responses, numbers)
    return Preferences(prompts, responses, responses, numbers, numbers)


def _take_steps(work: Work) -> int:
    """Bytes that three steps need beyond what was there after compiling."""
    rows = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), stored(work))
    training, step = _training(work), program(work)
    start = jax.jit(lambda data: loop.start(objective(work, data), training, jax.random.key(0))).lower(rows).compile()
    before = psutil.Process().memory_info().rss
    data = jax.device_put(rows)
    state = start(data)
    for _ in range(3):
        state, curves = step(data, state)
    if not math.isfinite(float(curves["loss"][-1])):
        raise SystemExit("the loss is not finite")
    return peak_bytes() - before


if __name__ == "__main__":
    layers, width, heads, kind, accumulate, remat = sys.argv[1:]
    chosen = work_of((int(layers), int(width), int(heads)), kind, int(accumulate), remat == "True")
    print(_take_steps(replace(chosen, stored_rows=BATCH)))
