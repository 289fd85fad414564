"""What does each method win, and what does it cost?

Wins are counted against the reference completions.
The paper's table, where everything can be summed exactly. A human policy is optimal for the gold reward; SFT is the
Markov policy nearest to it, and the reference of all that follows. Pairs of SFT responses are labelled by the gold
reward. Every trained arm gets the same pairs, batches, epochs and learning rates to choose from, and chooses on the
same held-out pairs. Online DPO is one batch round: m responses a prompt, ranked by one fixed reward model, the top
against the bottom. Three more arms say which part of that matters: labels by the reward model's own Bradley-Terry
probabilities, fresh responses of the present policy in every round, or both. The win rate is the probability that a
response has more gold reward than a human one; a tie counts one half. Arms marked optimum solve the same likelihoods
until the gradient is as good as 0; on transformers, where no gradient certifies that, they descend until held-out pairs
say stop, and one more arm's reward model has the policy's own backbone.
"""

import textwrap
from dataclasses import dataclass

import jax.numpy as jnp
import polars as pl
from matplotlib.figure import Figure

from experiments.kit.backends import TREE, Backend
from experiments.kit.fields import check
from experiments.kit.findings import Finding, Question, equality
from experiments.kit.intervals import estimate
from experiments.kit.per_seed import paired
from experiments.kit.plots import BLACK, DPO, RLHF, THIRD, bars, entitle, name_axes, name_points, panels
from experiments.kit.presets import disjoint
from experiments.kit.problems import HELD_OUT_EVERY, OF, of_arm
from experiments.questions.main_table_arms import ARMS, BATCH, Program, arms, scene_of
from gvgap_jax import TokenTree, metrics
from gvgap_jax.sweep import Cell, Grid

MEANING = 4
QUESTION = Question(
    place=70,
    label="main table",
    claim="On the same data online arms win more often against the reference completions than offline DPO.",
    reported=(
        "Reported at 1.4B (2.8B) parameters, win rate in %: SFT 26.2 (30.5), DPO 49.7 (54.9), DPO with 2 epochs 52.2, "
        "online DPO from SFT 56.1 (60.8), online DPO from DPO 59.3 (59.4); arXiv 2503.01067."
    ),
    figure="win rates of SFT, DPO and online DPO",
    axes=("pairs",),
)

POINTS = 100 * (pl.col("win_rate") - pl.col("win_rate_other"))
CELL = ("horizon", "pairs", "gold_order", "verifier_order", "beta")
EQUAL = 0.1  # percentage points of win rate, for two methods that must end at one policy
COMPARED = (  # an arm that is claimed to win more often, and the arm it is compared with
    ("online DPO from SFT", "DPO"),
    ("online DPO from DPO", "DPO"),
    ("online DPO, soft labels", "online DPO from SFT"),
    ("online DPO, iterated", "online DPO from SFT"),
    ("online DPO, iterated, soft labels", "online DPO, iterated"),
    ("RLHF, exact", "DPO"),
    ("RLHF, RLOO", "DPO"),
    ("RLHF, PPO", "DPO"),
    ("best of n", "DPO"),
    ("RLHF, optimum", "DPO, optimum"),
    ("RLHF, same backbone, optimum", "DPO, optimum"),
    ("DPO, 2 epochs", "DPO"),
    ("DPO", "SFT"),
)


@dataclass(frozen=True)
class Config:
    """Settings of one table.

    Attributes:
      prompt_length: tokens of a prompt; there are V**prompt_length prompts, equally frequent.
      gold_order: order of the interactions of the gold reward.
      verifier_order: order of the reward models.
      candidates: m, responses a prompt that online DPO and best-of-n choose from.
    """

    vocabulary: int = 3
    horizon: int = 4
    prompt_length: int = 1
    gold_order: int = 2
    verifier_order: int = 2
    pairs: int = 1280
    candidates: int = 25
    beta: float = 1.0

    def __post_init__(self):
        check(self)
        if self.pairs * (HELD_OUT_EVERY - 1) // HELD_OUT_EVERY < BATCH:
            raise ValueError(f"pairs must leave a batch of {BATCH} to train on, got {self.pairs}.")


PRESETS = disjoint(
    {
        "tiny": Grid({"horizon": (1,), "pairs": (80,), "candidates": (2,)}, seeds=2),
        "quick": Grid({}, seeds=24),
        "standard": Grid({}, seeds=64),
        "paper": Grid({"pairs": (320, 1280, 5120)}, seeds=64),
        "full": Grid({"horizon": (4, 5), "pairs": (320, 1280, 5120, 20480), "verifier_order": (1, 2, 4)}, seeds=256),
    }
)
TRANSFORMER_PRESETS = disjoint(
    PRESETS
    | {
        "tiny": Grid(
            {"horizon": (1,), "gold_order": (1,), "verifier_order": (1,), "pairs": (80,), "candidates": (2,)}, seeds=2
        ),
        "quick": Grid({}, seeds=24),
        "standard": Grid({}, seeds=32),
    }
)


def cells(config: Config, backend: Backend = TREE) -> list[Cell]:
    """One cell a table, all arms in it; none where an order is beyond what there is to read."""
    del backend  # its arms are columns of one row
    tree = TokenTree(config.vocabulary, config.horizon, config.prompt_length)
    if max(config.gold_order, config.verifier_order) > config.horizon + config.prompt_length:
        return []
    numbers = {name: getattr(config, name) for name in ("gold_order", "verifier_order", "beta")}
    program = Program(tree, config.pairs, config.candidates)
    return [Cell("tables", program, {"horizon": config.horizon, "pairs": config.pairs}, numbers)]


def run(program: Program, cell: dict, backend: Backend = TREE) -> dict:
    """All arms of one table; a column is named by its arm and by what was measured (see ``by_arm``)."""
    scene, task, human = scene_of(program, cell, backend)
    policy, verifier = scene.policy, scene.verifier
    columns, converged = {}, jnp.array(True)
    for arm, outcome in arms(scene).items():
        flops = outcome.cost.flops(policy.num_parameters, verifier.num_parameters, program.tree.horizon)
        wins = metrics.win_rate(outcome.log_policy, human, task.reward, task.prompt_probs)
        measured = metrics.evaluate(outcome.log_policy, task)._asdict()
        measured |= {"win_rate": wins, "responses": outcome.cost.drawn, "flops": flops}
        columns |= {f"{arm}{OF}{name}": value for name, value in measured.items()}
        converged &= outcome.converged
    return columns | {"converged": converged}


def by_arm(tables: pl.DataFrame) -> pl.DataFrame:
    """Records with one row an arm, and a column for everything measured."""
    return pl.concat(of_arm(tables, arm) for arm in ARMS if f"{arm}{OF}win_rate" in tables.columns)


def findings(records: dict[str, pl.DataFrame]) -> list[Finding]:
    """Paired differences of win rate, at the middling number of pairs; then the control."""
    table = by_arm(records["tables"])
    sizes = sorted(table["pairs"].unique())
    pairs = sizes[len(sizes) // 2]
    here, rows = table.filter(pairs=pairs), []
    for arm, other in COMPARED:
        if not len(here.filter(arm=arm)):
            continue
        claim = f"win rate of {arm} less that of {other}, {pairs:,} pairs"
        rows.append(Finding(claim, estimate(beside(here, arm, other), POINTS.mean()), "points", 0.0, "above"))
    claim = "DPO's likelihood over RLHF's policies alone, same penalties: largest difference of win rate from RLHF"
    both = beside(table, "restricted MLE, optimum", "RLHF, optimum")
    return [*rows, equality(claim, both, POINTS, EQUAL, "points")]


def beside(table: pl.DataFrame, arm: str, other: str) -> pl.DataFrame:
    """Rows of one arm with those of another on the same data, whose columns end in ``_other``."""
    cell = [name for name in (*CELL, "seed") if name in table]
    return paired(table.filter(arm=arm), table.filter(arm=other), cell, "_other")


CAPTIONS = {
    "main_table": (
        "Left: probability that a response of each arm has more gold reward than a human one, ties one half (bars: 95 "
        "% intervals over seeds). Right: the same against the floating-point operations spent. Orange: offline; blue: "
        "two-stage RL; green: online DPO. Arms marked optimum are solved until the gradient is as good as 0; numbers "
        "name the same arms on both sides."
    ),
    "main_table_bars": (
        "Probability that a response has more gold reward than a human one, ties one half, of the methods that arXiv "
        "2503.01067 compares, means over seeds with 95 % intervals; dashed: as good as humans. Reported there for "
        "summaries, models of 1.4B parameters, in this order: 26.2, 49.7, 52.2, 56.1 and 59.3 %."
    ),
}
REPORTED = ("SFT", "DPO", "DPO, 2 epochs", "online DPO from SFT", "online DPO from DPO")
MEASURED = ("win_rate", "objective", "gold_reward", "kl_to_reference", "regret", "responses", "flops")


def draw(records: dict[str, pl.DataFrame]) -> dict[str, Figure | pl.DataFrame]:
    """The figure at the middling number of pairs, and the whole table with intervals."""
    table = by_arm(records["tables"])
    sizes = sorted(table["pairs"].unique())
    middling = table.filter(pairs=sizes[len(sizes) // 2])
    figures = {"main_table": _win_rates(middling), "main_table_bars": _bars(middling)}
    return figures | {"main_table_numbers": numbers(table)}


def _bars(table: pl.DataFrame) -> Figure:
    shown = [estimate(table.filter(arm=arm), 100 * pl.col("win_rate").mean()).at() for arm in REPORTED]
    figure, grid = panels(1, 1, 2.2)
    bars(grid[0, 0], [textwrap.fill(arm, 10) for arm in REPORTED], {"": ([_colour(arm) for arm in REPORTED], shown)})
    grid[0, 0].axhline(50, color="0.45", linestyle="--", linewidth=1)
    entitle(grid[0, 0], "against human responses", table)
    name_axes(grid, "responses of [method]", "win rate [%]")
    return figure


def numbers(table: pl.DataFrame) -> pl.DataFrame:
    """Mean and interval over seeds of everything measured, one row a cell."""
    cell = [name for name in table.columns if name in ("arm", *CELL)]
    rows = []
    for values, here in table.group_by(cell, maintain_order=True):
        row = dict(zip(cell, values, strict=True))
        for name in MEASURED:
            interval = estimate(here, pl.col(name).mean()).at()
            row |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
        rows.append(row)
    return pl.DataFrame(rows)


def _colour(arm: str) -> str:
    if arm.startswith("online"):
        return THIRD
    return DPO if arm.startswith("DPO") else BLACK if arm == "SFT" else RLHF


def _win_rates(table: pl.DataFrame) -> Figure:
    arms = table["arm"].unique(maintain_order=True).to_list()
    figure, grid = panels(1, 2, 3.2, "none", "none", ratios=(1.5, 1))
    (left, right), spent = grid[0], {}
    for number, arm in enumerate(arms, start=1):
        here = table.filter(arm=arm)
        wins, flops = estimate(here, 100 * pl.col("win_rate").mean()).at(), here["flops"].mean()
        spread = [[wins.estimate - wins.low], [wins.high - wins.estimate]]
        left.errorbar(wins.estimate, -number, xerr=spread, color=_colour(arm), marker="o", markersize=4)
        if flops:
            right.errorbar(flops, wins.estimate, yerr=spread, color=_colour(arm), marker="o", markersize=3)
            spent[str(number)] = (flops, wins.estimate)
    left.set_yticks(range(-1, -len(arms) - 1, -1), [f"{arm}  {number}" for number, arm in enumerate(arms, 1)])
    left.axvline(50, color="0.45", linestyle="--", linewidth=1)
    right.set_xscale("log")
    entitle(left, "win rates", table)
    entitle(right, "and what they cost", table)
    name_axes(grid[:, :1], "against human responses [%]", "method [number]")
    name_axes(grid[:, 1:], "spent [FLOPs]", "win rate [%]")
    name_points(right, spent)
    return figure
