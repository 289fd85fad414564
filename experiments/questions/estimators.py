"""Do sampled methods estimate what exact ones compute?

And how fast does their error fall?
A policy half-way between the reference and the optimum draws responses; every estimator of a gradient, or of the
reward of best-of-n, is compared with the exact sum over responses. Then whole runs: how far from the exact second
stage a sampled one ends, by the responses that it drew. Every row of this experiment is a check of the instrument.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from experiments.kit.fields import check, check_gold_order
from experiments.kit.findings import EQUAL_SHARE, Finding, Question
from experiments.kit.intervals import estimate, geometric, mean
from experiments.kit.per_seed import PerSeed, curves_by_seed, each_seed
from experiments.kit.plots import (
    BLACK,
    DPO,
    FOURTH,
    PALE,
    RLHF,
    THIRD,
    curve_of,
    entitle,
    legend_below,
    name_axes,
    panels,
)
from experiments.kit.presets import disjoint
from experiments.kit.problems import task_of
from gvgap_jax import TokenTree, losses, metrics, online, policies, preferences, rollouts, tasks
from gvgap_jax.sweep import Cell, Grid
from gvgap_jax.types import Environment, Params, PRNGKey, TreePolicy

MEANING = 2
NOT_ON_TRANSFORMERS = (
    "it checks sampled estimators against exact sums for a given policy, whatever that policy is made of."
)
QUESTION = Question(
    place=91,
    label="sampling",
    claim="Sampled estimates are unbiased, their error falls as 1/sqrt(samples), and sampled runs find the optimum.",
    reported="A property of the algorithms (arXiv 2402.14740, 1707.06347, 2404.16767, 2402.04792); no paper's claim.",
    axes=("prompts",),
)

BLOCK = 16  # prompts whose estimate is made at once
MOST = 2**14  # prompts of the largest batch
RUNS = (16, 128, 1024)  # prompts a round of whole runs
ROUNDS = 100  # of a run with 128 prompts a round; they grow as the root of the prompts, so that descent is no limit
ROUNDING = 1e-7  # nats: smaller ones count as much, so that ratios are too small and never too large
EQUAL_SLOPE = 0.2  # of an exponent: less than half of the way to an error that does not fall, or falls as 1/n
N = 4  # of best-of-n, and responses of which the best is set against the worst


@dataclass(frozen=True)
class Config:
    """Settings of one point.

    Attributes:
      gold_order: order of the gold reward's interactions.
      prompts: how many a batch has; whole runs draw so many a round where it is 16, 128 or 1,024.
    """

    vocabulary: int = 3
    horizon: int = 3
    gold_order: int = 2
    prompts: int = 1024
    beta: float = 1.0
    reference_scale: float = 1.0

    def __post_init__(self):
        check(self)
        check_gold_order(self)
        if self.prompts % BLOCK or not BLOCK <= self.prompts <= MOST:
            raise ValueError(f"prompts must be a multiple of {BLOCK} up to {MOST:,}, got {self.prompts}.")


PRESETS = disjoint(
    {
        "tiny": Grid({"horizon": (1,), "gold_order": (1,), "prompts": (16, 64)}, seeds=2),
        "quick": Grid({"prompts": (16, 128, 1024, 8192)}, seeds=32),
        "standard": Grid({"prompts": (16, 128, 1024, 8192)}, seeds=48),
        "paper": Grid({"prompts": tuple(2**power for power in range(4, 15))}, seeds=64),
        "full": Grid({"horizon": (2, 3, 4, 5), "prompts": tuple(2**power for power in range(4, 15))}, seeds=256),
    }
)


class Setting(NamedTuple):
    """Where estimates are made: a task on its tree, and the policy that draws."""

    tree: TokenTree
    task: tasks.Task
    policy: TreePolicy
    params: Params
    environment: Environment

    def roll_out(self, key: PRNGKey, samples: int) -> rollouts.Rollout:
        """``BLOCK`` prompts with so many responses each."""
        return rollouts.roll_out(key, self.policy, self.params, self.environment, BLOCK, samples)

    def gradient(self, loss: Callable[[Params], Float[Array, ""]]) -> Float[Array, "d"]:
        """Gradient of a loss at the policy that draws."""
        return ravel_pytree(jax.grad(loss)(self.params))[0]

    def exact(self) -> Float[Array, "d"]:
        """Gradient of -J, a sum over leaves."""

        def loss(params):
            log_policy, task = self.policy.leaf_log_probs(params), self.task
            return losses.kl_regularised(log_policy, task.reward, task.reference, task.beta, task.prompt_probs)

        return self.gradient(loss)

    def exact_dpo(self, law: Float[Array, "X L L"]) -> Float[Array, "d"]:
        """Gradient of the offline loss on all ordered pairs of leaves, chosen first, weighted by ``law``."""
        pairs = preferences.population(self.tree, self.task)._replace(weight=law.reshape(-1))
        return self.gradient(lambda params: online.online_dpo_loss(params, pairs, self.policy, self.task.beta))

    @property
    def log_policy(self) -> Float[Array, "X L"]:
        """Leaf log-probabilities of the policy that draws."""
        return self.policy.leaf_log_probs(self.params)


def _rloo(setting: Setting, key: PRNGKey):
    rollout = setting.roll_out(key, 2)
    return setting.gradient(lambda params: online.rloo_loss(params, rollout, setting.policy, setting.task.beta))


def _ppo(setting: Setting, key: PRNGKey):
    rollout = setting.roll_out(key, 2)
    rewards = online.token_rewards(rollout, setting.task.beta)
    advantage = losses.generalised_advantage(rewards, jnp.zeros_like(rewards), 1.0)
    return setting.gradient(lambda params: online.ppo_loss(params, rollout, setting.policy, advantage, 0.2))


def _online_dpo(setting: Setting, key: PRNGKey, samples: int, labels: online.Labels):
    pairs = labels(setting.roll_out(key, samples), setting.task.temperature)
    return setting.gradient(lambda params: online.online_dpo_loss(params, pairs, setting.policy, setting.task.beta))


def _doubting_law(setting: Setting):
    return setting.exact_dpo(preferences.population(setting.tree, setting.task, setting.log_policy).weight)


def _best_of_n(setting: Setting, key: PRNGKey):
    policy, params, environment = setting.policy, setting.params, setting.environment
    return jnp.mean(environment.reward(*rollouts.best_of_n(key, policy, params, environment, BLOCK, N)))[None]


def _best_of_n_law(setting: Setting):
    task = setting.task
    law = metrics.best_of_n(setting.log_policy, task.reward, N)
    return jnp.sum(task.prompt_probs[:, None] * law * task.reward)[None]


# An estimate from a block of prompts, and what it estimates. REBEL's gradient is RLOO's with two responses.
ESTIMATORS = {
    "RLOO": (_rloo, Setting.exact),
    "PPO": (_ppo, Setting.exact),
    "online DPO": (partial(_online_dpo, samples=2, labels=rollouts.by_bradley_terry), _doubting_law),
    "top against bottom": (
        partial(_online_dpo, samples=N, labels=rollouts.top_against_bottom),
        lambda at: at.exact_dpo(
            metrics.top_and_bottom(at.log_policy, at.task.reward, N) * at.task.prompt_probs[:, None, None]
        ),
    ),
    "best of n": (_best_of_n, _best_of_n_law),
}


def methods(tree: TokenTree) -> dict[str, tuple[Callable, int]]:
    """Sampled second stages (key, policy, params, environment, sizes -> Fit), and gradient steps on each round."""
    return {
        "RLOO": (online.rloo, 1),
        "PPO": (partial(online.ppo, critic=policies.tabular_critic(tree)), 4),
        "REBEL": (online.rebel, 4),
        "online DPO": (partial(online.online_dpo, labels=rollouts.by_bradley_terry), 1),
    }


class Program(NamedTuple):
    """What decides a compiled program: estimator or method, the tree, a run's prompts a round (0 for estimates)."""

    name: str
    tree: TokenTree
    prompts: int


def cells(config: Config) -> list[Cell]:
    """Every estimator at this size of batch, and every method where runs have this size."""
    tree = TokenTree(config.vocabulary, config.horizon)
    numbers: dict[str, int | float] = {"prompts": config.prompts, "gold_order": config.gold_order}
    numbers |= {"beta": config.beta, "reference_scale": config.reference_scale}
    estimates = [
        Cell("estimates", Program(name, tree, 0), {"estimator": name, "horizon": tree.horizon}, numbers)
        for name in ESTIMATORS
    ]
    runs = [
        Cell("runs", Program(name, tree, config.prompts), {"method": name, "horizon": tree.horizon}, numbers)
        for name in methods(tree)
    ]
    return estimates + (runs if config.prompts in RUNS else [])


def run(program: Program, cell: dict) -> dict:
    """The error of one estimate, or the distance at which one run ends from the exact second stage."""
    tree = program.tree
    task, draw_key, _ = task_of(cell | {"temperature": 1.0}, tree)
    policy = policies.tabular(tree, tree.conditionals(task.reference))
    environment = tasks.environment(tree, task.known, partial(tree.at, task.reward))
    assert policy.from_log_probs is not None
    if program.prompts:
        return _run(program, policy, task, environment, draw_key)
    half_way = jax.nn.log_softmax((task.reference + task.optimal) / 2, axis=-1)
    setting = Setting(tree, task, policy, policy.from_log_probs(half_way), environment)
    estimate, exact = ESTIMATORS[program.name]
    blocks = jax.vmap(partial(estimate, setting))(jax.random.split(draw_key, MOST // BLOCK))
    used = jnp.arange(MOST // BLOCK) < cell["prompts"] // BLOCK
    sampled, wanted = used @ blocks / jnp.sum(used), exact(setting)
    return {
        "error": jnp.linalg.norm(sampled - wanted) / jnp.linalg.norm(wanted),
        "along": sampled @ wanted / (wanted @ wanted) - 1,
    }


def _run(program: Program, policy: TreePolicy, task: tasks.Task, environment: Environment, key: PRNGKey) -> dict:
    start_key, key = jax.random.split(key)
    rounds = round(ROUNDS * (program.prompts / 128) ** 0.5)
    method, steps = methods(program.tree)[program.name]
    sizes = online.Sizes(rounds, program.prompts, 2, steps)
    fit = method(key, policy, policy.init(start_key), environment, sizes, learning_rate=0.1)
    measured = metrics.evaluate(policy.leaf_log_probs(fit.params), task)
    return {"regret": measured.regret, "responses": sizes.responses, "converged": fit.converged}


def findings(records: dict[str, pl.DataFrame]) -> list[Finding]:
    """For each estimator the slope of its error and its bias; for each method how much 64 times the samples help."""
    rows = []
    if "runs" in records:
        runs = records["runs"]
        fewest, most = runs["prompts"].min(), runs["prompts"].max()
        for method in runs["method"].unique(maintain_order=True) if fewest != most else []:
            logs = pl.col("regret").clip(lower_bound=ROUNDING).log().mean()
            _, ends = curves_by_seed(runs.filter(method=method), "prompts", logs)
            ratio = geometric(ends.map(lambda logs: logs[:, 0] - logs[:, -1]))
            claim = f"{method}: KL to the exact optimum, {fewest} prompts a round over {most:,} a round and more rounds"
            rows.append(Finding(claim, ratio, "times", 4.0, "above"))
    estimates = records["estimates"]
    for name in estimates["estimator"].unique(maintain_order=True):
        here = estimates.filter(estimator=name)
        if here["prompts"].n_unique() > 1:
            claim = f"{name}: slope of log error against log samples, which is -1/2"
            rows.append(Finding(claim, mean(slopes(here)), "", -0.5, "at", control=True, margin=EQUAL_SLOPE))
        largest = here.filter(prompts=here["prompts"].max())
        bias = estimate(largest, pl.col("along").mean())
        claim = f"{name}: bias along what it estimates, as a share of it"
        rows.append(Finding(claim, bias, "", 0.0, "at", control=True, margin=EQUAL_SHARE))
    return rows


def slopes(estimates: pl.DataFrame) -> PerSeed:
    """Least-squares slope of log error against log prompts."""
    return each_seed(estimates, lambda rows: float(np.polyfit(np.log(rows["prompts"]), np.log(rows["error"]), 1)[0]))


LOOKS = {
    "RLOO": (RLHF, "o"),
    "PPO": (THIRD, "s"),
    "REBEL": (PALE, "v"),
    "online DPO": (DPO, "^"),
    "top against bottom": (FOURTH, "v"),
    "best of n": (BLACK, "D"),
}
CAPTIONS = {
    "estimators": (
        "Left: distance of a sampled estimate from the exact sum over responses, as a share of its size; the line "
        "falls as one over the root of the number of prompts. Top against bottom is online DPO whose pairs are the "
        "best and the worst of a few responses. Right: KL from where a sampled run ends to the exact optimum of the "
        "same reward, against all responses that it drew. Points are means over seeds, bars 95 % intervals."
    ),
}


def draw(records: dict[str, pl.DataFrame]) -> dict[str, Figure | pl.DataFrame]:
    """The errors of estimates and the ends of runs; bars are 95 % intervals over seeds."""
    estimates = records["estimates"]
    figure, grid = panels(1, 2, 2.2, "none", "none")
    left, right = grid[0]
    for axis in (left, right):
        axis.set(xscale="log", yscale="log")
    _curves(left, estimates, "estimator", "prompts", "error")
    sizes = np.array(sorted(estimates["prompts"].unique()))
    left.plot(sizes, 2 * sizes**-0.5, color="0.45", linestyle="--", linewidth=1, label=r"$\propto 1/\sqrt{N}$")
    entitle(left, "estimates of one gradient", estimates)
    name_axes(grid[:, :1], "batch N [prompts]", "error of the estimate [share of its size]")
    if "runs" in records:
        _curves(right, records["runs"], "method", "responses", "regret")
        entitle(right, "ends of runs", records["runs"])
        name_axes(grid[:, 1:], "drawn by the run [responses]", "KL(π‖π*) at its end [nats]")
    else:
        right.remove()
    legend_below(figure)
    return {"estimators": figure, "estimators_bias_and_variance": bias_and_variance(estimates)}


def bias_and_variance(estimates: pl.DataFrame) -> pl.DataFrame:
    """By estimator and size: bias along what is estimated, and variance of one prompt's estimate over its square."""
    rows = []
    for (name, horizon, prompts), here in estimates.group_by("estimator", "horizon", "prompts", maintain_order=True):
        statistics = pl.col("along").mean(), prompts * (pl.col("error") ** 2).mean()
        bias, variance = (estimate(here, statistic).at() for statistic in statistics)
        row = {"estimator": name, "horizon": horizon, "prompts": prompts, "seeds": bias.seeds}
        for what, interval in (("bias", bias), ("variance", variance)):
            row |= {what: interval.estimate, f"{what}_low": interval.low, f"{what}_high": interval.high}
        rows.append(row)
    return pl.DataFrame(rows)


def _curves(axis, records: pl.DataFrame, name: str, x: str, y: str) -> None:
    for each in records[name].unique(maintain_order=True):
        colour, marker = LOOKS[each]
        curve_of(axis, records.filter(pl.col(name) == each), x, y, each, marker=marker, color=colour)
