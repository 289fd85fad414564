"""How far apart do both methods end as classes differ?

Reward models are all interactions of up to so many token positions, their order. Policies are those that are
soft-optimal for the interactions of another order. The gold reward is a full table, which only the highest order
holds. Offline DPO and two-stage RLHF get the same pairs and the same ridge penalty. Theorem 2.2 says that the methods
end at the same policy where the orders are equal, for any number of pairs; of other orders it says nothing.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
import polars as pl
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from experiments.kit.fields import check
from experiments.kit.findings import EQUAL, Finding, Question
from experiments.kit.intervals import estimate, largest
from experiments.kit.per_seed import by_seed
from experiments.kit.plots import entitle, name_axes, panels
from experiments.kit.presets import disjoint
from gvgap_jax import HeldOut, TokenTree, algorithms, divergence, metrics, preferences, tasks, verifiers
from gvgap_jax.losses import weighted_mean
from gvgap_jax.sweep import Cell, Grid

MEANING = 2
NOT_ON_TRANSFORMERS = (
    "Theorem 2.2 is about optima of fits that have only one; a network's fit has many, and Adam stops short of them."
)
QUESTION = Question(
    place=90,
    label="theorem 2.2",
    claim="With equal classes two-stage RLHF and offline likelihood have the same optimum.",
    reported="Theorem 2.2 of arXiv 2503.01067: equal for any coverage and any number of pairs.",
    axes=("pairs",),
)


@dataclass(frozen=True)
class Config:
    """Settings of one point of the comparison.

    Attributes:
      horizon: tokens of a response (H); orders of both classes run from 1 to H.
      pairs: number of labelled pairs.
      penalty: ridge penalty of both methods, in pairs; it makes the optimum finite and unique.
    """

    vocabulary: int = 3
    horizon: int = 4
    pairs: int = 256
    penalty: float = 1.0
    beta: float = 1.0

    def __post_init__(self):
        check(self, pairs=1)


PRESETS = disjoint(
    {
        "tiny": Grid({"horizon": (2,), "pairs": (16,)}, seeds=2),
        "quick": Grid({"pairs": (32, 256, 2048)}, seeds=24),
        "standard": Grid({"pairs": (8, 32, 128, 512, 2048)}, seeds=64),
        "paper": Grid({"pairs": (8, 32, 128, 512, 2048, 8192)}, seeds=64),
        "full": Grid({"horizon": (5,), "pairs": tuple(2**power for power in range(3, 16))}, seeds=256),
    }
)


class Program(NamedTuple):
    """What decides the compiled program: the tree, the padded number of pairs and the penalty."""

    tree: TokenTree
    pairs: int
    penalty: float


def cells(config: Config) -> list[Cell]:
    """Every order of the policy class with every order of the reward models."""
    program = Program(TokenTree(config.vocabulary, config.horizon), preferences.padded(config.pairs), config.penalty)
    orders = range(1, config.horizon + 1)
    labels: dict[str, str | int] = {"horizon": config.horizon}
    return [
        Cell("distances", program, labels, {**pair, "pairs": config.pairs, "beta": config.beta})
        for pair in ({"policy_order": policy, "verifier_order": verifier} for policy in orders for verifier in orders)
    ]


def run(program: Program, cell: dict) -> dict:
    """Both methods on one data set, and how far apart they end."""
    tree = program.tree
    task_key, pairs_key, fit_key = jax.random.split(jax.random.key(cell["seed"]), 3)
    task = tasks.interactions(task_key, tree, tree.horizon)._replace(beta=cell["beta"])
    pairs, _ = preferences.split(
        preferences.sample(pairs_key, tree, task, program.pairs), cell["pairs"], program.pairs + 1
    )
    verifier, teacher = (verifiers.nested_interactions(tree, cell[name]) for name in ("verifier_order", "policy_order"))
    policy = verifiers.soft_optimal_class(tree, teacher, task.reference, task.beta)
    problem = algorithms.Problem(task.known, pairs, HeldOut(pairs))  # one penalty: nothing is selected
    classes, settings = algorithms.Classes(policy, verifier), algorithms.Settings(penalties=(program.penalty,))
    offline = algorithms.dpo(fit_key, classes, problem, settings)
    two_stage = algorithms.rlhf(fit_key, classes, problem, settings)
    offline_policy, two_stage_policy = (policy.leaf_log_probs(fit.params) for fit in (offline, two_stage))
    return {
        "kl": weighted_mean(divergence.kl(two_stage_policy, offline_policy), task.prompt_probs),
        "total_variation": weighted_mean(
            divergence.total_variation(two_stage_policy, offline_policy), task.prompt_probs
        ),
        "regret_offline": metrics.evaluate(offline_policy, task).regret,
        "regret_two_stage": metrics.evaluate(two_stage_policy, task).regret,
        "gradient_norm": jax.numpy.maximum(offline.gradient_norm, two_stage.gradient_norm),
        "converged": offline.converged & two_stage.converged,
    }


def findings(records: dict[str, pl.DataFrame]) -> list[Finding]:
    """Distance by drift: equal classes first, where it must vanish; as controls those where it must not."""
    distances = records["distances"]
    drift = (pl.col("policy_order") - pl.col("verifier_order")).abs()
    distances = distances.with_columns(drift=drift)
    drifts = distances["drift"].unique().sort().to_list()
    claim = "classes equal: largest KL between the two methods' policies, over orders and numbers of pairs"
    rows = [Finding(claim, largest(by_seed(distances.filter(drift=0), pl.col("kl").max())), "nats", EQUAL, "below")]
    for apart in sorted({drifts[1], drifts[-1]} if len(drifts) > 1 else []):
        claim = f"classes {apart} order(s) apart, where they must part: KL between the two methods' policies"
        mean = estimate(distances.filter(drift=apart), pl.col("kl").mean())
        rows.append(Finding(claim, mean, "nats", 1e-3, "above", control=True))
    return rows


FLOOR = 1e-8  # single precision leaves about this much between equal policies

CAPTIONS = {
    "equivalence": (
        "KL between the policies that two-stage RLHF and offline DPO end at, by the order of both classes (how many "
        "token positions their interactions read together). On the diagonal the classes are equal and so are the "
        "methods; off it they part. Colours and numbers are means over seeds."
    ),
}


def draw(records: dict[str, pl.DataFrame]) -> dict[str, Figure]:
    """Mean KL between the two methods' policies over seeds, one heat map a number of pairs."""
    distances = records["distances"]
    sizes = sorted(distances["pairs"].unique())
    means = distances.group_by("pairs", "policy_order", "verifier_order").agg(pl.col("kl").mean())
    figure, grid = panels(1, len(sizes), 2.2)
    for axis, pairs in zip(grid[0], sizes, strict=True):
        here = means.filter(pairs=pairs)
        table = here.pivot("verifier_order", index="policy_order", values="kl").sort("policy_order")
        orders = table["policy_order"].to_list()
        values = table.select(str(order) for order in orders).to_numpy()
        image = axis.imshow(values.clip(FLOOR), norm=LogNorm(FLOOR, 10), cmap="cividis", origin="lower", aspect="auto")
        axis.set_xticks(range(len(orders)), orders)
        axis.set_yticks(range(len(orders)), orders)
        entitle(axis, "", distances.filter(pairs=pairs))
        axis.grid(False)
        for (row, column), value in np.ndenumerate(values):
            dark = value < 1e-3
            axis.text(column, row, "<1e-6" if value < 1e-6 else f"{value:.1g}", ha="center", va="center",
                      fontsize=5, color="white" if dark else "black")  # fmt: skip
    name_axes(grid, "order of reward models [tokens]", "order of policies [tokens]")
    figure.colorbar(image, ax=grid[0].tolist(), label="KL(RLHF ‖ DPO) [nats]", shrink=0.8)
    return {"equivalence": figure}
