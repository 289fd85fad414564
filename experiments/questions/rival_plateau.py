"""Do all methods converge to their target as 1/n?

And where does a two-stage forward KL stop?
Yun et al. (arXiv 2506.01523) see alignment as learning a target policy pi* from labels
P(y1 > y2) = sigmoid(gamma log pi*(y1)/pi*(y2)), and prove rates of 1/n for three objectives. Here in a setting of their
toy's size: 10 prompts, 10 responses, gamma 0.5; assumed are uniform prompts and compared responses, and a pi* with
normal logits of standard deviation 1. In this project's terms the reference is uniform, beta is gamma, and the gold
reward gamma log pi*. Five arms get the same labelled pairs: preference maximum likelihood over all policies (one
stage); and, from one fitted reward model, its soft-optimal policy (two-stage reverse KL), a policy fitted to its
probabilities on ``samples`` unlabelled pairs (preference distillation), and a policy fitted by forward KL to as many
responses drawn from it, or to as many as there are labelled pairs.

Rewards are a full table, exactly the policies' own, or linear in a few random features that hold the gold reward.
There the generation-verification gap (d_eff of the classes) puts every two-stage arm before the one-stage one at every
n; a forward KL on a fixed sample has a floor of its own, and must fall behind where n is large. There the two part.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from experiments.kit import plots
from experiments.kit.fields import check
from experiments.kit.findings import EQUAL_LOG, EQUAL_TIMES, Finding, Question, equality
from experiments.kit.intervals import Estimate, estimate, geometric, mean
from experiments.kit.per_seed import by_seed, curves_by_seed, paired, side_by_side
from experiments.kit.presets import disjoint
from experiments.kit.problems import HELD_OUT_EVERY, TRAINED
from gvgap_jax import TokenTree, algorithms, complexity, divergence, losses, policies, preferences, verifiers
from gvgap_jax.sweep import Cell, Grid
from gvgap_jax.tasks import Task
from gvgap_jax.types import Count, Fit, HeldOut, Preferences, PRNGKey

MEANING = 2
NOT_ON_TRANSFORMERS = "one stage is over all policies of ten responses, and a forward KL counts them: both are tables."
QUESTION = Question(
    place=85,
    label="rival: distribution learning",
    claim="One and two stages learn the target at rate 1/n; a two-stage bound has ln|R| where one stage has ln|Pi|.",
    reported="Yun et al., arXiv 2506.01523: preference maximum likelihood, preference distillation and reverse KL all "
    "converge to the target at O(1/n).",
    axes=("samples", "pairs"),
)

TABLE, FEATURES = "table", "features"
ONE, REVERSE, DISTILLED = "one-stage likelihood", "two-stage reverse KL", "preference distillation"
FIXED, GROWING = "forward KL, fixed sample", "forward KL, growing sample"
ARMS = (ONE, REVERSE, DISTILLED, FIXED, GROWING)


@dataclass(frozen=True)
class Config:
    """Settings of one point.

    Attributes:
      vocabulary: responses, and as many prompts.
      gamma: log odds of a label per nat of log pi*.
      dimension: features of the small reward class.
      samples: responses, or unlabelled pairs, that a fixed second stage is fitted to.
    """

    vocabulary: int = 10
    gamma: float = 0.5
    dimension: int = 9
    samples: int = 512
    pairs: int = 1024

    def __post_init__(self):
        check(self)
        if self.dimension > self.vocabulary**2:
            raise ValueError(f"dimension must be at most {self.vocabulary**2}, got {self.dimension}.")


PRESETS = disjoint(
    {
        "tiny": Grid({"vocabulary": (3,), "dimension": (2,), "samples": (64,), "pairs": (64, 512)}, seeds=2),
        "quick": Grid({"pairs": tuple(4**power for power in range(4, 9))}, seeds=24),
        "standard": Grid({"pairs": tuple(4**power for power in range(4, 9))}, seeds=48),
        "paper": Grid({"pairs": tuple(2**power for power in range(7, 18))}, seeds=64),
        "full": Grid(
            {
                "pairs": tuple(2**power for power in range(7, 20)),
                "samples": (128, 512, 2048),
                "dimension": (1, 3, 9, 27),
                "gamma": (0.25, 0.5, 1.0),
            },
            seeds=256,
        ),
    }
)


class Program(NamedTuple):
    """What decides a compiled program: the fit (one stage, two stages, distillation, or d_eff), the tree, the draws."""

    fit: str
    tree: TokenTree
    draws: int


def cells(config: Config) -> list[Cell]:
    """Every arm for both reward classes, and the effective dimension of both."""
    tree = TokenTree(config.vocabulary, 1, prompt_length=1)
    draws = preferences.padded(max(config.pairs, config.samples), smallest=2**16)
    samples = {REVERSE: 0, FIXED: config.samples, GROWING: config.pairs, DISTILLED: config.samples}
    made = []
    for rewards in (TABLE, FEATURES):
        labels: dict[str, str | int] = {"rewards": rewards, "vocabulary": config.vocabulary}
        gold = {"gamma": config.gamma, "dimension": config.dimension, "small": int(rewards == FEATURES)}
        made.append(Cell("dimensions", Program("d_eff", tree, 0), labels, gold))
        for arm in ARMS:
            program = Program(arm if arm in (ONE, DISTILLED) else "two stages", tree, draws)
            # ``fixed`` names the point in every arm, ``samples`` is what this arm is fitted to.
            data = {"pairs": config.pairs, "fixed": config.samples, "samples": samples.get(arm, 0)}
            made.append(Cell("fits", program, {"arm": arm} | labels, gold | data))
    return made


def run(program: Program, cell: dict) -> dict:
    """One fit of one arm, or the effective dimension of one class, as scalars."""
    tree = program.tree
    task_key, pairs_key, fit_key, sample_key = jax.random.split(jax.random.key(cell["seed"]), 4)
    task, features = target(task_key, tree, cell["gamma"], cell["dimension"], cell["small"])
    if program.fit == "d_eff":
        every = jnp.eye(features.shape[-1]).reshape(features.shape)
        return {
            "effective_dimension": complexity.effective_dimension(features, task),
            "policy_dimension": complexity.effective_dimension(every, task),
        }
    problem = algorithms.Problem(task.known, *counted(pairs_key, tree, task, program.draws, cell["pairs"]))
    if program.fit == ONE:
        log_policy, fit = _over_all_policies(fit_key, tree, problem, algorithms.Settings())
        return _measured(log_policy, task, fit, fit.converged)
    verifier = verifiers.linear(tree, features)
    fit = algorithms.reward_model(
        fit_key, algorithms.Classes(policies.tabular(tree), verifier), problem, algorithms.Settings()
    )
    learned = Task(features @ fit.params, *problem.known)
    if program.fit == DISTILLED:
        soft = soft_labels(sample_key, tree, learned, program.draws, cell["samples"])
        settings = algorithms.Settings(penalties=(0.0,))  # soft labels have no noise to be held against
        labelled = algorithms.Problem(problem.known, soft, HeldOut(soft))
        log_policy, second = _over_all_policies(fit_key, tree, labelled, settings)
        return _measured(log_policy, task, fit, fit.converged & second.converged)
    sampled = forward_kl_fit(sample_key, learned, program.draws, cell["samples"])
    return _measured(jnp.where(cell["samples"] > 0, sampled, learned.optimal), task, fit, fit.converged)


def target(key: PRNGKey, tree: TokenTree, gamma, dimension: Count, small) -> tuple[Task, Float[Array, "X L D"]]:
    """A task whose pi* has logits of variance 1, and features [X, L, X*L] in which its reward is linear.

    The features are one-hot rows, or, where ``small`` is 1, ``dimension`` normal ones (the others are 0), so that a
    coefficient has the unit of a reward: penalties are stated in it for both methods.
    """
    feature_key, coefficient_key = jax.random.split(key)
    size = tree.prompts * tree.leaves
    used = jnp.arange(size) < dimension
    normal = jax.random.normal(feature_key, (tree.prompts, tree.leaves, size)) / jnp.sqrt(dimension)
    one_hot = jnp.eye(size).reshape(tree.prompts, tree.leaves, size)
    features = jnp.where(small == 1, normal * used[None, None], one_hot)
    reward = gamma * features @ jax.random.normal(coefficient_key, (size,))
    uniform = jnp.full(reward.shape, -jnp.log(tree.leaves))
    return Task(reward, uniform, jnp.full(tree.prompts, 1 / tree.prompts), gamma, jnp.ones(())), features


def tally(key: PRNGKey, probabilities: Float[Array, "K"], counts: Float[Array, "draws"]) -> Float[Array, "K"]:
    """How often each of K outcomes comes in independent draws, each counted so often (0 leaves a draw out)."""
    cumulative = jnp.cumsum(probabilities)
    drawn = jnp.searchsorted(cumulative, cumulative[-1] * jax.random.uniform(key, counts.shape), side="right")
    return jnp.zeros_like(probabilities).at[jnp.minimum(drawn, probabilities.shape[0] - 1)].add(counts)


def counted(key: PRNGKey, tree: TokenTree, task: Task, draws: int, pairs: Count) -> tuple[Preferences, HeldOut]:
    """Training and held-out pairs among ``pairs`` independent labelled ones, every fifth held out.

    Each is the list of all X * L**2 ordered pairs, weighted by how often they came: the fit of any number of
    pairs costs the same. The first ``pairs`` of ``draws`` count, so that more pairs contain fewer.
    """
    every, index = preferences.population(tree, task), jnp.arange(draws)
    held_out = index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1

    def among(chosen):
        counts = (chosen & (index < pairs)).astype(every.weight.dtype)
        return every._replace(weight=tally(key, every.weight, counts))

    return among(~held_out), HeldOut(among(held_out))


def soft_labels(key: PRNGKey, tree: TokenTree, learned: Task, draws: int, pairs: Count) -> Preferences:
    """``pairs`` unlabelled pairs of reference responses, in both orders, weighted by a reward model's probabilities."""
    every = preferences.population(tree, learned)
    counts = (jnp.arange(draws) < pairs).astype(every.weight.dtype)
    times = tally(key, every.weight, counts).reshape(tree.prompts, tree.leaves, tree.leaves)
    margin = (learned.reward[:, :, None] - learned.reward[:, None, :]) / learned.temperature
    return every._replace(weight=((times + times.swapaxes(1, 2)) * jax.nn.sigmoid(margin)).reshape(-1))


def forward_kl_fit(key: PRNGKey, teacher: Task, draws: int, samples: Count) -> Float[Array, "X L"]:
    """Log-probabilities of the policy that ``samples`` responses of a task's optimal policy select.

    Maximum likelihood over all policies is their frequencies, which forbid what was not drawn; half a response
    more of each (Krichevsky and Trofimov, 1981) keeps both KLs finite.
    """
    law = teacher.prompt_probs[:, None] * jnp.exp(teacher.optimal)
    counts = (jnp.arange(draws) < samples).astype(law.dtype)
    times = tally(key, law.reshape(-1), counts).reshape(law.shape) + 0.5
    return jnp.log(times / jnp.sum(times, axis=-1, keepdims=True))


def _over_all_policies(key, tree: TokenTree, problem, settings) -> tuple[Float[Array, "X L"], Fit]:
    policy = policies.tabular(tree)
    fit = algorithms.dpo(key, algorithms.Classes(policy), problem, settings)
    return policy.leaf_log_probs(fit.params), fit


def _measured(log_policy: Float[Array, "X L"], task: Task, fit: Fit, converged) -> dict:
    return {
        "reverse_kl": losses.weighted_mean(divergence.kl(log_policy, task.optimal), task.prompt_probs),
        "forward_kl": losses.weighted_mean(divergence.kl(task.optimal, log_policy), task.prompt_probs),
        "penalty": fit.penalty,
        "converged": converged,
    }


def findings(records: dict[str, pl.DataFrame]) -> list[Finding]:
    """Rates of all arms over a table; where the plateau and d_eff part, over few features; the control.

    At each size of the fixed sample, the default's first.
    """
    fits, rows = records["fits"], []
    for size in (sizes := sorted(fits["fixed"].unique(), key=lambda size: (size != Config.samples, size))):
        where = f"samples {size}: " if len(sizes) > 1 else ""
        for finding in _of_size(fits.filter(fixed=size), records["dimensions"]):
            rows.append(finding._replace(claim=where + finding.claim))
    return rows


def _of_size(fits: pl.DataFrame, dimensions: pl.DataFrame) -> list[Finding]:
    table, features = fits.filter(rewards=TABLE), fits.filter(rewards=FEATURES)
    fewest, most = min(fits["pairs"]), max(fits["pairs"])
    last, rows = features.filter(pairs=most), []
    if fewest < most:
        for arm in ARMS:
            bound, direction, says = (-0.2, "above", "stops") if arm == FIXED else (-0.8, "below", "1/n is -1")
            claim = f"rewards a full table: slope of log KL(policy, target) in log n at its end, {arm} ({says})"
            rows.append(Finding(claim, slope(table.filter(arm=arm)), "", bound, direction))
        claim = f"few features: the same slope, {FIXED} (stops)"
        rows.append(Finding(claim, slope(features.filter(arm=FIXED)), "", -0.2, "above"))
        claim = f"few features, {fewest:,} pairs: KL of the forward KL on a fixed sample over that of one stage"
        rows.append(Finding(claim, kl_ratio(features.filter(pairs=fewest), FIXED, ONE), "times", 1.0, "below"))
    claim = f"few features, {most:,} pairs: the same (d_eff says below 1, a floor above)"
    rows.append(Finding(claim, kl_ratio(last, FIXED, ONE), "times", 1.0, "above"))
    claim = f"few features, {most:,} pairs: KL of one stage over that of two-stage reverse KL"
    rows.append(Finding(claim, kl_ratio(last, ONE, REVERSE), "times", 2.0, "above"))
    claim = f"few features, {most:,} pairs: that ratio over the ratio of d_eff"
    share = over_prediction(last, dimensions)
    rows.append(Finding(claim, share, "times", 1.0, "at", margin=EQUAL_TIMES, predicted=1.0))
    claim = f"few features, {most:,} pairs: KL of preference distillation over that of two-stage reverse KL"
    rows.append(Finding(claim, kl_ratio(last, DISTILLED, REVERSE), "times", 1.05, "below"))
    claim = "equal classes: largest |log KL of two-stage reverse KL - log KL of one stage|, over n"
    both = arms(table, REVERSE, ONE)
    return [*rows, equality(claim, both, pl.col(REVERSE).log() - pl.col(ONE).log(), EQUAL_LOG)]


def arms(fits: pl.DataFrame, arm: str, other: str) -> pl.DataFrame:
    """KL(policy || target) side by side: one row a data set, one column an arm."""
    point = ["vocabulary", "gamma", "dimension", "pairs", "fixed", "seed"]
    return side_by_side(fits, (arm, other), "reverse_kl", point)


def slope(fits: pl.DataFrame) -> Estimate:
    """Slope of log KL(policy || target) in log n between the two largest n, of one arm."""
    pairs, logs = curves_by_seed(fits, "pairs", pl.col("reverse_kl").log().mean())
    return mean(logs.map(lambda curves: (curves[:, -1] - curves[:, -2]) / math.log(pairs[-1] / pairs[-2])))


def kl_ratio(fits: pl.DataFrame, arm: str, other: str) -> Estimate:
    """Geometric mean ratio of two arms' KL(policy || target), paired by seed."""
    log_ratio = (pl.col(arm).log() - pl.col(other).log()).mean()
    return geometric(by_seed(arms(fits, arm, other), log_ratio))


def over_prediction(fits: pl.DataFrame, dimensions: pl.DataFrame) -> Estimate:
    """Ratio of KLs of one stage and two-stage reverse KL over the ratio of the effective dimensions of the classes.

    Policies are all policies here: their local rewards are a full table, at the same task.
    """
    cell = ["vocabulary", "gamma", "dimension", "seed"]
    both = paired(arms(fits, ONE, REVERSE), dimensions.filter(rewards=FEATURES), cell, "_of_class", shared=True)
    log = pl.col(ONE).log() - pl.col(REVERSE).log() - pl.col("policy_dimension").log()
    log = (log + pl.col("effective_dimension").log()).mean()
    return geometric(by_seed(both, log))


CAPTIONS = {
    "rival_plateau": (
        "KL between the learned policy and the target against the number of labelled pairs. One stage, two stages "
        "with an exact reverse KL, and preference distillation fall as 1/n (dashed: d_eff/(2n) of the rewards). A "
        "forward KL on a fixed sample of the second stage stops at a floor of its own, however simple the rewards; on "
        "a sample that grows it does not. With few features (right) two stages win by the ratio of the dimensions, "
        "but a fixed sample loses the advantage where labelled pairs are many. Points are means over seeds, bars 95 % "
        "intervals."
    ),
}

_LOOK = {
    ONE: {"color": plots.DPO, "marker": "s"},
    REVERSE: {"color": plots.RLHF},
    DISTILLED: {"color": plots.BLACK, "marker": "x", "linestyle": "none"},
    FIXED: {"color": plots.FOURTH, "marker": "^"},
    GROWING: {"color": plots.PALE, "marker": "v", "linestyle": "--"},
}
_WAYS = {"reverse_kl": "KL(π‖π*) [nats]", "forward_kl": "KL(π*‖π) [nats]"}
_TITLES = {TABLE: "rewards: full table", FEATURES: "rewards: few features"}


def draw(records: dict[str, pl.DataFrame]) -> dict[str, Figure]:
    """Curves of the five arms with 95 % intervals over seeds; a figure for each size of the fixed sample."""
    of_size = plots.slices(records["fits"], ["fixed"])
    return {f"rival_plateau{name}": _panels(fits, records["dimensions"]) for name, fits in of_size}


def _panels(fits: pl.DataFrame, dimensions: pl.DataFrame) -> Figure:
    """One row a direction of the KL, one column a class."""
    figure, grid = plots.panels(len(_WAYS), len(_TITLES), 1.9)
    for axes, way in zip(grid, _WAYS, strict=True):
        for axis, (rewards, title) in zip(axes, _TITLES.items(), strict=True):
            _panel(axis, fits.filter(rewards=rewards), dimensions.filter(rewards=rewards), way)
            plots.entitle(axis, title, fits.filter(rewards=rewards))
    plots.name_axes(grid, "labels n [pairs]", list(_WAYS.values()))
    plots.legend_below(figure)
    return figure


def _panel(axis, fits: pl.DataFrame, dimensions: pl.DataFrame, way: str) -> None:
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    pairs = np.array(sorted(fits["pairs"].unique()))
    for arm, look in _LOOK.items():
        plots.curve_of(axis, fits.filter(arm=arm), "pairs", way, arm, **look)
    predicted = estimate(dimensions, pl.col("effective_dimension").mean()).at().estimate / (2 * TRAINED * pairs)
    axis.plot(pairs, predicted, color="0.45", linestyle="--", linewidth=1, label=r"$d_\mathrm{eff}/(2n)$", zorder=1)
