"""Arms of ``same_backbone``: DPO and two-stage RLHF whose policy and reward model start at one network."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from experiments.kit.problems import TRAINED
from experiments.questions.same_backbone_scenes import Scene
from gvgap_jax import algorithms, complexity, metrics, optimize, policies, prediction, verifiers
from gvgap_jax.algorithms import Classes, Method, Settings
from gvgap_jax.lm.model import nodes
from gvgap_jax.soft_rl import soft_optimal_policy
from gvgap_jax.types import Count, Fit, Number, Params, TreePolicy, TreeVerifier

DPO, FINAL, SUM, IMPLICIT, TABLE_DPO, TABLE_RLHF = ARMS = (
    "DPO",
    "RLHF, final state",
    "RLHF, token sum",
    "RLHF, implicit reward",
    "DPO, tables",
    "RLHF, tables",
)
READ_OUTS: dict[str, nodes.ReadOut] = {FINAL: "final", SUM: "token_sum"}
NETWORKS = Settings(solver="adam", adam_steps=1000, patience=50, learning_rate=3e-3, rl_tolerance=1e-4, rl_steps=400)
LEARNING_RATES = (1e-3, 3e-3, 1e-2)  # that held-out pairs choose from, in every arm
DIRECTIONS = 81  # of a tangent kernel, the largest: all of them where there is one prompt of 3**4 responses
RARE = 10  # times that a prefix occurs in the pairs that are fitted, on average
HEAD, LAST, ALL = TRAIN = ("head", "last layer", "all")  # what is trained, of policy and reward model alike


Scores = Callable[[Params], Float[Array, "X L"]]


class Outcome(NamedTuple):
    """Where an arm ends.

    Attributes:
      log_policy: [X, L], of its policy.
      exact: [X, L], of the policy that is optimal for its reward, where a second stage over every policy ends.
      fit: of the pairs.
      scores: parameters -> rewards of all leaves [X, L], of the class that is fitted to pairs; None for tables.
      start: parameters that the fit started at.
    """

    log_policy: Float[Array, "X L"]
    exact: Float[Array, "X L"]
    fit: Fit
    scores: Scores | None = None
    start: Params = ()


def arms(scene: Scene, trained: Count) -> dict[str, Outcome]:
    """Every arm, on the same pairs; ``trained`` counts what moves, as in ``TRAIN``."""
    policy = policy_of(scene, trained)
    implicit = verifiers.implicit_verifier(policy, policy, scene.start, scene.task.beta)
    offline = tuned(algorithms.dpo, Classes(policy), scene)
    learned = {arm: reward_model_of(scene, trained, read_out) for arm, read_out in READ_OUTS.items()}
    found = _tables(scene) | {DPO: _offline(policy, offline, implicit.leaf_scores, scene.start)}
    return found | _two_stage(scene, policy, learned | {IMPLICIT: implicit})


def policy_of(scene: Scene, trained: Count) -> TreePolicy:
    """Policies of the scene's network, which start at the reference policy."""
    shape, tree = scene.program.shape, scene.program.tree

    def logits(params: Params):
        moving = held(params, trained)
        return nodes.logits(shape, moving, nodes.states(shape, moving, scene.prompts, tree.horizon)[:-1])

    size = sum(leaf.size for leaf in jax.tree.leaves(scene.start))
    return policies.tree_policy(tree, lambda key: scene.start, logits, size, scene.base)


def reward_model_of(scene: Scene, trained: Count, read_out: nodes.ReadOut) -> TreeVerifier:
    """Reward models of the scene's network, whose scalar head starts at 0."""
    shape, tree = scene.program.shape, scene.program.tree
    start = scene.start | {"head": jnp.zeros((shape.width, 1), shape.param_dtype)}

    def leaf_scores(params: Params):
        moving = held(params, trained)
        at = nodes.states(shape, moving, scene.prompts, tree.horizon)
        return nodes.scores(shape, moving, at, read_out).astype(float)

    size = sum(leaf.size for leaf in jax.tree.leaves(start))
    return verifiers.tree_verifier(tree, lambda key: start, leaf_scores, size)


def held(params: Params, trained: Count) -> Params:
    """The parameters, of which those that are not trained have no gradient."""

    def of(path, leaf):
        name = path[0].key
        if name == "head":
            return leaf
        moves = jnp.asarray(trained == TRAIN.index(ALL))
        if name == "blocks":
            last = jnp.arange(len(leaf)) == len(leaf) - 1
            moves = (moves | last & (trained >= TRAIN.index(LAST))).reshape(-1, *[1] * (leaf.ndim - 1))
        return jnp.where(moves, leaf, jax.lax.stop_gradient(leaf))

    return jax.tree.map_with_path(of, params)


def tuned(method: Method, classes: Classes, scene: Scene) -> Fit:
    """The fit of the learning rate with the lowest loss on held-out pairs."""

    def fit(learning_rate: Number) -> Fit:
        settings = dataclasses.replace(NETWORKS, learning_rate=learning_rate)
        return method(scene.key, classes, scene.problem, settings)

    # One after another: the smallest learning rate takes the most steps, and the others would wait for it.
    fits = jax.lax.map(fit, jnp.array(LEARNING_RATES))
    return optimize.lowest(fits.held_out_loss, fits)


def _offline(policy: TreePolicy, fit: Fit, scores: Scores | None = None, start: Params = ()) -> Outcome:
    log_policy = policy.leaf_log_probs(fit.params)
    return Outcome(log_policy, log_policy, fit, scores, start)


def _two_stage(scene: Scene, policy: TreePolicy, read: dict[str, TreeVerifier]) -> dict[str, Outcome]:
    """RLHF with each reward model; the second stage is one loop, whichever reward it is given."""
    known = scene.problem.known
    fits = {arm: tuned(algorithms.reward_model, Classes(policy, verifier), scene) for arm, verifier in read.items()}
    rewards = jnp.stack([verifier.leaf_scores(fits[arm].params) for arm, verifier in read.items()])

    def second_stage(reward):
        return policy.leaf_log_probs(algorithms.second_stage(scene.key, policy, reward, known, NETWORKS).params)

    found = {}
    for log_policy, reward, (arm, verifier) in zip(
        jax.lax.map(second_stage, rewards), rewards, read.items(), strict=True
    ):
        scores = None if arm == IMPLICIT else verifier.leaf_scores  # its theory is DPO's
        exact = soft_optimal_policy(reward, known.reference, known.beta)
        found[arm] = Outcome(log_policy, exact, fits[arm], scores, verifier.init(scene.key))
    return found


def _tables(scene: Scene) -> dict[str, Outcome]:
    """Both methods over all policies and all rewards: what no network has a part in."""
    tree, known = scene.program.tree, scene.problem.known
    policy = policies.tabular(tree, tree.conditionals(known.reference))
    verifier = verifiers.nested_interactions(tree, tree.prompt_length + tree.horizon)
    found = {}
    for arm, method in ((TABLE_DPO, algorithms.dpo), (TABLE_RLHF, algorithms.rlhf)):
        found[arm] = _offline(policy, method(scene.key, Classes(policy, verifier), scene.problem, Settings()))
    return found


def measured(scene: Scene, outcomes: dict[str, Outcome], pairs: Number) -> dict[str, dict[str, Array]]:
    """Columns of every arm: its regret, that of the policy its reward asks for, its fit, and what theory says of it."""
    theory = predicted(scene, outcomes, pairs)
    return {
        arm: {
            "regret": metrics.evaluate(outcome.log_policy, scene.task).regret,
            "rare_regret": rare_regret(outcome.log_policy, scene, TRAINED * pairs),
            "exact_regret": metrics.evaluate(outcome.exact, scene.task).regret,
            "held_out_loss": outcome.fit.held_out_loss,
            "steps": outcome.fit.steps,
        }
        | theory.get(arm, {})
        for arm, outcome in outcomes.items()
    }


def predicted(scene: Scene, outcomes: dict[str, Outcome], pairs: Number) -> dict[str, dict[str, Array]]:
    """The typical regret of each network's arm, in nats, by the law of few pairs; 0 where it does not trust itself.

    For rewards linear in tangent features: at the start (``law``), and where the fit ended (``law_after``).
    """
    read = {arm: scores for arm, outcome in outcomes.items() if (scores := outcome.scores) is not None}
    features = []
    for arm, scores in read.items():
        both = jax.tree.map(lambda *leaves: jnp.stack(leaves), outcomes[arm].start, outcomes[arm].fit.params)
        of = functools.partial(complexity.tangent_features, scores, directions=DIRECTIONS)
        features.append(jax.lax.map(of, both))
    counts = jnp.atleast_1d(pairs)

    def law(features):
        fitted = prediction.of_features(features)
        found = prediction.predict(fitted, scene.task, TRAINED * counts, (1 - TRAINED) * counts)
        return jnp.where(found.trusted & jnp.isfinite(found.typical), found.typical, 0.0)[0]

    said = jax.lax.map(law, jnp.concatenate(features)).reshape(len(read), 2)
    return {arm: {"law": one, "law_after": other} for arm, (one, other) in zip(read, said, strict=True)}


def rare_regret(log_policy: Float[Array, "X L"], scene: Scene, pairs: Number) -> Float[Array, ""]:
    """The part of a policy's regret, in nats, that arises after prefixes which are rare in so many ``pairs``.

    By the chain rule regret is a sum over prefixes of the policy's probability of the prefix times the divergence of
    its next token. Rare are those that both sides of all pairs together hold fewer than ``RARE`` times on average.
    """
    tree, task = scene.program.tree, scene.task
    levels = [tree.conditionals(each) for each in (log_policy, task.optimal, task.reference)]
    own, seen, total = (jnp.zeros((tree.prompts, 1)) for _ in range(3))
    for policy, optimal, reference in zip(*levels, strict=True):
        divergence = jnp.sum(jnp.exp(policy) * (policy - optimal), axis=-1)
        count = 2 * pairs * task.prompt_probs[:, None] * jnp.exp(seen)
        rare = jnp.where(count < RARE, jnp.exp(own) * divergence, 0.0)
        total = total + jnp.sum(rare, axis=1, keepdims=True)
        own, seen = (
            (prefix[..., None] + level).reshape(tree.prompts, -1)
            for prefix, level in ((own, policy), (seen, reference))
        )
    return jnp.sum(task.prompt_probs * total[:, 0])


def converged(outcomes: dict[str, Outcome]) -> Bool[Array, ""]:
    """Whether every policy is finite, and tables are solved.

    Networks have a budget of steps, and the best of them by held-out pairs.
    """
    finite = [jnp.all(jnp.isfinite(outcome.log_policy)) for outcome in outcomes.values()]
    solved = [outcomes[arm].fit.converged for arm in (TABLE_DPO, TABLE_RLHF)]
    return jnp.all(jnp.stack(finite + solved))
