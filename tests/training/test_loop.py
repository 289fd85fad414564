"""The loop against AdamW in plain numpy: rates, clipping, decay, which batch at which step, and what is selected."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvgap_jax.training import checkpoints, loop
from gvgap_jax.training.loop import Training
from gvgap_jax.training.objectives import Objective

TARGETS = np.array([[3.0, -1.0], [0.5, 2.0], [-2.0, 1.0], [1.0, 1.0], [0.0, -3.0]])  # a row a round
START = {"kernel": np.array([1.0, -2.0]), "bias": np.array(0.5)}
TRAINING = Training(
    steps=6, steps_a_batch=2, schedule="linear", warm_up=2, clip=6.0, weight_decay=0.3, evaluate_every=2,
    steps_a_dispatch=2,
)  # fmt: skip
RATE = 0.2


def loss(params, batch):
    return jnp.mean(jnp.sum(((params["kernel"] + params["bias"])[None] - batch) ** 2, axis=1))


def draw(key, params, round):
    """Two rows that tell the round, and the parameters that drew them."""
    del key
    return jnp.asarray(TARGETS)[round][None] + jnp.array([[0.1], [-0.1]]) + 0.0 * params["bias"]


def measure(batch):
    return {"first": batch[0, 0]}


OBJECTIVE = Objective(lambda key: jax.tree.map(jnp.asarray, START), draw, loss, measure=measure)


def advanced(objective, training, evaluations=None, learning_rate=RATE):
    """The state and the curves of a run, in one program."""

    @jax.jit
    def run(key):
        state = loop.start(objective, training, key)
        return loop.advance(objective, training, evaluations or training.steps // training.evaluate_every,
                            learning_rate, state)  # fmt: skip

    return run(jax.random.key(0))


def by_hand(training, targets, learning_rate=RATE):
    """Parameters, norms and rates after every step."""
    params, mean, square = dict(START), dict.fromkeys(START, 0.0), dict.fromkeys(START, 0.0)
    rows = []
    for step, target in enumerate(targets):
        error = params["kernel"] + params["bias"] - target
        slope = {"kernel": 2 * error, "bias": 2 * error.sum()}
        norm = math.sqrt(sum(np.sum(leaf**2) for leaf in slope.values()))
        shrink = min(1.0, training.clip / norm)
        done = step - training.warm_up
        share = step / training.warm_up if done < 0 else 1 - done / (training.steps - training.warm_up)
        for name, leaf in slope.items():
            mean[name] = 0.9 * mean[name] + 0.1 * shrink * leaf
            square[name] = 0.95 * square[name] + 0.05 * (shrink * leaf) ** 2
            pull = (mean[name] / (1 - 0.9 ** (step + 1))) / (
                np.sqrt(square[name] / (1 - 0.95 ** (step + 1))) + 1e-8
            ) + training.weight_decay * params[name]
            params = params | {name: params[name] - learning_rate * share * pull}
        rows.append((params, norm, learning_rate * share))
    return rows


@pytest.fixture(scope="module")
def run():
    return advanced(OBJECTIVE, TRAINING)


def test_steps_are_adamw_on_the_schedule_with_every_parameter_decayed(run):
    state, curves = run
    rows = by_hand(TRAINING, TARGETS[[0, 0, 1, 1, 2, 2]])
    for name, leaf in rows[-1][0].items():
        np.testing.assert_allclose(state.params[name], leaf, rtol=1e-6)
    np.testing.assert_allclose(curves["gradient_norm"], [norm for _, norm, _ in rows], rtol=1e-6)
    np.testing.assert_allclose(curves["learning_rate"], [rate for *_, rate in rows], atol=1e-8)
    assert min(curves["gradient_norm"]) < TRAINING.clip < max(curves["gradient_norm"])
    assert curves["step"].tolist() == [1, 2, 3, 4, 5, 6]


def test_rounds_follow_one_another_whatever_the_steps_on_each(run):
    """Round = steps taken over steps a batch: no row of the data is passed over."""
    assert run[1]["first"].tolist() == (TARGETS[[0, 0, 1, 1, 2, 2], 0] + 0.1).tolist()
    each = advanced(OBJECTIVE, dataclasses.replace(TRAINING, steps_a_batch=1, steps=4))[1]
    assert each["first"].tolist() == (TARGETS[:4, 0] + 0.1).tolist()


def test_a_batch_is_drawn_once_by_the_parameters_before_its_first_step():
    seen = OBJECTIVE._replace(draw=lambda key, params, round: jnp.tile(params["kernel"], (2, 1)))
    training = dataclasses.replace(TRAINING, clip=None, weight_decay=0.0, warm_up=0, schedule="constant")
    first = np.asarray(advanced(seen, training)[1]["first"])
    assert first[0] == START["kernel"][0] == first[1]
    assert first[2] == first[3] != first[1]
    assert first[4] == first[5] != first[3]


def test_every_round_has_the_runs_key_which_is_not_that_of_the_first_parameters():
    def noted(key, params, round):
        return jnp.broadcast_to(jax.random.key_data(key)[:1].astype(float), (2, 2)) + 0.0 * params["bias"]

    keys = []
    objective = OBJECTIVE._replace(draw=noted, init=lambda key: keys.append(key) or OBJECTIVE.init(key))
    _, curves = advanced(objective, TRAINING)
    init_key, key = jax.random.split(jax.random.key(0))
    assert set(curves["first"].tolist()) == {float(jax.random.key_data(key)[0])}
    objective.init(init_key)
    loop.start(objective, TRAINING, jax.random.key(0))
    assert jax.random.key_data(keys[-1]).tolist() == jax.random.key_data(init_key).tolist()


def test_parts_are_averaged_by_their_weight_and_one_without_any_counts_for_nothing():
    """Rows of weight 0 to 3: whatever the number of parts, the step is that of the whole batch."""
    weight = jnp.array([1.0, 3.0, 0.0, 0.0])

    def weighed(params, batch):
        rows, weight = batch
        errors = jnp.sum(((params["kernel"] + params["bias"])[None] - rows) ** 2, axis=1)
        return jnp.sum(weight * errors) / jnp.where(jnp.sum(weight) > 0, jnp.sum(weight), 1)

    objective = Objective(
        OBJECTIVE.init, lambda key, params, round: (jnp.asarray(TARGETS)[:4], weight), weighed,
        weight=lambda batch: jnp.sum(batch[1]),
    )  # fmt: skip
    whole, halves = (advanced(objective, dataclasses.replace(TRAINING, accumulate=parts), 1) for parts in (1, 2))
    for name in ("loss", "gradient_norm"):
        np.testing.assert_allclose(halves[1][name], whole[1][name], rtol=1e-12)
    np.testing.assert_allclose(halves[0].params["kernel"], whole[0].params["kernel"], rtol=1e-9)


@partial(jax.jit, static_argnums=1)
def held_out_run(sign, patience=None):
    """A run towards larger numbers, whose held-out loss is the number times a sign."""
    objective = OBJECTIVE._replace(
        held_out=lambda params, _: sign * params["kernel"][0], draw=lambda key, params, round: draw(key, params, 0)
    )
    training = dataclasses.replace(TRAINING, patience=patience, warm_up=0)
    return loop.train(objective, training, RATE, jax.random.key(0))


def test_the_parameters_of_the_lowest_held_out_loss_are_kept_whatever_the_training_loss():
    last, first = held_out_run(-1.0), held_out_run(1.0)
    assert first.params["kernel"].tolist() == START["kernel"].tolist(), "the start is a candidate"
    assert first.held_out_loss == START["kernel"][0]
    assert last.held_out_loss == -last.params["kernel"][0] != -START["kernel"][0]
    assert last.loss == first.loss, "both went the same way"
    assert np.isnan(held_out_run(jnp.nan).held_out_loss)
    assert held_out_run(1.0, 1).steps == 2
    assert held_out_run(-1.0, 1).steps == 6


def test_a_batch_that_is_not_finite_ends_the_run_where_it_was():
    def poisoned(key, params, round):
        return jnp.where(round == 1, jnp.nan, draw(key, params, round))

    state, curves = advanced(OBJECTIVE._replace(draw=poisoned), TRAINING)
    before = by_hand(TRAINING, TARGETS[[0, 0]])[-1][0]
    np.testing.assert_allclose(state.params["kernel"], before["kernel"], rtol=1e-6)
    assert (int(state.step), int(state.status)) == (2, loop.NOT_FINITE)
    assert curves["running"].tolist() == [True, True, True, False, False, False]
    assert not loop.fit_of(state).converged


def configuration(**changed):
    """What a checkpoint is found by."""
    given = {
        "training": TRAINING, "description": {"start": "sft"}, "learning_rate": RATE, "data": (TARGETS,),
        "params": START, "key": jax.random.key(0),
    } | changed  # fmt: skip
    objective = OBJECTIVE._replace(init=lambda key: jax.tree.map(jnp.asarray, given.pop("params")))
    state = loop.start(objective, TRAINING, given.pop("key"))
    return checkpoints.configuration(state=state, **given)


@pytest.mark.parametrize(
    "change",
    [
        *({"training": dataclasses.replace(TRAINING, **each)} for each in (
            {"steps": 8}, {"steps_a_batch": 1}, {"accumulate": 2}, {"schedule": "cosine"}, {"warm_up": 1},
            {"clip": None}, {"weight_decay": 0.1}, {"patience": 3})),
        {"description": {"start": "dpo"}},
        {"learning_rate": 0.3},
        {"data": (TARGETS + 1e-15,)},
        {"data": (TARGETS.astype(np.float32),)},
        {"data": (TARGETS.reshape(2, 5),)},
        {"data": (TARGETS, TARGETS)},
        {"params": START | {"kernel": np.zeros(3)}},
        {"params": START | {"kernel": START["kernel"].astype(np.float32)}},
        {"key": jax.random.key(1)},
    ],
    ids=str,
)  # fmt: skip
def test_a_checkpoint_is_found_by_all_that_decides_its_numbers(change):
    assert configuration() == configuration()
    assert configuration(**change) != configuration()
