"""Pairs: the exact population, nested samples, splits and separability."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gvgap_jax import preferences, tasks
from tests import helpers
from tests.helpers import as_table, exponential

KEY = jax.random.key(0)
DRAWS = 20_000


def pairs_as_rows(pairs):
    return [tuple(map(tuple, row)) for row in zip(*(part.tolist() for part in pairs[:3]), strict=True)]


def expected_law(tree, task, coverage):
    return helpers.preference_law(
        task.prompt_probs.tolist(),
        as_table(tree, task.reward),
        {prompt: exponential(scores) for prompt, scores in as_table(tree, coverage).items()},
        float(task.temperature),
    )


@pytest.fixture(scope="module")
def coverages(task):
    return {"reference": None, "other": jax.nn.log_softmax(-task.reward, axis=-1)}


@pytest.fixture(scope="module")
def draw(tree):
    return jax.jit(lambda key, task, coverage: preferences.sample(key, tree, task, DRAWS, coverage))


@pytest.mark.parametrize("name", ["reference", "other"])
def test_population_is_the_enumerated_law(tree, task, coverages, name):
    pairs = preferences.population(tree, task, coverages[name])
    expected = expected_law(tree, task, task.reference if coverages[name] is None else coverages[name])
    rows = pairs_as_rows(pairs)
    assert len(rows) == len(set(rows)) == len(expected)
    assert pairs.weight.tolist() == pytest.approx([expected[row] for row in rows])
    assert jnp.sum(pairs.weight) == pytest.approx(1)


@pytest.mark.parametrize("name", ["reference", "other"])
def test_sampled_frequencies_converge_to_the_population(tree, task, coverages, draw, name):
    coverage = task.reference if coverages[name] is None else coverages[name]
    expected = expected_law(tree, task, coverage)
    rows = pairs_as_rows(draw(KEY, task, coverages[name]))
    counts = dict.fromkeys(expected, 0)
    for row in rows:
        counts[row] += 1
    for row, probability in expected.items():
        spread = np.sqrt(DRAWS * probability * (1 - probability))
        assert abs(counts[row] - DRAWS * probability) <= 5 * spread + 1, row
    chi_square = sum((counts[row] - DRAWS * p) ** 2 / (DRAWS * p) for row, p in expected.items())
    assert stats.chi2.sf(chi_square, len(expected) - 1) > 1e-3


def test_margins_are_the_references_whoever_the_pairs_come_from(tree, task, coverages, draw):
    reference = as_table(tree, task.reference)
    for pairs in (draw(KEY, task, coverages["other"]), preferences.population(tree, task, coverages["other"])):
        margins = [
            reference[prompt][chosen] - reference[prompt][other] for prompt, chosen, other in pairs_as_rows(pairs)
        ]
        assert pairs.reference_margin.tolist() == pytest.approx(margins)


def test_the_first_pairs_of_a_longer_draw_are_the_shorter_draw(tree, task):
    long, short = (jax.jit(lambda key, size=size: preferences.sample(key, tree, task, size)) for size in (60, 23))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:23], b), long(KEY), short(KEY))
    assert jnp.any(short(jax.random.key(1)).chosen != short(KEY).chosen)


def test_a_prompt_of_probability_zero_is_never_drawn(tree, task, draw):
    pairs = draw(KEY, task._replace(prompt_probs=jnp.array([0.4, 0.6, 0.0])), None)
    assert set(pairs.prompts[:, 0].tolist()) == {0, 1}
    assert jnp.mean(pairs.prompts) == pytest.approx(0.6, abs=5 * np.sqrt(0.24 / DRAWS))


def test_split_holds_out_every_fifth_of_the_first_pairs(tree, task):
    pairs = preferences.sample(KEY, tree, task, 23)
    train, held_out = preferences.split(pairs, 12)
    assert np.flatnonzero(held_out.pairs.weight).tolist() == [4, 9]
    assert np.flatnonzero(train.weight).tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 10, 11]
    assert set(train.weight.tolist()) == {0, 1}
    np.testing.assert_array_equal(train.chosen, pairs.chosen)
    halves = preferences.split(pairs, 12, held_out_every=2)
    assert np.flatnonzero(halves[1].pairs.weight).tolist() == [1, 3, 5, 7, 9, 11]


def test_the_number_of_pairs_may_be_an_array(tree, task):
    pairs = preferences.sample(KEY, tree, task, 23)
    train, held_out = jax.vmap(lambda n: preferences.split(pairs, n))(jnp.array([0, 5, 23]))
    assert train.weight.sum(-1).tolist() == [0, 4, 19]
    assert held_out.pairs.weight.sum(-1).tolist() == [0, 1, 4]


def test_separable_pairs_raise():
    """Every pair prefers the response that is larger in the first feature, or equal in it."""
    with pytest.raises(ValueError, match=r"of 2 parameters to 3 pairs is separable.*positive penalty, or more pairs"):
        preferences.check_not_separable(np.array([[1.0, -1.0], [0.5, 1.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="separable"):
        preferences.check_not_separable(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))


def test_pairs_with_a_finite_minimiser_do_not_raise():
    preferences.check_not_separable(np.array([[1.0, -1.0], [-1.0, 1.0]]))
    preferences.check_not_separable(np.array([[1.0, 0.0], [-0.5, 1.0], [-0.5, -1.0]]))
    preferences.check_not_separable(np.zeros((3, 2)))


def test_a_task_learned_from_all_its_pairs_is_not_separable(tree, task):
    """The population labels every pair both ways, however sharp the labels are."""
    pairs = preferences.population(tree, task)
    basis, _ = tasks.verifiers.interaction_basis(tree, 1)
    rows = np.asarray(basis)
    prompt, chosen, rejected = (
        np.asarray(index)
        for index in (tree.prompt_index(pairs.prompts), tree.leaf_index(pairs.chosen), tree.leaf_index(pairs.rejected))
    )
    preferences.check_not_separable(rows[prompt, chosen] - rows[prompt, rejected])
