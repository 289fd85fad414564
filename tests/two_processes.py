"""What the tests of devices and processes run in processes of their own: ``python -m tests.two_processes FILE``.

The file holds JSON: this process's devices, how it joins others, and the calls of ``fit`` that it makes one after
another. What comes of each call goes into a file: curves, parameters, and how the arrays lay.
"""

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from gvgap_jax.lm import backend, layouts, loop, objectives, processes, shape, train
from gvgap_jax.lm.objectives import Demonstrations, Objective
from gvgap_jax.sweep.cache import keep_compiled_programs
from gvgap_jax.types import Preferences

V, P, H, ROWS, BATCH = 16, 4, 3, 64, 8
SHAPE = shape.llama(V, layers=3, width=16, heads=4, key_value_heads=2, start=False, remat=True)
TRAINING = loop.Training(steps=6, evaluate_every=1, steps_a_dispatch=2, schedule="constant")


def data(seed=0):
    """Demonstrations and pairs, as arrays of the host."""
    numbers = np.random.default_rng(seed)
    prompts, chosen, rejected = (numbers.integers(0, V, (ROWS, length)).astype(np.int32) for length in (P, H, H))
    prompts[::3, 0] = rejected[::5, -1] = -1
    weight = np.linspace(0.5, 1.5, ROWS, dtype=np.float32)
    return Demonstrations(prompts, chosen, weight), Preferences(prompts, chosen, rejected, 0 * weight, weight)


def build(data):
    """SFT, a reward model and DPO, each of parameters of its own, as one objective with a held-out batch."""
    demonstrations, pairs = data
    policy, verifier = backend.transformer_policy(SHAPE, H), backend.transformer_verifier(SHAPE)
    parts = {
        "sft": objectives.sft(policy, demonstrations, batch=BATCH),
        "reward_model": objectives.reward_model(verifier, pairs, batch=BATCH),
        "dpo": objectives.dpo(policy, pairs, batch=BATCH, beta=0.1),
    }

    def draw(key, params, round):
        return {name: part.draw(key, params, round) for name, part in parts.items()}

    def loss(params, batch):
        return sum(part.loss(params[name], batch[name]) for name, part in parts.items())

    def held_out(params, loss):
        first = jax.tree.map(lambda rows: rows[:BATCH], {"sft": demonstrations, "reward_model": pairs, "dpo": pairs})
        return loss(params, first)

    def init(key):
        return {name: part.init(key) for name, part in parts.items()}

    return Objective(init, draw, loss, held_out=held_out)


def started():
    """Parameters to start from that are not the objective's own: heads of 0 would hide what lies behind them."""
    numbers = np.random.default_rng(1)
    shapes = jax.eval_shape(build(data()).init, jax.random.key(0))
    return jax.tree.map(lambda leaf: numbers.normal(0, 0.1, leaf.shape).astype(np.float32), shapes)


def run(call):
    """One call of ``fit``, or of what must be refused."""
    layout, asked = None, []
    if call.get("layout"):
        layout = layouts.layout(*call["layout"], devices=jax.devices()[: call.get("devices")])
    with terminated() as caught:

        def stopped():
            asked.append(None)
            if call.get("stop_in") == jax.process_index() and len(asked) == call["stop_after"]:
                os.kill(os.getpid(), signal.SIGTERM)
            return bool(caught)

        found = train.fit(
            build,
            data(jax.process_index() if call.get("differing") else 0),
            TRAINING,
            jax.random.key(0),
            0.01,
            start=started(),
            layout=layout,
            keep=train.Keep(call["keep"]) if "keep" in call else None,
            stopped=stopped,
        )
    return found


def written(call, found):
    """Curves and parameters in a file, by the first process."""
    params = found.fit.params
    if jax.process_count() > 1:
        params = multihost_utils.process_allgather(params, tiled=True)
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    pieces = {
        jax.tree_util.keystr(path): list(leaf.addressable_shards[0].data.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(found.fit.params)
    }
    if processes.is_first():
        said = {"finished": found.finished, "status": found.status, "pieces": pieces}
        curves = {f"curve {name}": found.curves[name].to_numpy() for name in found.curves.columns}
        np.savez(call["out"], said=json.dumps(said), **curves, **leaves)


@contextlib.contextmanager
def terminated():
    caught = []
    before = signal.signal(signal.SIGTERM, lambda number, _: caught.append(number))
    yield caught
    signal.signal(signal.SIGTERM, before)


def main(file):
    wanted = json.loads(Path(file).read_text())
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", wanted["devices"])
    keep_compiled_programs()
    processes.join(processes.Processes(**wanted.get("join", {})), time_out=60)
    for call in wanted["calls"]:
        if "refused" not in call:
            written(call, run(call))
            continue
        try:
            run(call)
        except (ValueError, RuntimeError) as error:
            assert call["refused"] in str(error), error  # noqa: PT017
        else:
            raise AssertionError(f"not refused: {call}")


if __name__ == "__main__":
    main(sys.argv[1])
