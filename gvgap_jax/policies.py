"""Policy classes on token trees, from every policy (tabular) down to a few parameters.

Every class adds its logits to ``base``, H levels of reference logits (uniform if left out), so that zero
parameters, and the initial ones, are the reference policy, as in fine-tuning. Classes other than
``tabular`` share their parameters across prompts, which they read as tokens.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gvgap_jax.features import mlp, one_hot_prefixes
from gvgap_jax.tree import Levels, TokenTree
from gvgap_jax.types import Count, Critic, Params, PRNGKey, TreePolicy


def tree_policy(
    tree: TokenTree,
    init: Callable[[PRNGKey], Params],
    logits: Callable[[Params], Levels],
    num_parameters: Count,
    base: Levels | None = None,
    from_log_probs: Callable[[Float[Array, "X L"]], Params] | None = None,
) -> TreePolicy:
    """Policy on a tree, from its levels of logits [X, V**h, V]: everything else about it follows from them."""
    if base is not None:
        tree.check_levels(base)

    def full_logits(params: Params) -> Levels:
        levels = logits(params)
        return levels if base is None else tuple(b + level for b, level in zip(base, levels, strict=True))

    def leaf_log_probs(params: Params):
        return tree.leaf_log_probs(full_logits(params))

    def log_prob(params: Params, prompts, responses):
        return tree.at(leaf_log_probs(params), prompts, responses)

    def token_log_probs(params: Params, prompts, responses):
        return tree.along(tuple(jax.nn.log_softmax(level) for level in full_logits(params)), prompts, responses)

    def sample(key: PRNGKey, params: Params, prompts):
        rows = tree.prompt_index(prompts)
        prefix, tokens = jnp.zeros_like(rows), []
        for level, step_key in zip(full_logits(params), jax.random.split(key, tree.horizon), strict=True):
            token = jax.random.categorical(step_key, level[rows, prefix])
            prefix = prefix * tree.vocabulary + token
            tokens.append(token)
        return jnp.stack(tokens, axis=-1)

    return TreePolicy(init, log_prob, token_log_probs, sample, num_parameters, leaf_log_probs, from_log_probs)


def tabular(tree: TokenTree, base: Levels | None = None) -> TreePolicy:
    """Every policy: one logit for each (prompt, prefix, token), starting at the reference."""

    def init(key: PRNGKey) -> Params:
        del key
        return tuple(jnp.zeros(shape) for shape in tree.level_shapes)

    def from_log_probs(log_probs: Float[Array, "X L"]) -> Params:
        levels = tree.conditionals(log_probs)
        return levels if base is None else tuple(level - b for level, b in zip(levels, base, strict=True))

    size = sum(prompts * prefixes * tokens for prompts, prefixes, tokens in tree.level_shapes)
    return tree_policy(tree, init, lambda params: params, size, base, from_log_probs)


def markov(tree: TokenTree, order: int, base: Levels | None = None) -> TreePolicy:
    """Policies whose logits read the position and the last ``order`` tokens of (prompt, prefix).

    Raises:
      ValueError: ``order`` is negative.
    """
    if order < 0:
        raise ValueError(f"markov: order must be at least 0 tokens, got {order}.")
    contexts = [tree.vocabulary ** min(order, tree.prompt_length + depth) for depth in range(tree.horizon)]

    def init(key: PRNGKey) -> Params:
        del key
        return tuple(jnp.zeros((rows, tree.vocabulary)) for rows in contexts)

    def logits(params: Params) -> Levels:
        levels = []
        for depth, table in enumerate(params):
            prefixes = tree.vocabulary**depth
            repeated = jnp.tile(table, (tree.prompts * prefixes // table.shape[0], 1))
            levels.append(repeated.reshape(tree.prompts, prefixes, tree.vocabulary))
        return tuple(levels)

    return tree_policy(tree, init, logits, sum(contexts) * tree.vocabulary, base)


def nested_markov(tree: TokenTree, order: Count, base: Levels | None = None) -> TreePolicy:
    """``markov`` whose order may be an array, so that one compiled program fits every order.

    A row of logits is stored for every (prompt, prefix); those beyond the contexts of ``order`` tokens do nothing
    and are not counted.
    """
    lengths = [tree.prompt_length + depth for depth in range(tree.horizon)]
    contexts = [tree.vocabulary ** jnp.minimum(order, length) for length in lengths]

    def init(key: PRNGKey) -> Params:
        del key
        return tuple(jnp.zeros((tree.vocabulary**length, tree.vocabulary)) for length in lengths)

    def logits(params: Params) -> Levels:
        levels = zip(params, contexts, tree.level_shapes, strict=True)
        return tuple(table[jnp.arange(table.shape[0]) % rows].reshape(shape) for table, rows, shape in levels)

    return tree_policy(tree, init, logits, sum(contexts) * tree.vocabulary, base)


def linear(
    tree: TokenTree, features: tuple[Float[Array, "X prefixes V d"], ...], base: Levels | None = None
) -> TreePolicy:
    """Policies with logits linear in ``features`` of (prompt, prefix, next token), one array a level; d parameters."""
    dimension = features[0].shape[-1]

    def init(key: PRNGKey) -> Params:
        del key
        return jnp.zeros(dimension)

    return tree_policy(tree, init, lambda params: tuple(level @ params for level in features), dimension, base)


def mlp_policy(tree: TokenTree, width: int, base: Levels | None = None) -> TreePolicy:
    """Policies whose logits come from one hidden layer of ``width`` tanh units, read from one-hot prompt and prefix."""
    inputs = (tree.prompt_length + tree.horizon) * tree.vocabulary
    init, apply = mlp(inputs, width, tree.vocabulary)
    encodings = [one_hot_prefixes(tree, depth) for depth in range(tree.horizon)]

    def logits(params: Params) -> Levels:
        return tuple(apply(params, jnp.asarray(encoding, float)) for encoding in encodings)

    size = (inputs + 1) * width + (width + 1) * tree.vocabulary
    return tree_policy(tree, init, logits, size, base)


def tabular_critic(tree: TokenTree) -> Critic:
    """Every value function: one value for each (prompt, prefix), starting at 0."""

    def init(key: PRNGKey) -> Params:
        del key
        return tuple(jnp.zeros((prompts, prefixes, 1)) for prompts, prefixes, _ in tree.level_shapes)

    def values(params: Params, prompts, responses):
        levels = tuple(jnp.broadcast_to(level, shape) for level, shape in zip(params, tree.level_shapes, strict=True))
        return tree.along(levels, prompts, responses)

    return Critic(init, values, sum(prompts * prefixes for prompts, prefixes, _ in tree.level_shapes))
