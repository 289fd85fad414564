"""Many seeds at once against one after another: ``fit_many``, ``fit``, and what one could write around them."""

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import lm_work
from experiments.benchmarks.lm_work import LEARNING_RATE, Given, Load, Size
from experiments.benchmarks.solvers import compiled
from gvgap_jax.training import loop, train
from gvgap_jax.training.loop import Training
from gvgap_jax.training.objectives import Objective

DISPATCHES = 4  # of a run; the first one compiles


class SeedRow(NamedTuple):
    """The same runs in one way.

    Attributes:
      runs, measured: runs that are compared, and how many of them were done; the seconds are scaled.
      seconds, with_compiling: of all runs, without and with compiling.
      ratio: seconds over those of ``fit_many``; ``ratio_with_compiling`` likewise.
      difference: largest relative difference of a run's last loss from that of ``fit_many``.
    """

    work: str
    size: str
    way: str
    runs: int
    measured: int
    seconds: float
    with_compiling: float
    ratio: float
    ratio_with_compiling: float
    difference: float


class Way(NamedTuple):
    """Seconds without and with compiling, and the last losses of the runs that were done.

    ``repeats`` are the seconds of all runs as every single dispatch would have it.
    """

    name: str
    seconds: float
    with_compiling: float
    losses: np.ndarray
    repeats: tuple[float, ...] = ()


class Clock:
    """A writer of curves that notes when every dispatch was over."""

    def __init__(self):
        self.times = []

    @contextlib.contextmanager
    def __call__(self, done: int) -> Iterator:
        yield lambda rows: self.times.append(time.perf_counter())

    def repeats(self, training: Training) -> tuple[float, ...]:
        """Seconds of a run without compiling, as every dispatch after the first would have it."""
        return tuple(map(float, np.diff(self.times) * training.steps / training.steps_a_dispatch))


def measure(load: Load, size: Size, runs: int, one_by_one: int) -> list[SeedRow]:
    """``runs`` seeds at once; of the ``fit`` calls one after another, which compile every time, ``one_by_one``."""
    task, keys = task_of(load, size), keys_of(runs)
    ways = [
        together(task, keys),
        _compiled_once("one compiled run, one after another", task, keys, at_once=False),
        _compiled_once("jax.vmap of a run", task, keys, at_once=True),
        one_after_another(task, keys[:one_by_one], runs),
    ]
    return [_row(load, size, way, ways[0], runs) for way in ways]


class Task(NamedTuple):
    """What every run does: data, the objective made of them, and how it descends."""

    build: Callable[[Given], Objective]
    given: Given
    training: Training


def task_of(load: Load, size: Size) -> Task:
    """Training of that kind in a few dispatches of ``size.steps`` steps."""
    training = Training(
        DISPATCHES * size.steps, schedule="constant", evaluate_every=size.steps, steps_a_dispatch=size.steps
    )
    return Task(partial(lm_work.objective, load, size), lm_work.given(size), training)


def keys_of(runs: int) -> jax.Array:
    """A key for each run."""
    return jax.random.split(jax.random.key(0), runs)


def together(task: Task, keys: jax.Array) -> Way:
    """``fit_many``."""
    clock, started = Clock(), time.perf_counter()
    rates = jnp.full(len(keys), LEARNING_RATE)
    trained = train.fit_many(*task, keys, rates, monitor=train.Monitor((clock,)))
    whole, repeats = time.perf_counter() - started, clock.repeats(task.training)
    return Way("fit_many", median(repeats), whole, np.asarray(trained.fit.loss), repeats)


def one_after_another(task: Task, keys: jax.Array, runs: int) -> Way:
    """``fit`` for each of a few keys, scaled to so many runs: every call compiles."""
    found, losses, started = [], [], time.perf_counter()
    for key in keys:
        clock = Clock()
        losses.append(train.fit(*task, key, LEARNING_RATE, monitor=train.Monitor((clock,))).fit.loss)
        found.append(clock.repeats(task.training))
    whole = (time.perf_counter() - started) * runs / len(keys)
    seconds = sum(map(median, found)) * runs / len(keys)
    repeats = tuple(runs * each for repeats in found for each in repeats)
    return Way("fit, one after another", seconds, whole, np.asarray(losses), repeats)


def _compiled_once(name: str, task: Task, keys: jax.Array, at_once: bool) -> Way:
    """A run without curves, compiled once, for one key after another or for all of them at once."""

    def run(key):
        return loop.train(task.build(task.given), task.training, LEARNING_RATE, key).loss

    arguments = [keys] if at_once else list(keys)
    call, compile_seconds = compiled(jax.jit(jax.vmap(run) if at_once else run), arguments[0])

    def call_all() -> np.ndarray:
        return np.stack([np.asarray(call(each)) for each in arguments]).reshape(-1)

    losses = call_all()
    started = time.perf_counter()
    call_all()
    seconds = time.perf_counter() - started
    return Way(name, seconds, seconds + compile_seconds, losses)


def _row(load: Load, size: Size, way: Way, first: Way, runs: int) -> SeedRow:
    relative = np.abs(way.losses / first.losses[: len(way.losses)] - 1)
    return SeedRow(
        work=load,
        size=size.name,
        way=way.name,
        runs=runs,
        measured=len(way.losses),
        seconds=way.seconds,
        with_compiling=way.with_compiling,
        ratio=way.seconds / first.seconds,
        ratio_with_compiling=way.with_compiling / first.with_compiling,
        difference=float(np.max(relative)),
    )
