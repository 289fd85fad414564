"""Tasks: checked arrays, and families of gold rewards."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvgap_jax import TokenTree, features, tasks
from tests import helpers

KEY = jax.random.key(7)


def draw(name, tree, complexity, key=KEY):
    return jax.jit(lambda key: tasks.task_family(name)(key, tree, complexity))(key)


def coefficients(tree, reward):
    """Of the reward in the interaction basis, and the degree of each."""
    basis, degree = features.interaction_basis(tree, tree.prompt_length + tree.horizon)
    rows = basis.reshape(-1, len(degree))
    return rows.T @ np.asarray(reward).reshape(-1) / len(rows), degree


def test_make_task_defaults_to_a_uniform_reference_and_prompts(tree):
    task = tasks.make_task(tree, np.zeros((3, 9)))
    np.testing.assert_allclose(task.reference, -math.log(9))
    np.testing.assert_allclose(task.prompt_probs, 1 / 3)
    assert task.beta == task.temperature == 1
    assert all(part.dtype == jnp.float64 for part in task)


def test_optimal_is_the_tilted_reference(tree, task):
    reference, reward = helpers.as_table(tree, task.reference), helpers.as_table(tree, task.reward)
    for row, prompt in zip(jnp.exp(task.optimal).tolist(), reward, strict=True):
        law = helpers.soft_optimal(helpers.exponential(reference[prompt]), reward[prompt], float(task.beta))
        assert row == pytest.approx(list(law.values()))


@pytest.mark.parametrize("name", tasks.TASKS)
def test_every_family_is_standardised_normalised_and_fixed_by_its_key(tree, name):
    make = jax.jit(lambda key: tasks.task_family(name)(key, tree, 2, reference_scale=1.0))
    task, again, other = make(KEY), make(KEY), make(jax.random.key(8))
    np.testing.assert_allclose(task.reward.mean(-1), 0, atol=1e-12)
    assert jnp.std(task.reward) == pytest.approx(2)
    np.testing.assert_allclose(jnp.exp(task.reference).sum(-1), 1)
    np.testing.assert_allclose(task.prompt_probs, 1 / 3)
    assert jnp.std(task.reference) > 0.1
    np.testing.assert_array_equal(task.reward, again.reward)
    assert jnp.any(task.reference != other.reference)


def draw_each(name, tree, complexities):
    """One task for each complexity, from one compiled program."""
    return jax.jit(jax.vmap(lambda complexity: tasks.task_family(name)(KEY, tree, complexity)))(complexities)


def test_interactions_reach_their_order_and_no_higher(tree):
    batch = draw_each("interactions", tree, jnp.array([1, 2, 3]))
    for order in (1, 2, 3):
        found, degree = coefficients(tree, batch.reward[order - 1])
        assert np.all(np.abs(found[degree > order]) < 1e-12)
        assert np.all(np.abs(found[degree <= order]) > 1e-6)
    np.testing.assert_allclose(batch.reward[1], draw("interactions", tree, 2).reward, atol=1e-12)


def test_sparse_rewards_have_that_many_equal_interactions(tree):
    batch = draw_each("sparse", tree, jnp.array([1, 3]))
    for row, size in enumerate((1, 3)):
        found, _ = coefficients(tree, batch.reward[row])
        kept = np.abs(found[np.abs(found) > 1e-12])
        np.testing.assert_allclose(kept, np.full(size, 2 / math.sqrt(size)))
    np.testing.assert_allclose(batch.reward[1], draw("sparse", tree, 3).reward, atol=1e-12)


def test_automaton_rewards_are_computed_by_some_deterministic_automaton():
    """All 2-state automata of 2 tokens are tried; the reward must be constant on the final state of one."""
    tree = TokenTree(2, 3)
    reward = helpers.as_table(tree, draw("automaton", tree, 2, jax.random.key(1)).reward)[()]
    assert len({round(value, 9) for value in reward.values()}) == 2

    def final_state(table, response):
        state = 0
        for token in response:
            state = table[2 * token + state]
        return state

    def fits(table):
        values = {0: set(), 1: set()}
        for response, value in reward.items():
            values[final_state(table, response)].add(round(value, 9))
        return all(len(value) == 1 for value in values.values())

    assert any(fits(table) for table in itertools.product(range(2), repeat=4))
    assert jnp.all(draw("automaton", tree, 1).reward == 0), "one state tells nothing apart"


def test_token_counts_are_minus_the_distance_from_some_target():
    """Every possible target is tried; the reward must be its distance, centred and scaled to s.d. 2."""
    tree = TokenTree(3, 3)
    reward = draw("token_counts", tree, 2).reward[0]

    def standardised(target):
        distances = [
            sum(abs(response.count(token) - wanted) for token, wanted in enumerate(target))
            for response in helpers.completions(3, 3)
        ]
        return -2 * (np.array(distances) - np.mean(distances)) / np.std(distances)

    targets = itertools.product((1, 2), repeat=2)
    assert sum(np.allclose(reward, standardised(target)) for target in targets) == 1


def test_reference_scale_is_the_spread_of_the_logits():
    tree = TokenTree(4, 3, 1)
    np.testing.assert_allclose(jax.jit(lambda: tasks.random_reference(KEY, tree, 0.0))(), -3 * math.log(4))
    last = jax.jit(lambda: tree.conditionals(tasks.random_reference(KEY, tree, 1.5))[-1])()
    spread = np.sqrt(np.var(last, axis=-1, ddof=1).mean())
    assert spread == pytest.approx(1.5, rel=0.15), "64 rows of 4 logits: two standard errors are 10 %"
