"""Checkpoints of a run, or of many at once: state, random keys, and the configuration that they belong to."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import filelock
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from gvgap_jax.runtime import processes
from gvgap_jax.runtime.files import Folder, explained, folder_at, is_local, lock_of
from gvgap_jax.runtime.messages import differences, first_few
from gvgap_jax.training.layouts import is_placed
from gvgap_jax.training.loop import State, Training

CHECKPOINTS = "checkpoints"
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

    def __init__(self, manager: ocp.CheckpointManager, wanted: Configuration):
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

    def restore(self, like: State) -> tuple[int, State] | None:
        """The latest step and state, laid out over devices as ``like`` is, which is used up; None if there is none.

        Raises:
          ValueError: it belongs to another configuration.
        """
        step = self._manager.latest_step()
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
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, save_interval_steps=every, cleanup_tmp_directories=True, create=True
        )
        manager = stack.enter_context(ocp.CheckpointManager(str(folder / CHECKPOINTS), options=options))
        yield Checkpoints(manager, wanted)
        manager.wait_until_finished()


def _claim(folder: Folder, stack: contextlib.ExitStack) -> None:
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if is_local(folder):
        try:
            stack.enter_context(lock_of(folder, LOCK).acquire(blocking=False))
        except filelock.Timeout:
            raise ValueError(f"another process is training in {folder}; wait for it, or choose another.") from None
