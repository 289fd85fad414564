"""Does RLHF win because online optimisation is easier?

Both arms are fitted by gradient descent (Adam), for few steps, twice as many, and many, and to the optimum of their
convex problem (by Newton's method, until the gradient is as good as 0; its norm is in the records). At the optimum no
arm was easier to optimise. The second stage of RLHF is solved exactly throughout.

Prompt augmentation is the other half: pairs cover only some prompts (not those whose tokens sum to a multiple of the
vocabulary), and the RL stage runs once over the prompts with pairs and once over all of them. Policies share their
parameters across prompts, since they are the soft-optimal policies of interactions of prompt and response, of one
order more than the gold reward. (With two prompt tokens and two orders more, the smallest parameters that do well on
some prompts leave the others at the reference.) Reward models are interactions of the gold order.

Task, pairs and held-out fifth are the same in all arms. What could still mislead: gradient descent is regularised by
stopping early on the held-out pairs, the optimum by a ridge penalty selected on them, so that a difference between the
solvers is not optimisation alone; equal steps are not equal progress; and as policies can express every
optimum for a reward model, the RL stage trades no prompt for another, so augmentation cannot move prompts with pairs.

No gradient shows that a transformer is at its optimum: there optimisation ends where held-out pairs say stop, or where
the gradient of the RL stage is small. With few steps the RL stage has as few as the reward model, and DPO as few as
either. Reward models as rich as policies are the local rewards of the transformers themselves. A transformer trades
prompts for one another, so what augmentation does to prompts with pairs is a finding there and no control.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import polars as pl
from jaxtyping import Array, Float
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from experiments.kit.backends import TREE, Backend
from experiments.kit.fields import check
from experiments.kit.findings import EQUAL_NATS, REGRET, Finding, Question, equality
from experiments.kit.intervals import largest, mean, ratio_of_means
from experiments.kit.per_seed import PerSeed, by_seed, paired
from experiments.kit.plots import DPO, PALE, RLHF, curve, entitle, legend_below, name_axes, panels
from experiments.kit.presets import disjoint
from experiments.kit.problems import METHODS, problem_of, task_of
from gvgap_jax import TokenTree, algorithms, metrics, policies, preferences, verifiers
from gvgap_jax.sweep import Cell, Grid
from gvgap_jax.tasks import Known
from gvgap_jax.types import PRNGKey

MEANING = 2
QUESTION = Question(
    place=30,
    label="H3",
    claim="RLHF stays ahead when both arms are optimised to the end: its advantage is not easier optimisation.",
    reported=(
        "More prompts for the online arm change its win rate from 56.1 to 56.6 and from 60.8 to 61.2, a second epoch "
        "DPO's from 49.7 to 52.2 (arXiv 2503.01067)."
    ),
    figure="win rates with prompts of which there are no pairs (prompt augmentation)",
    axes=("steps",),
)

RICH = "RLHF, R(Pi)"  # the program of transformers whose reward models are their own local rewards
LEARNING_RATE = 0.003  # the tenth of the usual: a coefficient moves so far in a step, and few steps must be few
OPTIMUM = 0  # the number of steps of a fit that goes on to its end: the optimum, on the tree
# Nats, wider than elsewhere and by the solver: prompts share parameters here, and some prompts have no pairs.
EQUAL = {"newton": 1e-3, "adam": 1e-2}
REMAINS = 0.5  # share of gradient descent's gap that must remain at the optimum if optimisation is not its cause


@dataclass(frozen=True)
class Config:
    """One point of the comparison.

    Attributes:
      prompt_length: tokens of a prompt, at least 1; there are V**prompt_length prompts.
      gold_order: the gold reward and the reward models are interactions of up to so many positions of prompt and
        response.
      policy_order: policies are soft-optimal for interactions of up to so many positions, at least ``gold_order``;
        transformers can read all positions, whatever it says.
      pairs: labelled pairs, a fifth of which is held out for selection and early stopping.
      steps: how many gradient descent takes; every point has the end of optimisation beside it.
    """

    vocabulary: int = 3
    prompt_length: int = 2
    horizon: int = 3
    gold_order: int = 2
    policy_order: int = 3
    pairs: int = 512
    steps: int = 10
    beta: float = 1.0
    temperature: float = 1.0
    reference_scale: float = 0.0

    def __post_init__(self):
        check(self)
        longest = self.prompt_length + self.horizon
        if not self.gold_order <= self.policy_order <= longest:
            raise ValueError(
                f"policy_order must be between gold_order, {self.gold_order}, and the {longest} positions of prompt "
                f"and response, got {self.policy_order}."
            )


_FULL = {
    "horizon": (3, 4),
    "pairs": tuple(2**power for power in range(6, 14)),
    "steps": (5, 10, 20, 40, 80, 160, 4000),
    "reference_scale": (0.0, 1.0),
}
PRESETS = disjoint(
    {
        "tiny": Grid(
            {"prompt_length": (1,), "horizon": (2,), "gold_order": (1,), "policy_order": (2,), "pairs": (64,)}
            | {"steps": (5, 10)},
            seeds=2,
        ),
        "quick": Grid({"steps": (10, 20, 40, 80, 160, 2000)}, seeds=24),
        "standard": Grid({"steps": (5, 10, 20, 40, 80, 160, 2000)}, seeds=32),
        "paper": Grid({"pairs": (128, 512, 2048), "steps": (5, 10, 20, 40, 80, 160, 4000)}, seeds=64),
        "full": Grid(_FULL | {"policy_order": (3, 4, 5)}, seeds=128),
    }
)
TRANSFORMER_PRESETS = disjoint(
    PRESETS
    | {
        "quick": Grid({"horizon": (2,), "steps": (10, 20, 160)}, seeds=24),
        "standard": Grid({"horizon": (2,), "steps": (10, 20, 160)}, seeds=32),
        "full": Grid(_FULL, seeds=128),
    }
)


class Program(NamedTuple):
    """What decides a compiled program: the arm, the solver, the tree and the padded number of pairs."""

    arm: str
    solver: str
    tree: TokenTree
    pairs: int


def cells(config: Config, backend: Backend = TREE) -> list[Cell]:
    """DPO, and RLHF with and without more prompts, to the end and by few steps; and rewards as rich as policies."""
    simple, rich = config.gold_order, config.policy_order if backend is TREE else config.prompt_length + config.horizon
    end = backend.settings.solver, OPTIMUM
    arms = [
        (arm, solver, order, augmented)
        for solver in (end, ("adam", config.steps))
        for arm, order, augmented in (("DPO", rich, 0), ("RLHF", simple, 0), ("RLHF", simple, 1))
    ]
    if rich > simple:
        arms.append(("RLHF" if backend is TREE else RICH, end, rich, 1))
    return [_cell(config, arm, *solver, rich, order, augmented) for arm, solver, order, augmented in arms]


def _cell(
    config: Config, arm: str, solver: str, steps: int, policy_order: int, reward_order: int, augmented: int
) -> Cell:
    tree = TokenTree(config.vocabulary, config.horizon, config.prompt_length)
    numbers: dict[str, int | float] = {"gold_order": config.gold_order, "policy_order": policy_order}
    numbers |= {name: getattr(config, name) for name in ("pairs", "beta", "temperature", "reference_scale")}
    numbers |= {"steps": steps, "reward_order": reward_order, "augmented": augmented}
    method = "DPO" if arm == "DPO" else "RLHF"
    labels: dict[str, str | int] = {"arm": method, "solver": solver, "horizon": config.horizon}
    labels["prompt_length"] = config.prompt_length
    return Cell("fits", Program(arm, solver, tree, preferences.padded(config.pairs)), labels, numbers)


def with_pairs(tree: TokenTree) -> Float[Array, "X"]:
    """Probabilities of the prompts that pairs cover: equal, but 0 where the tokens sum to a multiple of V."""
    tokens = tree.prompt_tokens(jnp.arange(tree.prompts))
    covered = jnp.sum(tokens, axis=-1) % tree.vocabulary != 0
    return covered / jnp.sum(covered)


def run(program: Program, cell: dict, backend: Backend = TREE) -> dict:
    """One fit of one arm, judged on the prompts with pairs, on those without, and on all of them."""
    tree = program.tree
    task, pairs_key, fit_key = task_of(cell, tree)
    covered, everywhere = with_pairs(tree), task.prompt_probs
    problem = problem_of(cell, tree, task._replace(prompt_probs=covered), pairs_key, program.pairs)
    # Only the RL stage reads the distribution of prompts from here on.
    prompts = jnp.where(cell["augmented"] == 1, everywhere, covered)
    problem = problem._replace(known=task.known._replace(prompt_probs=prompts))
    method = METHODS.get(program.arm, algorithms.rlhf)
    classes = _classes(program, cell, problem.known, backend, fit_key)
    fit = method(fit_key, classes, problem, _settings(program, cell, backend))
    policy = classes.policy
    log_policy = policy.leaf_log_probs(fit.params)
    judged = {"with_pairs": covered, "without_pairs": (covered == 0) / jnp.sum(covered == 0), "all": everywhere}
    # Gradient descent is meant to be stopped before its optimum: what it must be is finite.
    converged = fit.converged | jnp.isfinite(fit.loss) & (cell["steps"] != OPTIMUM)
    measured = {f"regret_{name}": metrics.evaluate(log_policy, task, probs).regret for name, probs in judged.items()}
    names = ("loss", "held_out_loss", "gradient_norm", "penalty")
    taken = {name: getattr(fit, name) for name in names}
    return measured | taken | {"steps_taken": fit.steps, "converged": converged}


def _classes(program: Program, cell: dict, known: Known, backend: Backend, key: PRNGKey) -> algorithms.Classes:
    tree = program.tree
    verifier = verifiers.nested_interactions(tree, cell["reward_order"])
    if backend is TREE:
        teacher = verifiers.nested_interactions(tree, cell["policy_order"])
        policy = verifiers.soft_optimal_class(tree, teacher, known.reference, known.beta)
        return algorithms.Classes(policy, verifier)
    base = tree.conditionals(known.reference)
    policy, start = backend.policy(tree, base), policies.tabular(tree, base)
    if program.arm == RICH:
        verifier = verifiers.implicit_verifier(policy, start, start.init(key), known.beta)
        verifier = replace(verifier, init=lambda _: policy.init(key))  # where DPO starts: a network ends where it began
    return algorithms.Classes(policy, verifier)


def _settings(program: Program, cell: dict, backend: Backend) -> algorithms.Settings:
    """Those of few steps, or of optimisation to its end."""
    if backend is not TREE:
        few, end = cell["steps"] != OPTIMUM, backend.settings
        steps = [jnp.where(few, cell["steps"], most) for most in (end.adam_steps, end.rl_steps)]
        return replace(end, adam_steps=steps[0], rl_steps=steps[1])
    if program.solver == "newton":
        return backend.settings
    return algorithms.Settings(solver="adam", learning_rate=LEARNING_RATE, adam_steps=cell["steps"])


def findings(records: dict[str, pl.DataFrame]) -> list[Finding]:
    """The gap at the end and what of gradient descent's remains; more steps; more prompts; the control."""
    fits = records["fits"]
    on_tree = "newton" in fits["solver"]
    steps = sorted(set(fits["steps"].unique()) - {OPTIMUM})
    fewest, most = steps[0], steps[-1]
    at_optimum = gap(fits, OPTIMUM)
    claim = f"optimisation to its end in both arms, prompts with pairs: {REGRET} of DPO - RLHF"
    rows = [Finding(claim, mean(at_optimum), "nats", 0.0, "above")]
    claim = f"share of the gap of gradient descent ({most:,} steps, stopped early) that remains at the end"
    rows.append(Finding(claim, ratio_of_means(at_optimum, gap(fits, most)), "", REMAINS, "above"))
    for number in sorted({fewest, 2 * fewest, most} & set(steps)):
        claim = f"gradient descent, {number:,} steps: regret of DPO - RLHF"
        rows.append(Finding(claim, mean(gap(fits, number)), "nats", 0.0, "above"))
    if 2 * fewest in steps:
        gain = of_seed(fits.filter(arm="DPO", steps=fewest)) - of_seed(fits.filter(arm="DPO", steps=2 * fewest))
        claim = f"{2 * fewest:,} steps instead of {fewest:,}: fall of DPO's regret"
        rows.append(Finding(claim, mean(gain), "nats", 0.0, "above"))
    for prompts in ("all", "without_pairs") if on_tree else PROMPTS:
        claim = f"RL over all prompts instead of those with pairs, at the end: fall of regret, {PROMPTS[prompts]}"
        rows.append(Finding(claim, mean(augmentation(fits, prompts)), "nats", 0.0, "at", margin=EQUAL_NATS))
    if on_tree:
        moved = largest(augmentation(fits, "with_pairs").map(np.abs))
        claim = f"the same, {PROMPTS['with_pairs']}, where the policies are rich enough: |change of regret|"
        rows.append(Finding(claim, moved, "nats", EQUAL["newton"], "below", control=True))
    return [*rows, *_control(fits)]


def _control(fits: pl.DataFrame) -> list[Finding]:
    """Equal classes at the end, where both arms selected the same penalty."""
    offline = fits.filter(arm="DPO", steps=OPTIMUM)
    equal = two_stage(fits, augmented=1, simple=False).filter(steps=OPTIMUM)
    both = paired(offline, equal, [*CELL, "seed"], "_rlhf")
    claim = "reward models as rich as policies, same penalty, at the end: largest difference of regret"
    difference = pl.col("regret_all") - pl.col("regret_all_rlhf")
    same = pl.col("penalty") == pl.col("penalty_rlhf")
    return [equality(claim, both, difference, EQUAL[offline["solver"][0]], where=same)]


PROMPTS = {"with_pairs": "prompts with pairs", "without_pairs": "prompts without pairs", "all": "all prompts"}
CELL = ["horizon", "prompt_length", "gold_order", "policy_order", "pairs", "beta", "temperature", "reference_scale"]


def two_stage(fits: pl.DataFrame, augmented: int, simple: bool = True) -> pl.DataFrame:
    """RLHF's rows with the RL stage over all prompts or those with pairs; rewards simple, or as rich as policies."""
    order = "gold_order" if simple else "policy_order"
    return fits.filter(pl.col("reward_order") == pl.col(order), arm="RLHF", augmented=augmented)


def of_seed(rows: pl.DataFrame, prompts: str = "with_pairs") -> PerSeed:
    """Mean regret over the rows of each seed [seeds], on these prompts."""
    return by_seed(rows, pl.col(f"regret_{prompts}").mean())


def gap(fits: pl.DataFrame, steps: int) -> PerSeed:
    """Regret of DPO less RLHF's on the prompts with pairs, without more prompts, after so many steps [seeds]."""
    return of_seed(fits.filter(arm="DPO", steps=steps)) - of_seed(two_stage(fits, 0).filter(steps=steps))


def augmentation(fits: pl.DataFrame, prompts: str) -> PerSeed:
    """RLHF's regret with RL over prompts with pairs less that with RL over all, at the end [seeds]."""
    without, with_more = (of_seed(two_stage(fits, augmented).filter(steps=OPTIMUM), prompts) for augmented in (0, 1))
    return without - with_more


CAPTIONS = {
    "h3_optimisation": (
        "Left: regret (KL to the optimal policy) on the prompts with pairs after few to many steps of gradient "
        "descent, and at the end of optimisation: on the tree the optimum of both arms, where neither was easier to "
        "optimise, for transformers where held-out pairs say stop. Right: regret at the end with the RL stage over "
        "the prompts with pairs, or over all prompts (prompt augmentation). Points are means over seeds, bars 95 % "
        "intervals."
    ),
}
JUDGED = {"with_pairs": "with\npairs", "without_pairs": "without\npairs", "all": "all"}


def draw(records: dict[str, pl.DataFrame]) -> dict[str, Figure]:
    """Regret by the number of steps, and by the prompts that are judged; bars are 95 % intervals over seeds."""
    fits = records["fits"]
    figure, grid = panels(1, 2, 2.2, sharex="none", ratios=(3, 2))
    left, right = grid[0]
    without, with_more = (two_stage(fits, augmented) for augmented in (0, 1))
    offline = fits.filter(arm="DPO")
    arms = (
        ("offline DPO", offline, {"color": DPO, "marker": "s"}),
        ("two-stage RLHF, RL over prompts with pairs", without, {"color": RLHF, "marker": "o"}),
        ("two-stage RLHF, RL over all prompts", with_more, {"color": PALE, "marker": "^"}),
    )
    for place, (label, rows, look) in enumerate(arms):
        if place < 2:
            _steps(left, rows, label, look)
        _prompts(right, rows.filter(steps=OPTIMUM), label, look | {"place": place})
    left.set_yscale("log")
    left.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    left.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))
    entitle(left, "optimisation", fits)
    entitle(right, "prompt augmentation, at the end", fits)
    name_axes(grid[:, :1], "gradient descent [steps]", "regret KL(π‖π*) [nats]")
    name_axes(grid[:, 1:], "which are judged [prompts]", "regret KL(π‖π*) [nats]")
    legend_below(figure)
    return {"h3_optimisation": figure}


def _steps(axis, rows: pl.DataFrame, label: str, look: dict) -> None:
    """Regret by the number of steps, the end of optimisation last."""
    numbers = [*sorted(set(rows["steps"].unique()) - {OPTIMUM}), OPTIMUM]
    curves = np.stack([of_seed(rows.filter(steps=number)).values for number in numbers], axis=1)
    curve(axis, range(len(numbers)), curves, label, **look)
    end = "at the\noptimum" if "newton" in rows["solver"] else "to the\nend"
    axis.set_xticks(range(len(numbers)), [f"{number:,}" for number in numbers[:-1]] + [end])


def _prompts(axis, rows: pl.DataFrame, label: str, look: dict) -> None:
    curves = np.stack([of_seed(rows, prompts).values for prompts in JUDGED], axis=1)
    places = np.arange(len(JUDGED)) + 0.15 * (look.pop("place") - 1)
    curve(axis, places, curves, label, linestyle="none", **look)
    axis.set_xticks(range(len(JUDGED)), list(JUDGED.values()))
