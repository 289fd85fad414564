"""Rows on transformers: training and decoding at the shapes of Pythia, and many seeds at once."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import lm_seeds
from experiments.benchmarks.accelerators import speeds
from experiments.benchmarks.accelerators.stored import Measured
from experiments.benchmarks.leaf_pass import times_of
from experiments.benchmarks.lm_seeds import Clock
from experiments.benchmarks.lm_work import Size
from experiments.benchmarks.memory import objective, stored
from experiments.benchmarks.solvers import compiled
from gvgap_jax.lm.budget import flops, memory
from gvgap_jax.lm.budget.work import Work, cache_bytes, parameter_bytes, passed_bytes
from gvgap_jax.lm.model import classes, decode
from gvgap_jax.lm.model.pythia import pythia
from gvgap_jax.lm.model.shape import Shape, neox
from gvgap_jax.runtime.devices import is_out_of_memory, memory_per_device
from gvgap_jax.runtime.units import readable
from gvgap_jax.training import layouts, train
from gvgap_jax.training.loop import Training

ENOUGH = 8  # rows of a device that keep its matrix units busy: where fewer fit, activations are recomputed instead
DISPATCHES = 6  # of a training; the first one compiles
MOVED = 10  # times that a step moves a parameter: read twice, its gradient written and read, six times by AdamW
TINY = neox(64, layers=3, width=32, heads=2, start=False, dtype="bfloat16")


def training(kind: Any, model: str, prompt_tokens: int, response_tokens: int, most: int, steps: int) -> Measured:
    """Gradient steps of ``fit`` on all devices, over which parameters are split; the batch is what memory holds.

    Raises:
      ValueError: not even a row a device fits into memory.
    """
    devices = jax.local_device_count()
    first = Work(_shape(model), kind, devices, prompt_tokens, response_tokens, fsdp=devices)
    work = largest(memory.training, first, most)
    while True:  # the estimate may be wrong
        try:
            return _trained(work, steps)
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error) or work.rows == devices:
                raise
        work = replace(work, rows=work.rows // 2)


def decoding(model: str, prompt_tokens: int, response_tokens: int, most: int) -> Measured:
    """Responses to a batch of prompts on one device; the batch is what memory holds.

    Raises:
      ValueError: not even one prompt fits into memory.
    """
    work = largest(memory.generation, Work(_shape(model), "sft", 1, prompt_tokens, response_tokens), most)
    policy = classes.transformer_policy(work.shape, response_tokens)
    params = jax.jit(policy.init)(jax.random.key(0))
    prompts = jax.random.randint(jax.random.key(1), (work.rows, prompt_tokens), 0, work.shape.vocabulary)

    def sampled(inputs):
        return decode.sample(jax.random.key(2), work.shape, *inputs, horizon=response_tokens).responses

    call, compile_seconds = compiled(jax.jit(sampled), (params, prompts))
    products, moved = speeds.of_products(work.shape.dtype), speeds.of_memory()
    return Measured(
        unit="tokens",
        amount=work.rows * response_tokens,
        seconds=times_of(call, (params, prompts)),
        compile_seconds=compile_seconds,
        floors={
            "matrix units": flops.generation_flops(work) / products.value,
            "memory": read_by_decoding(work) / moved.value,
        },
        peaks=products.source,
        how=f"{prompt_tokens} + {response_tokens} tokens, {work.rows} prompts, one device; {_precision(work)}",
    )


def read_by_decoding(work: Work) -> float:
    """The least bytes: for every token all weights but the embedding, as activations, and what the cache holds."""
    weights = passed_bytes(work) / jnp.dtype(work.shape.param_dtype).itemsize * jnp.dtype(work.shape.dtype).itemsize
    last = work.prompt_tokens + work.response_tokens  # this token is drawn, and not read
    seen = sum(range(work.prompt_tokens + 1, last))
    return work.response_tokens * weights + seen * cache_bytes(work)[1] / (last - 1)


def seeds(way: str, runs: int, shape: dict[str, Any], batch: int, steps: int, measured: int) -> Measured:
    """Runs of DPO ``at once`` by ``fit_many``, or ``one after another`` by ``fit``: so many measured, and scaled."""
    size = Size(neox(start=False, **shape), prompt_length=4, horizon=10, batch=batch, steps=steps)
    task, keys = lm_seeds.task_of("DPO", size), lm_seeds.keys_of(runs)
    at_once = way == "at once"
    found = lm_seeds.together(task, keys) if at_once else lm_seeds.one_after_another(task, keys[:measured], runs)
    scaled = "" if at_once else f" ({measured} measured, scaled)"
    return Measured(
        unit="runs",
        amount=runs,
        seconds=list(found.repeats),
        compile_seconds=found.with_compiling - found.seconds,
        floors={},
        peaks="",
        how=f"{size.name}; {runs} runs of {task.training.steps} steps{scaled}; {size.shape.dtype}",
    )


def largest(needed: Callable[[Work], memory.Memory], first: Work, most: int) -> Work:
    """The work with the most rows on each device, at most ``most``, for which there is memory by the estimate.

    In training activations are kept where at least ``ENOUGH`` rows fit with them, and recomputed elsewhere.

    Raises:
      ValueError: there is none for a single row.
    """
    counts = [2**power for power in reversed(range(most.bit_length()))]
    again = replace(first, shape=replace(first.shape, remat=True))
    tried = [(first, count) for count in counts]
    if needed is memory.training:
        tried = [(first, count) for count in counts if count >= min(ENOUGH, most)]
        tried += [(again, count) for count in counts]
    room = memory_per_device()
    for work, count in tried:
        rows = count * first.devices
        work = replace(work, rows=rows, stored_rows=2 * rows)
        if needed(work).total <= room:
            return work
    raise ValueError(f"a single row needs {readable(needed(work).total)} on a device, and there are {readable(room)}")


def _trained(work: Work, steps: int) -> Measured:
    numbers, clock = np.random.default_rng(0), Clock()

    def made(leaf) -> np.ndarray:
        if np.issubdtype(leaf.dtype, np.integer):
            return numbers.integers(0, work.shape.vocabulary, leaf.shape, leaf.dtype)
        return np.ones(leaf.shape, leaf.dtype)

    settings = Training(DISPATCHES * steps, evaluate_every=steps, steps_a_dispatch=steps)
    layout = layouts.layout(fsdp=work.devices) if work.devices > 1 else None
    data, build = jax.tree.map(made, stored(work)), partial(objective, work)
    started = time.perf_counter()
    train.fit(build, data, settings, jax.random.key(0), 1e-5, layout=layout, monitor=train.Monitor((clock,)))
    seconds = [whole / DISPATCHES / steps for whole in clock.repeats(settings)]
    kept = replace(work, shape=replace(work.shape, remat=False))  # recomputing is no part of a model's FLOPs
    products, moved = speeds.of_products(work.shape.dtype), speeds.of_memory()
    again = ", activations recomputed" if work.shape.remat else ""
    return Measured(
        unit="tokens",
        amount=work.rows * (1 if work.kind == "sft" else 2) * (work.prompt_tokens + work.response_tokens),
        seconds=seconds,
        compile_seconds=clock.times[0] - started - steps * median(seconds),
        floors={
            "matrix units": products.seconds(flops.training_flops(kept)),
            "memory": moved.seconds(MOVED * parameter_bytes(work) * work.fsdp),
        },
        peaks=products.source,
        how=f"{work.prompt_tokens} + {work.response_tokens} tokens, batch {work.rows}{again}; {_precision(work)}",
    )


def _shape(model: str) -> Shape:
    return TINY if model == "tiny" else pythia(model)


def _precision(work: Work) -> str:
    return f"{work.shape.dtype} activations, {jnp.dtype(work.shape.param_dtype).name} parameters"
