"""Arms of the main table: the same batches and epochs, one reward model, the same learning rates to choose from."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from experiments.kit.backends import TREE, Backend
from experiments.kit.problems import HELD_OUT_EVERY
from experiments.questions.main_table_costs import Cost
from gvgap_jax import algorithms, losses, metrics, online, optimize, policies, preferences, rollouts, soft_rl, tasks
from gvgap_jax import verifiers as reward_models
from gvgap_jax.algorithms import Classes, Problem
from gvgap_jax.tree import TokenTree
from gvgap_jax.types import Fit, HeldOut, Params, Preferences, PRNGKey, TreePolicy, TreeVerifier

BATCH = 64  # pairs, or prompts, of a gradient step
SAMPLES = 4  # responses a prompt of a round of sampled RL
ARMS = (  # in the order of the table
    *("SFT", "DPO", "DPO, 2 epochs", "online DPO from SFT", "online DPO from DPO", "online DPO, soft labels"),
    *("online DPO, iterated", "online DPO, iterated, soft labels", "RLHF, RLOO", "RLHF, PPO"),
    *("RLHF, exact", "best of n", "DPO, optimum", "RLHF, optimum", "restricted MLE, optimum"),
    "RLHF, same backbone, optimum",  # not on the tree, where it is RLHF of the highest order
)


class Program(NamedTuple):
    """What decides the compiled program: the tree, and the numbers of pairs and candidates."""

    tree: TokenTree
    pairs: int
    candidates: int

    @property
    def trained(self) -> int:
        """Pairs that are trained on."""
        return self.pairs * (HELD_OUT_EVERY - 1) // HELD_OUT_EVERY

    @property
    def rounds(self) -> int:
        """Gradient steps of an epoch."""
        return self.trained // BATCH


class Scene(NamedTuple):
    """All that the arms share, and no gold reward: sizes, problem, classes, whether SFT converged, and a key.

    ``restricted`` is Pi(R), the policies that are soft-optimal for the verifiers.
    """

    backend: Backend
    program: Program
    problem: Problem
    policy: TreePolicy
    verifier: TreeVerifier
    restricted: TreePolicy
    converged: Bool[Array, ""]
    key: PRNGKey


class Outcome(NamedTuple):
    """Where an arm ends: log-probabilities of its responses, whether all was finite, and what it cost."""

    log_policy: Float[Array, "X L"]
    converged: Bool[Array, ""]
    cost: Cost


def scene_of(program: Program, cell: dict, backend: Backend) -> tuple[Scene, tasks.Task, Float[Array, "X L"]]:
    """SFT and pairs of a row, and what its arms are judged by: task and humans' law. The seed decides them all."""
    tree = program.tree
    task_key, pairs_key, key = jax.random.split(jax.random.key(cell["seed"]), 3)
    gold = tasks.interactions(task_key, tree, cell["gold_order"])._replace(beta=cell["beta"])
    human = soft_rl.soft_optimal_policy(gold.reward, gold.reference, 1.0)
    writer = policies.markov(tree, 1)
    unread = preferences.sample(pairs_key, tree, gold, 1)
    shown = Problem(gold.known, unread, HeldOut(unread), demonstrations=jnp.exp(human) / tree.prompts)
    sft = algorithms.sft(key, Classes(writer), shown, algorithms.Settings())
    task = gold._replace(reference=writer.leaf_log_probs(sft.params))
    drawn = preferences.sample(pairs_key, tree, task, program.pairs)
    problem = Problem(task.known, *preferences.split(drawn, program.pairs, HELD_OUT_EVERY))
    verifier = reward_models.nested_interactions(tree, cell["verifier_order"])
    restricted = reward_models.soft_optimal_class(tree, verifier, task.reference, task.beta)
    policy = backend.policy(tree, tree.conditionals(task.reference))
    return Scene(backend, program, problem, policy, verifier, restricted, sft.converged, key), task, human


def tuned(
    fit: Callable[[Float[Array, ""]], Fit],
    loss: Callable[[Params, Preferences], Float[Array, ""]],
    held_out: HeldOut,
    learning_rates: tuple[float, ...],
) -> Fit:
    """The fit of the learning rate with the lowest loss on the held-out pairs."""
    fits = jax.vmap(fit)(jnp.array(learning_rates))
    return optimize.lowest(jax.vmap(lambda params: loss(params, held_out.pairs))(fits.params), fits)


def _epochs(scene: Scene, key: PRNGKey, start: Params, pairs: Preferences, loss, epochs: int, rates) -> Fit:
    """Stochastic gradient descent on batches of pairs, drawn by weight with replacement, at the best learning rate."""
    cumulative = jnp.cumsum(pairs.weight)

    def draw(key, params):
        del params
        rows = jnp.searchsorted(cumulative, cumulative[-1] * jax.random.uniform(key, (BATCH,)), side="right")
        return jax.tree.map(lambda values: values[rows], pairs)._replace(weight=jnp.ones(BATCH))

    def fit(learning_rate):
        return optimize.descend(key, start, draw, loss, learning_rate, epochs * scene.program.rounds)

    return tuned(fit, loss, scene.problem.held_out, rates)


def _local_loss(scene: Scene):
    """The offline loss of a policy's local rewards, which selects for every arm that trains a policy."""

    def loss(params, batch):
        return online.online_dpo_loss(params, batch, scene.policy, scene.problem.known.beta)

    return loss


def _dpo_fit(scene: Scene, epochs: int) -> Fit:
    start = scene.policy.init(scene.key)
    rates = scene.backend.learning_rates
    return _epochs(scene, scene.key, start, scene.problem.train, _local_loss(scene), epochs, rates)


def _reward_fit(scene: Scene) -> Fit:
    """One epoch of the reward model: as many learning rates to choose from, those of a table."""

    def loss(params, batch):
        return losses.bradley_terry(algorithms.reward_margin(params, batch, scene.verifier, 1.0), batch.weight)

    start, rates = scene.verifier.init(scene.key), TREE.learning_rates
    return _epochs(scene, scene.key, start, scene.problem.train, loss, 1, rates)


def _environment(scene: Scene, reward: Fit):
    score = partial(scene.verifier.score, reward.params)
    return tasks.environment(scene.program.tree, scene.problem.known, score)


def _scores(scene: Scene, reward: Fit) -> Float[Array, "X L"]:
    return scene.verifier.leaf_scores(reward.params)


def _ended(scene: Scene, fit: Fit, cost: Cost) -> Outcome:
    return Outcome(scene.policy.leaf_log_probs(fit.params), fit.converged, cost)


def _online_dpo(scene: Scene, start: Params, reward: Fit, labels: online.Labels, epochs_before: int = 0) -> Outcome:
    """One batch round; where pairs are neighbours, of an even number of candidates."""
    draw_key, key = jax.random.split(scene.key)
    trained, candidates = scene.program.trained, scene.program.candidates
    if labels is rollouts.by_bradley_terry:
        candidates -= candidates % 2
    rollout = rollouts.roll_out(draw_key, scene.policy, start, _environment(scene, reward), trained, candidates)
    fit = _epochs(scene, key, start, labels(rollout, 1.0), _local_loss(scene), 1, scene.backend.learning_rates)
    cost = Cost.of_reward_model(trained) + Cost.of_samples(trained * candidates)
    cost += Cost.of_dpo(trained, 1 + epochs_before)
    return _ended(scene, fit._replace(converged=fit.converged & reward.converged), cost)


def _sampled(scene: Scene, reward: Fit, method, samples: int, steps: int) -> Outcome:
    """As many responses as online DPO draws, in rounds."""
    policy, program = scene.policy, scene.program
    rounds = max(1, program.trained * program.candidates // (BATCH * SAMPLES))
    sizes = online.Sizes(rounds, BATCH * SAMPLES // samples, samples, steps)
    environment, start = _environment(scene, reward), policy.init(scene.key)

    def fit(learning_rate):
        return method(scene.key, policy, start, environment, sizes, learning_rate)

    best = tuned(fit, _local_loss(scene), scene.problem.held_out, scene.backend.learning_rates)
    cost = Cost.of_reward_model(program.trained) + Cost.of_samples(sizes.responses) + Cost.of_steps(sizes)
    return _ended(scene, best._replace(converged=best.converged & reward.converged), cost)


def _exact(scene: Scene, reward: Fit) -> Outcome:
    known, settings = scene.problem.known, scene.backend.settings
    fit = algorithms.second_stage(scene.key, scene.policy, _scores(scene, reward), known, settings)
    cost = Cost.of_reward_model(scene.program.trained) + _every_leaf(scene, fit)
    return _ended(scene, fit._replace(converged=fit.converged & reward.converged), cost)


def _best_of_n(scene: Scene, reward: Fit) -> Outcome:
    """As many answers as there are trained pairs, each the best of its candidates."""
    n, answers = scene.program.candidates, scene.program.trained
    law = metrics.best_of_n(scene.problem.known.reference, _scores(scene, reward), n)
    cost = Cost.of_reward_model(answers) + Cost.of_samples(answers * n)
    return Outcome(jnp.log(law), reward.converged, cost)


def _optimum(scene: Scene, method) -> Outcome:
    settings = scene.backend.settings
    classes = Classes(scene.policy, scene.verifier, scene.restricted)
    fit = method(scene.key, classes, scene.problem, settings)
    # At most: a Newton step is a full set of conjugate gradients, each a training pass.
    passes = fit.steps * (optimize.CG_STEPS if settings.solver == "newton" else 1)
    cost = Cost.of_passes(scene.program.trained, passes, on_rewards=method is not algorithms.dpo)
    return _ended(scene, fit, cost + (Cost() if method is algorithms.dpo else _every_leaf(scene, fit)))


def _every_leaf(scene: Scene, fit: Fit) -> Cost:
    """An exact second stage scores every response once and, where it is no closed form, trains on all in every step."""
    leaves = scene.program.tree.prompts * scene.program.tree.leaves
    closed = scene.policy.from_log_probs is not None
    return Cost(verifier_forward=leaves, policy_trained=0 if closed else leaves * fit.steps)


def arms(scene: Scene) -> dict[str, Outcome]:
    """Every row of the table; online arms share one reward model."""
    trained = scene.program.trained
    reward, offline = _reward_fit(scene), _dpo_fit(scene, 1)
    start = scene.policy.init(scene.key)
    sharp, soft = rollouts.top_against_bottom, rollouts.by_bradley_terry
    ppo = partial(online.ppo, critic=scene.backend.critic(scene.program.tree))
    outcomes = {
        "SFT": Outcome(scene.problem.known.reference, scene.converged, Cost()),
        "DPO": _ended(scene, offline, Cost.of_dpo(trained, 1)),
        "DPO, 2 epochs": _ended(scene, _dpo_fit(scene, 2), Cost.of_dpo(trained, 2)),
        "online DPO from SFT": _online_dpo(scene, start, reward, sharp),
        "online DPO from DPO": _online_dpo(scene, offline.params, reward, sharp, epochs_before=1),
        "online DPO, soft labels": _online_dpo(scene, start, reward, soft),
        "online DPO, iterated": _sampled(scene, reward, partial(online.online_dpo, labels=sharp), SAMPLES, 1),
        "online DPO, iterated, soft labels": _sampled(
            scene, reward, partial(online.online_dpo, labels=soft), SAMPLES, 1
        ),
        "RLHF, RLOO": _sampled(scene, reward, online.rloo, SAMPLES, 1),
        "RLHF, PPO": _sampled(scene, reward, ppo, 1, 2),
        "RLHF, exact": _exact(scene, reward),
        "best of n": _best_of_n(scene, reward),
        "DPO, optimum": _optimum(scene, algorithms.dpo),
        "RLHF, optimum": _optimum(scene, algorithms.rlhf),
        "restricted MLE, optimum": _optimum(scene, algorithms.restricted_mle),
    }
    if scene.backend is not TREE:
        own = scene._replace(verifier=scene.backend.verifier(scene.program.tree))
        outcomes["RLHF, same backbone, optimum"] = _optimum(own, algorithms.rlhf)
    return outcomes
