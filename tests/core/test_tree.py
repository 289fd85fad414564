"""Token trees: counting order, leaf probabilities and conditionals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvgap_jax import TokenTree
from tests.helpers import as_table, completions, prefix_probability, walk

trees = st.builds(TokenTree, vocabulary=st.integers(1, 4), horizon=st.integers(1, 4), prompt_length=st.integers(0, 2))


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
