"""Sampled methods against sums over every possible batch, and against the exact second stage."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gvgap_jax import (
    HeldOut,
    TokenTree,
    algorithms,
    losses,
    metrics,
    online,
    policies,
    preferences,
    rollouts,
    soft_rl,
    tasks,
    verifiers,
)
from gvgap_jax.online import Sizes
from gvgap_jax.rollouts import Rollout


@pytest.fixture(scope="module")
def policy(tree, task):
    return policies.tabular(tree, tree.conditionals(task.reference))


@pytest.fixture(scope="module")
def params(tree, policy):
    """A policy that is neither the reference nor optimal."""
    numbers = np.random.default_rng(1)
    return tuple(jnp.asarray(numbers.normal(size=shape)) for shape in tree.level_shapes)


@pytest.fixture(scope="module")
def environment(tree, task):
    return tasks.environment(tree, task.known, partial(tree.at, task.reward))


def every_batch(tree, task, policy, params, environment, samples):
    """All rollouts of one prompt and ``samples`` responses, stacked, and their probabilities."""
    law = np.exp(np.asarray(policy.leaf_log_probs(params)))
    chosen = list(itertools.product(range(tree.prompts), *samples * [range(tree.leaves)]))
    weight = np.array([task.prompt_probs[x] * np.prod([law[x, y] for y in ys]) for x, *ys in chosen])
    prompt, leaves = np.array(chosen)[:, 0], np.array(chosen)[:, 1:]
    prompts = tree.prompt_tokens(jnp.repeat(prompt, samples))
    responses = tree.responses(jnp.asarray(leaves.reshape(-1)))
    rows = Rollout(
        prompts,
        responses,
        environment.reward(prompts, responses),
        policy.token_log_probs(params, prompts, responses),
        environment.reference(prompts, responses),
    )
    batches = jax.tree.map(lambda values: values.reshape(len(chosen), samples, *values.shape[1:]), rows)
    return batches._replace(reward=batches.reward[:, None, :]), jnp.asarray(weight)


def expected_gradient(loss, params, batches, weight):
    gradients = jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, batches)
    return jax.tree.map(lambda values: jnp.tensordot(weight, values, 1), gradients)


def exact_gradient(policy, params, task):
    """Of -J, as a sum over leaves."""

    def loss(params):
        return losses.kl_regularised(
            policy.leaf_log_probs(params), task.reward, task.reference, task.beta, task.prompt_probs
        )

    return jax.grad(loss)(params)


def assert_close(found, wanted, scale=1.0):
    for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(left, scale * right, atol=1e-12)


def test_tokens_sum_to_the_response(tree, policy, params):
    rows = tree.rows()
    np.testing.assert_allclose(
        policy.token_log_probs(params, *rows).sum(-1), policy.log_prob(params, *rows), atol=1e-12
    )


@pytest.mark.parametrize("samples", [2, 3])
def test_rloo_is_unbiased(tree, task, policy, params, environment, samples):
    batches, weight = every_batch(tree, task, policy, params, environment, samples)
    loss = partial(online.rloo_loss, policy=policy, beta=task.beta)
    assert_close(expected_gradient(loss, params, batches, weight), exact_gradient(policy, params, task))


def test_a_baseline_that_sees_its_own_response_is_biased(tree, task, policy, params, environment, monkeypatch):
    monkeypatch.setattr(losses, "leave_one_out", lambda reward: reward - reward.mean(axis=1, keepdims=True))
    batches, weight = every_batch(tree, task, policy, params, environment, 2)
    loss = partial(online.rloo_loss, policy=policy, beta=task.beta)
    found = expected_gradient(loss, params, batches, weight)
    assert np.abs(found[0] - exact_gradient(policy, params, task)[0]).max() > 1e-3


@pytest.mark.parametrize("decay", [1.0, 0.9])
def test_ppo_is_unbiased_at_its_old_policy_if_advantages_are_monte_carlo(
    tree, task, policy, params, environment, decay
):
    critic = policies.tabular_critic(tree)
    values = jax.tree.map(lambda level: jnp.sin(1.0 + jnp.arange(level.size)).reshape(level.shape), critic.init(None))

    def loss(params, rollout):
        guess = critic.values(values, rollout.prompts, rollout.responses)
        advantage = losses.generalised_advantage(online.token_rewards(rollout, task.beta), guess, decay)
        return online.ppo_loss(params, rollout, policy, advantage, 0.2)

    batches, weight = every_batch(tree, task, policy, params, environment, 1)
    found, exact = expected_gradient(loss, params, batches, weight), exact_gradient(policy, params, task)
    if decay == 1.0:
        assert_close(found, exact)
    else:
        assert np.abs(found[0] - exact[0]).max() > 1e-3


def test_rebel_points_along_the_gradient(tree, task, policy, params, environment):
    batches, weight = every_batch(tree, task, policy, params, environment, 2)
    loss = partial(online.rebel_loss, policy=policy, beta=task.beta, eta=0.3)
    assert_close(expected_gradient(loss, params, batches, weight), exact_gradient(policy, params, task), 4 / 0.3)


def test_a_round_of_rebel_ends_at_the_optimum_of_beta_over_its_share(tree, task, policy, environment):
    """From the reference: log pi/pi_ref = eta r with eta = share / beta, for every share that is asked for."""
    start = policy.init(jax.random.key(0))
    for share in (0.5, 0.25):
        fit = jax.jit(
            lambda share: online.rebel(
                jax.random.key(1), policy, start, environment, online.Sizes(1, 256, 2, 1500), 0.1, share
            )
        )(share)
        expected = soft_rl.soft_optimal_policy(task.reward, task.reference, task.beta / share)
        np.testing.assert_allclose(policy.leaf_log_probs(fit.params), expected, atol=1e-3)


def test_rebel_at_a_full_step_rests_at_the_soft_optimal_policy(tree, task, policy, params, environment):
    batches, weight = every_batch(tree, task, policy, params, environment, 2)
    loss = partial(online.rebel_loss, policy=policy, beta=task.beta, eta=1 / task.beta)
    optimal = policy.from_log_probs(task.optimal)
    for part in expected_gradient(loss, optimal, batches, weight):
        np.testing.assert_allclose(part, 0, atol=1e-12)


@pytest.mark.parametrize(("labels", "rests"), [(rollouts.by_bradley_terry, True), (rollouts.top_against_bottom, False)])
def test_the_reward_models_own_doubt_makes_the_soft_optimal_policy_a_fixed_point(
    tree, task, policy, environment, labels, rests
):
    optimal = policy.from_log_probs(task.optimal)
    batches, weight = every_batch(tree, task, policy, optimal, environment, 2)

    def loss(params, rollout):
        return online.online_dpo_loss(params, labels(rollout, task.temperature), policy, task.beta, task.temperature)

    found = expected_gradient(loss, optimal, batches, weight)
    largest = max(np.abs(part).max() for part in found)
    assert largest < 1e-12 if rests else largest > 1e-3


def test_soft_labels_expect_the_population(tree, task, policy, params, environment):
    """One batch round from a policy is offline DPO whose pairs are covered by that policy."""
    batches, weight = every_batch(tree, task, policy, params, environment, 2)

    def loss(params, rollout):
        return online.online_dpo_loss(
            params, rollouts.by_bradley_terry(rollout, task.temperature), policy, task.beta, task.temperature
        )

    def population_loss(params):
        pairs = preferences.population(tree, task, policy.leaf_log_probs(params0))
        return online.online_dpo_loss(params, pairs, policy, task.beta, task.temperature)

    params0 = params
    assert_close(expected_gradient(loss, params, batches, weight), jax.grad(population_loss)(params))


@pytest.mark.parametrize("n", [2, 3])
def test_top_and_bottom_law_is_that_of_every_draw(n):
    numbers = np.random.default_rng(2)
    law = numbers.dirichlet(np.ones(5))
    score = np.array([0.0, 1.0, 1.0, -2.0, 0.0])
    wanted = np.zeros((5, 5))
    for draw in itertools.product(range(5), repeat=n):
        best, worst = max(score[list(draw)]), min(score[list(draw)])
        if best > worst:
            top = next(y for y in draw if score[y] == best)
            bottom = next(y for y in draw if score[y] == worst)
            wanted[top, bottom] += np.prod(law[list(draw)])
    found = metrics.top_and_bottom(jnp.log(law)[None], jnp.asarray(score)[None], n)[0]
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def assert_drawn_from(rows, weight, law):
    """Chi-squared test of how often every row was drawn; rows expected fewer than 5 times are taken together."""
    drawn, expected = np.bincount(rows, weight, law.size), law.reshape(-1) * len(rows)
    common = expected >= 5
    rest = len(rows) - expected[common].sum()
    drawn, expected = [*drawn[common], drawn[~common].sum() + (1 - weight).sum()], [*expected[common], rest]
    assert stats.chisquare(drawn, expected).pvalue > 1e-3


def test_best_of_n_draws_its_exact_law(tree, task, policy, params, environment):
    prompts, responses = rollouts.best_of_n(jax.random.key(3), policy, params, environment, 20_000, 4)
    rows = np.asarray(tree.prompt_index(prompts) * tree.leaves + tree.leaf_index(responses))
    law = metrics.best_of_n(policy.leaf_log_probs(params), task.reward, 4) * task.prompt_probs[:, None]
    assert_drawn_from(rows, np.ones(len(rows)), np.asarray(law))


def test_top_against_bottom_draws_its_exact_law(tree, task, policy, params, environment):
    pairs = rollouts.top_against_bottom(rollouts.roll_out(jax.random.key(4), policy, params, environment, 20_000, 4))
    chosen, rejected = tree.leaf_index(pairs.chosen), tree.leaf_index(pairs.rejected)
    rows = np.asarray((tree.prompt_index(pairs.prompts) * tree.leaves + chosen) * tree.leaves + rejected)
    law = metrics.top_and_bottom(policy.leaf_log_probs(params), task.reward, 4) * task.prompt_probs[:, None, None]
    assert_drawn_from(rows, np.asarray(pairs.weight), np.asarray(law))


def test_a_tied_draw_is_no_pair(tree, task, policy, params):
    flat = tasks.environment(tree, task.known, lambda prompts, responses: jnp.zeros(len(prompts)))
    pairs = rollouts.top_against_bottom(rollouts.roll_out(jax.random.key(5), policy, params, flat, 8, 3))
    assert pairs.weight.sum() == 0


SIZES = Sizes(rounds=150, prompts=256, samples=2)
RATE = 0.1


@pytest.mark.parametrize("method", ["rloo", "ppo", "rebel", "online_dpo"])
def test_sampled_methods_end_near_the_exact_second_stage(tree, task, policy, environment, method):
    start, key = policy.init(None), jax.random.key(6)
    fits = {
        "rloo": lambda: online.rloo(key, policy, start, environment, SIZES, RATE),
        "ppo": lambda: online.ppo(key, policy, start, environment, SIZES, RATE, critic=policies.tabular_critic(tree)),
        "rebel": lambda: online.rebel(key, policy, start, environment, SIZES, RATE),
        "online_dpo": lambda: online.online_dpo(
            key, policy, start, environment, SIZES, RATE, labels=rollouts.by_bradley_terry
        ),
    }
    fit = jax.jit(fits[method])()
    before = metrics.evaluate(task.reference, task).regret
    assert metrics.evaluate(policy.leaf_log_probs(fit.params), task).regret < 0.01 * before
    assert fit.converged
    assert fit.steps == SIZES.rounds


def test_one_batch_round_is_dpo_on_relabelled_pairs(tree, task, policy, environment):
    """The paper's online DPO, and what it tends to when prompts grow without end."""
    start, m = policy.init(None), 4
    settings = algorithms.Settings(penalties=(1.0,))

    def fitted(pairs):
        problem = algorithms.Problem(task.known, pairs, HeldOut(pairs))
        return policy.leaf_log_probs(algorithms.dpo(None, algorithms.Classes(policy), problem, settings).params)

    rollout = rollouts.roll_out(jax.random.key(7), policy, start, environment, 16_000, m)
    sampled = fitted(rollouts.top_against_bottom(rollout))
    law = metrics.top_and_bottom(task.reference, task.reward, m) * task.prompt_probs[:, None, None]
    every = preferences.population(tree, task)
    exact = fitted(every._replace(weight=16_000 * law.reshape(-1)))
    assert np.abs(np.exp(sampled) - np.exp(exact)).max() < 0.03


def test_a_smaller_class_ends_near_its_own_optimum(tree, task, environment):
    policy = policies.markov(tree, 0, tree.conditionals(task.reference))
    fit = jax.jit(lambda: online.rloo(jax.random.key(8), policy, policy.init(None), environment, SIZES, RATE))()
    exact = algorithms.second_stage(None, policy, task.reward, task.known, algorithms.Settings())
    gap = metrics.evaluate(policy.leaf_log_probs(exact.params), task).objective
    assert gap - metrics.evaluate(policy.leaf_log_probs(fit.params), task).objective < 0.01


def test_advantages_by_hand():
    reward, value = jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[0.5, 0.25, 0.125]])
    np.testing.assert_allclose(
        losses.generalised_advantage(reward, value, 0.5),
        [[0.75 + 0.5 * 1.875 + 0.25 * 2.875, 1.875 + 0.5 * 2.875, 2.875]],
    )
    np.testing.assert_allclose(losses.leave_one_out(jnp.array([[1.0, 2.0, 6.0]])), [[-3.0, -1.5, 4.5]])


def test_the_clip_stops_what_has_gone_far_enough():
    old, advantage = jnp.zeros((1, 1)), jnp.ones((1, 1))

    def gradient(log_ratio, advantage):
        new = jnp.full((1, 1), log_ratio)
        return jax.grad(lambda new: losses.clipped_policy_gradient(new, old, advantage, 0.2))(new)[0, 0]

    assert gradient(0.3, advantage) == 0
    assert gradient(0.1, advantage) < 0
    assert gradient(-0.3, -advantage) == 0
    assert gradient(0.3, -advantage) > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Sizes(rounds=0), "rounds must be at least 1"),
        (lambda: Sizes(samples=-1), "samples must be at least 1"),
        (lambda: losses.leave_one_out(jnp.zeros((3, 1))), "at least 2 responses"),
    ],
)
def test_bad_sizes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_pairs_need_an_even_number_of_responses(policy, params, environment):
    rollout = rollouts.roll_out(jax.random.key(9), policy, params, environment, 2, 3)
    with pytest.raises(ValueError, match="even number"):
        rollouts.by_bradley_terry(rollout)


def test_verifiers_can_be_the_environments_reward(tree, task, policy):
    verifier = verifiers.interactions(tree, 1)
    fixed = jnp.arange(float(verifier.num_parameters))
    environment = tasks.environment(tree, task.known, partial(verifier.score, fixed))
    rollout = rollouts.roll_out(jax.random.key(10), policy, policy.init(None), environment, 5, 2)
    wanted = tree.at(verifier.leaf_scores(fixed), rollout.prompts, rollout.responses)
    np.testing.assert_allclose(rollout.reward.reshape(-1), wanted)


def test_longer_trees_read_the_right_prefixes():
    deep = TokenTree(2, 4, prompt_length=1)
    policy = policies.mlp_policy(deep, 3)
    params = jax.tree.map(
        lambda leaf: jnp.sin(jnp.arange(leaf.size)).reshape(leaf.shape), policy.init(jax.random.key(0))
    )
    rows = deep.rows()
    np.testing.assert_allclose(
        policy.token_log_probs(params, *rows).sum(-1), policy.log_prob(params, *rows), atol=1e-12
    )
