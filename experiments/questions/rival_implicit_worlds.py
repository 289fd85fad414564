"""Two worlds in which a policy's own reward is judged: single tokens that say their group, and Hamiltonian cycles."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from experiments.kit.backends import TREE, Backend
from experiments.kit.problems import problem_of
from gvgap_jax import TokenTree, algorithms, complexity, metrics, policies, verifiers
from gvgap_jax.tasks import Task
from gvgap_jax.types import Fit, TreePolicy, TreeVerifier

TIE = 1e-4  # log odds below which a margin is rounding
ABSENT = 1e-12  # probability of a token outside of a half: its logarithm must be finite


class Program(NamedTuple):
    """What decides a compiled program: the part and arm, the tree, hidden features of a prompt, padded pairs."""

    arm: str
    tree: TokenTree
    features: int
    pairs: int


def groups(vocabulary: int) -> tuple[Float[Array, "V"], Bool[Array, "V"]]:
    """Sign of each token's group, and whether it is among the tested half; both halves have both groups."""
    token = jnp.arange(vocabulary)
    return 1.0 - 2.0 * (token % 2), token >= vocabulary // 2


def embeddings(group: Float[Array, "V"], similarity) -> Float[Array, "V V"]:
    """Symmetric square root of (1 - similarity) I + similarity s s': unit rows, cosine +-similarity by group."""
    vocabulary = group.shape[0]
    own, common = jnp.sqrt(1 - similarity), jnp.sqrt(1 - similarity + similarity * vocabulary)
    return own * jnp.eye(vocabulary) + (common - own) / vocabulary * group[:, None] * group[None, :]


def single_tokens(cell: dict, tree: TokenTree, features: int) -> tuple[Task, Float[Array, "X k"]]:
    """Gold reward +-margin/2 of one-token answers at beta 1, and the hidden features of the prompts."""
    group, _ = groups(tree.vocabulary)
    right = 1.0 - 2.0 * (jnp.arange(tree.prompts) % 2)
    others = jax.random.normal(jax.random.key(cell["seed"]), (tree.prompts, features - 1))
    reward = cell["margin"] / 2 * right[:, None] * group[None, :]
    uniform = jnp.full(reward.shape, -jnp.log(tree.leaves))
    one = jnp.ones(())
    task = Task(reward, uniform, jnp.full(tree.prompts, 1 / tree.prompts), one, one)
    return task, jnp.concatenate([right[:, None], others], axis=-1)


def hidden(prompts: Float[Array, "X k"], tokens: Float[Array, "V e"]) -> Float[Array, "X V d"]:
    """Features of (prompt, token): products of those of the prompt and of the token's embedding, d = k * e."""
    return jnp.einsum("xk,ye->xyke", prompts, tokens).reshape(prompts.shape[0], tokens.shape[0], -1)


def accuracy(score: Float[Array, "X L"], task: Task, judged: Bool[Array, "L"]) -> Float[Array, ""]:
    """Share of the pairs of judged answers of unequal gold reward that a score ranks right; a tie counts one half."""
    margin = score[:, :, None] - score[:, None, :]
    margin = jnp.where(jnp.abs(margin) < TIE, 0.0, margin)
    better = (task.reward[:, :, None] > task.reward[:, None, :]) & judged[None, :, None] & judged[None, None, :]
    return metrics.pair_accuracy(margin.reshape(-1), better.reshape(-1).astype(margin.dtype))


def judge_tokens(program: Program, cell: dict, backend: Backend) -> dict:
    """Accuracy of one reward model on the trained and on the tested half of the tokens, and its dimensions."""
    tree = program.tree
    _, tested = groups(tree.vocabulary)
    task, prompts = single_tokens(cell, tree, max(1, program.features))
    share = jnp.where(tested, cell["test_share"], 1 - cell["test_share"]) / (tree.vocabulary / 2)
    coverage = jnp.tile(jnp.log(share)[None], (tree.prompts, 1))
    pairs_key, fit_key = jax.random.split(jax.random.fold_in(jax.random.key(cell["seed"]), 1))
    problem = problem_of(cell, tree, task, pairs_key, program.pairs, coverage)
    classes = _fixed_features(tree, prompts, cell) if backend is TREE else _transformers(tree, backend)
    verifier, fit = _reward_model(program.arm, *classes, fit_key, problem, tree, backend)
    score = verifier.leaf_scores(fit.params)
    measured = {
        "accuracy_trained": accuracy(score, task, ~tested),
        "accuracy_tested": accuracy(score, task, tested),
        "num_parameters": jnp.asarray(verifier.num_parameters),
        "penalty": fit.penalty,
        "converged": fit.converged,
    }
    return measured | _dimensions(verifier, fit, task, tested, coverage) if backend is TREE else measured


def _dimensions(verifier: TreeVerifier, fit: Fit, task: Task, tested: Bool[Array, "L"], coverage) -> dict:
    """Effective dimensions of a class with fixed features, on either half of the tokens."""
    gradients = complexity.reward_gradients(verifier, fit.params)
    halves = {
        name: task._replace(reference=jnp.tile(_log_uniform(inside)[None], (task.reward.shape[0], 1)))
        for name, inside in (("trained", ~tested), ("tested", tested))
    }
    return {
        "effective_dimension_trained": complexity.effective_dimension(gradients, halves["trained"]),
        # Its reciprocal, because no pair reveals an unseen token to a class that holds a value for each: infinity.
        "inverse_dimension_tested": 1 / complexity.effective_dimension(gradients, halves["tested"], coverage),
    }


def _fixed_features(tree: TokenTree, prompts: Float[Array, "X k"], cell: dict) -> tuple[TreePolicy, TreeVerifier]:
    """A policy with a row a token, and a head on features of prompt and token."""
    group, _ = groups(tree.vocabulary)
    policy = policies.linear(tree, (hidden(prompts, jnp.eye(tree.vocabulary))[:, None],))
    return policy, verifiers.linear(tree, hidden(prompts, embeddings(group, cell["similarity"])))


def _transformers(tree: TokenTree, backend: Backend) -> tuple[TreePolicy, TreeVerifier]:
    uniform = policies.tabular(tree)
    return backend.policy(tree, uniform.init(jax.random.key(0))), backend.verifier(tree)


def _reward_model(
    arm: str, policy: TreePolicy, verifier: TreeVerifier, key, problem, tree: TokenTree, backend: Backend
) -> tuple[TreeVerifier, Fit]:
    """The arm's class of reward models and its fit."""
    classes = algorithms.Classes(policy, verifier)
    if arm == "implicit":
        fit, uniform = algorithms.dpo(key, classes, problem, backend.settings), policies.tabular(tree)
        return verifiers.implicit_verifier(policy, uniform, uniform.init(key), 1.0), fit
    return verifier, algorithms.reward_model(key, classes, problem, backend.settings)


def _log_uniform(inside: Bool[Array, "L"]) -> Float[Array, "L"]:
    return jax.nn.log_softmax(jnp.where(inside, 0.0, jnp.log(ABSENT)))


def hamiltonian(tree: TokenTree, order: Array) -> Bool[Array, "L"]:
    """Which responses walk once around the cycle that visits the vertices in ``order`` [V], either way."""
    _, responses = tree.rows()
    position = jnp.argsort(order)[responses]
    steps = (jnp.roll(position, -1, axis=-1) - position) % tree.vocabulary
    forwards, backwards = (jnp.all(steps == step, axis=-1) for step in (1, tree.vocabulary - 1))
    return forwards | backwards


def judge_cycles(program: Program, cell: dict, backend: Backend) -> dict:
    """Accuracy of one policy's own reward on cycles, and the probability that it writes one."""
    tree = program.tree
    graph_key, pairs_key, fit_key = jax.random.split(jax.random.key(cell["seed"]), 3)
    correct = hamiltonian(tree, jax.random.permutation(graph_key, tree.vocabulary))
    share = jnp.where(correct, cell["reference_mass"] / jnp.sum(correct), 0.0)
    reference = jnp.log(jnp.where(correct, share, (1 - cell["reference_mass"]) / jnp.sum(~correct)))[None]
    coverage = jnp.log(jnp.where(correct, 0.5 / jnp.sum(correct), 0.5 / jnp.sum(~correct)))[None]
    reward = cell["margin"] * correct[None].astype(reference.dtype)
    task = Task(reward, reference, jnp.ones(1), cell["beta"], jnp.ones(()))
    problem = problem_of(cell, tree, task, pairs_key, program.pairs, coverage)
    policy = backend.policy(tree, tree.conditionals(reference))
    checker = verifiers.linear(tree, correct[None, :, None].astype(reference.dtype))
    method = algorithms.dpo if program.arm == "DPO" else algorithms.rlhf
    fit = method(fit_key, algorithms.Classes(policy, checker), problem, backend.settings)
    log_policy = policy.leaf_log_probs(fit.params)

    def mass(log_probs):
        return jnp.sum(jnp.where(correct[None], jnp.exp(log_probs), 0.0))

    return {
        "accuracy": accuracy(task.beta * (log_policy - reference), task, jnp.ones_like(correct)),
        "mass": mass(log_policy),
        "mass_gold": mass(task.optimal),
        "regret": metrics.evaluate(log_policy, task).regret,
        "penalty": fit.penalty,
        "converged": fit.converged,
    }
