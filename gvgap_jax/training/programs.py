"""The compiled programs of one run over a layout of devices, or of many runs at once."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from gvgap_jax.runtime.devices import memory_needed, memory_per_device, over_devices, rows_over_devices
from gvgap_jax.training import loop
from gvgap_jax.training.layouts import Layout
from gvgap_jax.training.loop import Curves, State, Training
from gvgap_jax.training.objectives import Objective
from gvgap_jax.types import Number, Params, PRNGKey

Build = Callable[..., Objective]
"""Data, and what a run has of its own -> objective."""


class Programs(NamedTuple):
    """Compiled functions of one run, or of a batch of runs.

    Attributes:
      begin: () -> state before the first step.
      advance: evaluations, state -> state and curves [S, K] after so many; the state that goes in is used up.
      runs: numbers of the runs; rows of state and curves beyond them are padding.
    """

    begin: Callable[[], State]
    advance: Callable[[int, State], tuple[State, Curves]]
    runs: np.ndarray


def alone(
    build: Build,
    data: Any,
    training: Training,
    key: PRNGKey,
    learning_rate: Number,
    layout: Layout | None = None,
    first: Params | None = None,
) -> Programs:
    """The programs of one run, whose state has no axis of runs; ``first`` parameters are used up by ``begin``."""

    def objective(data) -> Objective:
        built = build(given(data))
        return layout.spread(built) if layout else built

    def begin(data, key, first):
        built = objective(data)
        return loop.start(built if first is None else built._replace(init=lambda key: first), training, key)

    def advance(evaluations, data, learning_rate, state):
        state, curves = loop.advance(objective(data), training, evaluations, learning_rate, state)
        return state, jax.tree.map(lambda values: values[None], curves)

    placed, given = None, lambda data: data
    if layout is None:
        data = jax.device_put(data)  # once: arrays of the host would be sent at every dispatch
    else:
        data, given = layout.even(data)
        data, key, learning_rate = layout.put((data, key, learning_rate))
        first = first if first is None else layout.put_parameters(first)
        placed = layout.place(jax.eval_shape(begin, data, key, first))
    go = jax.jit(advance, static_argnums=0, donate_argnums=3, out_shardings=(placed, layout.whole) if layout else None)
    return Programs(
        lambda: jax.jit(begin, out_shardings=placed, donate_argnums=2)(data, key, first),
        lambda evaluations, state: go(evaluations, data, learning_rate, state),
        np.zeros(1, int),
    )


def together(build: Build, data: Any, training: Training, rows: tuple, count: int) -> Iterator[tuple[Programs, tuple]]:
    """The programs of every batch of runs that fits into memory, and its rows; the last batch repeats its last run.

    ``rows`` are keys, learning rates and what else runs have of their own, each with ``count`` rows.
    """

    def begin(data, key, _, *each):
        return loop.start(build(data, *each), training, key)

    def advance(evaluations, data, state, _, learning_rate, *each):
        return loop.advance(build(data, *each), training, evaluations, learning_rate, state)

    start = over_devices(begin, shared=1)

    def program(evaluations):
        return over_devices(partial(advance, evaluations), shared=1, donate=(1,))

    def compiled(size):
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype), rows)
        states = jax.eval_shape(start, data, *shapes)
        return program(evaluations_of(training, 0)).lower(data, states, *shapes).compile()

    size = rows_over_devices(count)
    while memory_needed(executable := compiled(size)) > memory_per_device() and size > rows_over_devices(1):
        size = rows_over_devices(size // 2)
    calls = {evaluations_of(training, 0): executable}
    for first in range(0, count, size):
        index = np.minimum(np.arange(first, first + size), count - 1)
        mine = jax.tree.map(lambda leaf, index=index: leaf[index], rows)

        def step(evaluations, state, mine=mine):
            if evaluations not in calls:  # a shorter last dispatch
                calls[evaluations] = program(evaluations)
            return calls[evaluations](data, state, *mine)

        yield Programs(partial(start, data, *mine), step, np.arange(first, min(first + size, count))), mine


def evaluations_of(training: Training, done: int) -> int:
    """Of the next dispatch: the last one may be shorter."""
    return min(training.steps_a_dispatch, training.steps - done) // training.evaluate_every
