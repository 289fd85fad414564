"""Runs of an objective: one over a layout of devices, or many at once, with curves, checkpoints and resumption.

A run goes from dispatch to dispatch: a compiled program takes many steps, then its curves and its state are
stored. Calling again with the same folder goes on from the last checkpoint, to the same bits.
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from jaxtyping import Array, Float, Key
from rich.progress import Progress

from gvgap_jax.runtime import processes, provenance
from gvgap_jax.runtime.files import Folder, folder_at
from gvgap_jax.runtime.progress import BAR
from gvgap_jax.training import checkpoints, loop
from gvgap_jax.training.curves import Writer, damaged_from, load_curves, save_curves, table
from gvgap_jax.training.layouts import Layout
from gvgap_jax.training.loop import NOT_FINITE, RUNNING, STOPPED_EARLY, State, Training
from gvgap_jax.training.programs import Build, Programs, alone, evaluations_of, together
from gvgap_jax.types import Fit, Number, Params, PRNGKey


def never() -> bool:
    """A run that nothing stops from outside."""
    return False


@dataclasses.dataclass(frozen=True)
class Keep:
    """Where a run is stored.

    Attributes:
      folder: local, or the address of an object store.
      description: what the checkpoints must have been made for, beside what is compared anyhow; JSON.
      dispatches: between checkpoints; the last one is stored always.
      latest: checkpoints that are kept.
    """

    folder: str | Folder
    description: dict[str, Any] = dataclasses.field(default_factory=dict)
    dispatches: int = 1
    latest: int = 2


@dataclasses.dataclass(frozen=True)
class Monitor:
    """How a run is followed, and stopped from outside.

    Attributes:
      write_to: further places for learning curves, such as ``curves.tensorboard(folder)``.
      progress: show a bar.
      stopped: asked after every dispatch. If it says yes in any process, the state is stored and the run ends.
    """

    write_to: tuple[Writer, ...] = ()
    progress: bool = False
    stopped: Callable[[], bool] = never


UNWATCHED = Monitor()


class Trained(NamedTuple):
    """What came of one run, or of many.

    Attributes:
      fit: the selected parameters; for many runs every leaf has S of them in front, in the machine's memory.
      curves: a row for every step of every run, see ``curves.table``; losses in the unit of the objective.
      status: how each run ended, in words.
      finished: False if the run was stopped from outside, and the same call would go on.
    """

    fit: Fit
    curves: pl.DataFrame
    status: tuple[str, ...]
    finished: bool = True


def fit(
    build: Build,
    data: Any,
    training: Training,
    key: PRNGKey,
    learning_rate: Number,
    *,
    start: Params | None = None,
    layout: Layout | None = None,
    keep: Keep | None = None,
    monitor: Monitor = UNWATCHED,
) -> Trained:
    """One run, by one process or by several that all call this alike. Consumes the key.

    Args:
      build: data -> objective. What is large belongs into ``data``, a pytree: the program takes it as an argument,
        where an array that ``build`` closes over would be compiled into it.
      data: whatever ``build`` needs. With a layout, rows of arrays of the host are split over the devices; arrays that
        a layout has placed stay where they are, and checkpoints know only their shapes: describe them in ``keep``.
      training: what decides the program.
      key: of the first parameters and of every batch.
      learning_rate: at its highest.
      start: parameters instead of the objective's first ones, used up: their memory becomes that of the run.
        Checkpoints do not know them: describe them in ``keep``.
      layout: over several devices; the default device alone if left out.
      keep: where curves and checkpoints go. A folder that holds some is resumed, over whatever devices and processes.
      monitor: who follows the run, and stops it.

    Raises:
      ValueError: a batch cannot be cut as asked, the folder belongs to another configuration, or several processes have
        no layout.
      OSError: the folder cannot be written.
    """
    if layout is None and jax.process_count() > 1:
        raise ValueError("fit: several processes need a layout over their devices, see layouts.layout.")
    learning_rate = jnp.asarray(learning_rate, float)
    programs = alone(build, data, training, key, learning_rate, layout, start)
    with _bar(monitor.progress and processes.is_first(), 1, training) as advance_bar:
        state, curves, finished = _run(programs, training, keep, (learning_rate, data), monitor, advance_bar)
    statuses, steps = jax.tree.map(np.atleast_1d, jax.device_get((state.status, state.step)))
    status = _describe(statuses, steps, training)
    _warn(status)
    return Trained(loop.fit_of(state), curves, status, finished)


def fit_many(
    build: Build,
    data: Any,
    training: Training,
    keys: Key[Array, "S"],
    learning_rates: Float[Array, "S"],
    *,
    each: tuple = (),
    keep: Keep | None = None,
    monitor: Monitor = UNWATCHED,
) -> Trained:
    """Many runs at once, mapped over keys, learning rates and the rows of ``each``, over all devices.

    As many run at once as fit into memory by the compiler's own measure; the others follow. A run that stops
    leaves the others alone. Consumes the keys.

    Args:
      build: data, row of every pytree of ``each`` -> objective.
      data: shared by all runs.
      training: what decides the program.
      keys: one a run.
      learning_rates: one a run.
      each: pytrees whose leaves have a row a run, for data or numbers in which runs differ.
      keep: where curves and checkpoints go, one folder below it for each batch of runs.
      monitor: who follows the runs, and stops them; a batch of runs takes one dispatch at least.

    Raises:
      ValueError: lengths differ, there are several processes, or as ``fit`` raises.
      OSError: the folder cannot be written.
    """
    if jax.process_count() > 1:
        raise ValueError(
            "fit_many: many runs at once are for one process; give each process runs of its own, unjoined."
        )
    rows = (keys, jnp.asarray(learning_rates, float), *each)
    lengths = {leaf.shape[0] for leaf in jax.tree.leaves(rows)}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"fit_many: keys, learning_rates and each need one row a run, got lengths {sorted(lengths)}.")
    (count,) = lengths
    batches = []
    with _bar(monitor.progress, count, training) as advance_bar:
        for programs, mine in together(build, data, training, rows, count):
            below = keep and dataclasses.replace(keep, folder=folder_at(keep.folder) / _name(programs.runs))
            state, *rest = _run(programs, training, below, (mine[1], (data, mine[2:])), monitor, advance_bar)
            batches.append((*_real((loop.fit_of(state), state.status), programs.runs), *rest))
    fits, statuses, curves, finished = zip(*batches, strict=True)
    fit = jax.tree.map(lambda *leaves: np.concatenate(leaves), *fits)
    status = _describe(np.concatenate(statuses), fit.steps, training)
    _warn(status)
    return Trained(fit, pl.concat(curves), status, all(finished))


def _run(programs: Programs, training: Training, keep: Keep | None, wanted: tuple, monitor: Monitor, advance_bar):
    """From the start or the last checkpoint to the end: the last state, all curves, and whether it is the end."""
    with contextlib.ExitStack() as stack:
        state, done, tables, store_state = _begin(programs, training, keep, wanted, stack)
        writers = [stack.enter_context(writer(done)) for writer in monitor.write_to if processes.is_first()]
        advance_bar(len(programs.runs) * done)
        finished, stop = _is_finished(state, done, training), False
        while not finished and not stop:
            evaluations = evaluations_of(training, done)
            state, curves = programs.advance(evaluations, state)
            done += evaluations * training.evaluate_every
            tables.append(_rows(curves, programs, training))
            processes.in_first(lambda: [write(tables[-1]) for write in writers])
            finished, stop = _is_finished(state, done, training), processes.agreed(monitor.stopped())
            store_state(done, state, tables[-1], finished or stop)
            advance_bar(len(programs.runs) * evaluations * training.evaluate_every)
    return state, pl.concat(tables), finished


def _begin(programs: Programs, training: Training, keep: Keep | None, wanted: tuple, stack: contextlib.ExitStack):
    """State, steps done and curves at the start or the last checkpoint, and what stores the ones to come."""
    state = programs.begin()
    if keep is None:
        return state, 0, [], lambda *_: None
    configuration = checkpoints.configuration(training, keep.description, state, *wanted)
    every = keep.dispatches * training.steps_a_dispatch
    folder, made_by = folder_at(keep.folder), provenance.environment()
    kept = stack.enter_context(checkpoints.opened(folder, configuration, every, keep.latest))

    def store_state(done: int, state: State, rows: pl.DataFrame, force: bool):
        # Curves first: a checkpoint without its curves would lose them.
        processes.in_first(lambda: save_curves(folder, done, rows, made_by))
        kept.save(done, state, force)

    damaged = processes.from_first(damaged_from(folder) if processes.is_first() else None)
    done, state = kept.restore(state, before=damaged) or (0, state)
    return state, done, load_curves(folder, until=done), store_state


def _is_finished(state: State, done: int, training: Training) -> bool:
    return done >= training.steps or not np.any(jax.device_get(state.status) == RUNNING)


def _rows(curves: loop.Curves, programs: Programs, training: Training) -> pl.DataFrame:
    return table(_real(curves, programs.runs), programs.runs, training.evaluate_every)


def _real(values, runs: np.ndarray):
    """On the host, and without the rows that pad the runs."""
    return jax.tree.map(lambda leaf: leaf[: len(runs)], jax.device_get(values))


def _name(runs: np.ndarray) -> str:
    return f"runs-{runs[0]}-{runs[-1]}"


def _describe(statuses, steps, training: Training) -> tuple[str, ...]:
    """How each run ended, in words."""

    def words(status: int, step: int) -> str:
        if status == STOPPED_EARLY:
            return f"stopped early after {step} steps: no lower held-out loss for {training.patience} evaluations"
        if status == NOT_FINITE:
            return (
                f"stopped at step {step + 1}: its loss, gradient or parameters were not finite; those of step {step} "
                "and the best before are kept"
            )
        if step < training.steps:
            return f"stopped from outside after {step} of {training.steps} steps"
        return f"finished after {step} steps"

    return tuple(words(int(status), int(step)) for status, step in zip(statuses, steps, strict=True))


def _warn(status: tuple[str, ...]) -> None:
    broken = [f"run {run} {words}" for run, words in enumerate(status) if "not finite" in words]
    if broken:
        warnings.warn(f"{len(broken)} of {len(status)} runs broke: {'; '.join(broken)}.", RuntimeWarning, stacklevel=3)


@contextlib.contextmanager
def _bar(shown: bool, runs: int, training: Training) -> Iterator[Callable[[int], None]]:
    with Progress(*BAR, disable=not shown) as bars:
        task = bars.add_task(f"training {runs} run{'s' if runs > 1 else ''}", total=runs * training.steps)
        yield lambda steps: bars.advance(task, steps)
