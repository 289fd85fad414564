"""Decoders of both kinds: causality, the cache, padding, and what their shapes promise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvgap_jax.lm.model import attention, transformer
from gvgap_jax.lm.model import shape as shapes
from gvgap_jax.types import PADDING

V = 7
SHAPES = {
    "neox": shapes.neox(V, width=16, dtype="float64"),
    "llama, grouped": shapes.llama(V, width=16, heads=4, key_value_heads=2, dtype="float64"),
    "qwen, tied": shapes.llama(V, width=16, bias="query_key_value", tied=True, dtype="float64"),
}
TOKENS = jnp.array([[7, 3, 1, 4, 0, 5], [7, 2, 6, 5, 3, 1]])  # the start, then tokens that do not repeat
every_shape = pytest.mark.parametrize("name", SHAPES)


def scrambled(params, seed=0):
    numbers = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(0.3 * numbers.normal(size=leaf.shape), leaf.dtype), params)


@functools.cache
def params_of(shape):
    return scrambled(transformer.init(shape, shape.vocabulary, jax.random.key(0)))


@functools.cache
def logits_program(shape):
    @jax.jit
    def program(params, tokens):
        states, _ = transformer.forward(shape, params, tokens)
        return transformer.read(shape, params, states)

    return program


def logits_of(name, tokens):
    return logits_program(SHAPES[name])(params_of(SHAPES[name]), tokens)


@every_shape
def test_a_token_changes_what_is_read_after_it_and_nothing_before(name):
    shape, params = SHAPES[name], params_of(SHAPES[name])

    def read(embedding):
        changed = params | {"ends": params["ends"] | {"embedding": {"embedding": embedding}}}
        states, _ = transformer.forward(shape, changed, TOKENS[:1])
        return jnp.sum(states, axis=-1)[0]

    # [T, T]: how far each state moves with the embedding of each token, which stands in one place only.
    gradients = jax.jit(jax.jacrev(read))(params["ends"]["embedding"]["embedding"])
    reach = np.asarray(jnp.max(jnp.abs(gradients[:, TOKENS[0]]), axis=-1))
    assert (reach[np.triu_indices(6, 1)] == 0).all()
    assert (reach[np.tril_indices(6)] > 0).all()


@every_shape
def test_a_cache_changes_no_logits(name):
    shape, params = SHAPES[name], params_of(SHAPES[name])
    cache, read = transformer.empty_cache(shape, 2, 8), []
    for piece in (TOKENS[:, :3], TOKENS[:, 3:4], TOKENS[:, 4:]):
        states, cache = transformer.forward(shape, params, piece, cache)
        read.append(transformer.read(shape, params, states))
    np.testing.assert_allclose(jnp.concatenate(read, axis=1), logits_of(name, TOKENS), atol=1e-12)
    assert (cache.filled, cache.valid.sum()) == (6, 12)


@every_shape
def test_rows_and_padding_do_not_matter_to_each_other(name):
    together = logits_of(name, TOKENS)
    alone = logits_program(SHAPES[name])(params_of(SHAPES[name]), TOKENS[1:])
    np.testing.assert_allclose(together[1:], alone, atol=1e-12)
    padding = jnp.full((2, 2), PADDING)
    padded = logits_of(name, jnp.concatenate([padding, TOKENS, padding], axis=1))
    np.testing.assert_allclose(padded[:, 2:-2], together, atol=1e-12)
    other = logits_of(name, jnp.concatenate([padding + 3, TOKENS], axis=1))
    assert jnp.abs(other[:, 2:] - together).max() > 1e-2, "tokens that are there would matter"


@every_shape
def test_order_matters(name):
    turned = logits_of(name, TOKENS[:, jnp.array([0, 2, 1, 3, 4, 5])])
    assert jnp.abs(turned[:, 5] - logits_of(name, TOKENS)[:, 5]).max() > 1e-3


@every_shape
def test_parameters_are_counted_by_hand(name):
    shape = SHAPES[name]
    width, hidden, kv = shape.width, shape.hidden, shape.key_value_heads * shape.head_width
    norm = width * (2 if shape.norm == "layer" else 1)
    block = 2 * norm + 2 * width * width + 2 * width * kv + (3 if shape.gated else 2) * width * hidden
    if shape.bias != "none":
        block += width + 2 * kv
    if shape.bias == "all":
        block += hidden + 2 * width
    head = 0 if shape.tied else V * width
    assert transformer.num_parameters(shape, V) == 2 * block + (V + 1) * width + norm + head


def test_logits_start_at_zero_and_a_tied_head_is_the_embedding():
    untied = transformer.init(SHAPES["neox"], V, jax.random.key(0))
    assert not jnp.any(untied["head"])
    tied, params = SHAPES["qwen, tied"], params_of(SHAPES["qwen, tied"])
    assert "head" not in params
    assert "head" in transformer.init(tied, 1, jax.random.key(0)), "a scalar head is never tied"
    states = jnp.eye(16)
    embedding = params["ends"]["embedding"]["embedding"]
    np.testing.assert_allclose(transformer.read(tied, params, states), embedding[:V].T, atol=1e-12)


def test_grouped_heads_are_heads_that_share_keys_and_values():
    grouped = SHAPES["llama, grouped"]
    full = shapes.llama(V, width=16, heads=4, dtype="float64")
    params = params_of(grouped)
    blocks = dict(params["blocks"])
    for name in ("key", "value"):
        blocks[name] = {"kernel": jnp.repeat(blocks[name]["kernel"], 2, axis=2)}
    copied = logits_program(full)(params | {"blocks": blocks}, TOKENS)
    np.testing.assert_allclose(copied, logits_of("llama, grouped", TOKENS), atol=1e-12)


def test_rotation_knows_distances_only():
    shape, numbers = SHAPES["llama, grouped"], np.random.default_rng(0)
    query, key = (jnp.asarray(numbers.normal(size=(1, 1, 1, 4))) for _ in range(2))

    def product(first, second):
        frequency = attention.of_layers(shape)[1]
        places = (query, first), (key, second)
        turned = (attention.rotate(vector, jnp.array([[place]]), frequency, 1.0) for vector, place in places)
        return jnp.sum(next(turned) * next(turned))

    np.testing.assert_allclose(product(5, 3), product(12, 10), rtol=1e-12)
    assert abs(product(5, 3) - product(5, 4)) > 1e-3
    np.testing.assert_allclose(product(0, 0), jnp.sum(query * key), rtol=1e-12)


def test_recomputing_activations_changes_no_gradient():
    plain = shapes.neox(V, width=16, dtype="float64")
    again = shapes.neox(V, width=16, dtype="float64", remat=True)

    def gradient(shape):
        def loss(params):
            states, _ = transformer.forward(shape, params, TOKENS)
            return jnp.sum(transformer.read(shape, params, states) ** 2)

        return jax.grad(loss)

    params = params_of(plain)
    texts = [str(jax.make_jaxpr(gradient(shape))(params)) for shape in (plain, again)]
    assert ["remat" in text or "checkpoint" in text for text in texts] == [False, True]
    for left, right in zip(*(jax.tree.leaves(jax.jit(gradient(s))(params)) for s in (plain, again)), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-9)


def test_bfloat16_is_for_activations_only():
    half = shapes.neox(V, width=16, dtype="bfloat16")
    params = transformer.init(half, V, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params_of(SHAPES["neox"]))
    states, _ = transformer.forward(half, params, TOKENS)
    logits = transformer.read(half, params, states)
    assert (states.dtype, logits.dtype) == (jnp.bfloat16, jnp.float32)
    error = jnp.abs(logits - logits_of("neox", TOKENS)).max()
    assert 1e-6 < error < 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 0}, "layers must be an integer of at least 1"),
        ({"heads": 3, "key_value_heads": 2}, "do not divide 3 heads"),
        ({"head_width": 6, "rotary": 0.5}, "must be even, got 3"),
    ],
)
def test_impossible_shapes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        shapes.neox(V, **changes)
