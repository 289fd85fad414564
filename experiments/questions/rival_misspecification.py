"""Is RLHF's advantage one of misspecified classes?

Such an advantage would remain for any number of pairs.
Two places where classes are too small. Three arms: policies softmax(theta, -theta, 0), every label right, but arms
compared unequally often; DPO must compromise between comparisons and its compromise depends on how often each was
made, while RLHF fits every arm's reward and then looks for the best policy of the class. Token trees: policies and
reward models are interactions up to two different orders, and either of them, both or neither can hold the gold
reward. Simple verifiers predict a gap that closes as 1/n and favours the smaller class, whichever it is; a class too
small leaves a gap that stays with infinitely many pairs, and favours the method whose estimate was not restricted.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.kit.fields import check
from experiments.kit.findings import Question
from experiments.kit.presets import disjoint
from experiments.kit.problems import HELD_OUT_EVERY, problem_of, task_of
from experiments.questions.rival_misspecification_records import CAPTIONS, POLICIES, draw, findings
from gvgap_jax import TokenTree, algorithms, complexity, metrics, preferences, tasks, verifiers
from gvgap_jax.algorithms import Classes, Problem, Settings
from gvgap_jax.soft_rl import soft_optimal_policy
from gvgap_jax.sweep import Cell, Grid
from gvgap_jax.types import HeldOut
from theory.rivals import ARMS, REWARD, comparisons

MEANING = 2
NOT_ON_TRANSFORMERS = (
    "it needs to know what a class can hold and where it ends with infinitely many pairs; of a network neither is "
    "known."
)
QUESTION = Question(
    place=80,
    label="rival",
    claim="Too small a policy class misspecifies DPO, and keeps RLHF ahead at any number of pairs.",
    reported=(
        'Gopalan et al., "Why DPO is a Misspecified Estimator and How to Fix It": in three arms compared (1, 1, 100) '
        "times DPO falls below the reference's mean reward. Shi et al. (arXiv 2505.19770): RLHF is at least as good "
        "where policies are misspecified, DPO where reward models are."
    ),
    axes=("setting", "pairs", "skew", "gold_order", "policy_order", "verifier_order"),
)

THETA = (1.0, -1.0, 0.0)  # what one parameter adds to the logits of the arms

__all__ = ["CAPTIONS", "draw", "findings"]  # its second room's, so that a question is one module


@dataclass(frozen=True)
class Config:
    """Settings of one point.

    Attributes:
      setting: ``arms``, three arms, for which nothing below ``skew`` matters, or ``tree``, for which ``skew`` does not.
      skew: comparisons of the first arm with the third, for one of each other pair of arms.
      policy_order: policies are the soft-optimal ones of all interactions of up to so many positions.
    """

    setting: str = "tree"
    pairs: int = 1024
    beta: float = 1.0
    skew: float = 100.0
    vocabulary: int = 3
    horizon: int = 4
    gold_order: int = 2
    policy_order: int = 4
    verifier_order: int = 2

    def __post_init__(self):
        check(self)


def _grid(seeds: int, arms: range, tree: range, step: int, **axes: tuple) -> Grid:
    """Pairs are powers of two from and to these exponents, ``step`` apart."""
    settings = [("arms", 2**power) for power in arms[::step]] + [("tree", 2**power) for power in tree[::step]]
    columns = dict(zip(("setting", "pairs"), zip(*settings, strict=True), strict=True))
    return Grid(columns | {"skew": (1.0, 100.0)} | axes, (("setting", "pairs"),), seeds)


PRESETS = disjoint({
    "tiny": _grid(2, range(6, 11), range(8, 9), 4, horizon=(2,), policy_order=(1, 2), verifier_order=(1, 2)),
    "quick": _grid(32, range(6, 19), range(6, 13), 2, policy_order=(1, 2, 4), verifier_order=(1, 2)),
    "standard": _grid(64, range(6, 19), range(6, 13), 2, policy_order=(1, 2, 3, 4), verifier_order=(1, 2, 3)),
    "paper": _grid(64, range(5, 21), range(5, 16), 1, policy_order=(1, 2, 3, 4), verifier_order=(1, 2, 3, 4)),
    "full": _grid(
        256, range(5, 21), range(5, 18), 1, beta=(0.5, 1.0, 2.0), skew=(0.01, 1.0, 10.0, 100.0), horizon=(5,),
        gold_order=(2, 3), policy_order=(1, 2, 3, 5), verifier_order=(1, 2, 3, 5),
    ),
})  # fmt: skip


class Program(NamedTuple):
    """What decides a compiled program: ``arms``, ``fits`` on a tree, or their ``limits``.

    ``pairs`` is the padded number that a tree's are drawn at.
    """

    table: str
    tree: TokenTree
    pairs: int


def cells(config: Config) -> list[Cell]:
    """Both classes of policies over three arms; or a point of a tree, and what infinitely many pairs lead to there.

    No cell where an order is beyond what the tree has.
    """
    numbers: dict[str, int | float] = {"beta": config.beta}
    if config.setting == "arms":
        numbers |= {"skew": config.skew, "pairs": config.pairs}
        return [Cell("arms", Program("arms", ARMS, 0), {}, numbers | {"free": free}) for free in POLICIES]
    if max(config.gold_order, config.policy_order, config.verifier_order) > config.horizon:
        return []
    tree = TokenTree(config.vocabulary, config.horizon)
    labels: dict[str, str | int] = {"vocabulary": tree.vocabulary, "horizon": tree.horizon}
    numbers |= {name: getattr(config, name) for name in ("gold_order", "policy_order", "verifier_order")}
    numbers |= {"temperature": 1.0, "reference_scale": 0.0}
    program = Program("fits", tree, preferences.padded(config.pairs, 4096))
    limit = Cell("limits", Program("limits", tree, 0), labels, numbers)
    return [Cell("fits", program, labels, numbers | {"pairs": config.pairs}), limit]


def run(program: Program, cell: dict) -> dict:
    """Both methods on one data set, or at the population that it is drawn from."""
    if program.table == "arms":
        return _arms(cell)
    tree = program.tree
    task, pairs_key, fit_key = task_of(cell, tree)
    verifier, teacher = (verifiers.nested_interactions(tree, cell[name]) for name in ("verifier_order", "policy_order"))
    policy = verifiers.soft_optimal_class(tree, teacher, task.reference, task.beta)
    if program.table == "fits":
        problem = problem_of(cell, tree, task, pairs_key, program.pairs)
        return _both_methods(fit_key, Classes(policy, verifier), problem, task)
    offline, model = (complexity.population_fit(each, each.init(fit_key), task) for each in (teacher, verifier))
    second = algorithms.second_stage(fit_key, policy, verifier.leaf_scores(model.params), task.known, Settings())
    offline_policy = soft_optimal_policy(teacher.leaf_scores(offline.params), task.reference, task.beta)
    return _measured(task, offline_policy, policy.leaf_log_probs(second.params)) | {
        "gradient_norm": jnp.maximum(jnp.maximum(offline.gradient_norm, model.gradient_norm), second.gradient_norm),
        "converged": offline.converged & model.converged & second.converged,
    }


def _arms(cell: dict) -> dict:
    """Labels of arms are counted, not listed: how often each of the six outcomes came up is all that a fit reads."""
    task = tasks.make_task(ARMS, REWARD)._replace(beta=cell["beta"])
    pairs_key, fit_key = jax.random.split(jax.random.key(cell["seed"]))
    outcomes = comparisons(jnp.stack([jnp.ones(()), jnp.ones(()), cell["skew"]]), task)
    law = outcomes.weight / jnp.sum(outcomes.weight)
    held_out = cell["pairs"] // HELD_OUT_EVERY
    sizes = jnp.stack([cell["pairs"] - held_out, held_out]).astype(law.dtype)
    train, rest = jax.vmap(jax.random.multinomial, (0, 0, None))(jax.random.split(pairs_key), sizes, law)
    problem = Problem(task.known, outcomes._replace(weight=train), HeldOut(outcomes._replace(weight=rest)))
    verifier, teacher = (verifiers.linear(ARMS, _arm_features(free)) for free in (1, cell["free"]))
    policy = verifiers.soft_optimal_class(ARMS, teacher, task.reference, task.beta)
    return _both_methods(fit_key, Classes(policy, verifier), problem, task)


def _arm_features(free) -> Float[Array, "X L d"]:
    """Features of one parameter's logits; where ``free`` is 1, of every logit besides."""
    return jnp.column_stack([jnp.array(THETA), free * jnp.eye(ARMS.leaves)])[None]


def _both_methods(key, classes: Classes, problem: Problem, task: tasks.Task) -> dict:
    offline = algorithms.dpo(key, classes, problem, Settings())
    two_stage = algorithms.rlhf(key, classes, problem, Settings())
    return _measured(task, *(classes.policy.leaf_log_probs(fit.params) for fit in (offline, two_stage))) | {
        "penalty_dpo": offline.penalty,
        "penalty_rlhf": two_stage.penalty,
        "gradient_norm": jnp.maximum(offline.gradient_norm, two_stage.gradient_norm),
        "converged": offline.converged & two_stage.converged,
    }


def _measured(task: tasks.Task, offline, two_stage) -> dict:
    """Gold reward and regret of both policies; the regret is KL to the best of all policies, in the class or not."""
    methods = {"dpo": metrics.evaluate(offline, task), "rlhf": metrics.evaluate(two_stage, task)}
    return {
        f"{name}_{method}": getattr(measured, name)
        for name in ("gold_reward", "regret")
        for method, measured in methods.items()
    }
