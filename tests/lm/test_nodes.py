"""States at the nodes of a tree are those of a transformer that is fed every response in a row of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvgap_jax import TokenTree
from gvgap_jax.lm.model import nodes, transformer
from gvgap_jax.lm.model.classes import tree_transformer_policy, tree_transformer_verifier
from gvgap_jax.lm.model.shape import Shape, llama, neox

# Attention weighs in single precision whatever the type of the activations.
TREE = TokenTree(3, 3, prompt_length=1)
SHAPES = {
    "llama": llama(3, width=16, dtype="float64"),
    "grouped heads": llama(3, width=16, dtype="float64", heads=4, key_value_heads=2, layers=3),
    "neox": neox(3, width=16, dtype="float64"),
    "capped scores": llama(3, width=16, dtype="float64", score_cap=2.0),
}
of_shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def drawn(shape: Shape, outputs: int):
    params = transformer.init(shape, outputs, jax.random.key(0))
    return params | {"head": jax.random.normal(jax.random.key(1), params["head"].shape)}


def at_nodes(shape: Shape, params):
    return nodes.states(shape, params, TREE.prompt_tokens(jnp.arange(TREE.prompts)), TREE.horizon)


@of_shapes
def test_policy_is_the_same(shape):
    policy, params = tree_transformer_policy(shape, TREE), drawn(shape, 3)
    levels = nodes.logits(shape, params, at_nodes(shape, params)[:-1])
    np.testing.assert_allclose(TREE.leaf_log_probs(levels), policy.leaf_log_probs(params), rtol=1e-5, atol=1e-6)


@of_shapes
@pytest.mark.parametrize("read_out", ["final", "token_sum"])
def test_reward_model_is_the_same(shape, read_out):
    verifier, params = tree_transformer_verifier(shape, TREE, read_out), drawn(shape, 1)
    rewards = nodes.scores(shape, params, at_nodes(shape, params), read_out)
    np.testing.assert_allclose(rewards, verifier.leaf_scores(params), rtol=1e-5, atol=1e-6)


def test_gradient_is_the_same():
    shape = SHAPES["llama"]
    verifier, params = tree_transformer_verifier(shape, TREE), drawn(shape, 1)
    one = jax.grad(lambda params: jnp.sum(verifier.leaf_scores(params) ** 2))(params)
    other = jax.grad(lambda params: jnp.sum(nodes.scores(shape, params, at_nodes(shape, params), "final") ** 2))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), one, other)


def test_any_prompts_are_read():
    shape, params = SHAPES["llama"], drawn(SHAPES["llama"], 1)
    prompts = jnp.array([[2, 0, 1], [1, 1, 0]])
    found = nodes.scores(shape, params, nodes.states(shape, params, prompts, 2), "final")
    tokens = jnp.stack(
        [jnp.array([3, *prompt, first, second]) for prompt in prompts for first in range(3) for second in range(3)]
    )
    fed, _ = transformer.forward(shape, params, tokens)
    np.testing.assert_allclose(
        found.reshape(-1), transformer.read(shape, params, fed[:, -1])[:, 0], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("changes", [{"positions": 8}, {"scaled_embedding": True}, {"unrotated": (0,)}])
def test_layers_that_differ_are_refused(changes):
    with pytest.raises(ValueError, match="plain layers"):
        nodes.states(llama(3, width=16, dtype="float64", **changes), {}, jnp.zeros((1, 0), int), 2)
