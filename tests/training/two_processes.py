"""What tests of devices and processes run in processes of their own: ``python -m tests.training.two_processes FILE``.

The file holds JSON: this process's devices, how it joins others, and the calls that it makes one after another. What
comes of a call goes into a file: numbers, and how large the pieces were that lay on one device.
"""

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from gvgap_jax.lm.model import classes, shape
from gvgap_jax.runtime import processes
from gvgap_jax.runtime.compile_cache import keep_compiled_programs
from gvgap_jax.training import checkpoints, layouts, loop, objectives, train
from gvgap_jax.training.objectives import Objective
from gvgap_jax.types import Demonstrations, Policy, Preferences

V, P, H, ROWS, BATCH = 16, 4, 3, 64, 8
TRAINING = loop.Training(steps=6, evaluate_every=1, steps_a_dispatch=2, schedule="constant")


def data(seed=0):
    """Demonstrations and pairs, as arrays of the host."""
    numbers = np.random.default_rng(seed)
    prompts, chosen, rejected = (numbers.integers(0, V, (ROWS, length)).astype(np.int32) for length in (P, H, H))
    prompts[::3, 0] = rejected[::5, -1] = -1
    weight = np.linspace(0.5, 1.5, ROWS, dtype=np.float32)
    return Demonstrations(prompts, chosen, weight), Preferences(prompts, chosen, rejected, 0 * weight, weight)


def transformers(data, remat=False):
    """SFT, a reward model and DPO, each of parameters of its own, as one objective."""
    size = shape.llama(V, layers=3, width=16, heads=4, key_value_heads=2, start=False, remat=remat)
    policy, verifier = classes.transformer_policy(size, H), classes.transformer_verifier(size)
    parts = {
        "sft": objectives.sft(policy, data[0], batch=BATCH),
        "reward_model": objectives.reward_model(verifier, data[1], batch=BATCH),
        "dpo": objectives.dpo(policy, data[1], batch=BATCH, beta=0.1),
    }

    def draw(key, params, round):
        return {name: part.draw(key, params, round) for name, part in parts.items()}

    def loss(params, batch):
        return sum(part.loss(params[name], batch[name]) for name, part in parts.items())

    return Objective(lambda key: {name: part.init(key) for name, part in parts.items()}, draw, loss)


def transformer(data):
    """DPO of one transformer."""
    policy = classes.transformer_policy(shape.neox(V, layers=3, width=16, start=False), H)
    return objectives.dpo(policy, data[1], batch=BATCH, beta=0.1)


def table(data):
    """SFT of a table of one token after another, with what is held out: it compiles fast."""

    def log_prob(params, prompts, responses):
        return jax.nn.log_softmax(params)[prompts[:, -1], responses[:, 0]]

    policy = Policy(lambda key: jnp.zeros((V, V)), log_prob, token_log_probs=None, sample=None, num_parameters=V * V)
    return objectives.sft(policy, data[0], jax.tree.map(lambda rows: rows[: ROWS // 4], data[0]), batch=BATCH)


def counted(data):
    """The same, which records how often a step draws each row."""
    weights = data[0].weight
    count = {f"row {row}": row for row in range(len(weights))}
    return table(data)._replace(
        measure=lambda batch: {name: jnp.sum(batch.weight == weights[row]) for name, row in count.items()}
    )


BUILDS = {"transformer": transformer, "table": table, "counted": counted}


def started(build):
    """Parameters that are not the objective's own: heads of 0 would hide what lies behind them."""
    numbers = np.random.default_rng(1)
    shapes = jax.eval_shape(build(data()).init, jax.random.key(0))
    return jax.tree.map(lambda leaf: numbers.normal(0, 0.1, leaf.shape).astype(np.float32), shapes)


def layout_of(call):
    return layouts.layout(*call["layout"], devices=jax.devices()[: call.get("devices")]) if "layout" in call else None


def gradients(call):
    """Losses and gradients of the batch of the first round; remat wherever there is a layout."""
    layout = layout_of(call)
    params, given = started(transformers), data()

    def both(params, given):
        objective = transformers(given, remat=layout is not None)
        objective = layout.spread(objective) if layout else objective
        batch = objective.draw(jax.random.key(0), params, 0)
        return jax.value_and_grad(objective.loss)(params, batch)

    if layout:
        params, given = layout.put_parameters(params), layout.put(given)
    loss, found = jax.jit(both)(params, given)
    save(call, found, {"loss": loss}, {"rows": pieces(given)})


def memory(call):
    """Of a gradient of SFT over 16 layers, bytes of all parameters, and what a device needs beside its own."""
    layout, size = layout_of(call), shape.neox(V, layers=16, width=128, heads=8, start=False)
    policy = classes.transformer_policy(size, H)

    def gradient(params, given):
        objective = layout.spread(objectives.sft(policy, given, batch=BATCH))
        return jax.grad(objective.loss)(params, objective.draw(jax.random.key(0), params, 0))

    shapes = jax.eval_shape(policy.init, jax.random.key(0))
    placed = layout.place(shapes)
    params = jax.tree.map(
        lambda leaf, there: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=there), shapes, placed
    )
    program = jax.jit(gradient, out_shardings=placed).lower(params, layout.put(data()[0])).compile()
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    used = program.memory_analysis()
    save(call, {}, {"whole": whole, "needed": used.temp_size_in_bytes + used.output_size_in_bytes}, {})


def fit(call):
    """One call of ``train.fit``; with ``stop``, process number ``stop`` gets SIGTERM in its first dispatch."""
    build, seed = BUILDS[call["objective"]], jax.process_index() if call.get("differing") else 0
    if "killed_at" in call:
        die_when_finished(call["killed_at"])
    with terminated() as caught:

        def stopped():
            if call.get("stop") == jax.process_index():
                os.kill(os.getpid(), signal.SIGTERM)
            return bool(caught)

        found = train.fit(
            build,
            jax.tree.map(lambda leaf: leaf[: call.get("rows")], data(seed)),
            TRAINING,
            jax.random.key(0),
            0.01,
            start=started(build),
            layout=layout_of(call),
            keep=train.Keep(call["keep"]) if "keep" in call else None,
            monitor=train.Monitor(stopped=stopped),
        )
    curves = {name: found.curves[name].to_numpy() for name in found.curves.columns}
    save(call, found.fit.params, curves, {"finished": found.finished, "status": found.status})


def die_when_finished(step):
    """SIGKILL when all of a checkpoint is written but its name."""

    def dying(rename):
        def renamed(source, target, **options):
            if str(target).endswith(f"/{checkpoints.CHECKPOINTS}/{step}"):
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(source, target, **options)

        return renamed

    os.rename, os.replace = dying(os.rename), dying(os.replace)


def moved(call):
    """The arrays of a state that was stored from 8 devices, read onto 1, stored from there, and read onto 4."""
    state = loop.start(transformers(data())._replace(init=lambda _: started(transformers)), TRAINING, jax.random.key(3))
    for step, (sizes, next_sizes) in enumerate([((2, 2, 2), (1, 1, 1)), ((1, 1, 1), (1, 4, 1))]):
        here, there = (layouts.layout(*each, devices=jax.devices()[: np.prod(each)]) for each in (sizes, next_sizes))
        state = jax.device_put(state, here.place(state))
        with checkpoints.opened(call["keep"], {}, every=1) as kept:
            kept.save(step, state)
        with checkpoints.opened(call["keep"], {}, every=1) as kept:
            like = jax.device_put(state, there.place(state))
            found, state = kept.restore(like)
        assert found == step
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(like.optimiser))
        jax.tree.map(lambda leaf, wanted: leaf.sharding == wanted or 1 / 0, state, there.place(state))
    save(call, state._replace(key=jax.random.key_data(state.key)), {}, {})


def save(call, tree, numbers, said):
    """The arrays of a tree, further numbers, and JSON, in a file of the first process."""
    said = said | {"pieces": pieces(tree)}
    if jax.process_count() > 1:
        tree = multihost_utils.process_allgather(tree, tiled=True)
    if processes.is_first():
        np.savez(call["out"], said=json.dumps(said), **numbers, **named(tree))


def pieces(tree):
    """The shapes of what one device has of each array."""
    return {
        name: leaf.addressable_shards[0].data.shape for name, leaf in named(tree).items() if hasattr(leaf, "sharding")
    }


def named(tree):
    return {jax.tree_util.keystr(path, simple=True): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@contextlib.contextmanager
def terminated():
    caught = []
    before = signal.signal(signal.SIGTERM, lambda number, _: caught.append(number))
    yield caught
    signal.signal(signal.SIGTERM, before)


def steps(call):
    """Processes in step: they agree, the first one's word holds, and its failure is everyone's."""
    first = jax.process_index() == 0
    assert processes.agreed(first)
    assert not processes.agreed(False)
    assert processes.from_first({"of": jax.process_index(), "ü": [None]}) == {"of": 0, "ü": [None]}
    processes.barrier("here")
    done = []
    processes.in_first(lambda: done.append(1))
    assert len(done) == first
    with contextlib.suppress(ZeroDivisionError if first else RuntimeError):
        processes.in_first(lambda: 1 / 0)
        raise AssertionError("the first process failed, and this one did not hear of it")
    for alone, words in ((train.fit, "need a layout"), (train.fit_many, "for one process")):
        refused(lambda alone=alone: alone(table, data(), TRAINING, jax.random.key(0), 0.1), words)
    refused(lambda: fit({"objective": "table", "differing": True, **call}), "must agree")


def refused(action, words):
    try:
        action()
    except ValueError as error:
        assert words in str(error), error  # noqa: PT017
    else:
        raise AssertionError(f"not refused: {words}")


def main(file):
    wanted = json.loads(Path(file).read_text())
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", wanted["devices"])
    jax.config.update("jax_disable_most_optimizations", True)  # they take most of the time here
    keep_compiled_programs()
    processes.join(processes.Processes(**wanted.get("join", {})), time_out=60)
    for call in wanted["calls"]:
        {"gradients": gradients, "fit": fit, "memory": memory, "moved": moved, "steps": steps}[call["do"]](call)


if __name__ == "__main__":
    main(sys.argv[1])
