"""Checkpoints of a run, or of many at once: state, random keys, and the configuration that they belong to.

On this machine each has digests of its files beside it, taken when all are written and before orbax gives the
checkpoint its name; a damaged one is set aside, and the run goes on from the one before. Object stores keep digests of
their own.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import warnings
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import filelock
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from gvgap_jax.runtime import processes, sealed
from gvgap_jax.runtime.files import Folder, explained, folder_at, is_local, lock_of, remove, set_aside
from gvgap_jax.runtime.messages import differences, first_few, reason
from gvgap_jax.training.layouts import is_placed
from gvgap_jax.training.loop import State, Training

CHECKPOINTS = "checkpoints"
SEALS = "checkpoint_digests"
REWRITTEN = ("_CHECKPOINT_METADATA", "commit_success.txt")  # by orbax at the end; no number is in them
LOCK = "training"

Configuration = dict[str, Any]


def configuration(training: Training, description: dict, state: State, learning_rate, data) -> Configuration:
    """What two runs must share for one to go on where the other stopped; JSON.

    That is the settings, the caller's own words, the shapes and the random keys at the start, the learning rates,
    and a digest of the data. Devices and processes are not among it: a run may go on over others.

    Raises:
      ValueError: processes differ in it.
    """
    shapes = {
        jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
    }
    wanted = {
        "training": dataclasses.asdict(training),
        "description": description,
        "parameters": shapes,
        "key": np.asarray(jax.random.key_data(state.key)).tolist(),
        "learning_rate": np.asarray(learning_rate, float).tolist(),
        "data": digest(data),
        "versions": {name: version(name) for name in ("jax", "optax")},
    }
    wanted = json.loads(json.dumps(wanted))
    processes.check_same(wanted, "configuration")
    return wanted


def digest(data) -> str:
    """Of the names, shapes and bytes of all arrays of a pytree; without the bytes where a layout has placed them."""
    digested = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(data):
        if is_placed(leaf):  # no process need have all of it
            digested.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape} placed".encode())
            continue
        values = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        digested.update(f"{jax.tree_util.keystr(path)} {values.dtype} {values.shape}".encode())
        digested.update(values.tobytes())
    return digested.hexdigest()


def _is_key(leaf) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


class Checkpoints:
    """The checkpoints in a folder, the latest ``keep`` of them; see ``opened``."""

    def __init__(self, folder: Folder, manager: ocp.CheckpointManager, wanted: Configuration):
        self._folder = folder
        self._manager = manager
        self._wanted = wanted

    def save(self, step: int, state: State, force: bool = False) -> None:
        """Begin to store a state; it is copied before this returns, and written while the next steps run."""
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(_with_key_as_numbers(state)),
            configuration=ocp.args.JsonSave(self._wanted),
        )
        if step != self._manager.latest_step():
            self._manager.save(step, args=items, force=force)

    def restore(self, like: State, before: float = math.inf) -> tuple[int, State] | None:
        """The latest whole step and its state, laid out over devices as ``like`` is, which is used up; None if there is
        none.

        Steps from ``before`` on, and damaged ones, are set aside with a warning.

        Raises:
          ValueError: it belongs to another configuration.
        """
        step = self._latest(before)
        if step is None:
            return None
        stored = self._manager.restore(step, args=ocp.args.Composite(configuration=ocp.args.JsonRestore()))
        differing = differences(stored["configuration"], self._wanted)
        if differing:
            raise ValueError(
                f"{self._manager.directory} holds a checkpoint of another configuration "
                f"({first_few(differing, '; ')}). Choose another folder, or remove that one."
            )
        like = _with_key_as_numbers(like)
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        jax.tree.map(lambda leaf: leaf.delete(), like)  # there may be no room for two states
        restored = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(shapes)))["state"]
        return step, restored._replace(key=jax.random.wrap_key_data(restored.key))

    def _latest(self, before: float) -> int | None:
        while (step := self._manager.latest_step()) is not None:
            wrong = processes.from_first(self._wrong(step, before) if processes.is_first() else "")
            if not wrong:
                return step
            processes.in_first(lambda step=step, wrong=wrong: self._set_aside(step, wrong))
            self._manager.reload()
        return None

    def _wrong(self, step: int, before: float) -> str:
        """What is wrong with a checkpoint; empty where nothing is."""
        place, seal = self._folder / CHECKPOINTS / str(step), self._folder / SEALS / f"{step}.json"
        if step >= before:
            return f"comes after the curves of step {before:.0f}, which are damaged"
        if not is_local(place):
            return ""
        try:
            return sealed.damage(place, seal)
        except FileNotFoundError:
            warnings.warn(f"{place} has no digests, as earlier versions wrote none: damage goes unseen.", stacklevel=2)
            return ""
        except (ValueError, OSError) as error:
            return f"cannot be trusted: {reason(error)}"

    def _set_aside(self, step: int, wrong: str) -> None:
        place = self._folder / CHECKPOINTS / str(step)
        aside = set_aside(place)
        remove(self._folder / SEALS / f"{step}.json")
        warnings.warn(f"{place} {wrong}: it is set aside ({aside}); the run goes on from before it.", stacklevel=2)


def _seal(folder: Path) -> None:
    """Note the digests of the checkpoint that is written and has not got its name yet; remove those of old ones."""
    seals = folder / SEALS
    for path in (folder / CHECKPOINTS).glob("*.orbax-checkpoint-tmp*"):
        sealed.seal(path, seals / f"{path.name.partition('.')[0]}.json", but=REWRITTEN)
    there = {path.name.partition(".")[0] for path in (folder / CHECKPOINTS).iterdir()}
    for seal in seals.glob("*.json"):
        if seal.stem not in there:
            remove(seal)


def _with_key_as_numbers(state: State) -> State:
    # orbax has an item for random keys alone, but it warns at every save that it finds nothing to merge.
    return state._replace(key=jax.random.key_data(state.key))


@contextlib.contextmanager
def opened(path: str | Folder, wanted: Configuration, every: int, keep: int = 2) -> Iterator[Checkpoints]:
    """The checkpoints of a folder, for one run; leaving waits until what was saved is written.

    All processes of a run open it alike, and see the same folder; the first one holds its lock.

    ``every``: steps between checkpoints; other steps are stored only by force.

    Raises:
      OSError: the folder cannot be written.
      ValueError: another process is training there.
    """
    folder = folder_at(path)
    with contextlib.ExitStack() as stack:
        processes.in_first(lambda: _claim(folder, stack))
        folder = folder.absolute() if is_local(folder) else folder
        seal = partial(_seal, folder) if is_local(folder) else None
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            save_interval_steps=every,
            cleanup_tmp_directories=True,
            create=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=seal),
        )
        manager = stack.enter_context(ocp.CheckpointManager(str(folder / CHECKPOINTS), options=options))
        yield Checkpoints(folder, manager, wanted)
        manager.wait_until_finished()


def _claim(folder: Folder, stack: contextlib.ExitStack) -> None:
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if is_local(folder):
        try:
            stack.enter_context(lock_of(folder, LOCK).acquire(blocking=False))
        except filelock.Timeout:
            raise ValueError(f"another process is training in {folder}; wait for it, or choose another.") from None
