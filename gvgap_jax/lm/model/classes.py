"""Transformers as the bundles that every method and metric takes: policies, reward models, critics.

Two kinds of each. ``transformer_*`` reads prompts and responses of any number, and samples by decoding.
``tree_transformer_*`` stands on a token tree and is evaluated at every leaf, so that regret, KL and J are exact.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gvgap_jax.lm.model import decode, transformer
from gvgap_jax.lm.model.decode import AS_IT_IS, Decoding
from gvgap_jax.lm.model.shape import Shape
from gvgap_jax.policies import tree_policy
from gvgap_jax.tree import Levels, TokenTree
from gvgap_jax.types import (
    PADDING,
    Critic,
    Params,
    Policy,
    PRNGKey,
    Prompts,
    Responses,
    TreePolicy,
    TreeVerifier,
    Verifier,
)
from gvgap_jax.verifiers import tree_verifier

ReadOut = Literal["final", "token_sum"]


def transformer_policy(shape: Shape, horizon: int, decoding: Decoding = AS_IT_IS) -> Policy:
    """Policy over responses of up to ``horizon`` tokens. Its first parameters are the uniform policy (an untied head).

    ``sample`` decodes as ``decoding`` says; probabilities are always those at temperature 1, untruncated.
    """

    def token_log_probs(params: Params, prompts: Prompts, responses: Responses) -> Float[Array, "N H"]:
        states = _before_each_token(shape, params, prompts, responses)
        logits = transformer.read(shape, params, states)
        return jnp.where(responses == PADDING, 0.0, decode.along(jax.nn.log_softmax(logits), responses))

    def log_prob(params: Params, prompts: Prompts, responses: Responses) -> Float[Array, "N"]:
        return jnp.sum(token_log_probs(params, prompts, responses), axis=1)

    def sample(key: PRNGKey, params: Params, prompts: Prompts) -> Responses:
        return decode.sample(key, shape, params, prompts, horizon, decoding).responses

    return Policy(
        partial(transformer.init, shape, shape.vocabulary),
        log_prob,
        token_log_probs,
        sample,
        transformer.num_parameters(shape, shape.vocabulary),
    )


def transformer_verifier(shape: Shape, read_out: ReadOut = "final") -> Verifier:
    """Reward model with a scalar head, 0 at first, on the state after the last token of a response.

    Or, with the read-out ``token_sum``, the sum of what the head reads after every token of the response.
    """
    _check(read_out)

    def score(params: Params, prompts: Prompts, responses: Responses) -> Float[Array, "N"]:
        states, _ = transformer.forward(shape, params, _sequence(shape, prompts, responses))
        after, present = states[:, -responses.shape[1] :], responses != PADDING
        if read_out == "token_sum":
            return jnp.sum(_scalar(shape, params, after) * present, axis=1)
        last = jnp.maximum(jnp.sum(present, axis=1) - 1, 0)
        return _scalar(shape, params, jnp.take_along_axis(after, last[:, None, None], axis=1)[:, 0])

    return Verifier(partial(transformer.init, shape, 1), score, transformer.num_parameters(shape, 1))


def transformer_critic(shape: Shape) -> Critic:
    """Value of the prefix before every token, 0 at first."""

    def values(params: Params, prompts: Prompts, responses: Responses) -> Float[Array, "N H"]:
        return _scalar(shape, params, _before_each_token(shape, params, prompts, responses))

    return Critic(partial(transformer.init, shape, 1), values, transformer.num_parameters(shape, 1))


def tree_transformer_policy(shape: Shape, tree: TokenTree, base: Levels | None = None) -> TreePolicy:
    """Policy on a tree, its logits added to ``base`` as in every other class; evaluated at all prefixes at once.

    Raises:
      ValueError: the vocabularies differ, or a tied head would not start at ``base``.
    """
    _check_tree(shape, tree)
    # Leaves that differ in their last token alone share all prefixes that a token follows.
    prompts, responses = (rows[:: tree.vocabulary] for rows in tree.rows())
    sequences = _sequence(shape, prompts, responses[:, :-1])

    def logits(params: Params) -> Levels:
        states, _ = transformer.forward(shape, params, sequences)
        states = states.reshape(tree.prompts, -1, *states.shape[1:])[:, :, tree.prompt_length :]
        strides = (tree.vocabulary ** (tree.horizon - 1 - depth) for depth in range(tree.horizon))
        levels = (states[:, ::stride, depth] for depth, stride in enumerate(strides))
        return tuple(transformer.read(shape, params, level) for level in levels)

    return tree_policy(
        tree,
        partial(transformer.init, shape, shape.vocabulary),
        logits,
        transformer.num_parameters(shape, shape.vocabulary),
        base,
    )


def tree_transformer_verifier(shape: Shape, tree: TokenTree, read_out: ReadOut = "final") -> TreeVerifier:
    """``transformer_verifier`` that scores all leaves, whichever are asked for."""
    _check_tree(shape, tree)
    verifier, rows = transformer_verifier(shape, read_out), tree.rows()

    def leaf_scores(params: Params) -> Float[Array, "X L"]:
        return verifier.score(params, *rows).reshape(tree.prompts, tree.leaves)

    return tree_verifier(tree, verifier.init, leaf_scores, verifier.num_parameters)


def tree_transformer_critic(shape: Shape, tree: TokenTree) -> Critic:
    """``transformer_critic`` on a tree."""
    _check_tree(shape, tree)
    return transformer_critic(shape)


def _sequence(shape: Shape, prompts: Prompts, responses: Responses) -> Int[Array, "N T"]:
    return jnp.concatenate([decode.with_start(shape, prompts), responses], axis=1)


def _before_each_token(shape: Shape, params: Params, prompts: Prompts, responses: Responses) -> Float[Array, "N H D"]:
    """States [N, H, D] that each token of the responses is predicted from."""
    states, _ = transformer.forward(shape, params, _sequence(shape, prompts, responses[:, :-1]))
    return states[:, -responses.shape[1] :]


def _scalar(shape: Shape, params: Params, states: Float[Array, "... D"]) -> Float[Array, "..."]:
    return transformer.read(shape, params, states)[..., 0]


def _check(read_out: str) -> None:
    if read_out not in ("final", "token_sum"):
        raise ValueError(f"a transformer's read_out must be 'final' or 'token_sum', got {read_out!r}.")


def _check_tree(shape: Shape, tree: TokenTree) -> None:
    if shape.vocabulary != tree.vocabulary:
        raise ValueError(f"{tree} needs a transformer of as many tokens, got a vocabulary of {shape.vocabulary}.")
    if not shape.start:
        raise ValueError("a transformer on a tree needs a start token: the first token of an empty prompt follows it.")
    if shape.tied:
        raise ValueError("a transformer on a tree must be untied: a head of zeros makes it start at the reference.")
