"""Transformers as policies, reward models and critics: the same numbers on a tree and off it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gvgap_jax import TokenTree, losses, metrics, online, optimize, preferences, tasks
from gvgap_jax.lm.model import classes, shape
from gvgap_jax.types import PADDING
from tests.lm.test_transformer import scrambled

TREE = TokenTree(vocabulary=3, horizon=3, prompt_length=1)
SHAPE = shape.llama(3, width=16, dtype="float64")


@functools.cache
def task():
    drawn = tasks.interactions(jax.random.key(3), TREE, 2, reference_scale=1.0)
    return drawn._replace(beta=jnp.array(0.7))


def policy():
    return classes.tree_transformer_policy(SHAPE, TREE, TREE.conditionals(task().reference))


def test_a_tree_and_a_list_of_responses_give_one_policy():
    on_tree, listed = classes.tree_transformer_policy(SHAPE, TREE), classes.transformer_policy(SHAPE, TREE.horizon)
    params = scrambled(on_tree.init(jax.random.key(0)))

    def tokens(params):
        return [model.token_log_probs(params, *TREE.rows()) for model in (on_tree, listed)]

    leaves, *each = jax.jit(lambda params: [on_tree.leaf_log_probs(params), *tokens(params)])(params)
    np.testing.assert_allclose(jnp.exp(leaves).sum(-1), 1, rtol=1e-12)
    np.testing.assert_allclose(each[1].sum(1), leaves.reshape(-1), atol=1e-12)
    np.testing.assert_allclose(*each, atol=1e-12)


def test_the_first_policy_is_uniform_off_the_tree():
    listed = classes.transformer_policy(SHAPE, 3)
    np.testing.assert_allclose(
        listed.log_prob(listed.init(jax.random.key(0)), *TREE.rows()), -3 * np.log(3), rtol=1e-12
    )


def test_reward_models_and_critics_start_at_0():
    critic, rows = classes.transformer_critic(SHAPE), TREE.rows()
    assert (critic.values(critic.init(jax.random.key(0)), *rows) == 0).all()
    for read_out in ("final", "token_sum"):
        verifier = classes.transformer_verifier(SHAPE, read_out)
        assert (verifier.score(verifier.init(jax.random.key(0)), *rows) == 0).all()


def test_a_token_sum_adds_the_scores_of_prefixes():
    prompts, responses = TREE.rows()
    final, summed = (classes.transformer_verifier(SHAPE, read_out) for read_out in ("final", "token_sum"))
    params = scrambled(final.init(jax.random.key(0)))
    prefixes = [jnp.where(jnp.arange(3)[None] < length, responses, PADDING) for length in (1, 2, 3)]
    by_prefix = sum(final.score(params, prompts, prefix) for prefix in prefixes)
    np.testing.assert_allclose(summed.score(params, prompts, responses), by_prefix, atol=1e-12)
    assert jnp.ptp(by_prefix) > 0.1


def test_tokens_after_the_end_bring_no_reward():
    prompts, responses = TREE.rows()
    shorter, cut = responses[:, :2], jnp.concatenate([responses[:, :2], jnp.full((len(prompts), 1), PADDING)], axis=1)
    for read_out in ("final", "token_sum"):
        verifier = classes.transformer_verifier(SHAPE, read_out)
        params = scrambled(verifier.init(jax.random.key(0)))
        scores = verifier.score(params, prompts, cut)
        np.testing.assert_allclose(scores, verifier.score(params, prompts, shorter), atol=1e-12)
        assert jnp.abs(scores - verifier.score(params, prompts, responses)).max() > 1e-2


def test_a_critic_values_prefixes_without_looking_ahead():
    critic = classes.tree_transformer_critic(SHAPE, TREE)
    params, (prompts, responses) = scrambled(critic.init(jax.random.key(0))), TREE.rows()
    values = critic.values(params, prompts, responses).reshape(3, 3, 3, 3, 3)  # prompt, three tokens, place
    for place, axes in ((0, (1, 2, 3)), (1, (2, 3)), (2, (3,))):
        assert jnp.ptp(values[..., place], axis=axes).max() < 1e-12
        assert jnp.ptp(values[..., place], axis=0).max() > 1e-3


def test_dpo_starts_at_log_two():
    pairs = preferences.sample(jax.random.key(0), TREE, task(), 50)
    model = policy()
    loss = jax.jit(lambda key: online.online_dpo_loss(model.init(key), pairs, model, 0.7))
    np.testing.assert_allclose(loss(jax.random.key(0)), np.log(2), rtol=1e-12)


def test_the_exact_objective_leads_to_the_tabular_optimum():
    model = policy()

    def loss(params):
        gold = task()
        log_policy = model.leaf_log_probs(params)
        return losses.kl_regularised(log_policy, gold.reward, gold.reference, gold.beta, gold.prompt_probs)

    @jax.jit
    def regrets(key):
        start = model.init(key)
        schedule = optax.warmup_cosine_decay_schedule(0.0, 0.01, 50, 1000)
        fit = optimize.minimise(loss, start, optax.adam(schedule, b2=0.95), 1000)
        ends = start, fit.params
        return [metrics.evaluate(model.leaf_log_probs(params), task()).regret for params in ends]

    before, after = regrets(jax.random.key(1))
    assert before > 0.5
    assert 0 <= after < 5e-4


def test_what_has_no_meaning_is_refused():
    with pytest.raises(ValueError, match="needs a transformer of as many tokens, got a vocabulary of 5"):
        classes.tree_transformer_policy(shape.neox(5), TREE)
    with pytest.raises(ValueError, match="must be untied"):
        classes.tree_transformer_verifier(shape.llama(3, tied=True), TREE)
    with pytest.raises(ValueError, match="needs a start token"):
        classes.tree_transformer_critic(shape.neox(3, start=False), TREE)
    with pytest.raises(ValueError, match="read_out must be 'final' or 'token_sum', got 'mean'"):
        classes.transformer_verifier(SHAPE, "mean")
