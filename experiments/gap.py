"""One measurement of the generation-verification gap, which experiments repeat over horizons and over orders.

Offline DPO over tabular policies, two-stage RLHF with reward models of the gold reward's order, and restricted
maximum likelihood over the policies that are optimal for those reward models, all on the same pairs; and the effective
dimension of policies and of reward models. On transformers also two-stage RLHF with a reward model of the policy's
own backbone.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp

from experiments.backends import TREE, Backend
from experiments.setting import check, problem_of, task_of
from gvgap_jax import TokenTree, algorithms, complexity, metrics, preferences, verifiers
from gvgap_jax.sweep import Cell

ROADS = {"dpo": algorithms.dpo, "rlhf": algorithms.rlhf, "restricted": algorithms.restricted_mle}


@dataclass(frozen=True)
class Config:
    """Settings of one point.

    Attributes:
      vocabulary: tokens of the vocabulary (V).
      horizon: tokens of a response (H); the tree has V**H responses.
      gold_order: the gold reward and the reward models are made of interactions of up to so many token positions;
        at H both are full tables, and above H there is no such point.
      pairs: number of labelled pairs, a fifth of which is held out for selection.
      beta: strength of the KL regularisation, reward per nat.
      temperature: of the labels.
      reference_scale: standard deviation of the reference policy's logits; 0 is uniform.
    """

    vocabulary: int = 3
    horizon: int = 5
    gold_order: int = 1
    pairs: int = 512
    beta: float = 1.0
    temperature: float = 1.0
    reference_scale: float = 0.0

    def __post_init__(self):
        check(self, positive=("beta", "temperature"))
        if self.vocabulary < 2:
            raise ValueError(f"vocabulary must be at least 2: with 1 there is one response, got {self.vocabulary}.")
        if self.gold_order < 1:
            raise ValueError(f"gold_order must be at least 1 token position, got {self.gold_order}.")
        if self.reference_scale < 0:
            raise ValueError(f"reference_scale must not be negative, got {self.reference_scale}.")


class Program(NamedTuple):
    """What decides a compiled program: the tree and the padded number of pairs."""

    tree: TokenTree
    pairs: int


def cells(config: Config, backend: Backend = TREE) -> list[Cell]:
    """The one cell of a point; none where the order is above the horizon."""
    del backend  # its arms are columns of one row
    if config.gold_order > config.horizon:
        return []
    program = Program(TokenTree(config.vocabulary, config.horizon), preferences.padded(config.pairs))
    labels: dict[str, str | int] = {"vocabulary": config.vocabulary, "horizon": config.horizon}
    names = ("gold_order", "pairs", "beta", "temperature", "reference_scale")
    return [Cell("gaps", program, labels, {name: getattr(config, name) for name in names})]


def run(program: Program, cell: dict, backend: Backend = TREE) -> dict:
    """Regret and selected penalty of every road on one data set, and the dimensions of policies and reward models."""
    tree = program.tree
    task, pairs_key, fit_key = task_of(cell, tree)
    verifier = verifiers.nested_interactions(tree, cell["gold_order"])
    policy = backend.policy(tree, tree.conditionals(task.reference))
    restricted = verifiers.soft_optimal_class(tree, verifier, task.reference, task.beta)
    classes = algorithms.Classes(policy, verifier, restricted)
    problem = problem_of(cell, tree, task, pairs_key, program.pairs)
    fits = {name: road(fit_key, classes, problem, backend.settings) for name, road in ROADS.items()}
    if backend is not TREE:
        own = algorithms.Classes(policy, backend.verifier(tree))
        fits["backbone"] = algorithms.rlhf(fit_key, own, problem, backend.settings)
    gradients = complexity.reward_gradients(verifier, verifier.init(fit_key))
    assert policy.leaf_log_probs is not None
    found = {
        "dpo_dimension": complexity.table_dimension(task),
        "rlhf_dimension": complexity.effective_dimension(gradients, task),
        "gradient_norm": jnp.max(jnp.stack([fit.gradient_norm for fit in fits.values()])),
        "converged": jnp.all(jnp.stack([fit.converged for fit in fits.values()])),
    }
    for name, fit in fits.items():
        found[f"{name}_regret"] = metrics.evaluate(policy.leaf_log_probs(fit.params), task).regret
        found[f"{name}_penalty"] = fit.penalty
    return found
