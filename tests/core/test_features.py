"""Encodings of prefixes and responses."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvgap_jax import TokenTree, features
from tests.helpers import completions


@pytest.mark.parametrize("vocabulary", [2, 3, 4])
def test_token_contrasts_are_orthonormal_with_mean_zero(vocabulary):
    contrasts = features.token_contrasts(vocabulary)
    assert contrasts.shape == (vocabulary, vocabulary - 1)
    np.testing.assert_allclose(contrasts.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(contrasts.T @ contrasts / vocabulary, np.eye(vocabulary - 1), atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_interactions_are_orthonormal_and_counted(tree, order):
    basis, degree = features.interaction_basis(tree, order)
    rows = basis.reshape(tree.prompts * tree.leaves, -1)
    np.testing.assert_allclose(rows.T @ rows / len(rows), np.eye(rows.shape[1]), atol=1e-12)
    contrasts, prompt, length = tree.vocabulary - 1, tree.prompt_length, tree.prompt_length + tree.horizon
    expected = [
        size
        for size in range(1, order + 1)
        for _ in range((math.comb(length, size) - math.comb(prompt, size)) * contrasts**size)
    ]
    assert degree.tolist() == expected


def test_all_interactions_span_every_reward_up_to_a_constant_of_each_prompt(tree, task):
    basis, _ = features.interaction_basis(tree, tree.prompt_length + tree.horizon)
    reward = np.asarray(task.reward - task.reward.mean(-1, keepdims=True)).reshape(-1)
    rows = basis.reshape(reward.size, -1)
    np.testing.assert_allclose(rows @ (rows.T @ reward) / reward.size, reward, atol=1e-12)


def test_a_column_reads_as_many_positions_as_its_degree_says(tree):
    """A position is read if changing its token alone changes the column somewhere."""
    basis, degree = features.interaction_basis(tree, 3)
    length = tree.prompt_length + tree.horizon
    for column, size in zip(np.moveaxis(basis, -1, 0), degree, strict=True):
        value = dict(zip(completions(tree.vocabulary, length), column.reshape(-1).tolist(), strict=True))
        read = {
            position
            for tokens in value
            for position in range(length)
            if abs(value[tokens] - value[(*tokens[:position], 0, *tokens[position + 1 :])]) > 1e-9
        }
        assert len(read) == size
        assert max(read) >= tree.prompt_length, "a column of the prompt alone can change no margin"


def test_one_hot_prefixes_pad_what_is_yet_to_come(tree):
    encoded = features.one_hot_prefixes(tree, 1)
    one_hot = np.eye(3)
    expected = [[[*one_hot[prompt], *one_hot[first], 0, 0, 0] for first in range(3)] for prompt in range(3)]
    np.testing.assert_array_equal(encoded, expected)
    no_prompt = features.one_hot_prefixes(TokenTree(2, 2), 0)
    np.testing.assert_array_equal(no_prompt, np.zeros((1, 1, 4)))


def test_mlp_is_one_hidden_layer_of_tanh_units():
    init, apply = features.mlp(inputs=4, width=3, outputs=2)
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: random.normal(size=leaf.shape), init(jax.random.key(0)))
    inputs = random.normal(size=(5, 4))
    hidden = np.tanh(inputs @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    expected = hidden @ params["readout"]["kernel"] + params["readout"]["bias"]
    np.testing.assert_allclose(apply(jax.tree.map(jnp.asarray, params), jnp.asarray(inputs)), expected, rtol=1e-12)
