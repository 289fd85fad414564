"""Where does reinforcement learning pay?

The gap in regret between offline DPO and two-stage RLHF is measured point by point.
Points vary the number of pairs, how complex the gold reward, the reward models and the policies are, the
horizon and beta. Both arms get the same task, pairs, held-out fifth and candidate penalties. Every point
carries its prediction from theory alone: by the law of few pairs (``gvgap_jax.prediction``), and by its limit of many
pairs, d_eff / (2n), with n pairs and the effective dimension d_eff of the class that is fitted, and the regret that a
class too small cannot get under. So the records say where the theory is right, where it is wrong, and where it says
nothing. Regret is KL(policy || soft-optimal policy of the gold reward).
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import polars as pl

from experiments.kit import few_pairs
from experiments.kit.fields import check
from experiments.kit.findings import REGRET, Finding, Question, answered, equality
from experiments.kit.intervals import Estimate, estimate, geometric
from experiments.kit.per_seed import by_seed
from experiments.kit.presets import disjoint
from experiments.kit.problems import METHODS, problem_of, record_of, task_of
from experiments.questions.phase_diagram_figures import CAPTIONS, draw
from experiments.questions.phase_diagram_records import FACTOR, IN_RANGE, SAME_CLASS, collapse, gaps
from gvgap_jax import TokenTree, algorithms, complexity, metrics, policies, preferences, tasks, verifiers
from gvgap_jax.sweep import Cell, Grid
from gvgap_jax.types import TreePolicy, TreeVerifier

MEANING = 2
NOT_ON_TRANSFORMERS = (
    "its points stand beside what theory predicts of classes with fixed features; on networks h6b_horizon, "
    "h6c_verifier_order and sample_complexity measure the gap."
)
QUESTION = Question(
    place=64,
    label="H6",
    claim="RL pays exactly where reward models are simpler than policies and hold the gold reward.",
    reported='arXiv 2503.01067 shows single points of this diagram and never defines "simple".',
    axes=("task", "horizon", "gold_order", "verifier_order", "policy", "policy_order", "pairs", "beta"),
)
__all__ = ["CAPTIONS", "draw"]  # its second room's, so that a question is one module
SMALLEST = 4096  # size that numbers of pairs are padded to
MOST_RESPONSES = 256  # of trees that the law of few pairs is asked of: it takes seconds a point where there are more

AT_DATA = ("interactions", "sparse")  # families of gold rewards whose complexity may be an array


@dataclass(frozen=True)
class Config:
    """One point of the diagram.

    Attributes:
      vocabulary: tokens of the vocabulary (V).
      horizon: tokens of a response (H); the tree has V**H responses.
      task: family of the gold reward, a name in ``gvgap_jax.tasks.TASKS``.
      gold_order: complexity of the gold reward: the order of its interactions, or what its family counts.
      policy: ``tabular``, every policy, or ``interactions``, the soft-optimal policies of all interactions
        of up to ``policy_order`` positions.
      policy_order: read where policies are ``interactions``.
      verifier_order: reward models are all interactions of up to so many positions.
      pairs: labelled pairs, a fifth of which is held out for selection.
      beta: strength of the KL regularisation, reward per nat.
      temperature: noise of the labels: P(first preferred) = sigmoid(difference of gold rewards / temperature).
      reference_scale: standard deviation of the reference policy's logits; 0 is uniform.
    """

    vocabulary: int = 3
    horizon: int = 4
    task: str = "interactions"
    gold_order: int = 1
    verifier_order: int = 1
    policy: str = "tabular"
    policy_order: int = 1
    pairs: int = 2048
    beta: float = 1.0
    temperature: float = 1.0
    reference_scale: float = 0.0

    def __post_init__(self):
        tasks.task_family(self.task)
        check(self)


def _policies(tabular: tuple[int, ...], interactions: tuple[int, ...]) -> dict[str, tuple]:
    """Zipped axes of the horizons with tabular policies, and of those with interactions of every order."""
    rows = [(horizon, "tabular", 1) for horizon in tabular]
    rows += [(horizon, "interactions", order) for horizon in interactions for order in range(1, horizon + 1)]
    return dict(zip(("horizon", "policy", "policy_order"), zip(*rows, strict=True), strict=True))


def _grid(seeds: int, tabular: tuple[int, ...], interactions: tuple[int, ...], **axes: tuple) -> Grid:
    return Grid(_policies(tabular, interactions) | axes, (("horizon", "policy", "policy_order"),), seeds)


_SMALL = {
    "tabular": (2, 4),
    "interactions": (4,),
    "gold_order": (1, 2, 3, 4),
    "verifier_order": (1, 2, 3, 4),
}
PRESETS = disjoint(
    {
        "tiny": _grid(2, tabular=(2,), interactions=(2,), gold_order=(1, 2), verifier_order=(1, 2), pairs=(64, 1024)),
        "quick": _grid(16, **_SMALL, pairs=(64, 512, 4096)),
        "standard": _grid(24, **_SMALL, pairs=(64, 256, 1024, 4096), beta=(0.5, 1.0, 2.0), reference_scale=(0.0, 1.5)),
        "paper": _grid(
            24,
            tabular=(2, 4, 6),
            interactions=(4,),
            task=("interactions", "sparse", "automaton", "token_counts"),
            gold_order=(1, 2, 3, 4),
            verifier_order=(1, 2, 3, 4, 6),
            pairs=tuple(2**power for power in range(6, 13)),
            beta=(0.5, 1.0, 2.0),
        ),
        "full": _grid(
            64,
            tabular=(2, 3, 4, 5, 6),
            interactions=(4, 5),
            task=("interactions", "sparse", "automaton", "token_counts"),
            gold_order=(1, 2, 3, 4, 5, 6),
            verifier_order=(1, 2, 3, 4, 5, 6),
            pairs=tuple(2**power for power in range(5, 16)),
            beta=(0.25, 0.5, 1.0, 2.0, 4.0),
            reference_scale=(0.0, 1.0),
        ),
    }
)


class Program(NamedTuple):
    """What decides a compiled program.

    Attributes:
      arm: ``DPO`` or ``RLHF``, or ``limits`` for what theory says of many pairs.
      policy: the class of the policies.
      tree: the responses.
      pairs: the padded number of pairs.
      task: family of the gold reward.
      complexity: of the gold reward, where its family does not take an array.
    """

    arm: str
    policy: str
    tree: TokenTree
    pairs: int
    task: str
    complexity: int | None


class Law(NamedTuple):
    """What decides a compiled prediction: the order of the reward models or policies, 0 for all policies; the task."""

    order: int
    tree: TokenTree
    task: str
    complexity: int | None


def cells(config: Config) -> list[Cell]:
    """Both arms of a point and their predictions; none where an order is beyond what the tree has.

    Where the policies hold every soft-optimal policy of the reward models, the second stage of RLHF is
    lossless and does not depend on them: it is the closed form of tabular policies, one cell for them all.
    """
    tree = TokenTree(config.vocabulary, config.horizon)
    policy_order = config.horizon if config.policy == "tabular" else config.policy_order
    if max(policy_order, config.verifier_order) > config.horizon or config.gold_order not in _complexities(config):
        return []
    lossless = policy_order >= config.verifier_order
    second_stage = ("tabular", config.horizon) if lossless else ("interactions", policy_order)
    made = [
        _cell(config, tree, "DPO", (config.policy, policy_order), 0),
        _cell(config, tree, "RLHF", second_stage, config.verifier_order),
        _cell(config, tree, "limits", ("tabular", config.horizon), policy_order),
        _cell(config, tree, "limits", second_stage, config.verifier_order),
    ]
    if tree.leaves <= MOST_RESPONSES:
        made.append(_law(config, tree, 0 if config.policy == "tabular" else policy_order))
        made += [_law(config, tree, config.verifier_order)] * lossless
    return made


def _law(config: Config, tree: TokenTree, order: int) -> Cell:
    task = numbers_of_task(config)
    law = Law(order, tree, config.task, None if config.task in AT_DATA else config.gold_order)
    labels: dict[str, str | int] = {"task": config.task, "vocabulary": tree.vocabulary, "horizon": tree.horizon}
    return Cell("predictions", law, labels, task | {"order": order, "pairs": config.pairs})


def numbers_of_task(config: Config) -> dict[str, int | float]:
    """The settings that decide a point's task, besides its tree and its family."""
    return {name: getattr(config, name) for name in ("gold_order", "beta", "temperature", "reference_scale")}


def _complexities(config: Config) -> range:
    """What gold_order can be for the family on this tree; an automaton of one state cannot tell responses apart."""
    return {
        "interactions": range(1, config.horizon + 1),
        "sparse": range(1, config.vocabulary**config.horizon),
        "automaton": range(2, config.vocabulary**config.horizon + 1),
        "token_counts": range(1, config.vocabulary + 1),
    }[config.task]


def _cell(config: Config, tree: TokenTree, arm: str, policy: tuple[str, int], verifier_order: int) -> Cell:
    kind, policy_order = policy
    fitted = arm in METHODS
    padded = preferences.padded(config.pairs, SMALLEST) if fitted else 0
    program = Program(arm, kind, tree, padded, config.task, None if config.task in AT_DATA else config.gold_order)
    labels = {"task": config.task, "vocabulary": tree.vocabulary, "horizon": tree.horizon, "arm": arm, "policy": kind}
    numbers = numbers_of_task(config) | {"policy_order": policy_order, "verifier_order": verifier_order}
    if not fitted:
        return Cell("dimensions", program, labels, numbers)
    return Cell("fits", program, labels, numbers | {"pairs": config.pairs})


def run(program: Program | Law, cell: dict) -> dict:
    """One fit of one arm, or the prediction of one class, as scalars."""
    tree = program.tree
    task, pairs_key, fit_key = task_of(cell, tree, program.task, program.complexity)
    if isinstance(program, Law):
        return few_pairs.predicted(few_pairs.fitted(tree, task, program.order), task, cell["pairs"])
    verifier = verifiers.nested_interactions(tree, cell["verifier_order"])
    policy = policies.tabular(tree, tree.conditionals(task.reference))
    if program.policy == "interactions":
        teacher = verifiers.nested_interactions(tree, cell["policy_order"])
        policy = verifiers.soft_optimal_class(tree, teacher, task.reference, task.beta)
    if program.arm == "limits":
        return _prediction(fit_key, tree, policy, verifier, task, cell["policy_order"])
    problem = problem_of(cell, tree, task, pairs_key, program.pairs)
    fit = METHODS[program.arm](fit_key, algorithms.Classes(policy, verifier), problem, algorithms.Settings())
    measured = metrics.evaluate(policy.leaf_log_probs(fit.params), task)
    return measured._asdict() | record_of(fit)


def _prediction(
    key, tree: TokenTree, policy: TreePolicy, verifier: TreeVerifier, task: tasks.Task, policy_order
) -> dict:
    """d_eff of a two-stage arm at the gold reward, its regret with infinitely many pairs, and the reference's."""
    start = verifier.init(key)
    limit = complexity.population_fit(verifier, start, task)
    reward = verifier.leaf_scores(limit.params)
    projected = algorithms.second_stage(key, policy, reward, task.known, algorithms.Settings())
    followed = None
    if policy.from_log_probs is None:
        followed = complexity.reward_gradients(verifiers.nested_interactions(tree, policy_order), start)
    gradients = complexity.reward_gradients(verifier, start)
    return {
        "effective_dimension": complexity.effective_dimension(gradients, task, policy_gradients=followed),
        "floor": jnp.maximum(metrics.evaluate(policy.leaf_log_probs(projected.params), task).regret, 0.0),
        "reference_regret": metrics.evaluate(task.reference, task).regret,
        "gradient_norm": jnp.maximum(limit.gradient_norm, projected.gradient_norm),
        "converged": limit.converged & projected.converged,
    }


def findings(records: dict[str, pl.DataFrame]) -> list[Finding]:
    """Where RL should win and where it should lose, the control, and the limit of many pairs.

    How much of regret theory explains, beside what it could explain, is the question ``few_pairs``.
    """
    both = gaps(records)
    return answered([*_gap_findings(both), _many_pairs(records)])


def _of_points(rows: pl.DataFrame, statistic: pl.Expr, where: pl.Expr | None = None) -> Estimate:
    """Over the points of a seed, each of which stands for itself: what is excluded is the point, with both arms."""
    return estimate(rows, statistic, where, points=True)


def _gap_findings(both: pl.DataFrame) -> list[Finding]:
    simpler, gap = pl.col("verifier_order") < pl.col("policy_order"), pl.col("gap").mean()
    most, rows = both["pairs"].max(), []
    for horizon in sorted(both["horizon"].unique(), reverse=True):
        here = both.filter(simpler, pl.col("holds"), horizon=horizon)
        claim = f"H={horizon}, reward models simpler than policies, and hold the gold reward: {REGRET} of DPO - RLHF"
        simple = here.filter("holds_rlhf")
        rows.append(Finding(claim, _of_points(simple, gap), "nats", 0.0, "above", predicted=_predicted(simple)))
        loses = here.filter(~pl.col("holds_rlhf"), pairs=most)
        claim = f"H={horizon}, reward models too simple for the gold reward, {most:,} pairs: regret of DPO - RLHF"
        rows.append(Finding(claim, _of_points(loses, gap), "nats", 0.0, "below", predicted=_predicted(loses)))
    claim = "same class and penalty in both methods: largest difference of regret"
    same = pl.col("penalty") == pl.col("penalty_rlhf")
    return [*rows, equality(claim, both.filter(SAME_CLASS), pl.col("gap"), where=same)]


def _predicted(both: pl.DataFrame) -> float:
    return _of_points(both, pl.col("predicted_gap").mean()).at().estimate


def _many_pairs(records: dict[str, pl.DataFrame]) -> Finding:
    ratio = (pl.col("log_regret") - pl.col("leading").log()).mean()
    claim = f"measured regret over d_eff / (2n), geometric mean of a seed's points, {IN_RANGE}"
    measured = geometric(by_seed(collapse(records).filter("in_range"), ratio, points=True))
    return Finding(claim, measured, "times", 1 / FACTOR, "above", predicted=1.0)
