"""What is measured, against enumeration."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvgap_jax import metrics
from tests import helpers
from tests.helpers import as_table, exponential


@pytest.fixture(scope="module")
def policy(task):
    return jax.nn.log_softmax(jnp.flip(task.reward, -1), axis=-1)


def enumerated(tree, task, policy, prompt_probs):
    """Every metric as a mean over prompts of sums over responses."""
    beta, totals = float(task.beta), dict.fromkeys(metrics.PolicyMetrics._fields, 0.0)
    policies, rewards, references = (as_table(tree, array) for array in (policy, task.reward, task.reference))
    for weight, prompt in zip(prompt_probs, policies, strict=True):
        law, reward, reference = exponential(policies[prompt]), rewards[prompt], exponential(references[prompt])
        totals["regret"] += weight * helpers.kl(law, helpers.soft_optimal(reference, reward, beta))
        totals["objective"] += weight * helpers.objective(law, reward, reference, beta)
        totals["gold_reward"] += weight * helpers.expectation(law, reward)
        totals["kl_to_reference"] += weight * helpers.kl(law, reference)
    return totals


def test_evaluate_is_the_enumerated_mean(tree, task, policy):
    found = metrics.evaluate(policy, task)._asdict()
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        enumerated(tree, task, policy, task.prompt_probs.tolist())
    )


def test_held_out_prompts_have_their_own_distribution(tree, task, policy):
    found = metrics.evaluate(policy, task, jnp.array([0.0, 0.0, 1.0]))._asdict()
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        enumerated(tree, task, policy, [0.0, 0.0, 1.0])
    )


def test_beta_times_the_regret_is_what_the_objective_lacks(task, policy):
    best, found = metrics.evaluate(task.optimal, task), metrics.evaluate(policy, task)
    assert best.regret == pytest.approx(0, abs=1e-15)
    assert found.regret > 0.01
    assert best.objective - found.objective == pytest.approx(float(task.beta * found.regret))


def test_pair_accuracy_counts_a_tie_one_half():
    margin = jnp.array([2.0, -1.0, 0.0, 3.0])
    assert metrics.pair_accuracy(margin, jnp.ones(4)) == pytest.approx(2.5 / 4)
    assert metrics.pair_accuracy(margin, jnp.array([1.0, 2.0, 1.0, 0.0])) == pytest.approx(1.5 / 4)


def test_pair_likelihood_is_a_geometric_mean():
    """Labels of probability 3/4, three times, and 1/4, once."""
    margin, weight = math.log(3) * jnp.array([1.0, -1.0]), jnp.array([3.0, 1.0])
    assert metrics.pair_likelihood(margin, weight) == pytest.approx((0.75**3 * 0.25) ** 0.25)
    assert metrics.pair_likelihood(jnp.zeros(2), weight) == pytest.approx(0.5)


LAW = {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4}
SCORES = {"distinct": [0.3, -1.0, 2.0, 0.5], "tied": [1.0, 0.0, 1.0, 0.0], "equal": [0.0, 0.0, 0.0, 0.0]}


@pytest.fixture(scope="module")
def log_law():
    return jnp.log(jnp.array(list(LAW.values())))


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("name", SCORES)
def test_best_of_n_is_the_law_over_all_tuples(log_law, name, n):
    found = metrics.best_of_n(log_law, jnp.array(SCORES[name]), n)
    expected = helpers.best_of_n(LAW, SCORES[name], n)
    assert found.tolist() == pytest.approx(list(expected.values()))


def test_the_best_of_one_is_the_policy(task):
    np.testing.assert_allclose(metrics.best_of_n(task.reference, task.reward, 1), jnp.exp(task.reference), rtol=1e-12)


def test_the_best_of_very_many_is_the_best(log_law):
    found = metrics.best_of_n(log_law, jnp.array(SCORES["distinct"]), 1e4)
    assert found.tolist() == pytest.approx([0, 0, 1, 0])


def test_every_prompt_has_its_own_best_of_n(task):
    found = metrics.best_of_n(task.reference, task.reward, 4)
    assert found.shape == task.reward.shape
    np.testing.assert_allclose(found.sum(-1), 1)
    for row in range(3):
        alone = metrics.best_of_n(task.reference[row], task.reward[row], 4)
        np.testing.assert_allclose(found[row], alone, rtol=1e-12)


def test_a_response_that_is_never_drawn_is_never_the_best():
    log_law = jnp.log(jnp.array([0.5, 0.5, 0.0]))
    assert metrics.best_of_n(log_law, jnp.array([0.0, 1.0, 2.0]), 2).tolist() == pytest.approx([0.25, 0.75, 0])


def test_kl_of_best_of_n_stays_below_its_bound(task):
    """KL(best of n || policy) <= log n - (n - 1) / n (arXiv 2401.01879)."""
    chosen = jnp.log(metrics.best_of_n(task.reference, task.reward, 4))
    for law, reference in zip(chosen.tolist(), task.reference.tolist(), strict=True):
        table, base = dict(enumerate(map(math.exp, law))), dict(enumerate(map(math.exp, reference)))
        assert 0.1 < helpers.kl(table, base) <= math.log(4) - 3 / 4


@pytest.mark.parametrize("rounded", [False, True], ids=["distinct", "tied"])
def test_win_rate_is_the_share_of_drawn_pairs_that_win(tree, task, policy, rounded):
    score = jnp.round(task.reward) if rounded else task.reward
    policies, others, scores = (as_table(tree, array) for array in (policy, task.reference, score))
    expected = 0.0
    for weight, prompt in zip(task.prompt_probs.tolist(), scores, strict=True):
        law, other, reward = exponential(policies[prompt]), exponential(others[prompt]), scores[prompt]
        for mine, yours in itertools.product(law, repeat=2):
            wins = 1.0 if reward[mine] > reward[yours] else 0.5 if reward[mine] == reward[yours] else 0.0
            expected += weight * law[mine] * other[yours] * wins
    assert metrics.win_rate(policy, task.reference, score, task.prompt_probs) == pytest.approx(expected)


def test_a_policy_wins_half_against_itself_and_always_against_the_worst(task):
    best, worst = (jnp.log(metrics.best_of_n(task.reference, sign * task.reward, 100_000)) for sign in (1, -1))
    assert metrics.win_rate(task.reference, task.reference, task.reward, task.prompt_probs) == pytest.approx(0.5)
    assert metrics.win_rate(best, worst, task.reward, task.prompt_probs) == pytest.approx(1.0)
