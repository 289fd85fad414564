"""One loop for every method: against optax, one big batch, runs made alone, and with runs that break."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import polars as pl
import pytest
from jax.sharding import PartitionSpec

from gvgap_jax import TokenTree, losses, policies, preferences, rollouts, tasks, verifiers
from gvgap_jax.lm.data import arrays
from gvgap_jax.runtime import devices
from gvgap_jax.training import layouts, loop, objectives, programs, train
from gvgap_jax.training.loop import Training
from gvgap_jax.training.objectives import Objective
from gvgap_jax.types import Demonstrations, HeldOut

SHORT = Training(steps=12, evaluate_every=3, steps_a_dispatch=6, clip=0.1)


@pytest.fixture(scope="module")
def policy(tree, task):
    return policies.mlp_policy(tree, 4, tree.conditionals(task.reference))


@pytest.fixture(scope="module")
def pairs(tree, task):
    """Training and held-out pairs; the number of held-out ones is no multiple of the batch."""
    drawn = preferences.sample(jax.random.key(0), tree, task, 90)
    return jax.tree.map(lambda rows: rows[:60], drawn), HeldOut(jax.tree.map(lambda rows: rows[60:], drawn))


@pytest.fixture(scope="module")
def dpo(policy, task):
    def build(data):
        return objectives.dpo(policy, *data, batch=16, beta=task.beta, temperature=task.temperature)

    return build


@pytest.fixture(scope="module")
def alone(dpo, pairs):
    return train.fit(dpo, pairs, SHORT, jax.random.key(3), 0.1)


def parabola(held_out=None):
    """Pulls one number to the targets [B] of a batch, by weights [B]."""

    def loss(params, batch):
        return losses.weighted_mean((params - batch[0]) ** 2, batch[1])

    def draw(key, params, round):
        del params, round
        return jax.random.normal(key, (6,)), jnp.arange(6.0)

    return Objective(lambda key: jnp.ones(()), draw, loss, lambda batch: jnp.sum(batch[1]), held_out)


def descend(objective, training, learning_rate=0.1):
    """One compiled program for a whole run, as sweeps make it."""
    return jax.jit(partial(loop.train, objective, training, learning_rate))(jax.random.key(0))


def assert_close(found, wanted, **tolerance):
    jax.tree.map(partial(np.testing.assert_allclose, **tolerance), found, wanted)


def test_dpo_starts_at_log_2_and_falls(alone):
    assert alone.curves["loss"][0] == pytest.approx(math.log(2), abs=1e-12)
    assert alone.fit.held_out_loss < math.log(2)
    assert alone.status == ("finished after 12 steps",)
    assert alone.curves["step"].to_list() == list(range(1, 13))
    np.testing.assert_allclose(alone.curves["learning_rate"], 0.1 * (1 - np.arange(12) / 12), rtol=1e-6)
    assert alone.curves.filter(pl.col("held_out_loss").is_not_null())["step"].to_list() == [3, 6, 9, 12]


def test_held_out_loss_is_that_of_all_held_out_pairs_at_once(alone, dpo, pairs):
    whole = dpo(pairs).loss(alone.fit.params, pairs[1].pairs)
    np.testing.assert_allclose(alone.fit.held_out_loss, whole, rtol=1e-12)
    assert alone.fit.held_out_loss == alone.curves["held_out_loss"].min()


@pytest.mark.parametrize("size", [1, 7, 60])
def test_every_epoch_covers_every_row_once_in_another_order(size):
    rows = jax.jit(jax.vmap(lambda place: objectives.shuffled(jax.random.key(1), place, size)))(jnp.arange(3 * size))
    epochs = np.asarray(rows).reshape(3, size)
    assert (np.sort(epochs, axis=1) == np.arange(size)).all()
    if size > 2:
        assert (epochs[0] != epochs[1]).any()
        assert (epochs[0] != np.arange(size)).any()


def test_every_row_is_as_likely_in_every_place():
    keys = jax.random.split(jax.random.key(5), 3500)
    first = jax.jit(jax.vmap(lambda key: objectives.shuffled(key, 0, 7)))(keys)
    np.testing.assert_allclose(np.bincount(first, minlength=7) / 3500, 1 / 7, atol=4 * math.sqrt(6 / 49 / 3500))


def test_batches_follow_one_another_through_the_data(policy):
    tokens = jnp.arange(10)[:, None]
    objective = objectives.sft(policy, Demonstrations(tokens, tokens, jnp.ones(10)), batch=5)
    draw = jax.jit(lambda step: objective.draw(jax.random.key(0), None, step).prompts)
    drawn = [draw(step) for step in range(2)]
    assert sorted(np.concatenate(drawn)[:, 0].tolist()) == list(range(10))


def test_parts_of_a_batch_make_the_step_of_the_whole():
    steps = {}
    for parts in (1, 3):
        training = Training(steps=2, evaluate_every=2, steps_a_dispatch=2, accumulate=parts, clip=None)
        steps[parts] = descend(parabola(), training)
    assert_close(steps[3], steps[1], rtol=1e-12)
    means_of_means = descend(parabola()._replace(weight=lambda batch: 1.0), training)
    assert abs(means_of_means.loss - steps[1].loss) > 1e-3


@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("constant", optax.warmup_constant_schedule(0.0, 0.3, 4)),
        ("linear", optax.schedules.join_schedules([lambda s: 0.3 * s / 4, lambda s: 0.3 * (1 - s / 16)], [4])),
        ("cosine", optax.warmup_cosine_decay_schedule(0.0, 0.3, 4, 20)),
    ],
)
def test_schedules(name, oracle):
    training = Training(steps=20, evaluate_every=1, steps_a_dispatch=1, schedule=name, warm_up=4)
    found = [0.3 * loop.schedule(training)(step) for step in range(21)]
    np.testing.assert_allclose(found, [oracle(step) for step in range(21)], atol=1e-7)


def test_steps_are_those_of_optax(alone, dpo, pairs):
    objective, (init_key, key) = dpo(pairs), jax.random.split(jax.random.key(3))
    optimiser = optax.chain(optax.clip_by_global_norm(0.1), optax.adam(optax.linear_schedule(0.1, 0.0, 12), b2=0.95))

    @jax.jit
    def step(params, memory, number):
        loss, gradient = jax.value_and_grad(objective.loss)(params, objective.draw(key, params, number))
        updates, memory = optimiser.update(gradient, memory, params)
        return optax.apply_updates(params, updates), memory, loss, optax.tree.norm(gradient)

    params = objective.init(init_key)
    memory, found = optimiser.init(params), []
    for number in range(12):
        params, memory, loss, norm = step(params, memory, number)
        found.append([loss, norm])
    np.testing.assert_allclose(alone.curves.select("loss", "gradient_norm").to_numpy(), found, rtol=1e-6)
    assert max(alone.curves["gradient_norm"]) > 0.1  # the clip was felt, and the norm is that before it


def test_early_stopping_keeps_the_best():
    """From 1 towards 0 past 1/2, where the held-out loss is lowest."""
    objective = parabola(held_out=lambda params, _: (params - 0.5) ** 2)
    objective = objective._replace(draw=lambda key, params, round: (jnp.zeros(2), jnp.ones(2)))
    training = Training(steps=40, evaluate_every=1, steps_a_dispatch=20, schedule="constant", patience=4, clip=None)
    found = train.fit(lambda _: objective, None, training, jax.random.key(0), 0.125)
    best = found.curves.sort("held_out_loss")[0]
    assert found.fit.steps == best["step"].item() + 4 == len(found.curves)
    assert found.fit.held_out_loss == best["held_out_loss"].item() == (found.fit.params - 0.5) ** 2
    assert found.status == (f"stopped early after {found.fit.steps} steps: no lower held-out loss for 4 evaluations",)
    assert int(descend(objective, training, 0.125).steps) == found.fit.steps


def test_many_runs_are_single_runs_and_a_broken_one_stops_alone(alone, dpo, pairs, monkeypatch):
    monkeypatch.setattr(devices, "is_accelerator", lambda device: True)  # one batch, not one after another
    keys = jnp.stack([jax.random.key(3), jax.random.key(4), jax.random.key(5)])
    with pytest.warns(RuntimeWarning, match="1 of 3 runs broke: run 1 stopped at step 1:"):
        many = train.fit_many(dpo, pairs, SHORT, keys, jnp.array([0.1, jnp.inf, 0.1]))
    assert_close(jax.tree.map(lambda leaf: leaf[0], many.fit), alone.fit, rtol=1e-9)
    first = many.curves.filter(run=0)
    np.testing.assert_allclose(first.drop("run").to_numpy(), alone.curves.drop("run").to_numpy(), rtol=1e-9)
    assert many.status[0] == many.status[2] == "finished after 12 steps"
    assert many.curves.filter(run=1)["step"].to_list() == [1]
    assert many.fit.converged.tolist() == [True, False, True]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(many.fit.params))


def test_runs_may_differ_in_data(monkeypatch):
    """Memory for two of three runs at a time: they are made in two batches."""

    def build(shared, target):
        return parabola()._replace(draw=lambda key, params, round: (jnp.full(2, target), shared))

    training = Training(steps=300, evaluate_every=50, steps_a_dispatch=200, schedule="cosine")
    targets = jnp.array([-1.0, 0.0, 2.0])
    monkeypatch.setattr(programs, "memory_per_device", lambda: 0)
    many = train.fit_many(
        build, jnp.ones(2), training, jax.random.split(jax.random.key(0), 3), np.full(3, 0.1), each=(targets,)
    )
    np.testing.assert_allclose(many.fit.params, targets, atol=1e-3)
    assert many.curves["run"].unique().sort().to_list() == [0, 1, 2]
    assert len(many.curves) == 900


def test_one_run_may_lie_on_all_devices():
    """A network of two layers and a bias, which two devices cannot share."""

    def build(inputs):
        def loss(params, batch):
            found = jnp.tanh(batch @ params["in"]) @ params["out"] + params["bias"]
            return jnp.mean((found - batch[:, 0]) ** 2)

        def draw(key, params, round):
            del params
            return inputs[jax.random.randint(jax.random.fold_in(key, round), (8,), 0, len(inputs))]

        def init(key):
            return {"in": jax.random.normal(key, (6, 4)), "out": jnp.ones(4), "bias": jnp.zeros(())}

        return Objective(init, draw, loss)

    inputs = jax.random.normal(jax.random.key(1), (20, 6))
    training = Training(steps=8, evaluate_every=4, steps_a_dispatch=4, accumulate=2)
    alone, *spread = (
        train.fit(build, inputs, training, jax.random.key(3), 0.1, layout=layout)
        for layout in (None, layouts.layout(data=-1), layouts.layout(fsdp=-1))
    )
    for found, spec, rows in zip(spread, [(), ("fsdp",)], [6, 3], strict=True):
        np.testing.assert_allclose(found.curves["loss"], alone.curves["loss"], rtol=1e-9)
        kernel = found.fit.params["in"]
        assert kernel.sharding.spec == PartitionSpec(*spec)
        assert [shard.data.shape for shard in kernel.addressable_shards] == 2 * [(rows, 4)]
        assert found.fit.params["bias"].sharding.spec == PartitionSpec()
    with pytest.raises(ValueError, match="1 rows cannot be split evenly over 2 devices "):
        train.fit(
            build,
            inputs,
            dataclasses.replace(training, accumulate=8),
            jax.random.key(3),
            0.1,
            layout=layouts.layout(data=2),
        )


def test_methods_that_sample_raise_j():
    """Half of what there is to win, on the exact J."""
    tree = TokenTree(2, 2)
    task = tasks.make_task(tree, reward=[[1.0, 0.0, -1.0, 2.0]], reference=np.log(np.full((1, 4), 0.25)), beta=0.5)
    policy = policies.tabular(tree, tree.conditionals(task.reference))
    environment = tasks.environment(tree, task, partial(tree.at, task.reward))
    critic = policies.tabular_critic(tree)

    def loss(params):
        return losses.kl_regularised(
            policy.leaf_log_probs(params), task.reward, task.reference, task.beta, task.prompt_probs
        )

    methods = {
        "rloo": objectives.rloo(policy, environment, prompts=32, samples=2),
        "online_dpo": objectives.online_dpo(
            policy, environment, prompts=32, samples=2, labels=rollouts.by_bradley_terry
        ),
        "ppo": objectives.ppo(policy, critic, environment, prompts=64),
    }
    training = Training(steps=200, steps_a_batch=2, accumulate=2, evaluate_every=50, steps_a_dispatch=200, clip=None)
    reference, optimal = (-loss(policy.from_log_probs(law)) for law in (task.reference, task.optimal))
    for name, objective in methods.items():
        found = descend(objective, training, 0.05)
        reached = -loss(found.params[0] if name == "ppo" else found.params)
        assert (reached - reference) / (optimal - reference) > 0.5, name
        assert found.converged


def test_reward_models_and_demonstrations(tree, task, policy, pairs):
    """Their losses are those of the pairs and rows, written out."""
    verifier = verifiers.mlp_verifier(tree, 3)
    params = verifier.init(jax.random.key(7))
    margin = verifier.score(params, pairs[0].prompts, pairs[0].chosen) - verifier.score(
        params, pairs[0].prompts, pairs[0].rejected
    )
    objective = objectives.reward_model(verifier, *pairs, batch=16, temperature=2.0)
    np.testing.assert_allclose(objective.loss(params, pairs[0]), np.mean(np.log1p(np.exp(-margin / 2.0))))
    rows = Demonstrations(pairs[0].prompts, pairs[0].chosen, pairs[0].weight)
    params = policy.init(jax.random.key(0))
    wanted = -np.mean(tree.at(task.reference, rows.prompts, rows.responses))
    np.testing.assert_allclose(objectives.sft(policy, rows, batch=16).loss(params, rows), wanted)


def test_reference_margins_are_filled_in(tree, task, policy, pairs):
    bare = pairs[0]._replace(reference_margin=jnp.zeros(60))
    found = objectives.with_reference(bare, policy, policy.init(jax.random.key(0)), rows=16)
    np.testing.assert_allclose(found.reference_margin, pairs[0].reference_margin, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 7}, "steps must be a multiple of evaluate_every, got 7 and 3"),
        ({"steps_a_dispatch": 7}, "steps_a_dispatch must be a multiple"),
        ({"accumulate": 0}, "accumulate must be at least 1"),
        ({"schedule": "sine"}, "'cosine', got 'sine'"),
        ({"warm_up": 12}, "below 12 steps, got 12"),
        ({"clip": 0.0}, "clip must be above 0"),
    ],
)
def test_settings_that_cannot_be(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SHORT, **change)


def test_a_batch_that_cannot_be_cut(dpo, pairs):
    training = dataclasses.replace(SHORT, accumulate=3)
    with pytest.raises(ValueError, match="accumulate=3 does not divide a batch of 16"):
        train.fit(dpo, pairs, training, jax.random.key(0), 0.1)


def test_no_rows_to_draw(policy, pairs):
    none = jax.tree.map(lambda rows: rows[:0], pairs[0])
    with pytest.raises(ValueError, match="at least 1 row"):
        objectives.dpo(policy, none, batch=4, beta=1.0)


def test_many_runs_need_one_row_each(dpo, pairs):
    with pytest.raises(ValueError, match=r"got lengths \[2, 3\]"):
        train.fit_many(dpo, pairs, SHORT, jax.random.split(jax.random.key(0), 3), jnp.ones(2))


ASKED, LEFT, RIGHT = [[0], [1, 2]], [[1, 1], [2]], [[0], [0, 1, 2]]


def test_lists_become_padded_pairs():
    found = arrays.pairs(ASKED, LEFT, RIGHT, vocabulary=3, prompt_length=2, horizon=3)
    assert found.prompts.tolist() == [[-1, 0], [1, 2]]
    assert found.chosen.tolist() == [[1, 1, -1], [2, -1, -1]]
    assert found.rejected.tolist() == [[0, -1, -1], [0, 1, 2]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([], [], [], 3, 2, 3), "there are no pairs"),
        ((ASKED, LEFT, RIGHT, 3, 2, 2), "response 1 has 3 tokens, more than the 2"),
        ((ASKED, LEFT, RIGHT, 2, 2, 3), "outside the vocabulary, 0 to 1"),
        ((ASKED, LEFT, RIGHT, 3, 1, 3), "prompt 1 has 2 tokens"),
        ((ASKED, LEFT, RIGHT[:1], 3, 2, 3), "'rejected': 1"),
    ],
)
def test_lists_that_are_no_pairs(arguments, words):
    with pytest.raises(ValueError, match=words):
        arrays.pairs(*arguments)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": np.zeros(2)}, "there are no pairs"),
        ({"chosen": np.zeros((2, 4), int)}, "longer than the horizon"),
        ({"chosen": np.full((2, 3), 3)}, "token 3 of row 0 is outside the vocabulary, 0 to 2"),
        ({"rejected": np.array([[0, -1, 0], [0, 0, 0]])}, "row 0 must be padded on the right alone"),
        ({"prompts": np.array([[0, -1], [0, 0]])}, "row 0 must be padded on the left alone"),
        ({"reference_margin": np.array([0.0, np.nan])}, "2 finite numbers"),
    ],
)
def test_arrays_that_are_no_pairs(change, words):
    good = arrays.pairs(ASKED, LEFT, RIGHT, vocabulary=3, prompt_length=2, horizon=3)
    arrays.check_pairs(good, 3, 2, 3)
    with pytest.raises(ValueError, match=words):
        arrays.check_pairs(good._replace(**change), 3, 2, 3)


def test_groups_of_unequal_size():
    assert arrays.groups([LEFT, RIGHT], 3, 3).shape == (2, 2, 3)
    with pytest.raises(ValueError, match="same number of responses, at least 1; got prompts: 1 with 1, 1 with 2"):
        arrays.groups([LEFT[:1], RIGHT], 3, 3)
