"""The compiled programs of one run over a layout of devices, or of many runs at once."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gvgap_jax.runtime.devices import memory_needed, memory_per_device, over_devices, rows_over_devices
from gvgap_jax.training import loop
from gvgap_jax.training.layouts import Layout, abstract
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


class OfOne(NamedTuple):
    """The jitted functions of one run, and what they are called with: arrays, or shapes of arrays.

    Attributes:
      begin: data, key, first -> state; the first parameters are used up.
      advance: evaluations, data, learning rate, state -> state and curves; the state is used up.
      data, key, learning_rate, first: where they lie on the devices.
      places: of every array of a state; None without a layout.
    """

    begin: Any
    advance: Any
    data: Any
    key: PRNGKey
    learning_rate: Number
    first: Params | None
    places: Any


class Lowering(NamedTuple):
    """One program of a run: its gradient steps, 0 for the start, how often it is called, and what lowers it."""

    steps: int
    calls: int
    lower: Callable[[], jax.stages.Lowered]


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
    one = _of_one(build, data, training, key, learning_rate, layout, first)
    return Programs(
        lambda: one.begin(one.data, one.key, one.first),
        lambda evaluations, state: one.advance(evaluations, one.data, one.learning_rate, state),
        np.zeros(1, int),
    )


def lowered(
    build: Build, data: Any, training: Training, layout: Layout, first: Params | None = None
) -> Iterator[Lowering]:
    """What ``train.fit`` compiles for one run, to be lowered for shapes of arrays.

    Args:
      build: as that of ``fit``.
      data: shapes of arrays (``jax.ShapeDtypeStruct``), as are the ``first`` parameters.
      training: how the run descends.
      layout: over any devices, those included that are not there.
      first: parameters that the run starts from; those of the objective if left out.
    """
    key, rate = jax.eval_shape(lambda: (jax.random.key(0), jnp.zeros((), float)))
    one = _of_one(build, data, training, key, rate, layout, first)

    def advance(evaluations: int) -> jax.stages.Lowered:
        state = jax.tree.map(abstract, jax.eval_shape(one.begin, one.data, one.key, one.first), one.places)
        return one.advance.lower(evaluations, one.data, one.learning_rate, state)

    yield Lowering(0, 1, lambda: one.begin.lower(one.data, one.key, one.first))
    dispatches, rest = divmod(training.steps, training.steps_a_dispatch)
    for steps, calls in ((training.steps_a_dispatch, dispatches), (rest, 1)):
        if steps and calls:
            yield Lowering(steps, calls, partial(advance, steps // training.evaluate_every))


def _of_one(build: Build, data: Any, training: Training, key, learning_rate, layout: Layout | None, first) -> OfOne:
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
    results = (placed, layout.whole) if layout else None
    return OfOne(
        jax.jit(begin, out_shardings=placed, donate_argnums=2),
        jax.jit(advance, static_argnums=0, donate_argnums=3, out_shardings=results),
        data,
        key,
        learning_rate,
        first,
        placed,
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
