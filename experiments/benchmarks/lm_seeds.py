"""Many seeds at once against one after another: ``fit_many``, ``fit``, and what one could write around them."""

import contextlib
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import lm_work
from experiments.benchmarks.lm_work import LEARNING_RATE, Given, Load, Size
from experiments.benchmarks.solvers import compiled
from gvgap_jax.training import loop, train
from gvgap_jax.training.loop import Training

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
    """Seconds without and with compiling, and the last losses of the runs that were done."""

    name: str
    seconds: float
    with_compiling: float
    losses: np.ndarray


class _Clock:
    """A writer of curves that notes when every dispatch was over."""

    def __init__(self):
        self.times = []

    @contextlib.contextmanager
    def __call__(self, done: int) -> Iterator:
        yield lambda rows: self.times.append(time.perf_counter())

    def seconds(self, training: Training) -> float:
        """Of a run without compiling: every dispatch takes as long as the median one after the first."""
        return float(np.median(np.diff(self.times))) * training.steps / training.steps_a_dispatch


def measure(load: Load, size: Size, runs: int, one_by_one: int) -> list[SeedRow]:
    """``runs`` seeds at once; of the ``fit`` calls one after another, which compile every time, ``one_by_one``."""
    given, keys = lm_work.given(size), jax.random.split(jax.random.key(0), runs)
    settings = Training(
        DISPATCHES * size.steps, schedule="constant", evaluate_every=size.steps, steps_a_dispatch=size.steps
    )

    def build(given: Given):
        return lm_work.objective(load, size, given)

    ways = [
        _together(build, given, settings, keys),
        _compiled_once("one compiled run, one after another", build, given, settings, keys, at_once=False),
        _compiled_once("jax.vmap of a run", build, given, settings, keys, at_once=True),
        _one_by_one(build, given, settings, keys[:one_by_one], runs),
    ]
    return [_row(load, size, way, ways[0], runs) for way in ways]


def _together(build, given: Given, settings: Training, keys) -> Way:
    clock, started = _Clock(), time.perf_counter()
    trained = train.fit_many(
        build, given, settings, keys, jnp.full(len(keys), LEARNING_RATE), monitor=train.Monitor((clock,))
    )
    whole = time.perf_counter() - started
    return Way("fit_many", clock.seconds(settings), whole, np.asarray(trained.fit.loss))


def _one_by_one(build, given: Given, settings: Training, keys, runs: int) -> Way:
    """A few runs, scaled: every call of ``fit`` compiles."""
    seconds, losses, started = [], [], time.perf_counter()
    for key in keys:
        clock = _Clock()
        losses.append(train.fit(build, given, settings, key, LEARNING_RATE, monitor=train.Monitor((clock,))).fit.loss)
        seconds.append(clock.seconds(settings))
    whole = (time.perf_counter() - started) * runs / len(keys)
    return Way("fit, one after another", sum(seconds) * runs / len(keys), whole, np.asarray(losses))


def _compiled_once(name: str, build, given: Given, settings: Training, keys, at_once: bool) -> Way:
    """A run without curves, compiled once, for one key after another or for all of them at once."""

    def run(key):
        return loop.train(build(given), settings, LEARNING_RATE, key).loss

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
