"""Does the policy's size matter, or the reward model's?

Under best-of-n, where the policy writes and the reward model picks.
A human writes responses: the soft-optimal policy of the gold reward at some temperature, on top of a random reference
policy. Policies of every size, Markov of growing order, are fitted to the exact law of the human's responses (as many
demonstrations as one likes), so that size alone decides how well they write. Reward models of every size, all
interactions of up to some number of token positions, are fitted to the same labelled pairs of responses of the
reference policy. Every reward model then picks the best of 25 responses of every policy, and the gold reward judges it
against the human's. The gold reward is simple, so that even the smallest reward model holds it, or a full table, which
only the largest holds.

On transformers sizes are widths, of a policy and of a reward model with two layers each. None of them holds a gold
reward exactly: simple is what is not a full table. A narrow policy may have used up its steps before it writes as well
as it can (its records are not converged then), so that part of what looks like size can be optimisation.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from experiments.kit.backends import TREE, Backend, check_width
from experiments.kit.fields import COIN, check
from experiments.kit.findings import EQUAL_SHARE, Finding, Question
from experiments.kit.intervals import change, estimate, mean
from experiments.kit.per_seed import PerSeed, by_seed, curves_by_seed
from experiments.kit.plots import BLACK, DPO, curve, entitle, legend_below, name_axes, panels, row_name
from experiments.kit.presets import disjoint
from experiments.kit.problems import problem_of, task_of
from gvgap_jax import TokenTree, algorithms, metrics, policies, preferences, verifiers
from gvgap_jax.losses import weighted_mean
from gvgap_jax.sweep import Cell, Grid
from gvgap_jax.types import TreePolicy, TreeVerifier

MEANING = 2
QUESTION = Question(
    place=60,
    label="H6",
    claim="The size of the reward model barely matters for best-of-n; that of the policy does.",
    reported="arXiv 2503.01067 reports it for best-of-25 over sizes of both, judged by win rate, with one run each.",
    figure="win rate of best-of-n by policy size and reward model size",
    axes=(
        "horizon",
        "gold_order",
        "pairs",
        "labels",
        "policy_order",
        "verifier_order",
        "policy_width",
        "verifier_width",
    ),
)

# Margin of what coin flips teach, in reward: a quarter of the gold reward's standard deviation over responses, a small
# share of what the best of 25 gains where labels inform.
EQUAL = 0.5
SMALLEST = 4096  # size that numbers of pairs are padded to
SETTING = ["horizon", "gold_order", "samples", "human_beta", "temperature", "reference_scale"]


@dataclass(frozen=True)
class Config:
    """Settings of one point.

    Attributes:
      gold_order: positions in an interaction of the gold reward; H is the full table.
      policy_order: tokens that a policy looks back on, 0 to H-1; H-1 is every policy.
      pairs: labelled pairs, a fifth of which is held out to select the ridge penalty by.
    """

    vocabulary: int = 3
    horizon: int = 5
    gold_order: int = 2
    policy_order: int = 0
    verifier_order: int = 2
    labels: str = "gold"
    pairs: int = 512
    samples: int = 25
    human_beta: float = 2.0
    temperature: float = 1.0
    reference_scale: float = 1.0

    def __post_init__(self):
        check(self, policy_order=0)


@dataclass(frozen=True)
class TransformerConfig:
    """Settings of one point on transformers; those that ``Config`` has too mean the same.

    Attributes:
      policy_width: width of the transformer that writes.
      verifier_width: width of the transformer that picks.
    """

    vocabulary: int = 3
    horizon: int = 4
    gold_order: int = 2
    policy_width: int = 32
    verifier_width: int = 32
    labels: str = "gold"
    pairs: int = 512
    samples: int = 25
    human_beta: float = 2.0
    temperature: float = 1.0
    reference_scale: float = 1.0

    def __post_init__(self):
        check(self)
        check_width(self.policy_width)
        check_width(self.verifier_width)


def _grid(seeds: int, **axes: tuple) -> Grid:
    return Grid({"labels": ("gold", COIN)} | axes, seeds=seeds)


_HUMANS = {"human_beta": (1.0, 2.0, 4.0)}
_PAPER = _HUMANS | {"horizon": (5,), "gold_order": (2, 5), "pairs": (128, 512, 2048, 8192)}
_FULL = _HUMANS | {"horizon": (4, 6), "gold_order": (2, 4, 6), "pairs": tuple(2**power for power in range(7, 16))}
_FULL |= {"samples": (4, 25, 128), "reference_scale": (0.5, 1.0, 2.0)}
_WIDTHS = (2, 4, 8, 32)
PRESETS = disjoint(
    {
        "tiny": _grid(2, horizon=(2,), gold_order=(1, 2), policy_order=(0, 1), verifier_order=(1, 2), pairs=(4096,)),
        "quick": _grid(24, gold_order=(2, 5), policy_order=(0, 1, 2, 4), verifier_order=(2, 3, 5), pairs=(512, 4096)),
        "standard": _grid(
            48, gold_order=(2, 5), policy_order=(0, 1, 2, 4), verifier_order=(2, 3, 5), pairs=(512, 4096)
        ),
        "paper": _grid(64, **_PAPER, policy_order=(0, 1, 2, 3, 4), verifier_order=(2, 3, 4, 5)),
        "full": _grid(256, **_FULL, policy_order=(0, 1, 2, 3, 4, 5), verifier_order=(2, 3, 4, 5, 6)),
    }
)
TRANSFORMER_PRESETS = disjoint(
    {
        "tiny": _grid(2, horizon=(2,), gold_order=(1, 2), policy_width=(2, 4), verifier_width=(4,), pairs=(64,)),
        "quick": _grid(24, gold_order=(2, 4), policy_width=(2, 32), verifier_width=(4, 32)),
        "standard": _grid(24, gold_order=(2, 4), policy_width=(2, 32), verifier_width=(4, 32)),
        "paper": _grid(64, **_PAPER, policy_width=_WIDTHS, verifier_width=_WIDTHS),
        "full": _grid(256, **_FULL, policy_width=(*_WIDTHS, 128), verifier_width=(*_WIDTHS, 128)),
    }
)


class Program(NamedTuple):
    """What decides a compiled program: the responses and the padded number of pairs."""

    tree: TokenTree
    pairs: int


class TransformerProgram(NamedTuple):
    """``Program``, and the widths of policy and reward model."""

    tree: TokenTree
    pairs: int
    policy_width: int
    verifier_width: int


def cells(config: Config | TransformerConfig, backend: Backend = TREE) -> list[Cell]:
    """The point, if the tree has interactions and policies of these orders."""
    del backend  # its settings say all
    tree, pairs = TokenTree(config.vocabulary, config.horizon), preferences.padded(config.pairs, SMALLEST)
    labels: dict[str, str | int] = {"horizon": tree.horizon}
    if isinstance(config, TransformerConfig):
        widths, orders = {"policy_width": config.policy_width, "verifier_width": config.verifier_width}, {}
        program, most = TransformerProgram(tree, pairs, **widths), config.gold_order
    else:
        widths, orders = {}, {"policy_order": config.policy_order, "verifier_order": config.verifier_order}
        program, most = Program(tree, pairs), max(config.gold_order, config.verifier_order, config.policy_order + 1)
    if most > config.horizon:
        return []
    numbers: dict[str, int | float] = {"gold_order": config.gold_order, **orders}
    numbers |= {"pairs": config.pairs, "samples": config.samples}
    numbers |= {name: getattr(config, name) for name in ("human_beta", "temperature", "reference_scale")}
    numbers |= {"informed": int(config.labels == "gold")}
    return [Cell("fits", program, labels | widths, numbers)]


def _classes(program: Program | TransformerProgram, cell: dict, backend: Backend) -> tuple[TreePolicy, TreeVerifier]:
    if isinstance(program, TransformerProgram):
        policy = backend.network_policy(program.tree, program.policy_width, None)
        return policy, backend.network_verifier(program.tree, program.verifier_width, "final")
    verifier = verifiers.nested_interactions(program.tree, cell["verifier_order"])
    return policies.nested_markov(program.tree, cell["policy_order"]), verifier


def run(program: Program | TransformerProgram, cell: dict, backend: Backend = TREE) -> dict:
    """One policy and one reward model: what the best, the worst and the first of n responses are worth."""
    tree = program.tree
    task, pairs_key, fit_key = task_of(cell | {"beta": cell["human_beta"]}, tree)
    policy_key, verifier_key = jax.random.split(fit_key)
    # Coin flips are labels of a gold reward of zero.
    labelled = task._replace(reward=cell["informed"] * task.reward)
    problem = problem_of(cell, tree, labelled, pairs_key, program.pairs)
    problem = problem._replace(demonstrations=task.prompt_probs[:, None] * jnp.exp(task.optimal))

    policy, verifier = _classes(program, cell, backend)
    classes, settings = algorithms.Classes(policy, verifier), backend.settings
    written = algorithms.sft(policy_key, classes, problem, settings)
    reward_model = algorithms.reward_model(verifier_key, classes, problem, settings)
    base, scores = policy.leaf_log_probs(written.params), verifier.leaf_scores(reward_model.params)
    measured = {"policy_parameters": policy.num_parameters, "verifier_parameters": verifier.num_parameters}
    for name, law in {
        "first": base,
        "best": jnp.log(metrics.best_of_n(base, scores, cell["samples"])),
        "worst": jnp.log(metrics.best_of_n(base, -scores, cell["samples"])),
    }.items():
        measured[f"gold_reward_{name}"] = weighted_mean(jnp.sum(jnp.exp(law) * task.reward, axis=-1), task.prompt_probs)
        measured[f"win_rate_{name}"] = metrics.win_rate(law, task.optimal, task.reward, task.prompt_probs)
    return measured | {
        "demonstration_loss": written.loss,
        "held_out_loss": reward_model.held_out_loss,
        "penalty": reward_model.penalty,
        "gradient_norm": jnp.maximum(written.gradient_norm, reward_model.gradient_norm),
        "converged": written.converged & reward_model.converged,
    }


def findings(records: dict[str, pl.DataFrame]) -> list[Finding]:
    """For every gold reward and number of pairs the gain from either size, and their difference; then coin flips."""
    informed, rows = records["fits"].filter(informed=1), []
    for (horizon, gold, pairs), here in informed.group_by("horizon", "gold_order", "pairs", maintain_order=True):
        policy_size, verifier_size = sizes(here)
        held = gold < horizon if verifier_size == "verifier_width" else gold <= here[verifier_size].min()
        name = f"H={horizon}, {'simple' if held else 'complex'} gold reward (order {gold}), {pairs:,} pairs: win rate"
        policy, verifier = gains(here, policy_size), gains(here, verifier_size)
        gained = (("policy", policy, "above"), ("reward model", verifier, "at" if held else "above"))
        for size, gain, direction in gained:
            if gain is not None:
                claim = f"{name}, largest {size} less the smallest"
                rows.append(Finding(claim, mean(gain), "", 0.0, direction, margin=EQUAL_SHARE))
        if policy is not None and verifier is not None and held:
            claim = f"{name}, gain from the policy's size less the reward model's"
            rows.append(Finding(claim, change(policy - verifier), "", 0.0, "above"))
    return rows + _coin_findings(records["fits"].filter(informed=0))


def _coin_findings(coins: pl.DataFrame) -> list[Finding]:
    """Flipping every label turns the reward model around: on average its best is worth what its worst is.

    Over a single response it gains nothing, but can lose: it picks evenly among distinct responses, where the
    policy repeats those it likes.
    """
    if coins.is_empty():
        return []
    claim = "labels by coin flips: gold reward of the best less the"
    worst, first = (
        estimate(coins, (pl.col("gold_reward_best") - pl.col(f"gold_reward_{other}")).mean())
        for other in ("worst", "first")
    )
    return [
        Finding(f"{claim} worst of n", worst, "reward", 0.0, "at", control=True, margin=EQUAL),
        Finding(f"{claim} first of n", first, "reward", 0.0, "at", margin=EQUAL),
    ]


def sizes(fits: pl.DataFrame) -> tuple[str, str]:
    """The columns that say how large policies and reward models are: orders, or widths of transformers."""
    kind = "width" if "policy_width" in fits.columns else "order"
    return f"policy_{kind}", f"verifier_{kind}"


def gains(fits: pl.DataFrame, size: str) -> PerSeed | None:
    """Win rate of best-of-n with the largest value of ``size`` less that with the smallest.

    The mean over all else; None where there is a single size.
    """
    if fits[size].n_unique() == 1:
        return None
    smallest, largest = (
        by_seed(fits.filter(pl.col(size) == end), pl.col("win_rate_best").mean())
        for end in (fits[size].min(), fits[size].max())
    )
    return largest - smallest


CAPTIONS = {
    "h6a_model_sizes": (
        "How often the best of n responses of a policy beats the human's, by the size of the policy (steps along a "
        "curve) and of the reward model that picks (curves; its order is how many token positions it reads together). "
        "Dotted: a coin; crosses: no picking; orange: a reward model of labels by coin flips. Points are means over "
        "seeds, bars 95 % intervals."
    ),
}
SIZES = {"policy_order": "tokens looked back on", "policy_width": "numbers a token"}


def draw(records: dict[str, pl.DataFrame]) -> dict[str, Figure]:
    """One row a setting (gold reward, tree, human), one column a number of labelled pairs."""
    fits = records["fits"]
    rows = fits.select(SETTING).unique(maintain_order=True).sort(SETTING).to_dicts()
    policy_size, verifier_size = sizes(fits)
    numbers, orders = (sorted(fits[name].unique()) for name in ("pairs", verifier_size))
    shades = plt.get_cmap("viridis")(np.linspace(0.85, 0.1, len(orders)))
    figure, grid = panels(len(rows), len(numbers), sharey="row")
    for row, axes in zip(rows, grid, strict=True):
        for axis, pairs in zip(axes, numbers, strict=True):
            here = fits.filter(pairs=pairs, **row)
            for order, shade in zip(orders, shades, strict=True):
                chosen = here.filter(pl.col(verifier_size) == order, informed=1)
                label = f"reward model of {verifier_size.removeprefix('verifier_')} {order}"
                _curve(axis, chosen, "win_rate_best", label, color=shade)
            look = {"color": DPO, "marker": "s", "linestyle": "--"}
            _curve(axis, here.filter(informed=0), "win_rate_best", "of coin-flip labels, any size", **look)
            _curve(axis, here, "win_rate_first", "one response, not picked", color=BLACK, marker="x")
            axis.axhline(50, color="0.4", linestyle=":", linewidth=0.8)
            if policy_size == "policy_width":
                axis.set_xscale("log", base=2)
            axis.set_xticks(sorted(fits[policy_size].unique()))
            entitle(axis, "", here)
    names = [f"{row_name(row, rows)}\nbest of {row['samples']}, win rate [%]" for row in rows]
    name_axes(grid, f"policy size [{SIZES[policy_size]}]", names)
    legend_below(figure)
    return {"h6a_model_sizes": figure}


def _curve(axis, fits: pl.DataFrame, column: str, label: str, **look) -> None:
    """Percentages by the size of the policy, the mean of all else within a seed."""
    if fits.is_empty():
        return
    orders, wins = curves_by_seed(fits, sizes(fits)[0], 100 * pl.col(column).mean())
    curve(axis, orders, wins.values, label, **look)
