"""What every arm of the token tasks may see: poisoned gold rewards, labels and held-out pairs change what they should.

Training is one gradient step here, and networks are tables, so that all arms take seconds.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.questions import token_tasks, token_tasks_arms
from experiments.questions.token_tasks_arms import ARMS, DPO, GOLD, LEARNING_RATES, REFERENCE, SAME, SIMPLE, Outcome
from experiments.questions.token_tasks_families import FAMILIES, Sizes
from gvgap_jax import rollouts
from gvgap_jax.lm.model.shape import llama
from gvgap_jax.training import loop, objectives
from gvgap_jax.types import Fit, HeldOut
from tests import bigrams
from tests.questions.conftest import compiled_fast

SIZES = Sizes(vocabulary=4, horizon=2, prompt_length=1, prompts=2)
PROGRAM = token_tasks_arms.Program("interactions", SIZES, llama(4, 1, 4), 60, 25)
CELL = {"seed": 3, "beta": 0.5, "informed": 1}
FITTED = (DPO, SAME, SIMPLE)  # arms that see labels


def step(objective, training, learning_rate, key):
    """In place of a run: one step against the gradient of a drawn batch, and the held-out loss there."""
    init_key, key = jax.random.split(key)
    params = objective.init(init_key)
    loss, slope = jax.value_and_grad(objective.loss)(params, objective.draw(key, params, 0))
    params = jax.tree.map(lambda leaf, change: leaf - 100 * learning_rate * change, params, slope)
    held_out = loss if objective.held_out is None else objective.held_out(params, objective.loss)
    return Fit(params, loss, held_out, loss, loss, jnp.array(1), jnp.array(True))


def turned(pairs, really):
    one, other = (
        jnp.where(really, *sides) for sides in ((pairs.rejected, pairs.chosen), (pairs.chosen, pairs.rejected))
    )
    return pairs._replace(chosen=one, rejected=other)


@jax.jit
def outcomes(gold, labels_turned, held_out_turned):
    """All arms, after ``gold`` was added to the gold reward, and labels were turned round."""
    scene, _ = token_tasks_arms.scene_of(PROGRAM, CELL)
    last = scene.task.checker.last
    checker = scene.task.checker._replace(last=lambda prompts, state: last(prompts, state) + gold)
    return token_tasks_arms.arms(
        scene._replace(
            task=scene.task._replace(checker=checker),
            train=turned(scene.train, labels_turned),
            held_out=HeldOut(turned(scene.held_out.pairs, held_out_turned)),
        )
    )


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch, compiled_fast():
        patch.setattr(loop, "train", step)
        patch.setattr(token_tasks_arms, "CHOOSING", 16)
        patch.setattr(token_tasks_arms, "transformer_policy", lambda shape, horizon: bigrams.policy(4, horizon))
        patch.setattr(token_tasks_arms, "transformer_verifier", lambda shape: bigrams.verifier(4))
        yield


@pytest.fixture(scope="module")
def found(quick):
    """What comes of the arms as they are, and of three poisons."""
    cases = {
        "as it is": (0.0, False, False),
        "no gold": (jnp.nan, False, False),
        "labels turned": (0.0, True, False),
        "held-out labels turned": (0.0, False, True),
    }
    return {name: outcomes(*case) for name, case in cases.items()}


def same(one, other):
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.asarray(left).tobytes() == np.asarray(right).tobytes() for left, right in leaves)


def test_no_arm_that_learns_from_labels_sees_the_gold_reward(found):
    for arm in (REFERENCE, *FITTED):
        assert same(found["no gold"][arm], found["as it is"][arm]), arm
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found["as it is"][arm])), arm
    assert not same(found["no gold"][GOLD].params, found["as it is"][GOLD].params)


def test_no_arm_but_those_that_learn_from_them_sees_labels(found):
    for arm in ARMS:
        assert same(found["labels turned"][arm], found["as it is"][arm]) == (arm not in FITTED), arm


def test_held_out_labels_choose_the_learning_rate_and_say_the_accuracy(found):
    for arm in FITTED:
        assert not same(found["held-out labels turned"][arm].params, found["as it is"][arm].params), arm
    assert same(found["held-out labels turned"][GOLD].params, found["as it is"][GOLD].params)
    for arm in (REFERENCE, GOLD):
        accuracies = [float(found[case][arm].accuracy) for case in ("as it is", "held-out labels turned")]
        assert sum(accuracies) == pytest.approx(1), "what was right is wrong"
    assert found["as it is"][REFERENCE].accuracy == 0.5
    assert found["as it is"][GOLD].accuracy > 0.6


def test_arms_differ(found):
    policies = [np.asarray(found["as it is"][arm].params).tobytes() for arm in ARMS]
    assert len(set(policies)) == len(ARMS)


def test_dpo_and_rl_have_the_beta_of_the_task_and_the_same_budget(monkeypatch):
    made, ran = [], []

    def noted(name, make):
        return lambda *given, **how: made.append((name, given, how)) or make(*given, **how)

    for name in ("dpo", "reward_model", "rloo"):
        monkeypatch.setattr(objectives, name, noted(name, getattr(objectives, name)))
    monkeypatch.setattr(loop, "train", lambda *given: ran.append(given) or step(*given))
    scenes, judged, evaluate = [], [], rollouts.evaluate
    monkeypatch.setattr(rollouts, "evaluate", lambda *given: judged.append(given) or evaluate(*given))

    def all_arms():
        scenes.append(token_tasks_arms.scene_of(PROGRAM, CELL)[0])
        return token_tasks_arms.arms(scenes[0])

    jax.eval_shape(all_arms)
    (_, given, how), *models, (_, under, rl) = made
    assert how == {"batch": token_tasks_arms.BATCH, "beta": CELL["beta"]}
    assert [name for name, *_ in made] == ["dpo", "reward_model", "reward_model", "rloo"]
    assert all(each[1:] == given[1:] for _, each, _ in models), "the pairs of DPO"
    simple = FAMILIES["interactions"].verifier(token_tasks_arms.task_of("interactions", SIZES, 1.0, 0)[0])
    assert [each[0].num_parameters for _, each, _ in models] == [4**2, simple.num_parameters] == [4**2, 4**3]
    assert [each for *_, each in models] == [{"batch": token_tasks_arms.BATCH}] * 2
    assert (under[1].beta, under[1].temperature) == (CELL["beta"], 1)
    assert rl["prompts"] * rl["samples"] == 2 * how["batch"], "as many responses as pairs have"
    assert len({training for _, training, *_ in ran}) == 1
    assert ran[0][1].steps == PROGRAM.steps
    assert all(key is scenes[0].key for *_, key in ran)
    assert all(key is scenes[0].choosing for key, *_ in judged)
    assert judged
    assert len(LEARNING_RATES) > 1


def test_every_use_of_randomness_has_its_own_key():
    def keys():
        scene, judging = token_tasks_arms.scene_of(PROGRAM, CELL)
        return [jax.random.key_data(key) for key in (scene.key, scene.choosing, judging)]

    assert len({key.tobytes() for key in map(np.asarray, jax.jit(keys)())}) == 3


def test_policies_are_judged_by_the_gold_reward_whatever_the_labels(monkeypatch):
    """Coin flips label the pairs, and J is that of the gold reward all the same: sampled against all 16 responses."""

    def moved(scene):
        policies = {REFERENCE: scene.start, DPO: jnp.sin(jnp.arange(16.0)).reshape(4, 4)}
        return {arm: Outcome(params, jnp.array(0.5), jnp.array(arm == DPO)) for arm, params in policies.items()}

    monkeypatch.setattr(token_tasks, "arms", moved)

    @jax.jit
    def judged():
        scene, _ = token_tasks_arms.scene_of(PROGRAM, CELL)
        tokens = jnp.array(list(itertools.product(range(4), repeat=2)))
        prompts = jnp.repeat(scene.task.prompt_table, 16, axis=0)
        rows = prompts, jnp.tile(tokens, (2, 1))
        params = moved(scene)[DPO].params
        return (
            token_tasks.run(PROGRAM, CELL | {"informed": 0}),
            scene.task.reward(*rows).reshape(2, 16),
            scene.policy.log_prob(params, *rows).reshape(2, 16),
        )

    row, reward, log_prob = (jax.device_get(each) for each in judged())
    law, kl = np.exp(log_prob), np.mean(np.sum(np.exp(log_prob) * (log_prob + np.log(16)), axis=1))
    value = np.mean(np.sum(law * reward, axis=1))
    error = row["DPO: error"]
    assert 0 < error < 0.1
    assert row["DPO: gold_reward"] == pytest.approx(value, abs=5 * error)
    assert row["DPO: kl_to_reference"] == pytest.approx(kl, abs=5 * error)
    assert row["DPO: objective"] == pytest.approx(value - CELL["beta"] * kl, abs=5 * error)
    assert row["reference: kl_to_reference"] == pytest.approx(0, abs=1e-6)
    assert row["reference: objective"] == pytest.approx(reward.mean(), abs=5 * row["reference: error"])
    exact = token_tasks.exact("interactions", SIZES, CELL["beta"], CELL["seed"])
    assert exact.random == pytest.approx(reward.mean(), abs=1e-5)
    assert kl > 0.05
    assert not row["converged"], "one of the two has not"
