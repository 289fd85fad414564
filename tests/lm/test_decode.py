"""Sampling: its log-probabilities are the training forward's, its laws those of the truncated logits."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gvgap_jax.lm.model import classes, decode, shape
from gvgap_jax.lm.model.decode import Decoding
from gvgap_jax.types import PADDING
from tests.lm.test_transformer import scrambled

V, P, H, N, END = 4, 3, 5, 64, 2
SHAPE = shape.llama(V, width=16, dtype="float64")
PROMPTS = jnp.concatenate(  # left-padded prompts of 0 to 3 tokens
    [jnp.where(jnp.arange(P) >= P - length, jnp.array([1, 0, 3]), PADDING)[None] for length in (0, 1, 2, 3)] * (N // 4)
)


@functools.cache
def params():
    return scrambled(jax.jit(classes.transformer_policy(SHAPE, H).init)(jax.random.key(0)))


@functools.cache
def token_log_probs(horizon=H):
    return jax.jit(classes.transformer_policy(SHAPE, horizon).token_log_probs)


@functools.cache
def sampled(decoding, seed=0):
    return jax.jit(decode.sample, static_argnums=(1, 4, 5))(jax.random.key(seed), SHAPE, params(), PROMPTS, H, decoding)


@pytest.mark.parametrize(
    "decoding", [Decoding(), Decoding(temperature=0.5, top_k=2, end=END), Decoding(temperature=0, end=END)]
)
def test_log_probabilities_are_those_of_the_training_forward(decoding):
    found = sampled(decoding)
    trained = token_log_probs()(params(), PROMPTS, found.responses)
    np.testing.assert_allclose(
        found.log_probs, trained, atol=1e-6
    )  # attention's softmax is float32, whatever the dtype
    assert found.responses.shape == (N, H)


ENDS = {"one end": END, "two ends, and one that nobody says": (END, (END + 1) % V, V + 99)}


@pytest.mark.parametrize("which", ENDS)
def test_nothing_comes_after_the_end(which):
    found = sampled(Decoding(end=ENDS[which]))
    responses = np.asarray(found.responses)
    is_end = np.isin(responses, ENDS[which])
    ended = np.cumsum(is_end, axis=1) - is_end > 0
    assert {*responses[is_end].tolist()} == {token for token in np.atleast_1d(ENDS[which]).tolist() if token < V}
    assert 0.05 < ended.mean() < 0.95, "some end early, some do not"
    assert ((responses == PADDING) == ended).all()
    assert (np.asarray(found.log_probs)[ended] == 0).all()
    assert (np.asarray(found.log_probs)[~ended] < 0).all()
    assert (decode.after_end(jnp.where(ended, 1, responses), ENDS[which]) == responses).all()
    assert PADDING not in np.asarray(sampled(Decoding()).responses)


def test_the_probabilities_of_responses_with_ends_sum_to_one():
    grid = np.stack(np.meshgrid(*[np.arange(V)] * 3, indexing="ij"), -1).reshape(-1, 3)
    responses = np.unique(np.asarray(decode.after_end(jnp.asarray(grid), END)), axis=0)
    assert len(responses) < V**3
    for prompt in PROMPTS[:4]:
        prompts = jnp.broadcast_to(prompt, (len(responses), P))
        log_probs = token_log_probs(3)(params(), prompts, responses).sum(axis=1)
        np.testing.assert_allclose(jnp.exp(log_probs).sum(), 1, rtol=1e-12)


def test_greedy_takes_the_most_probable_token():
    found = sampled(Decoding(temperature=0))
    others = [found.responses.at[:, 0].set(token) for token in range(V)]
    first = jnp.stack([token_log_probs()(params(), PROMPTS, other)[:, 0] for other in others])
    assert (jnp.argmax(first, axis=0) == found.responses[:, 0]).all()
    assert (sampled(Decoding(temperature=0), seed=1).responses == found.responses).all()


def plainly_kept(logits, top_k, top_p):
    """Tokens that may be drawn, by sorting in plain Python."""
    probability = np.exp(logits) / np.exp(logits).sum()
    order = sorted(range(len(logits)), key=lambda token: -logits[token])[: top_k or len(logits)]
    total, kept, mass = sum(probability[token] for token in order), [], 0.0
    for token in order:
        if top_p is not None and mass >= top_p * total:
            break
        kept.append(token)
        mass += probability[token]
    return sorted(kept)


@pytest.mark.parametrize(("top_k", "top_p"), [(None, None), (3, None), (None, 0.6), (4, 0.8), (9, 1.0), (1, 0.1)])
def test_truncation_against_plain_python(top_k, top_p):
    logits = np.random.default_rng(0).normal(size=(50, 6))
    kept = np.asarray(decode.is_kept(jnp.asarray(logits), Decoding(top_k=top_k, top_p=top_p)))
    assert [np.flatnonzero(row).tolist() for row in kept] == [plainly_kept(row, top_k, top_p) for row in logits]


def test_draws_follow_the_truncated_law():
    logits, draws = np.array([1.0, 0.5, 0.0, -1.0]), 4000
    decoding = Decoding(temperature=0.7, top_k=3)
    tokens = decode.draw(jax.random.key(0), jnp.broadcast_to(jnp.asarray(logits), (draws, 4)), decoding)
    law = np.exp(logits[:3] / 0.7) / np.exp(logits[:3] / 0.7).sum()
    counts = np.bincount(np.asarray(tokens), minlength=4)
    assert counts[3] == 0
    assert stats.chisquare(counts[:3], draws * law).pvalue > 1e-3


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}, {"end": -1}, {"end": (1, -1)}, {"end": ()}],
)
def test_impossible_decodings_are_refused(wrong):
    with pytest.raises(ValueError, match=f"Decoding: {next(iter(wrong))} must"):
        Decoding(**wrong)


DECODINGS = [Decoding(temperature=0.3), Decoding(top_k=1), Decoding(top_p=0.2), Decoding(temperature=0, end=END)]


@pytest.mark.parametrize("decoding", DECODINGS, ids=str)
def test_a_policy_samples_as_its_decoding_says(decoding, monkeypatch):
    asked = []

    def sample(*given, **named):
        asked.append(inspect.signature(drawn).bind(*given, **named).arguments)
        return decode.Sampled(jnp.zeros((N, H), int), jnp.zeros((N, H)))

    drawn = decode.sample
    monkeypatch.setattr(decode, "sample", sample)
    key = jax.random.key(3)
    classes.transformer_policy(SHAPE, H, decoding).sample(key, "params", PROMPTS)
    wanted = {"key": key, "shape": SHAPE, "params": "params", "prompts": PROMPTS, "horizon": H, "decoding": decoding}
    assert asked == [wanted]


def test_more_padding_on_the_left_changes_no_log_probability_and_no_sample():
    wider = jnp.concatenate([jnp.full((N, 2), PADDING), PROMPTS], axis=1)
    decoding = Decoding(end=END)
    responses = sampled(decoding).responses
    again = jax.jit(decode.sample, static_argnums=(1, 4, 5))(jax.random.key(0), SHAPE, params(), wider, H, decoding)
    np.testing.assert_array_equal(again.responses, responses)
    np.testing.assert_allclose(again.log_probs, sampled(decoding).log_probs, atol=1e-6)
    found, wanted = (token_log_probs()(params(), prompts, responses) for prompts in (wider, PROMPTS))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_every_row_and_every_token_has_randomness_of_its_own():
    """Of the uniform policy: each two places of a response, and each two rows, agree in one of V cases."""
    uniform = jax.jit(classes.transformer_policy(SHAPE, H).init)(jax.random.key(0))
    drawn = jax.jit(decode.sample, static_argnums=(1, 4, 5))(jax.random.key(0), SHAPE, uniform, PROMPTS, H, Decoding())
    responses = np.asarray(drawn.responses)
    for place in range(1, H):
        assert 0.05 < np.mean(responses[:, 0] == responses[:, place]) < 0.5
    assert 0.15 < np.mean(responses[1:] == responses[:-1]) < 0.35
