"""Verifier classes on token trees: reward models of a whole response, of controllable complexity.

Every class starts at a reward of 0, whose soft-optimal policy is the reference.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gvgap_jax.features import coefficient_degrees, interaction_basis, mlp, one_hot_prefixes, token_contrasts
from gvgap_jax.policies import tree_policy
from gvgap_jax.soft_rl import REVERSE_KL, Regulariser
from gvgap_jax.tree import TokenTree
from gvgap_jax.types import Count, Number, Params, PRNGKey, TreePolicy, TreeVerifier


def tree_verifier(
    tree: TokenTree,
    init: Callable[[PRNGKey], Params],
    leaf_scores: Callable[[Params], Float[Array, "X L"]],
    num_parameters: Count,
) -> TreeVerifier:
    """Verifier on a tree, from the scores of all leaves [X, L]."""

    def score(params: Params, prompts, responses):
        return tree.at(leaf_scores(params), prompts, responses)

    return TreeVerifier(init, score, num_parameters, leaf_scores)


def linear(tree: TokenTree, features: Float[Array, "X L d"]) -> TreeVerifier:
    """Reward models linear in fixed ``features`` of (prompt, response); d parameters."""
    features = jnp.asarray(features, float)
    dimension = features.shape[-1]
    return tree_verifier(tree, lambda key: jnp.zeros(dimension), lambda params: features @ params, dimension)


def interactions(tree: TokenTree, order: int) -> TreeVerifier:
    """All interactions of up to ``order`` token positions: order 1 is additive, order P + H is the full table."""
    features, _ = interaction_basis(tree, order)
    return linear(tree, jnp.asarray(features))


def nested_interactions(tree: TokenTree, order: Count) -> TreeVerifier:
    """``interactions`` whose order may be an array, so that one compiled program fits every order.

    A coefficient is stored for every combination of positions, [V**(P+H)]; those above ``order`` (and
    those that read only the prompt) do nothing and are not counted. The basis is a Kronecker product
    of one small matrix a position: scores cost L * (V**a + V**b) with a + b = P + H, not L * V**(P+H).
    """
    token_basis = np.column_stack([np.ones(tree.vocabulary), token_contrasts(tree.vocabulary)])
    length = tree.prompt_length + tree.horizon
    first, second = (
        jnp.asarray(functools.reduce(np.kron, [token_basis] * positions, np.ones((1, 1))), float)
        for positions in (length // 2, length - length // 2)
    )
    degree, reads_response = coefficient_degrees(tree)
    used = jnp.asarray(reads_response) & (jnp.asarray(degree) <= order)

    def leaf_scores(params: Params):
        coefficients = (params * used).reshape(first.shape[0], second.shape[0])
        return (first @ coefficients @ second.T).reshape(tree.prompts, tree.leaves)

    return tree_verifier(tree, lambda key: jnp.zeros(degree.shape), leaf_scores, jnp.sum(used))


def sparse(tree: TokenTree, size: int, order: int | None = None) -> TreeVerifier:
    """At most ``size`` non-zero interactions of up to ``order`` positions (all of them by default).

    All interactions are stored and the ``size`` largest count. Gradients pass the selection
    unchanged, so that an idle interaction can grow back: descent on them is iterative hard
    thresholding (Blumensath and Davies, 2009). ``num_parameters`` counts the non-zero ones.
    """
    basis, _ = interaction_basis(tree, tree.prompt_length + tree.horizon if order is None else order)
    features = jnp.asarray(basis, float)
    if not 1 <= size <= basis.shape[-1]:
        raise ValueError(
            f"sparse: size must be between 1 and the {basis.shape[-1]} interactions there are, got {size}."
        )

    def leaf_scores(params: Params):
        _, largest = jax.lax.top_k(jnp.abs(params), size)
        kept = jnp.zeros_like(params).at[largest].set(params[largest])
        return features @ (params + jax.lax.stop_gradient(kept - params))

    return tree_verifier(tree, lambda key: jnp.zeros(basis.shape[-1]), leaf_scores, size)


def automaton(tree: TokenTree, states: int) -> TreeVerifier:
    """A finite automaton that reads prompt and response token by token; the score is its expected final value.

    Parameters: transition logits [V, states, states], a softmax over the next state, and the value
    of each final state [states]. It starts in state 0.
    """
    if states < 1:
        raise ValueError(f"automaton: states must be at least 1, got {states}.")

    def init(key: PRNGKey) -> Params:
        transition = jax.random.normal(key, (tree.vocabulary, states, states))
        return {"transition": transition, "value": jnp.zeros(states)}

    def leaf_scores(params: Params):
        transition = jax.nn.softmax(params["transition"], axis=-1)
        occupancy = jnp.zeros((1, states)).at[0, 0].set(1.0)
        for _ in range(tree.prompt_length + tree.horizon):
            occupancy = jnp.einsum("ps,vst->pvt", occupancy, transition).reshape(-1, states)
        return (occupancy @ params["value"]).reshape(tree.prompts, tree.leaves)

    return tree_verifier(tree, init, leaf_scores, tree.vocabulary * states**2 + states)


def mlp_verifier(tree: TokenTree, width: int, read_out: Literal["final", "token_sum"] = "final") -> TreeVerifier:
    """One hidden layer of ``width`` tanh units over one-hot tokens.

    Read-out ``final`` scores the complete response once; ``token_sum`` adds the scores of all its
    prefixes, with the same parameters.
    """
    if read_out not in ("final", "token_sum"):
        raise ValueError(f"mlp_verifier: read_out must be 'final' or 'token_sum', got {read_out!r}.")
    inputs = (tree.prompt_length + tree.horizon) * tree.vocabulary
    init, apply = mlp(inputs, width, 1)
    depths = [tree.horizon] if read_out == "final" else range(1, tree.horizon + 1)
    encodings = [one_hot_prefixes(tree, depth) for depth in depths]

    def leaf_scores(params: Params):
        total = jnp.zeros((tree.prompts, tree.leaves))
        for encoding in encodings:
            prefix_scores = apply(params, jnp.asarray(encoding, float))[..., 0]
            total += jnp.repeat(prefix_scores, tree.leaves // prefix_scores.shape[1], axis=1)
        return total

    return tree_verifier(tree, init, leaf_scores, (inputs + 1) * width + width + 1)


def implicit_verifier(
    policy: TreePolicy,
    reference: TreePolicy,
    reference_params: Params,
    beta: Number,
    regulariser: Regulariser = REVERSE_KL,
) -> TreeVerifier:
    """R(Pi): the local reward models beta (log pi - log pi_ref) of a policy class (arXiv 2503.01067, section 2).

    Or, for another regulariser, beta f'(pi / pi_ref): fitted to pairs this is f-DPO (arXiv 2309.16240).
    """

    def score(params: Params, prompts, responses):
        reference_log_prob = reference.log_prob(reference_params, prompts, responses)
        return beta * regulariser.local_reward(policy.log_prob(params, prompts, responses) - reference_log_prob)

    def leaf_scores(params: Params):
        return beta * regulariser.local_reward(
            policy.leaf_log_probs(params) - reference.leaf_log_probs(reference_params)
        )

    return TreeVerifier(policy.init, score, policy.num_parameters, leaf_scores, unit=beta * policy.unit)


def soft_optimal_class(
    tree: TokenTree,
    verifier: TreeVerifier,
    reference: Float[Array, "X L"],
    beta: Number,
    regulariser: Regulariser = REVERSE_KL,
) -> TreePolicy:
    """Pi(R): the soft-optimal policies of a verifier class, with the verifier's own parameters (Theorem 3.1).

    Or, for another regulariser, the policies that are optimal under it.
    """

    def leaf_log_probs(params: Params):
        return regulariser.optimal(verifier.leaf_scores(params), reference, beta)

    def log_prob(params: Params, prompts, responses):
        return tree.at(leaf_log_probs(params), prompts, responses)

    by_token = tree_policy(
        tree, verifier.init, lambda params: tree.conditionals(leaf_log_probs(params)), verifier.num_parameters
    )
    return replace(by_token, leaf_log_probs=leaf_log_probs, log_prob=log_prob, unit=verifier.unit / beta)
