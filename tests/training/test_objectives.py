"""Every objective against plain numpy: its loss, its gradient, its keys, what it weighs and what it records.

The policy is a table of the next token by the last one, so that log-probabilities and their gradients are sums.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvgap_jax import rollouts
from gvgap_jax.training import objectives
from gvgap_jax.types import PADDING, Demonstrations, Environment, HeldOut, Preferences
from tests import bigrams
from tests.bigrams import look_up, token_log_probs

V, H, N, BETA, TEMPERATURE = 5, 3, 6, 0.7, 1.3
NUMBERS = np.random.default_rng(0)
KERNEL, SCORES, VALUES, REFERENCE = (NUMBERS.normal(size=(V, V)) for _ in range(4))
PROMPTS = NUMBERS.integers(V, size=(N, 1))
CHOSEN, REJECTED = (NUMBERS.integers(V, size=(N, H)) for _ in range(2))
CHOSEN[1, 2] = REJECTED[2, 1] = REJECTED[2, 2] = PADDING
WEIGHT, MARGIN = np.array([1.0, 2.0, 0.0, 1.0, 3.0, 0.5]), NUMBERS.normal(size=N)
PAIRS = Preferences(*map(jnp.asarray, (PROMPTS, CHOSEN, REJECTED, MARGIN, WEIGHT)))


def drawn_table(key):
    return jax.random.normal(key, (V, V))


POLICY, VERIFIER, CRITIC = bigrams.policy(V, H, drawn_table), bigrams.verifier(V), bigrams.critic(V, drawn_table)
ENVIRONMENT = Environment(
    prompts=lambda key, number: jax.random.randint(key, (number, 1), 0, V),
    reward=partial(VERIFIER.score, jnp.asarray(SCORES)),
    reference=partial(token_log_probs, jnp.asarray(REFERENCE)),
    beta=BETA,
    temperature=TEMPERATURE,
)


def log_softmax(table):
    return table - np.log(np.exp(table).sum(axis=1, keepdims=True))


def entries(prompts, responses):
    """(row, last token, token) of every token that is there."""
    for row, (prompt, response) in enumerate(zip(np.asarray(prompts), np.asarray(responses), strict=True)):
        for before, token in zip([*prompt, *response[:-1]], response, strict=True):
            if token >= 0:
                yield row, before, token


def log_probs(table, prompts, responses):
    found = np.zeros(len(prompts))
    for row, before, token in entries(prompts, responses):
        found[row] += log_softmax(table)[before, token]
    return found


def gradient(table, prompts, responses, of_rows):
    """Of sum_i of_rows[i] log pi(y_i|x_i): onehot less softmax, token by token."""
    found = np.zeros((V, V))
    for row, before, token in entries(prompts, responses):
        found[before] += of_rows[row] * (np.eye(V)[token] - np.exp(log_softmax(table)[before]))
    return found


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def value_and_grad(objective, params: Any, batch):
    return jax.jit(jax.value_and_grad(objective.loss))(params, batch)


def test_sft_is_the_weighted_mean_of_nats():
    rows = Demonstrations(PAIRS.prompts, PAIRS.chosen, PAIRS.weight)
    loss, slope = value_and_grad(objectives.sft(POLICY, rows, batch=N), KERNEL, rows)
    share = WEIGHT / WEIGHT.sum()
    np.testing.assert_allclose(loss, -share @ log_probs(KERNEL, PROMPTS, CHOSEN), rtol=1e-12)
    np.testing.assert_allclose(slope, gradient(KERNEL, PROMPTS, CHOSEN, -share), atol=1e-12)


def test_dpo_reads_beta_temperature_and_the_reference():
    objective = objectives.dpo(POLICY, PAIRS, batch=N, beta=BETA, temperature=TEMPERATURE)
    loss, slope = value_and_grad(objective, KERNEL, PAIRS)
    scale, share = BETA / TEMPERATURE, WEIGHT / WEIGHT.sum()
    margin = scale * (log_probs(KERNEL, PROMPTS, CHOSEN) - log_probs(KERNEL, PROMPTS, REJECTED) - MARGIN)
    np.testing.assert_allclose(loss, -share @ np.log(sigmoid(margin)), rtol=1e-12)
    pull = share * scale * (sigmoid(margin) - 1)
    wanted = gradient(KERNEL, PROMPTS, CHOSEN, pull) - gradient(KERNEL, PROMPTS, REJECTED, pull)
    np.testing.assert_allclose(slope, wanted, atol=1e-12)


def test_a_reward_model_reads_the_temperature_alone():
    objective = objectives.reward_model(VERIFIER, PAIRS, batch=N, temperature=TEMPERATURE)
    loss, _ = value_and_grad(objective, SCORES, PAIRS)
    one, other = (np.asarray(look_up(SCORES, *rows)).sum(axis=1) for rows in ((PROMPTS, CHOSEN), (PROMPTS, REJECTED)))
    np.testing.assert_allclose(loss, -WEIGHT / WEIGHT.sum() @ np.log(sigmoid((one - other) / TEMPERATURE)), rtol=1e-12)
    unknown = PAIRS._replace(reference_margin=jnp.full(N, jnp.nan))
    assert value_and_grad(objective, SCORES, unknown)[0] == loss, "stage one knows no reference"


ONLINE = {
    "rloo": lambda environment: objectives.rloo(POLICY, environment, prompts=4, samples=2),
    "online DPO": lambda environment: objectives.online_dpo(
        POLICY, environment, prompts=4, samples=2, labels=rollouts.by_bradley_terry
    ),
    "ppo": lambda environment: objectives.ppo(POLICY, CRITIC, environment, prompts=4, samples=2),
}
every_online = pytest.mark.parametrize("name", ONLINE)


def drawn(name, environment=ENVIRONMENT, round=0, params=KERNEL):
    objective, table = ONLINE[name](environment), jnp.asarray(params)
    params = (table, jnp.asarray(VALUES)) if name == "ppo" else table
    draw = jax.jit(objective.draw) if environment is ENVIRONMENT else objective.draw
    return objective, draw(jax.random.key(1), params, round)


def rollout_of(batch):
    return batch if isinstance(batch, rollouts.Rollout) else batch[0]


@every_online
def test_rounds_prompts_and_responses_have_keys_of_their_own(name, monkeypatch):
    keys = []

    def noted(function, at):
        return lambda *given: keys.append(jax.random.key_data(given[at]).tolist()) or function(*given)

    environment = ENVIRONMENT._replace(prompts=noted(ENVIRONMENT.prompts, 0))
    monkeypatch.setitem(POLICY.__dict__, "sample", noted(POLICY.sample, 0))
    for round in (0, 1, 2, 1):
        drawn(name, environment, round)
    assert keys[2:4] == keys[6:], "a round that is gone over again draws the same"
    assert len({str(key) for key in keys[:6]}) == 6
    assert jax.random.key_data(jax.random.key(1)).tolist() not in keys


@every_online
def test_what_is_recorded_is_the_mean_reward_and_the_kl_to_the_reference(name):
    objective, batch = drawn(name)
    rollout = rollout_of(batch)
    rows = rollout.prompts, rollout.responses
    found = objective.measure(batch)
    ratio = log_probs(KERNEL, *rows) - log_probs(REFERENCE, *rows)
    assert found["kl"] == pytest.approx(ratio.mean(), abs=1e-12)
    assert found["reward"] == pytest.approx(np.asarray(look_up(SCORES, *rows)).sum(axis=1).mean(), abs=1e-12)
    assert rollout.prompts.tolist()[::2] == rollout.prompts.tolist()[1::2], "two responses to each prompt"


@every_online
def test_a_policy_at_its_reference_has_a_kl_of_0(name):
    objective, batch = drawn(name, params=REFERENCE)
    assert objective.measure(batch)["kl"] == pytest.approx(0, abs=1e-12)


def test_rloo_moves_log_probabilities_by_what_the_batch_was_drawn_with():
    """At other parameters than those that drew it: rewards, the KL and the baseline are constants."""
    objective, batch = drawn("rloo")
    rows, later = (batch.prompts, batch.responses), KERNEL + 0.3 * SCORES
    _, slope = value_and_grad(objective, later, batch)
    ratio = log_probs(KERNEL, *rows) - log_probs(REFERENCE, *rows)
    value = np.asarray(look_up(SCORES, *rows)).sum(axis=1) - BETA * ratio
    advantage = value - value.reshape(-1, 2)[:, ::-1].reshape(-1)
    np.testing.assert_allclose(slope, gradient(later, *rows, -advantage / 8), atol=1e-12)


def test_online_dpo_is_dpo_on_pairs_labelled_at_the_temperature():
    objective, batch = drawn("online DPO")
    rows, later = (batch.prompts, batch.responses), KERNEL + 0.3 * SCORES
    loss, _ = value_and_grad(objective, later, batch)
    reward = np.asarray(batch.reward)
    ratio = (log_probs(later, *rows) - log_probs(REFERENCE, *rows)).reshape(-1, 2)
    margin = BETA / TEMPERATURE * (ratio[:, 0] - ratio[:, 1])
    wins = sigmoid((reward[:, 0] - reward[:, 1]) / TEMPERATURE)
    np.testing.assert_allclose(
        loss, -np.mean(wins * np.log(sigmoid(margin)) + (1 - wins) * np.log(sigmoid(-margin))), rtol=1e-12
    )


def test_online_dpo_counts_the_pairs_that_do_not_tie():
    tied = ENVIRONMENT._replace(reward=lambda prompts, responses: jnp.arange(8.0) // 3)
    objective = objectives.online_dpo(POLICY, tied, prompts=4, samples=2, labels=rollouts.top_against_bottom)
    batch = objective.draw(jax.random.key(1), jnp.asarray(KERNEL), 0)
    assert batch.reward.tolist() == [[0, 0], [0, 1], [1, 1], [2, 2]]
    assert objective.weight(batch) == 1
    assert objective.weight(batch._replace(reward=jnp.zeros((4, 2)))) == 0


def advantages(batch, decay):
    """Of every token, backwards, from rewards that are paid at the last one less beta times log pi/pi_ref."""
    rollout, values = batch[0], np.asarray(batch[1])
    rows = rollout.prompts, rollout.responses
    earned = -BETA * np.asarray(token_log_probs(KERNEL, *rows) - token_log_probs(REFERENCE, *rows))
    earned[:, -1] += np.asarray(look_up(SCORES, *rows)).sum(axis=1)
    found, following, after = np.zeros_like(earned), 0.0, 0.0
    for place in reversed(range(H)):
        found[:, place] = earned[:, place] + after - values[:, place] + decay * following
        following, after = found[:, place], values[:, place]
    return found


@pytest.mark.parametrize(("clip", "decay"), [(0.2, 1.0), (0.05, 0.9)])
def test_ppo_is_the_clipped_surrogate_and_half_the_squared_error_of_the_critic(clip, decay):
    objective = objectives.ppo(POLICY, CRITIC, ENVIRONMENT, prompts=4, samples=2, clip=clip, decay=decay)
    batch = jax.jit(objective.draw)(jax.random.key(1), (KERNEL, VALUES), 0)
    rows, later, later_values = (batch[0].prompts, batch[0].responses), KERNEL + 0.3 * SCORES, VALUES + 0.2 * SCORES
    loss, (slope, critic_slope) = value_and_grad(objective, (later, later_values), batch)
    advantage, old_values = advantages(batch, decay), np.asarray(look_up(VALUES, *rows))
    np.testing.assert_array_equal(batch[1], old_values)
    ratio = np.exp(np.asarray(token_log_probs(later, *rows) - token_log_probs(KERNEL, *rows)))
    gain = np.minimum(ratio * advantage, np.clip(ratio, 1 - clip, 1 + clip) * advantage)
    surprise = np.asarray(look_up(later_values, *rows)) - old_values - advantage
    wanted = -gain.sum(axis=1).mean() + (surprise**2).sum(axis=1).mean() / 2
    np.testing.assert_allclose(loss, wanted, rtol=1e-12)
    wanted_slope, wanted_critic = np.zeros((V, V)), np.zeros((V, V))
    free = np.where(gain == ratio * advantage, ratio * advantage, 0.0)
    assert (free == 0).any(), "something is clipped"
    for number, (row, before, token) in enumerate(entries(*rows)):
        place = number % H
        wanted_slope[before] -= free[row, place] / 8 * (np.eye(V)[token] - np.exp(log_softmax(later)[before]))
        wanted_critic[before, token] += surprise[row, place] / 8
    np.testing.assert_allclose(slope, wanted_slope, atol=1e-12)
    np.testing.assert_allclose(critic_slope, wanted_critic, atol=1e-12)


def test_policy_and_critic_begin_with_keys_of_their_own():
    policy, critic = ONLINE["ppo"](ENVIRONMENT).init(jax.random.key(0))
    assert (policy != critic).all(), "both are drawn by the same function"


@pytest.mark.parametrize("name", ["sft", "reward model", "dpo"])
def test_held_out_rows_are_not_drawn_and_training_rows_do_not_select(name):
    """Poison the one and the other: batches see training rows alone, the held-out loss held-out rows alone."""

    def built(train, held_out):
        rows = Demonstrations(train.prompts, train.chosen, train.weight)
        out = Demonstrations(held_out.prompts, held_out.chosen, held_out.weight)
        return {
            "sft": lambda: objectives.sft(POLICY, rows, out, batch=4),
            "reward model": lambda: objectives.reward_model(VERIFIER, train, HeldOut(held_out), batch=4),
            "dpo": lambda: objectives.dpo(POLICY, train, HeldOut(held_out), batch=4, beta=BETA),
        }[name]()

    other = PAIRS._replace(chosen=PAIRS.rejected, rejected=PAIRS.chosen)
    kept, poisoned, moved = built(PAIRS, PAIRS), built(PAIRS, other), built(other, PAIRS)

    def held_out(objective):
        return float(jax.jit(objective.held_out, static_argnums=1)(KERNEL, objective.loss))

    def batch(objective):
        return jax.tree.leaves(jax.jit(objective.draw)(jax.random.key(2), None, 1))

    assert all(np.array_equal(*leaves) for leaves in zip(batch(kept), batch(poisoned), strict=True))
    assert not all(np.array_equal(*leaves) for leaves in zip(batch(kept), batch(moved), strict=True))
    assert held_out(kept) == held_out(moved) != held_out(poisoned)
    whole = jax.jit(kept.loss)(KERNEL, PAIRS if name != "sft" else Demonstrations(*PAIRS[:2], PAIRS.weight))
    assert held_out(kept) == pytest.approx(float(whole), rel=1e-12), "the last chunk has two rows of four"
    assert kept.weight(PAIRS) == WEIGHT.sum()
