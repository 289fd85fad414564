"""Does RLHF beat DPO where responses are too many to list?

And does it on transformers most where checking is easy?
Small transformers write responses to the prompts of token tasks: write as many tokens of each kind as the prompt
holds, sort the prompt, resemble a hidden reference. The reference policy is uniform, and labels are Bradley-Terry
draws of the gold reward. From the same pairs, of which every fifth is held out, one arm trains the transformer by
DPO. Two arms learn a reward model first, a transformer of the same shape or a small reward model that suits the
family, and then train the transformer by RLOO on it. A last arm runs the same RLOO on the gold reward, so that a loss
can be traced to the reward model or to the second stage. In some families the small reward model can hold the gold
reward: checking is easy there. In others, such as the hidden reference, which only a table can hold, it cannot.

All arms have the same steps at most and the same learning rates to choose from: fits to pairs stop early and choose
by held-out loss, RL chooses by J under the reward that it maximises. What is judged is the share of the possible gain,
(J - J of the reference) / (best J - J of the reference), with J = E r - beta KL estimated from fresh responses and the
two ends exact. What could still mislead: networks and budgets are small, so that other ones may rank otherwise.
"""

from dataclasses import dataclass
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from experiments.kit import plots
from experiments.kit.fields import COIN, check
from experiments.kit.findings import EQUAL_SHARE, Finding, Question, answered
from experiments.kit.intervals import change, estimate
from experiments.kit.per_seed import by_seed, curves_by_seed
from experiments.kit.plots import curve, entitle, legend_below, name_axes, panels
from experiments.kit.presets import disjoint
from experiments.kit.problems import OF, of_arm
from experiments.questions.token_tasks_arms import (
    ARMS,
    DPO,
    EVERY,
    GOLD,
    REFERENCE,
    SAME,
    SIMPLE,
    Program,
    arms,
    scene_of,
    task_of,
)
from experiments.questions.token_tasks_families import FAMILIES, Sizes
from gvgap_jax import rollouts
from gvgap_jax.lm.model.shape import llama
from gvgap_jax.sweep import Cell, Grid
from gvgap_jax.token_tasks import Objectives, environment, objectives

MEANING = 2
NETWORKS = True  # its rows cannot be expected again, but for their means
NOT_ON_TRANSFORMERS = "its policies are transformers already: leave out --backend."
QUESTION = Question(
    place=65,
    label="H6",
    claim="Where checking is easier than writing, transformers gain more by RL on a learned checker than by DPO.",
    reported=(
        "Reported for 1.4B and 2.8B parameters: online DPO wins 6 points more often than DPO, and no more (.354 "
        "against .352) where the reward is ROUGE-L with a hidden reference; arXiv 2503.01067. No small transformers."
    ),
    axes=("family", "labels", "pairs"),
)

JUDGED = 4096  # prompts that J is estimated on, one response each

# Shares of the possible gain:
ENOUGH = 0.9  # RL on the gold reward must reach, for its budget not to explain a loss
NOTHING = 0.05  # below it nothing was learned
ERROR = 0.02  # of one estimate: small beside what is compared


@dataclass(frozen=True)
class Config:
    """Settings of one point of the sweep.

    Attributes:
      family: kind of task, one of ``token_families``.
      prompt_length: tokens of a prompt; puzzles have prompts of their own length.
      prompts: how many a task has, equally frequent.
      layers: blocks of the transformers, which are Llama's.
      width: width of the transformers, which have two heads.
      steps: most gradient steps of a fit.
    """

    family: str = "token_counts"
    labels: str = "gold"
    vocabulary: int = 8
    horizon: int = 8
    prompt_length: int = 4
    prompts: int = 2
    layers: int = 1
    width: int = 16
    pairs: int = 500
    steps: int = 250
    beta: float = 1.0

    def __post_init__(self):
        check(self, vocabulary=4)
        if self.family not in FAMILIES:
            raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {self.family!r}.")
        for name, unit, why in (("width", 4, "two heads are rotated in halves"), ("steps", EVERY, "held-out looks")):
            if getattr(self, name) % unit:
                raise ValueError(f"{name} must be a multiple of {unit} ({why}), got {getattr(self, name)}.")


PRESETS = disjoint(
    {
        "tiny": Grid(
            {"vocabulary": (4,), "horizon": (2,), "prompt_length": (1,), "pairs": (10,), "steps": (25,)}, seeds=2
        ),
        "quick": Grid({"labels": ("gold", COIN), "steps": (75,)}, seeds=16),
        "standard": Grid(
            {
                "family": ("token_counts", "token_counts", "interactions", "hidden_reference"),
                "labels": ("gold", COIN, "gold", "gold"),
            },
            (("family", "labels"),),
            seeds=16,
        ),
        "paper": Grid(
            {
                "family": (*FAMILIES, "token_counts"),
                "labels": (*len(FAMILIES) * ("gold",), COIN),
                "horizon": (10,),
                "prompts": (4,),
                "layers": (2,),
                "width": (32,),
                "pairs": (500, 4000),
                "steps": (1000,),
            },
            (("family", "labels"),),
            seeds=32,
        ),
        "full": Grid(
            {
                "family": tuple(FAMILIES),
                "labels": ("gold", COIN),
                "horizon": (6, 10),
                "prompts": (4, 16),
                "layers": (2,),
                "width": (32, 64),
                "pairs": (500, 2000, 8000, 32000),
                "steps": (4000,),
            },
            seeds=64,
        ),
    }
)
SIZE = (*Sizes._fields, "layers", "width", "steps")  # columns of a point, beside the family and the pairs
POINT = ("family", "pairs", *SIZE, "beta")


def cells(config: Config) -> list[Cell]:
    """One cell a point, all arms in it."""
    sizes = Sizes(*(getattr(config, name) for name in Sizes._fields))
    shape = llama(config.vocabulary, config.layers, config.width)
    program = Program(config.family, sizes, shape, config.pairs, config.steps)
    numbers = {"beta": config.beta, "informed": int(config.labels == "gold")}
    return [Cell("fits", program, {name: getattr(config, name) for name in ("family", "pairs", *SIZE)}, numbers)]


def run(program: Program, cell: dict) -> dict:
    """All arms of one point; a column is named by its arm and by what was measured (see ``shares``)."""
    scene, key = scene_of(program, cell)
    outcomes = arms(scene)
    gold = environment(scene.task, scene.task.reward)
    judge = partial(rollouts.evaluate, key, scene.policy, environment=gold, prompts=JUDGED)
    policies = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(outcome.params for outcome in outcomes.values()))
    judged = jax.lax.map(judge, policies)
    columns, converged = {}, jnp.array(True)
    for number, (arm, outcome) in enumerate(outcomes.items()):
        measured = {name: estimates.mean[number] for name, estimates in judged._asdict().items()}
        measured |= {"error": judged.objective.error[number], "accuracy": outcome.accuracy}
        columns |= {f"{arm}{OF}{name}": value for name, value in measured.items()}
        converged &= outcome.converged
    return columns | {"converged": converged}


@cache
def exact(family: str, sizes: Sizes, beta: float, seed: int) -> Objectives:
    """The exact ends of a row's scale: J of the best policy, and of the reference."""
    return objectives(task_of(family, sizes, beta, seed)[0])


def shares(fits: pl.DataFrame) -> pl.DataFrame:
    """One row an arm, with ``share`` of the possible gain, and ``error``, the standard error of that, in shares too."""
    names = ("family", *Sizes._fields, "beta", "seed")
    tasks = fits.select(names).unique(maintain_order=True)
    ends = [exact(family, Sizes(*sizes), beta, seed) for family, *sizes, beta, seed in tasks.iter_rows()]
    tasks = tasks.with_columns(random=pl.Series([end.random for end in ends], dtype=pl.Float64))
    tasks = tasks.with_columns(possible=pl.Series([end.best for end in ends], dtype=pl.Float64) - pl.col("random"))
    table = pl.concat(of_arm(fits, arm) for arm in ARMS).join(tasks, on=names)
    share = (pl.col("objective") - pl.col("random")) / pl.col("possible")
    return table.with_columns(share=share, error=pl.col("error") / pl.col("possible"))


def less(arm: str, other: str, column: str = "share") -> pl.Expr:
    """The mean of a column over the rows of one arm, less that of another."""
    return pl.col(column).filter(arm=arm).mean() - pl.col(column).filter(arm=other).mean()


def findings(records: dict[str, pl.DataFrame]) -> list[Finding]:
    """For every family and number of pairs who gains more and where the loss arises; the contrast; then controls."""
    table = shares(records["fits"])
    informed, rows = table.filter(informed=1), []
    for (family, pairs), here in informed.group_by("family", "pairs", maintain_order=True):
        rows += _of_family(f"{family}, {pairs:,} pairs: ", here, FAMILIES[str(family)].easy)
    for (pairs,), here in informed.group_by("pairs", maintain_order=True):
        rows += _contrast(f"{pairs:,} pairs: ", here)
    return answered(rows + _controls(table))


def _of_family(where: str, here: pl.DataFrame, easy: bool) -> list[Finding]:
    def gain(claim: str, statistic: pl.Expr, direction: str, bound: float = 0.0):
        return Finding(where + claim, estimate(here, statistic), "of the gain", bound, direction, margin=NOTHING)

    lost_to_reward, lost_to_rl = less(GOLD, SIMPLE), 1 - pl.col("share").filter(arm=GOLD).mean()
    claim = "lost to the simple verifier less lost to RLOO (which RL on the gold reward loses too)"
    return [
        gain("RLHF on a simple verifier less DPO", less(SIMPLE, DPO), "above" if easy else "at"),
        gain("RLHF on a reward model of the same network less DPO", less(SAME, DPO), "at"),
        Finding(
            f"{where}accuracy on held-out pairs, simple verifier less DPO's implicit reward",
            estimate(here, less(SIMPLE, DPO, "accuracy")),
            "of the pairs",
            0.0,
            "above" if easy else "at",
            margin=EQUAL_SHARE,
        ),
        gain(claim, lost_to_reward - lost_to_rl, "above"),
        gain("RL on the gold reward", pl.col("share").filter(arm=GOLD).mean(), "above", ENOUGH),
    ]


def _contrast(where: str, here: pl.DataFrame) -> list[Finding]:
    """The gap in the families whose small reward model holds the gold reward less that in the others."""
    easy = [family for family in here["family"].unique() if FAMILIES[family].easy]
    kinds = here.filter(pl.col("family").is_in(easy)), here.filter(~pl.col("family").is_in(easy))
    if not all(map(len, kinds)):
        return []
    with_easy, without = (by_seed(kind, less(SIMPLE, DPO)) for kind in kinds)
    claim = where + "RLHF on a simple verifier less DPO, where checking is easy less where it is not"
    return [Finding(claim, change(with_easy - without), "of the gain", 0.0, "above")]


def _controls(table: pl.DataFrame) -> list[Finding]:
    """Labels that say nothing teach nothing; samples agree with the exact J, and are enough of them."""
    coins, rows = table.filter(informed=0), []
    for arm in (DPO, SAME, SIMPLE):
        share, claim = pl.col("share").filter(arm=arm).mean(), f"labels by coin flips: {arm}"
        rows.append(Finding(claim, estimate(coins, share), "of the gain", NOTHING, "below", control=True))
    drift = pl.col("share").filter(arm=REFERENCE).mean()
    claim = "J of the reference: sampled less exact"
    rows.append(Finding(claim, estimate(table, drift), "of the gain", 0.0, "at", control=True, margin=NOTHING))
    claim = "largest standard error of a sampled J"
    return [*rows, Finding(claim, estimate(table, pl.col("error").max()), "of the gain", ERROR, "below", control=True)]


CAPTIONS = {
    "token_tasks": (
        "What transformers gain from labelled pairs, as a share of the possible gain of J (0 is the reference policy, "
        "1 the best policy, both exact), by arm and number of pairs, one panel a family of tasks. Where checking is "
        "easy a small reward model can hold the gold reward. RL on the gold reward needs no pairs: what it misses, "
        "the second stage misses. Points are means over seeds, bars 95 % intervals."
    ),
}
LOOKS = {
    DPO: {"color": plots.DPO, "marker": "s"},
    SAME: {"color": plots.PALE, "marker": "^"},
    SIMPLE: {"color": plots.RLHF, "marker": "o"},
    GOLD: {"color": plots.BLACK, "marker": "x"},
}


def draw(records: dict[str, pl.DataFrame]) -> dict[str, Figure]:
    """One panel a family; bars are 95 % intervals over seeds. None where a coin has decided all labels."""
    table = shares(records["fits"]).filter(informed=1)
    families = [family for family in FAMILIES if family in table["family"]]
    if not families:
        return {}
    figure, grid = panels(1, len(families), 1.9, sharex="none")
    for axis, family in zip(grid[0], families, strict=True):
        _panel(axis, table.filter(family=family))
        kind = "checking is easy" if FAMILIES[family].easy else "no simple verifier"
        entitle(axis, f"{family.replace('_', ' ')} ({kind})", table.filter(family=family))
    name_axes(grid, "labels n [pairs]", "gain of J [share of the possible]")
    legend_below(figure)
    return {"token_tasks": figure}


def _panel(axis, table: pl.DataFrame) -> None:
    for end in (0, 1):
        axis.axhline(end, color="0.6", linewidth=0.8, linestyle=":")
    for place, (arm, look) in enumerate(LOOKS.items()):
        pairs, shown = curves_by_seed(table.filter(arm=arm), "pairs", pl.col("share").mean())
        places = np.arange(len(pairs)) + 0.12 * (place - (len(LOOKS) - 1) / 2)
        curve(axis, places, shown.values, arm, **look)
        axis.set_xticks(range(len(pairs)), [f"{number:,}" for number in pairs])
    axis.set_xlim(-0.5, len(pairs) - 0.5)
