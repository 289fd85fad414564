"""Does theory alone predict the regret of single fits?

It can do no better than a repetition of the experiment would.
The law of few pairs (``gvgap_jax.prediction``) is set beside DPO over all policies and two-stage RLHF with reward
models of every order, and beside two simpler laws: d_eff/(2n), for n pairs and the effective dimension d_eff of the
class, and the least of the reference policy's regret and floor + d_eff/(2n), where the floor is the regret that a class
too small cannot get under. What no theory can say is the noise of single fits. It is measured: the same task is given
several data sets, its replicates. Regret is KL(policy || soft-optimal policy of the gold reward), an exact sum over
responses.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import polars as pl

from experiments.kit import few_pairs
from experiments.kit.fields import check
from experiments.kit.findings import Finding, Question
from experiments.kit.points import reference_name
from experiments.kit.presets import disjoint
from experiments.kit.problems import METHODS, problem_of, record_of, task_of
from experiments.questions.few_pairs_figures import CAPTIONS, draw
from experiments.questions.few_pairs_records import (
    LAW,
    LEADING,
    PARTS,
    beside,
    lost_with_another_task,
    share_of_ceiling,
    share_of_signs,
    signs,
)
from gvgap_jax import TokenTree, algorithms, complexity, metrics, policies, preferences, verifiers
from gvgap_jax.prediction import regret_of
from gvgap_jax.sweep import Cell, Grid
from gvgap_jax.tasks import Task

__all__ = ["CAPTIONS", "draw"]  # its second room's, so that a question is one module
MEANING = 1
NOT_ON_TRANSFORMERS = (
    "the law of few pairs is of fits that are convex in fixed features; a network's features change as it learns."
)
QUESTION = Question(
    place=65,
    label="H6: the law",
    claim="What simple means is computed beforehand: theory alone predicts the regret of single fits.",
    reported='arXiv 2503.01067 says that simple verifiers need less data, and defines neither "simple" nor how much.',
    axes=("gold_order", "pairs", "reference_scale", "replicate"),
)
SMALLEST = 1024  # size that numbers of pairs are padded to
WHOLE, PART, SIGNS = 0.97, 0.95, 0.95  # least shares of the ceiling: of all fits, of a part of them, of signs


@dataclass(frozen=True)
class Config:
    """Settings of one point; there is none where the gold reward's order is above the horizon.

    Attributes:
      replicate: number of the data set of a task, from 0 on.
    """

    vocabulary: int = 3
    horizon: int = 4
    gold_order: int = 1
    pairs: int = 512
    replicate: int = 0
    beta: float = 1.0
    temperature: float = 1.0
    reference_scale: float = 0.0

    def __post_init__(self):
        check(self)


_REFERENCES, _ORDERS = (0.0, 1.5), (1, 2, 3, 4)
PRESETS = disjoint(
    {
        "tiny": Grid({"horizon": (2,), "gold_order": (1, 2), "pairs": (32, 256), "replicate": (0, 1)}, seeds=2),
        "quick": Grid(
            {"gold_order": (1, 2, 4), "pairs": (64, 512), "reference_scale": _REFERENCES, "replicate": (0, 1)},
            seeds=16,
        ),
        "standard": Grid(
            {
                "gold_order": _ORDERS,
                "pairs": (64, 256, 1024, 4096),
                "reference_scale": _REFERENCES,
                "replicate": tuple(range(6)),
            },
            seeds=16,
        ),
        "paper": Grid(
            {
                "horizon": (3, 4, 5),
                "gold_order": (*_ORDERS, 5),
                "pairs": tuple(2**power for power in range(5, 14)),
                "reference_scale": (0.0, 0.75, 1.5),
                "replicate": tuple(range(8)),
            },
            seeds=32,
        ),
        "full": Grid(
            {
                "horizon": (2, 3, 4, 5),
                "gold_order": (*_ORDERS, 5),
                "pairs": tuple(2**power for power in range(4, 16)),
                "beta": (0.5, 1.0, 2.0),
                "reference_scale": (0.0, 0.75, 1.5, 3.0),
                "replicate": tuple(range(16)),
            },
            seeds=64,
        ),
    }
)


class Program(NamedTuple):
    """What decides a compiled program.

    Attributes:
      arm: ``DPO`` or ``RLHF``, whose fits these are, or ``limits``, for what is known of a class without any pairs.
      tree: the responses.
      pairs: the padded number of pairs.
    """

    arm: str
    tree: TokenTree
    pairs: int


class Law(NamedTuple):
    """What decides a compiled prediction: the order of the reward models, 0 for DPO over all policies."""

    order: int
    tree: TokenTree


def cells(config: Config) -> list[Cell]:
    """DPO, and RLHF with reward models of every order; the prediction of each; what is known of each class."""
    if config.gold_order > config.horizon:
        return []
    tree = TokenTree(config.vocabulary, config.horizon)
    task = {name: getattr(config, name) for name in ("gold_order", "beta", "temperature", "reference_scale")}
    padded, made = preferences.padded(config.pairs, SMALLEST), []
    arms = [("DPO", 0), *(("RLHF", order) for order in range(1, config.horizon + 1))]
    for arm, order in arms:
        labels: dict[str, str | int] = {"horizon": config.horizon, "arm": arm}
        data = task | {"order": order or config.horizon, "pairs": config.pairs}
        made.append(Cell("fits", Program(arm, tree, padded), labels, data | {"replicate": config.replicate}))
        made.append(Cell("predictions", Law(order, tree), labels, data))
        if arm == "RLHF":
            made.append(
                Cell("classes", Program("limits", tree, 0), {"horizon": config.horizon}, task | {"order": order})
            )
    return made


def run(program: Program | Law, cell: dict) -> dict:
    """One fit, its prediction, or what is known of its class, as scalars."""
    tree = program.tree
    task, pairs_key, fit_key = task_of(cell, tree)
    if isinstance(program, Law):
        return few_pairs.predicted(few_pairs.fitted(tree, task, program.order), task, cell["pairs"])
    if program.arm == "limits":
        return _class(tree, task, cell["order"])
    policy = policies.tabular(tree, tree.conditionals(task.reference))
    classes = algorithms.Classes(policy, verifiers.nested_interactions(tree, cell["order"]))
    problem = problem_of(cell, tree, task, jax.random.fold_in(pairs_key, cell["replicate"]), program.pairs)
    fit = METHODS[program.arm](fit_key, classes, problem, algorithms.Settings())
    return metrics.evaluate(policy.leaf_log_probs(fit.params), task)._asdict() | record_of(fit)


def _class(tree: TokenTree, task: Task, order) -> dict:
    """d_eff, the regret with infinitely many pairs and the reference's; full tables are one class with all policies."""
    verifier = verifiers.nested_interactions(tree, order)
    start = verifier.init(jax.random.key(0))
    limit = complexity.population_fit(verifier, start, task)
    return {
        "effective_dimension": complexity.effective_dimension(complexity.reward_gradients(verifier, start), task),
        "floor": jnp.maximum(regret_of(verifier.leaf_scores(limit.params), task), 0.0),
        "reference_regret": metrics.evaluate(task.reference, task).regret,
        "gradient_norm": limit.gradient_norm,
        "converged": limit.converged,
    }


def findings(records: dict[str, pl.DataFrame]) -> list[Finding]:
    """By reference: how much of what can be explained is, of all fits and of each part; signs; d_eff; the control."""
    fits, rows = beside(records), []
    for (scale,), here in fits.sort("reference_scale").group_by("reference_scale", maintain_order=True):
        reference = reference_name(scale)
        claim = f"{reference}: share of the variance of log regret that theory explains, over what replicates leave"
        for part, of_part in PARTS.items():
            bound = PART if part else WHOLE
            share = share_of_ceiling(here.filter(of_part), LAW)
            rows.append(Finding(f"{claim}{part and ', '}{part}", share, "", bound, "above", predicted=1.0))
        claim = f"{reference}: share of right signs of DPO's regret less RLHF's, over that of replicates' own majority"
        rows.append(Finding(claim, share_of_signs(signs(here), LAW), "", SIGNS, "above", predicted=1.0))
        claim = f"{reference}: variance explained by d_eff/(2n), the limit of many pairs, over what replicates leave"
        rows.append(Finding(claim, share_of_ceiling(here, LEADING), "", WHOLE, "below"))
        claim = f"{reference}: what theory explains less of the variance of log regret with another seed's tasks"
        rows.append(Finding(claim, lost_with_another_task(here), "", 0.0, "above", control=True))
    return rows
