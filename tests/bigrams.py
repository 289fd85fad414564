"""A policy, a reward model and a critic that read a table [V, V] of the next token by the last one.

Log-probabilities and their gradients are sums over tokens, and programs compile in no time.
"""

import jax
import jax.numpy as jnp

from gvgap_jax.types import Critic, Policy, Verifier


def look_up(table, prompts, responses):
    """[N, H] entries of (last token, token), 0 at padding."""
    before = jnp.concatenate([prompts, responses], axis=1)[:, :-1][:, -responses.shape[1] :]
    return jnp.where(responses >= 0, table[before, responses], 0.0)


def token_log_probs(params, prompts, responses):
    return look_up(jax.nn.log_softmax(params), prompts, responses)


def policy(vocabulary, horizon, init=None):
    """It starts uniform, if nothing else is said."""

    def sample(key, params, prompts):
        tokens = [prompts[:, -1]]
        for each in jax.random.split(key, horizon):
            tokens.append(jax.random.categorical(each, params[tokens[-1]]))
        return jnp.stack(tokens[1:], axis=1)

    return Policy(
        init or (lambda key: jnp.zeros((vocabulary, vocabulary))),
        lambda *given: token_log_probs(*given).sum(axis=1),
        token_log_probs,
        sample,
        vocabulary**2,
    )


def verifier(vocabulary):
    return Verifier(
        lambda key: jnp.zeros((vocabulary, vocabulary)), lambda *given: look_up(*given).sum(axis=1), vocabulary**2
    )


def critic(vocabulary, init=None):
    return Critic(init or (lambda key: jnp.zeros((vocabulary, vocabulary))), look_up, vocabulary**2)
