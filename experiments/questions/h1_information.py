"""Do online samples carry information of their own?

Offline DPO against two-stage RLHF on the same pairs, with policies that can be anything. The second stage is solved
exactly, without a single sample, or by policy gradient (RLOO) on 10 to a million responses that the reward model
scores. Reward models are either as rich as the policies, which is to say their local rewards, the class R(Pi), where
Theorem 2.2 says that both methods are one; or they are simple. If samples carried information, drawing more of them
would lower the regret (KL from the policy to the optimal one) below that of the exact second stage for the same reward
model, and below DPO's where the classes are equal.

On transformers the rich reward models are the local rewards of the transformers themselves, and the exact second stage
trains one on the sum over all responses: it ends where its gradient is small or its steps are used up.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import polars as pl
from jaxtyping import Array, Bool, Float
from matplotlib.figure import Figure

from experiments.kit.backends import TREE, Backend
from experiments.kit.fields import check
from experiments.kit.findings import EQUAL, REGRET, Finding, Question, equality
from experiments.kit.intervals import estimate
from experiments.kit.per_seed import paired
from experiments.kit.plots import BLACK, DPO, RLHF, curve_of, entitle, legend_below, name_axes, panels
from experiments.kit.presets import disjoint
from experiments.kit.problems import problem_of, task_of
from gvgap_jax import TokenTree, algorithms, metrics, online, policies, preferences, soft_rl, tasks, verifiers
from gvgap_jax.divergence import kl
from gvgap_jax.losses import weighted_mean
from gvgap_jax.sweep import Cell, Grid
from gvgap_jax.types import Fit, PRNGKey, TreePolicy, TreeVerifier

MEANING = 2
QUESTION = Question(
    place=10,
    label="H1",
    claim="Online samples carry information of their own.",
    reported=(
        "No: labels of online samples come from a reward model that was fitted on the same data, so that by the data "
        "processing inequality they add nothing (arXiv 2503.01067, an argument without an experiment)."
    ),
)

MATTERS = 0.01  # nats: a smaller gain is none
SIZES = {  # responses drawn by the second stage
    10: online.Sizes(rounds=5, prompts=1, samples=2),
    1_000: online.Sizes(rounds=50, prompts=10, samples=2),
    100_000: online.Sizes(rounds=250, prompts=200, samples=2),
    1_000_000: online.Sizes(rounds=500, prompts=1_000, samples=2),
}
TRANSFORMER_SIZES = (1_000, 1_000_000)


@dataclass(frozen=True)
class Config:
    """Settings of one point.

    Attributes:
      gold_order: order of the gold reward's interactions; the simple reward models have this order.
    """

    vocabulary: int = 3
    horizon: int = 3
    gold_order: int = 1
    pairs: int = 512
    beta: float = 1.0
    temperature: float = 1.0
    reference_scale: float = 1.0

    def __post_init__(self):
        check(self)


PRESETS = disjoint(
    {
        "tiny": Grid({"horizon": (2,), "pairs": (64,)}, seeds=2),
        "quick": Grid({}, seeds=24),
        "standard": Grid({}, seeds=64),
        "paper": Grid({"horizon": (3, 4), "pairs": (128, 512, 2048)}, seeds=64),
        "full": Grid({"horizon": (3, 4, 5), "gold_order": (1, 2), "pairs": (128, 512, 2048, 8192)}, seeds=256),
    }
)
TRANSFORMER_PRESETS = disjoint(PRESETS | {"quick": Grid({}, seeds=24), "standard": Grid({}, seeds=32)})


class Program(NamedTuple):
    """What decides a compiled program: responses drawn (0: all sums exact), the tree, and the padded pairs."""

    responses: int
    tree: TokenTree
    pairs: int


class TransformerProgram(NamedTuple):
    """``Program``, and whether the reward models are as rich as the policies."""

    responses: int
    tree: TokenTree
    pairs: int
    equal: bool


def cells(config: Config, backend: Backend = TREE) -> list[Cell]:
    """Both classes of reward models with every size of the second stage; none where the order is beyond the tree."""
    if config.gold_order >= config.horizon:
        return []
    tree, padded = TokenTree(config.vocabulary, config.horizon), preferences.padded(config.pairs)
    numbers = {
        name: getattr(config, name) for name in ("pairs", "gold_order", "beta", "temperature", "reference_scale")
    }
    made = []
    for responses in (0, *(SIZES if backend is TREE else TRANSFORMER_SIZES)):
        labels: dict[str, str | int] = {"horizon": config.horizon, "responses": responses}
        for order in (config.gold_order, config.horizon):
            program = Program(responses, tree, padded)
            if backend is not TREE:
                program = TransformerProgram(responses, tree, padded, order == config.horizon)
                labels |= {"backend": backend.name}
            made.append(Cell("fits", program, labels, numbers | {"order": order}))
    return made


def run(program: Program | TransformerProgram, cell: dict, backend: Backend = TREE) -> dict:
    """DPO's regret (exact rows) or that of a sampled second stage, beside that of the exact one."""
    tree, settings = program.tree, backend.settings
    task, pairs_key, fit_key = task_of(cell, tree)
    policy = backend.policy(tree, tree.conditionals(task.reference))
    offline, verifier = _classes(program, cell, task.known, policy)
    problem = problem_of(cell, tree, task, pairs_key, program.pairs)
    fit = algorithms.reward_model(fit_key, algorithms.Classes(offline, verifier), problem, settings)
    exact, solved = _exact(fit_key, policy, verifier, fit, problem.known, settings)
    if program.responses:
        environment = tasks.environment(tree, problem.known, partial(verifier.score, fit.params))
        rate = 0.1 if backend is TREE else settings.learning_rate
        made = online.rloo(fit_key, policy, policy.init(fit_key), environment, SIZES[program.responses], rate)
    else:
        policy = offline
        made = algorithms.dpo(fit_key, algorithms.Classes(policy), problem, settings)
    log_policy = policy.leaf_log_probs(made.params)
    return {
        "regret": metrics.evaluate(log_policy, task).regret,
        "regret_exact": metrics.evaluate(exact, task).regret,
        "kl_to_exact": weighted_mean(kl(log_policy, exact), task.prompt_probs),
        "penalty": made.penalty,
        "penalty_exact": fit.penalty,
        "converged": fit.converged & made.converged & solved,
    }


def _classes(
    program: Program | TransformerProgram, cell: dict, known: tasks.Known, policy: TreePolicy
) -> tuple[TreePolicy, TreeVerifier]:
    """The policies of DPO, and the reward models: the local rewards of those policies, or simple ones."""
    tree, verifier = program.tree, verifiers.nested_interactions(program.tree, cell["order"])
    if isinstance(program, Program):
        everything = verifiers.nested_interactions(tree, tree.horizon)
        return verifiers.soft_optimal_class(tree, everything, known.reference, known.beta), verifier
    if program.equal:
        start = policies.tabular(tree, tree.conditionals(known.reference))
        verifier = verifiers.implicit_verifier(policy, start, start.init(jax.random.key(0)), known.beta)
    return policy, verifier


def _exact(
    key: PRNGKey,
    policy: TreePolicy,
    verifier: TreeVerifier,
    fit: Fit,
    known: tasks.Known,
    settings: algorithms.Settings,
) -> tuple[Float[Array, "X L"], Bool[Array, ""]]:
    """The second stage without samples: log-probabilities of its policy, and whether it converged."""
    scores = verifier.leaf_scores(fit.params)
    if policy.from_log_probs is not None:
        return soft_rl.soft_optimal_policy(scores, known.reference, known.beta), jnp.array(True)
    second = algorithms.second_stage(jax.random.fold_in(key, 1), policy, scores, known, settings)
    return policy.leaf_log_probs(second.params), second.converged


def findings(records: dict[str, pl.DataFrame]) -> list[Finding]:
    """What exact RL gains without samples and what samples add to it, for either class; the control is Theorem 2.2."""
    fits = records["fits"].with_columns((pl.col("order") == pl.col("horizon")).alias("equal"))
    most = fits["responses"].max()
    dpo, rows = fits.filter(responses=0), []
    gained = (pl.col("regret_exact") - pl.col("regret")).mean()
    for equal, name in ((True, "reward models as rich as policies"), (False, "simple reward models")):
        here = fits.filter(equal=equal, responses=most)
        claim = f"{name}, {most:,} online samples: {REGRET} of the exact second stage less that of the sampled one"
        rows.append(Finding(claim, estimate(here, gained), "nats", MATTERS, "above"))
    both = paired(dpo.filter(equal=True), fits.filter(equal=True, responses=most), _cell(fits), "_sampled")
    claim = f"reward models as rich as policies: regret of DPO less that of RLHF with {most:,} online samples"
    less = (pl.col("regret") - pl.col("regret_sampled")).mean()
    rows.append(Finding(claim, estimate(both, less), "nats", MATTERS, "above"))
    claim = "simple reward models, no sample at all: regret of DPO less that of RLHF"
    gap = pl.col("regret") - pl.col("regret_exact")
    rows.append(Finding(claim, estimate(dpo.filter(equal=False), gap.mean()), "nats", 0.0, "above"))
    claim = "reward models as rich as policies, same penalty, no sample: largest difference of regret of DPO and RLHF"
    same = pl.col("penalty") == pl.col("penalty_exact")
    # The second stage of transformers ends where its gradient is small, or its steps are used up.
    bound = MATTERS if "backend" in fits.columns else EQUAL
    return [*rows, equality(claim, dpo.filter(equal=True), gap, bound, where=same)]


def _cell(fits: pl.DataFrame) -> list[str]:
    names = ("horizon", "pairs", "gold_order", "beta", "temperature", "reference_scale", "seed")
    return [name for name in names if name in fits]


CAPTIONS = {
    "h1_information": (
        "Regret (KL to the optimal policy) of two-stage RLHF whose second stage sees so many sampled responses "
        "(blue), of the same reward model with an exact second stage that draws none (black), and of offline DPO "
        "(orange); bands and bars are 95 % intervals over seeds. Samples bring the blue curve to the black line and "
        "not beyond it."
    )
}


def draw(records: dict[str, pl.DataFrame]) -> dict[str, Figure]:
    """One panel a class of reward models."""
    fits = records["fits"]
    figure, grid = panels(1, 2, 2.2)
    for axis, equal in zip(grid[0], (True, False), strict=True):
        axis.set(xscale="log", yscale="log")
        here = fits.filter((pl.col("order") == pl.col("horizon")) == equal)
        entitle(axis, "reward models as rich as policies" if equal else "simple reward models", here)
        sampled, exact = here.filter(pl.col("responses") > 0), here.filter(responses=0)
        curve_of(axis, sampled, "responses", "regret", "RLHF, sampled second stage", color=RLHF)
        _level(axis, exact, "regret_exact", "RLHF, exact second stage", BLACK, "--")
        _level(axis, exact, "regret", "offline DPO", DPO, "-")
    name_axes(grid, "second stage [sampled responses]", "regret KL(π‖π*) [nats]")
    legend_below(figure)
    return {"h1_information": figure}


def _level(axis, rows: pl.DataFrame, column: str, label: str, colour: str, line: str) -> None:
    interval = estimate(rows, pl.col(column).mean()).at()
    axis.axhline(interval.estimate, label=label, color=colour, linestyle=line, linewidth=1)
    axis.axhspan(interval.low, interval.high, color=colour, alpha=0.12, linewidth=0)
