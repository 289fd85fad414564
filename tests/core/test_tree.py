"""Token trees: counting order, leaf probabilities and conditionals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvgap_jax import TokenTree
from tests.helpers import as_table, completions, prefix_probability, walk

trees = st.builds(TokenTree, vocabulary=st.integers(2, 4), horizon=st.integers(1, 4), prompt_length=st.integers(0, 2))


def random_levels(tree, seed=0):
    numbers = np.random.default_rng(seed)
    shapes = [(tree.prompts, tree.vocabulary**depth, tree.vocabulary) for depth in range(tree.horizon)]
    return tuple(numbers.normal(size=shape) for shape in shapes)


@given(trees)
def test_rows_are_every_prompt_and_response_in_counting_order(tree):
    prompts, responses = tree.rows()
    expected = [
        (prompt, response)
        for prompt in completions(tree.vocabulary, tree.prompt_length)
        for response in completions(tree.vocabulary, tree.horizon)
    ]
    assert len(expected) == tree.prompts * tree.leaves
    assert list(zip(map(tuple, prompts.tolist()), map(tuple, responses.tolist()), strict=True)) == expected


@given(trees)
def test_tokens_and_indices_invert_each_other(tree):
    leaves, prompts = jnp.arange(tree.leaves), jnp.arange(tree.prompts)
    assert tree.leaf_index(tree.responses(leaves)).tolist() == leaves.tolist()
    assert tree.prompt_index(tree.prompt_tokens(prompts)).tolist() == prompts.tolist()


def test_leaf_probabilities_are_products_of_token_probabilities(tree):
    levels = random_levels(tree)
    law = as_table(tree, jnp.exp(tree.leaf_log_probs(levels)))
    for number, prompt in enumerate(law):
        for response, probability in law[prompt].items():
            assert probability == pytest.approx(walk(levels, tree.vocabulary, number, response))


def test_conditionals_are_ratios_of_prefix_probabilities(tree, task):
    levels = tree.conditionals(task.reference)
    for number, law in enumerate(as_table(tree, jnp.exp(task.reference)).values()):
        for first in range(tree.vocabulary):
            assert jnp.exp(levels[0][number, 0, first]) == pytest.approx(prefix_probability(law, (first,)))
            for second in range(tree.vocabulary):
                share = law[first, second] / prefix_probability(law, (first,))
                assert jnp.exp(levels[1][number, first, second]) == pytest.approx(share)


@given(trees, st.integers(0, 3))
def test_conditionals_invert_leaf_log_probs(tree, seed):
    levels = random_levels(tree, seed)

    @jax.jit
    def round_trip(levels):
        leaf_log_probs = tree.leaf_log_probs(levels)
        return jnp.exp(leaf_log_probs).sum(-1), tree.conditionals(leaf_log_probs)

    totals, found = round_trip(levels)
    np.testing.assert_allclose(totals, 1, rtol=1e-12)
    for level, expected in zip(found, levels, strict=True):
        weights = np.exp(expected)
        np.testing.assert_allclose(np.exp(level), weights / weights.sum(-1, keepdims=True), rtol=1e-12)


def test_at_reads_a_leaf_array_at_its_rows(tree, task):
    np.testing.assert_array_equal(tree.at(task.reward, *tree.rows()), task.reward.reshape(-1))
    row = tree.at(task.reward, jnp.array([[2]]), jnp.array([[1, 0]]))
    assert row.tolist() == [as_table(tree, task.reward)[(2,)][1, 0]]


WRONG_TOKENS = {
    "too large": ([[2]], [[1, 3]], r"between 0 and 2, got \[2, 1, 3\] in row 0"),
    "padding": ([[2]], [[-1, 1]], r"between 0 and 2, got \[2, -1, 1\]"),
    "prompt": ([[5]], [[1, 1]], r"between 0 and 2, got \[5, 1, 1\]"),
    "too many": ([[1]], [[1, 1, 1]], "responses must have 2 tokens, got 3"),
    "no prompt": ([[]], [[1, 1]], "prompts must have 1 tokens, got 0"),
}


@pytest.mark.parametrize("name", WRONG_TOKENS)
def test_tokens_that_are_none_are_refused(tree, task, name):
    prompts, responses, said = WRONG_TOKENS[name]
    prompts, responses = jnp.array(prompts, int), jnp.array(responses)
    with pytest.raises(ValueError, match=said):
        tree.at(task.reward, prompts, responses)
    with pytest.raises(ValueError, match=said):
        tree.along(tree.conditionals(task.reference), prompts, responses)


def test_tokens_that_are_none_read_nan_in_a_compiled_program(tree, task):
    prompts, responses = jnp.array([[2], [2], [-1]]), jnp.array([[1, 3], [1, 2], [0, 0]])
    levels = tree.conditionals(task.reference)
    found = jax.jit(lambda *rows: (tree.at(task.reward, *rows), tree.along(levels, *rows)))(prompts, responses)
    for values in found:
        np.testing.assert_array_equal(np.isnan(values.reshape(3, -1).sum(1)), [True, False, True])


def test_every_token_is_read_at_its_own_place(tree):
    """Also where rows are more than leaves, and read copies of them: here 9 times as many."""
    levels = random_levels(tree)
    prompts, responses = (jnp.tile(rows, (9, 1)) for rows in tree.rows())
    found = tree.along(levels, prompts, responses)
    for row in range(0, len(prompts), 25):
        x, (first, second) = int(prompts[row, 0]), responses[row].tolist()
        assert found[row].tolist() == [levels[0][x, 0, first], levels[1][x, first, second]]
    leaves = jnp.arange(27.0).reshape(3, 9)
    np.testing.assert_array_equal(tree.at(leaves, prompts, responses), jnp.tile(jnp.arange(27.0), 9))


# Many pairs of few responses, and a skewed reference, as the largest presets have them.
MANY = {"3 responses": (1, 131_072, 2.0), "9 responses": (2, 262_144, 0.0), "81 responses": (4, 131_072, 2.0)}


@pytest.mark.parametrize("name", MANY)
def test_gradients_of_many_pairs_keep_their_digits_in_single_precision(name):
    """Against counts in double precision, in units of the solver's tolerance: a thousandth of the sampling noise."""
    horizon, rows, scale = MANY[name]
    tree, numbers = TokenTree(3, horizon), np.random.default_rng(0)
    law = np.exp(scale * numbers.normal(size=tree.leaves))
    leaf = numbers.choice(tree.leaves, rows, p=law / law.sum())
    slope = numbers.uniform(size=tree.leaves).astype(np.float32)  # one number a response: rounding adds up
    with jax.enable_x64(False):
        prompts, responses = jnp.zeros((rows, 0), jnp.int32), tree.responses(jnp.asarray(leaf, jnp.int32))
        weight = jnp.asarray(slope[leaf])
        gradient = jax.jit(jax.grad(lambda values: jnp.vdot(weight, tree.at(values, prompts, responses))))
        found = gradient(jnp.zeros((1, tree.leaves)))
        assert found.dtype == jnp.float32
    exact = slope.astype(float) * np.bincount(leaf, minlength=tree.leaves)
    assert np.linalg.norm(np.asarray(found, float)[0] - exact) < 0.1 * 1e-3 * np.sqrt(rows)
