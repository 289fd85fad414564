"""One measurement of the generation-verification gap, which experiments repeat over horizons and over orders.

Offline DPO over tabular policies, two-stage RLHF with reward models of the gold reward's order, and maximum likelihood
restricted to the policies that are optimal for those reward models, all on the same pairs; and the effective dimension
d_eff of policies and of reward models: with n pairs theory predicts a regret of d_eff/(2n). On transformers also
two-stage RLHF with a reward model of the policy's own backbone.
"""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from experiments.kit.backends import TREE, Backend
from experiments.kit.fields import check
from experiments.kit.findings import EQUAL_TIMES, Finding, equality
from experiments.kit.intervals import Estimate, estimate, geometric, ratio_over_seeds
from experiments.kit.per_seed import by_seed, curves_by_seed
from experiments.kit.plots import BLACK, DPO, RLHF, THIRD, bars, curve, entitle, legend_below, means, name_axes, panels
from experiments.kit.problems import problem_of, task_of
from gvgap_jax import TokenTree, algorithms, complexity, metrics, preferences, verifiers
from gvgap_jax.sweep import Cell

METHODS = {"dpo": algorithms.dpo, "rlhf": algorithms.rlhf, "restricted": algorithms.restricted_mle}


@dataclass(frozen=True)
class Config:
    """Settings of one point.

    Attributes:
      gold_order: the gold reward and the reward models are made of interactions of up to so many token positions;
        at H both are full tables, and above H there is no such point.
    """

    vocabulary: int = 3
    horizon: int = 5
    gold_order: int = 1
    pairs: int = 512
    beta: float = 1.0
    temperature: float = 1.0
    reference_scale: float = 0.0

    def __post_init__(self):
        check(self)


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
    """Regret and selected penalty of every method on one data set, and the dimensions of policies and reward models."""
    tree = program.tree
    task, pairs_key, fit_key = task_of(cell, tree)
    verifier = verifiers.nested_interactions(tree, cell["gold_order"])
    policy = backend.policy(tree, tree.conditionals(task.reference))
    restricted = verifiers.soft_optimal_class(tree, verifier, task.reference, task.beta)
    classes = algorithms.Classes(policy, verifier, restricted)
    problem = problem_of(cell, tree, task, pairs_key, program.pairs)
    fits = {name: method(fit_key, classes, problem, backend.settings) for name, method in METHODS.items()}
    if backend is not TREE:
        own = algorithms.Classes(policy, backend.verifier(tree))
        fits["backbone"] = algorithms.rlhf(fit_key, own, problem, backend.settings)
    gradients = complexity.reward_gradients(verifier, verifier.init(fit_key))
    measured = {
        "dpo_dimension": complexity.table_dimension(task),
        "rlhf_dimension": complexity.effective_dimension(gradients, task),
        "gradient_norm": jnp.max(jnp.stack([fit.gradient_norm for fit in fits.values()])),
        "converged": jnp.all(jnp.stack([fit.converged for fit in fits.values()])),
    }
    for name, fit in fits.items():
        measured[f"{name}_regret"] = metrics.evaluate(policy.leaf_log_probs(fit.params), task).regret
        measured[f"{name}_penalty"] = fit.penalty
    return measured


CLOSED = pl.col("gold_order") == pl.col("horizon")  # reward models are full tables: as hard to learn as policies
OPEN = pl.col("gold_order") < pl.col("horizon")
LOG_RATIO = (pl.col("dpo_regret") / pl.col("rlhf_regret")).log()
BACKBONE = "backbone_regret"  # of RLHF whose reward model has the policy's own backbone, where there is such an arm
LOG_DIMENSIONS = (pl.col("dpo_dimension") / pl.col("rlhf_dimension")).log()


def ratio(gaps: pl.DataFrame, log_ratio: pl.Expr = LOG_RATIO) -> Estimate:
    """Regret of DPO over that of RLHF: the geometric mean over a seed's rows, then over seeds."""
    return geometric(by_seed(gaps, log_ratio.mean()))


def slope(gaps: pl.DataFrame) -> Estimate:
    """Least-squares slope, within each seed, of the log regret ratio on the log ratio of dimensions; theory says 1."""
    return estimate(gaps, pl.cov(LOG_DIMENSIONS, LOG_RATIO) / LOG_DIMENSIONS.var())


def rise(far: pl.DataFrame, near: pl.DataFrame) -> Estimate:
    """The regret ratio in some rows over that in others, paired by seed."""
    return geometric(by_seed(far, LOG_RATIO.mean()) - by_seed(near, LOG_RATIO.mean()))


def series_findings(series: pl.DataFrame, far: pl.DataFrame, name: str, where: str) -> list[Finding]:
    """The gap at the ``far`` end of a series and at its closed end, the rise between them, and the slope of all.

    Args:
      series: records that differ in horizon or in order, not in both; where it lacks an end, so do the findings.
      far: its rows where verifiers are simplest compared with policies.
      name: words for the series.
      where: words for its far end.
    """
    near, rows = series.filter(CLOSED), []
    if len(far):
        # What theory predicts for the ratio of regrets: that of d_eff of policies and of reward models.
        predicted = ratio(far, LOG_DIMENSIONS).at().estimate
        claim = f"{name}, {where}: regret (KL to the optimal policy) of DPO over RLHF's"
        rows.append(Finding(claim, ratio(far), "times", 1.0, "above", predicted=predicted))
        if BACKBONE in far.columns:
            claim = f"{name}, {where}, reward model of the policy's own backbone: the same ratio"
            log_ratio = (pl.col("dpo_regret") / pl.col(BACKBONE)).log()
            rows.append(Finding(claim, ratio(far, log_ratio), "times", 1.0, "at", margin=EQUAL_TIMES))
    for (pairs,), here in near.group_by("pairs", maintain_order=True):
        claim = f"{name}, order = H (one class, regularised in two ways), {pairs:,} pairs: the same ratio"
        rows.append(Finding(claim, ratio(here), "times", 1.0, "at", margin=EQUAL_TIMES))
    if len(far) and len(near):
        claim = f"{name}: the ratio {where} over that where order = H"
        rows.append(Finding(claim, rise(far, near), "times", 1.0, "above"))
        claim = f"{name}: slope of its logarithm on that of the ratio of effective dimensions"
        rows.append(Finding(claim, slope(series), "", 0.0, "above", predicted=1.0))
        most = series["pairs"].max()
        claim = f"{name}, {most:,} pairs: the same slope"
        rows.append(Finding(claim, slope(series.filter(pairs=most)), "", 0.0, "above", predicted=1.0))
    return rows


def equality_findings(gaps: pl.DataFrame) -> list[Finding]:
    """Offline likelihood in the class, and with the penalty, of RLHF's verifiers: by Theorems 2.2 and 3.1 no gap.

    Where order = H that class holds every policy. Only data sets for which both methods selected the same penalty
    count, as held-out losses can tie to rounding; the claims say how many did.
    """
    same_penalty = pl.col("restricted_penalty") == pl.col("rlhf_penalty")
    # Not of logarithms: with one token a regret can be rounding alone.
    difference = pl.col("restricted_regret") - pl.col("rlhf_regret")
    rows = []
    for claim, here in (
        ("order = H, policies penalised as verifiers are: DPO's likelihood against RLHF", gaps.filter(CLOSED)),
        ("order < H, likelihood over policies optimal for verifiers alone: against RLHF", gaps.filter(OPEN)),
    ):
        if len(here):
            share = len(here.filter(same_penalty)) / len(here)
            claim = f"{claim}, largest difference of regret ({share:.1%} selected the same penalty)"
            rows.append(equality(claim, here, difference, where=same_penalty))
    return rows


LOOKS = tuple(
    {"marker": marker, "linestyle": line} for marker, line in zip("osD^v", ("-", "--", "-.", ":", "-"), strict=True)
)
ARMS = {
    "dpo_regret": ("offline DPO, tabular policies", {"color": DPO}),
    "rlhf_regret": ("two-stage RLHF, verifiers of the gold order", {"color": RLHF}),
    "restricted_regret": (
        "likelihood over RLHF's policies alone",
        {"color": BLACK, "marker": "x", "linestyle": "none", "ecolor": "none", "zorder": 3},
    ),
}


def draw_series(gaps: pl.DataFrame, fixed: str, varied: str, words: dict[str, str]) -> Figure:
    """A row of panels for every value of ``fixed``, over ``varied``; ``words`` name the two columns."""
    rows = gaps.sort(fixed, "pairs").partition_by(fixed, maintain_order=True)
    looks = dict(zip(gaps["pairs"].unique().sort(), itertools.cycle(LOOKS), strict=False))
    figure, grid = panels(len(rows), 3, 1.8, sharex="col", sharey="col")
    for row, series in zip(grid, rows, strict=True):
        for (pairs,), here in series.group_by("pairs", maintain_order=True):
            _draw(row, here, varied, f"{pairs:,} pairs", looks[pairs])
        span = [1.0, max(row[2].get_xlim()[1], 2.0)]
        row[2].plot(span, span, color="0.4", linestyle=":", label="theory: equal ratios", zorder=1)
        row[2].set_xscale("log")
        for axis in row:
            axis.set_yscale("log")
            entitle(axis, f"{words[fixed]} {series[fixed][0]}", series)
        for axis in row[1:]:
            axis.axhline(1, color=BLACK, linewidth=0.6, zorder=1)
    for axis in grid[0, :2]:
        axis.set_xticks(gaps[varied].unique().sort().to_list())
    effective = r"$d_\mathrm{eff}$ of policies / of verifiers [times]"
    regrets = ["regret KL(π‖π*) [nats]", *2 * ["DPO / RLHF regret [times]"]]
    for number, (x, y) in enumerate(zip((words[varied], words[varied], effective), regrets, strict=True)):
        name_axes(grid[:, number : number + 1], x, y)
    legend_below(figure)
    return figure


def draw_bars(gaps: pl.DataFrame, fixed: str, varied: str, words: dict[str, str]) -> Figure:
    """Both methods at the middling number of pairs: a panel for every value of ``fixed``, bars by ``varied``."""
    sizes = gaps["pairs"].unique().sort()
    here = gaps.filter(pairs=sizes[len(sizes) // 2])
    rows = here.sort(fixed).partition_by(fixed, maintain_order=True)
    figure, grid = panels(1, len(rows), 2.0, "none", "none")
    for axis, series in zip(grid[0], rows, strict=True):
        shown = {}
        for name, (arm, look) in list(ARMS.items())[:2]:
            along, regrets = curves_by_seed(series, varied, pl.col(name).log().mean())
            shown[arm] = look["color"], [ratio_over_seeds(column) for column in regrets.values.T]
        bars(axis, [f"{value:g}" for value in along], shown)
        entitle(axis, f"{words[fixed]} {series[fixed][0]}", series)
    name_axes(grid, words[varied], "regret KL(π‖π*) [nats]")
    legend_below(figure)
    return figure


def _draw(row, here: pl.DataFrame, varied: str, label: str, look: dict[str, str]) -> None:
    """The curves of one number of pairs."""
    for name, (arm, own) in ARMS.items():
        along, regrets = curves_by_seed(here, varied, pl.col(name).log().mean())
        curve(row[0], along, regrets.values, arm, interval=ratio_over_seeds, **(look | own))
    along, log_ratios = curves_by_seed(here, varied, LOG_RATIO.mean())
    _, log_dimensions = curves_by_seed(here, varied, LOG_DIMENSIONS.mean())
    theory = np.exp(means(log_dimensions.values))
    for axis, x in ((row[1], along), (row[2], theory)):
        curve(axis, x, log_ratios.values, label, interval=ratio_over_seeds, color=THIRD, **look)
