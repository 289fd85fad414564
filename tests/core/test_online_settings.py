"""Where the settings of sampled methods go: sizes, rates, keys, and the constants of every loss, in plain numpy."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvgap_jax import online, optimize, rollouts
from gvgap_jax.online import Sizes
from gvgap_jax.training import objectives
from gvgap_jax.types import Environment
from tests import bigrams

V, H, BETA, TEMPERATURE, CLIP, DECAY, SHARE = 4, 2, 0.7, 1.3, 0.05, 0.8, 0.25
NUMBERS = np.random.default_rng(0)
PARAMS, LATER, SCORES, VALUES, REFERENCE = (jnp.asarray(NUMBERS.normal(size=(V, V))) for _ in range(5))
POLICY, CRITIC = bigrams.policy(V, H), bigrams.critic(V)
ENVIRONMENT = Environment(
    lambda key, number: jax.random.randint(key, (number, 1), 0, V),
    partial(bigrams.verifier(V).score, SCORES),
    partial(bigrams.token_log_probs, REFERENCE),
    BETA,
    TEMPERATURE,
)
SIZES = Sizes(rounds=7, prompts=3, samples=2, steps=2)
METHODS = {
    "rloo": {},
    "ppo": {"critic": CRITIC, "clip": CLIP, "decay": DECAY},
    "rebel": {"share": SHARE},
    "online_dpo": {"labels": rollouts.by_bradley_terry},
}
every_method = pytest.mark.parametrize("name", METHODS)


@pytest.fixture
def handed(monkeypatch):
    """What a method hands to the descent."""

    def call(name, sizes=SIZES):
        found = {}

        def descend(*given):
            names = ("key", "params", "draw", "loss", "rate", "rounds", "steps")
            found.update(zip(names, given, strict=True))
            return optimize.Fit(found["params"], *jnp.zeros(5), jnp.array(True))

        monkeypatch.setattr(optimize, "descend", descend)
        fit = getattr(online, name)(jax.random.key(0), POLICY, PARAMS, ENVIRONMENT, sizes, 0.3, **METHODS[name])
        return SimpleNamespace(fit=fit, **found)

    return call


def params_of(name, policy):
    return (policy, VALUES) if name == "ppo" else policy


@every_method
def test_sizes_and_the_rate_reach_the_descent(handed, name):
    found = handed(name)
    assert (found.rate, found.rounds, found.steps) == (0.3, 7, 2)
    assert found.fit.params is PARAMS, "the policy alone"
    batch = jax.eval_shape(found.draw, jax.random.key(1), params_of(name, PARAMS))
    prompts = (batch[0] if name == "ppo" else batch).prompts
    assert prompts.shape == (6, 1), "responses, or pairs in both orders"


@pytest.mark.parametrize("name", ["rloo", "ppo", "online_dpo"])
def test_the_loss_is_that_of_the_training_objective(handed, name):
    """Which is tested against plain numpy."""
    found, key = handed(name), jax.random.key(1)
    objective = {
        "rloo": lambda: objectives.rloo(POLICY, ENVIRONMENT, prompts=3, samples=2),
        "ppo": lambda: objectives.ppo(POLICY, CRITIC, ENVIRONMENT, prompts=3, samples=2, clip=CLIP, decay=DECAY),
        "online_dpo": lambda: objectives.online_dpo(
            POLICY, ENVIRONMENT, prompts=3, samples=2, labels=rollouts.by_bradley_terry
        ),
    }[name]()

    @jax.jit
    def both(before, later):
        one = found.loss(later, found.draw(jax.random.fold_in(key, 0), before))
        return one, objective.loss(later, objective.draw(key, before, 0))

    np.testing.assert_allclose(*both(params_of(name, PARAMS), params_of(name, LATER)), rtol=1e-12)


def test_rebel_fits_log_ratios_to_the_share_of_the_whole_step(handed):
    found = handed("rebel")
    rollout = jax.jit(found.draw)(jax.random.key(1), PARAMS)
    loss = jax.jit(found.loss)(LATER, rollout)
    rows = rollout.prompts, rollout.responses
    before, later, reference = (
        np.asarray(bigrams.token_log_probs(table, *rows)).sum(axis=1).reshape(-1, 2)
        for table in (PARAMS, LATER, REFERENCE)
    )
    reward = np.asarray(bigrams.look_up(SCORES, *rows)).sum(axis=1).reshape(-1, 2)
    value, moved = reward - BETA * (before - reference), later - before
    eta = SHARE / BETA
    wanted = np.mean(((moved[:, 0] - moved[:, 1]) / eta - (value[:, 0] - value[:, 1])) ** 2)
    np.testing.assert_allclose(loss, wanted, rtol=1e-12)


def test_every_round_has_another_key_and_several_steps_share_a_batch():
    keys, batches = [], []

    def draw(key, params):
        keys.append(jax.random.key_data(key).tolist())
        return jnp.full((), float(len(keys)))

    def loss(params, batch):
        batches.append(float(jax.lax.stop_gradient(batch)))
        return params * batch

    with jax.disable_jit():
        optimize.descend(jax.random.key(0), jnp.ones(()), draw, loss, 0.1, rounds=3, steps=2)
    assert len({str(key) for key in keys}) == 3
    assert batches == [1, 1, 2, 2, 3, 3]


def test_a_critic_does_not_begin_with_the_key_of_the_rounds(handed, monkeypatch):
    begun = []
    monkeypatch.setitem(METHODS, "ppo", {"critic": bigrams.critic(V, lambda key: begun.append(key) or VALUES)})
    found = handed("ppo")
    data = [jax.random.key_data(key).tolist() for key in (*begun, found.key, jax.random.key(0))]
    assert len({str(each) for each in data}) == 3


def spied(keys):
    """The environment and the policy, which note the keys that they are handed."""

    def noted(function):
        return lambda key, *given: keys.append(jax.random.key_data(key).tolist()) or function(key, *given)

    return ENVIRONMENT._replace(prompts=noted(ENVIRONMENT.prompts)), bigrams.policy(V, H), noted


def test_prompts_responses_and_labels_have_keys_of_their_own(monkeypatch):
    keys, uniform = [], jax.random.uniform
    environment, policy, noted = spied(keys)
    monkeypatch.setitem(policy.__dict__, "sample", noted(policy.sample))
    monkeypatch.setattr(jax.random, "uniform", noted(uniform))
    monkeypatch.setattr(rollouts, "roll_out", noted(rollouts.roll_out))
    rollouts.pairs(jax.random.key(5), policy, PARAMS, environment, 4)
    assert len({str(key) for key in [*keys, jax.random.key_data(jax.random.key(5)).tolist()]}) == 5, "four, and it"


def test_the_best_of_one_is_a_response_and_the_best_of_many_has_the_highest_reward():
    @jax.jit
    def drawn(key):
        rollout = rollouts.roll_out(key, POLICY, PARAMS, ENVIRONMENT, 3, 4)
        alone = rollouts.roll_out(key, POLICY, PARAMS, ENVIRONMENT, 12, 1)
        best = rollouts.best_of_n(key, POLICY, PARAMS, ENVIRONMENT, 3, 4)
        return rollout, alone, best, rollouts.best_of_n(key, POLICY, PARAMS, ENVIRONMENT, 12, 1)

    rollout, alone, (prompts, responses), one = drawn(jax.random.key(2))
    np.testing.assert_array_equal(prompts, rollout.prompts[::4])
    np.testing.assert_array_equal(ENVIRONMENT.reward(prompts, responses), rollout.reward.max(axis=1))
    assert (rollout.reward.max(axis=1) > rollout.reward.min(axis=1)).any()
    for found, wanted in zip(one, (alone.prompts, alone.responses), strict=True):
        np.testing.assert_array_equal(found, wanted)
