"""Do noisier labels widen the gap?

Offline DPO against two-stage RLHF with reward models as simple as the gold reward, as the
temperature of the labels grows: at 0 a label is a fact, at infinity a coin. Both methods know it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import polars as pl
from matplotlib.figure import Figure

from experiments.kit.fields import check
from experiments.kit.findings import REGRET, Finding, Question, equality
from experiments.kit.intervals import estimate
from experiments.kit.plots import DPO, RLHF, curve_of, entitle, legend_below, name_axes, panels
from experiments.kit.presets import disjoint
from gvgap_jax import TokenTree, algorithms, metrics, policies, preferences, tasks, verifiers
from gvgap_jax.sweep import Cell, Grid

MEANING = 1
QUESTION = Question(
    label="rival: label noise",
    claim="Noisier labels widen the gap.",
    reported="Nothing: the paper has one temperature.",
    axes=("temperature",),
)


@dataclass(frozen=True)
class Config:
    """Settings of one point.

    Attributes:
      vocabulary: tokens of the vocabulary (V).
      horizon: tokens of a response (H).
      pairs: labelled pairs, a fifth of which is held out for selection.
      temperature: of the labels.
    """

    vocabulary: int = 3
    horizon: int = 3
    pairs: int = 256
    temperature: float = 1.0

    def __post_init__(self):
        check(self)


PRESETS = disjoint(
    {
        "tiny": Grid({"horizon": (2,), "pairs": (64,), "temperature": (0.5, 2.0)}, seeds=2),
        "quick": Grid({"temperature": (0.5, 1.0, 2.0)}, seeds=24),
        "standard": Grid({"temperature": (0.25, 0.5, 1.0, 2.0, 4.0)}, seeds=32),
        "paper": Grid({"horizon": (3, 5), "temperature": (0.25, 0.5, 1.0, 2.0, 4.0)}, seeds=64),
        "full": Grid({"horizon": (3, 4, 5, 6), "temperature": tuple(2.0**power for power in range(-4, 5))}, seeds=256),
    }
)


class Program(NamedTuple):
    """What decides the compiled program: the tree and the padded number of pairs."""

    tree: TokenTree
    pairs: int


def cells(config: Config) -> list[Cell]:
    """One a point."""
    tree = TokenTree(config.vocabulary, config.horizon)
    numbers = {"pairs": config.pairs, "temperature": config.temperature}
    program = Program(tree, preferences.padded(config.pairs))
    return [Cell("fits", program, {"horizon": config.horizon}, numbers)]


def run(program: Program, cell: dict) -> dict:
    """Three methods on one data set."""
    tree = program.tree
    task_key, pairs_key, fit_key = jax.random.split(jax.random.key(cell["seed"]), 3)
    task = tasks.interactions(task_key, tree, complexity=1)
    task = task._replace(temperature=cell["temperature"])
    drawn = preferences.sample(pairs_key, tree, task, program.pairs)
    problem = algorithms.Problem(task.known, *preferences.split(drawn, cell["pairs"]))
    verifier = verifiers.interactions(tree, order=1)
    restricted = verifiers.soft_optimal_class(tree, verifier, task.reference, task.beta)
    policy, regrets, converged = policies.tabular(tree), {}, True
    classes = algorithms.Classes(policy, verifier, restricted)
    for method in (algorithms.dpo, algorithms.rlhf, algorithms.restricted_mle):
        fit = method(fit_key, classes, problem, algorithms.Settings())
        log_policy = policy.leaf_log_probs(fit.params)
        regrets[f"regret_{method.__name__}"] = metrics.evaluate(log_policy, task).regret
        converged &= fit.converged
    return regrets | {"converged": converged}


def findings(records: dict[str, pl.DataFrame]) -> list[Finding]:
    """The gap's growth from the clearest labels to the noisiest; the control is Theorem 3.1."""
    fits, temperature = records["fits"], pl.col("temperature")
    gap = pl.col("regret_dpo") - pl.col("regret_rlhf")
    ends = temperature.max(), temperature.min()
    noisiest, clearest = (gap.filter(temperature == end).mean() for end in ends)
    claim = f"{REGRET} of DPO less that of RLHF: with the noisiest labels less with the clearest"
    control = "DPO's likelihood over RLHF's policies alone: largest difference of regret from RLHF"
    return [
        Finding(claim, estimate(fits, noisiest - clearest), "nats", 0.0, "above"),
        equality(control, fits, pl.col("regret_rlhf") - pl.col("regret_restricted_mle")),
    ]


CAPTIONS = {
    "label_noise": (
        "Regret (KL from the policy to the optimal one) of DPO and of RLHF on the same pairs, by label temperature. "
        "Points are means over seeds, bars 95 % intervals."
    ),
}


def draw(records: dict[str, pl.DataFrame]) -> dict[str, Figure]:
    """Both methods over the temperature; bars are 95 % intervals over seeds."""
    figure, grid = panels(1, 1, 2.2)
    grid[0, 0].set_xscale("log")
    for method, look in {"dpo": {"color": DPO, "marker": "s"}, "rlhf": {"color": RLHF}}.items():
        curve_of(grid[0, 0], records["fits"], "temperature", f"regret_{method}", method.upper(), **look)
    entitle(grid[0, 0], "labels of some temperature", records["fits"])
    name_axes(grid, "temperature [reward]", "regret KL(π‖π*) [nats]")
    legend_below(figure)
    return {"label_noise": figure}
