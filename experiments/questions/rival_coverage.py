"""Is RLHF's advantage one of coverage of the responses?

Does DPO put mass where no pair ever looked?
A share of all responses is withheld: no pair mentions them, though the reference policy writes them. DPO's
likelihood says nothing about them; RLHF's second stage at least keeps to the reference there. Both methods get the
same pairs and the same ridge penalties, chosen on held-out pairs, or next to none. If coverage is what RLHF gains
from, its advantage vanishes where nothing is withheld, and a reward model as complex as a policy has it too. If simple
verifiers are what it gains from, it is there with full coverage, and a full-table reward model has none of it.

Transformers have no ridge penalties: what is chosen on held-out pairs is when to stop. The reward model as complex as a
policy is there one of the policy's own backbone. A network can generalise to responses that no pair mentions, where a
table cannot: the mass on them says whether it does.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import polars as pl
from jaxtyping import Array, Bool, Float
from matplotlib.figure import Figure

from experiments.kit.backends import TREE, Backend
from experiments.kit.fields import check
from experiments.kit.findings import REGRET, Finding, Question, answered
from experiments.kit.intervals import Estimate, change, estimate
from experiments.kit.per_seed import by_seed
from experiments.kit.plots import DPO, PALE, RLHF, curve_of, entitle, legend_below, name_axes, panels
from experiments.kit.presets import disjoint
from experiments.kit.problems import METHODS, problem_of, task_of
from gvgap_jax import TokenTree, algorithms, metrics, preferences, verifiers
from gvgap_jax.losses import weighted_mean
from gvgap_jax.sweep import Cell, Grid
from gvgap_jax.tasks import Task
from gvgap_jax.types import PRNGKey

MEANING = 2
QUESTION = Question(
    place=81,
    label="rival",
    claim="DPO loses to RLHF because it needs pairs that cover every response.",
    reported=(
        "Song et al. (arXiv 2406.01462): DPO needs global coverage, RLHF only that of a KL ball around the reference. "
        "Xu et al. (arXiv 2404.10719): an optimum of DPO can put mass on responses that no pair mentions."
    ),
    axes=("pairs", "unseen"),
)

PENALTIES = {"chosen": algorithms.PENALTIES, "next to none": (0.01,)}  # in pairs
STOPPED = "early stopping"  # in the place of penalties, on transformers
BACKBONE = "RLHF, same backbone"  # reward models as expressive as policies, on transformers
EQUAL = 0.1  # margin of a mass: a third of the share that is marked
MARKED = 0.3  # share of the responses that are looked at where none is withheld


@dataclass(frozen=True)
class Config:
    """Settings of one point.

    Attributes:
      unseen: share of the responses that is withheld from all pairs, at random.
    """

    vocabulary: int = 3
    horizon: int = 4
    gold_order: int = 1
    pairs: int = 2048
    unseen: float = 0.0
    beta: float = 1.0

    def __post_init__(self):
        check(self)
        leaves = TokenTree(self.vocabulary, self.horizon).leaves
        if leaves - round(self.unseen * leaves) < 2:
            raise ValueError(f"unseen must leave two responses of {leaves}, got {self.unseen}.")


HOLES = (0.0, 0.1, 0.3, 0.6)
PRESETS = disjoint({
    "tiny": Grid({"horizon": (2,), "pairs": (64,), "unseen": (0.0, 0.3)}, seeds=2),
    "quick": Grid({"pairs": (256, 2048), "unseen": HOLES}, seeds=32),
    "standard": Grid({"pairs": (256, 512, 1024, 2048), "unseen": HOLES}, seeds=48),
    "paper": Grid({"gold_order": (1, 2), "pairs": (128, 512, 2048, 8192), "unseen": HOLES}, seeds=64),
    "full": Grid(
        {
            "horizon": (5,), "gold_order": (1, 2, 3), "pairs": tuple(2**power for power in range(7, 16)),
            "unseen": (0.0, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8), "beta": (0.5, 1.0, 2.0),
        },
        seeds=256,
    ),
})  # fmt: skip
TRANSFORMER_PRESETS = disjoint(
    PRESETS
    | {
        "quick": Grid({"pairs": (512,), "unseen": (0.0, 0.6)}, seeds=16),
        "standard": Grid({"pairs": (1024,), "unseen": (0.0, 0.3, 0.6)}, seeds=20),  # four minutes of a core
    }
)


class Program(NamedTuple):
    """What decides a compiled program: the method, the name of its penalties, the tree, the padded number of pairs."""

    method: str
    penalty: str
    tree: TokenTree
    pairs: int


def cells(config: Config, backend: Backend = TREE) -> list[Cell]:
    """DPO, RLHF with reward models of the gold reward's order and with full tables; each with both sets of penalties.

    On transformers each with early stopping, and reward models of the policy's backbone in the place of full tables.
    None where the gold reward's order is beyond what the tree has.
    """
    if config.gold_order > config.horizon:
        return []
    tree = TokenTree(config.vocabulary, config.horizon)
    numbers: dict[str, int | float] = {"gold_order": config.gold_order, "pairs": config.pairs}
    numbers |= {"unseen": config.unseen, "beta": config.beta, "temperature": 1.0, "reference_scale": 0.0}
    orders = {"DPO": [config.horizon], "RLHF": sorted({config.gold_order, config.horizon})}
    if backend is not TREE:
        orders = {"DPO": [config.horizon], "RLHF": [config.gold_order], BACKBONE: [config.horizon]}
    made = []
    for method in orders:
        for penalty in PENALTIES if backend is TREE else (STOPPED,):
            program = Program(method, penalty, tree, preferences.padded(config.pairs))
            labels: dict[str, str | int] = {"horizon": config.horizon, "method": method, "penalties": penalty}
            made += [Cell("fits", program, labels, numbers | {"order": order}) for order in orders[method]]
    return made


def run(program: Program, cell: dict, backend: Backend = TREE) -> dict:
    """One fit of one method, and the mass that it and the optimal policy put on the withheld responses."""
    tree = program.tree
    task, key, fit_key = task_of(cell, tree)
    hole_key, pairs_key = jax.random.split(key)
    share = jnp.where(cell["unseen"] > 0, cell["unseen"], MARKED)
    hole = random_hole(hole_key, tree, share)
    law = jnp.where(cell["unseen"] > 0, covered(task.reference, hole), task.reference)
    problem = problem_of(cell, tree, task, pairs_key, program.pairs, law)
    policy = backend.policy(tree, tree.conditionals(task.reference))
    simple = verifiers.nested_interactions(tree, cell["order"])
    classes = algorithms.Classes(policy, backend.verifier(tree) if program.method == BACKBONE else simple)
    settings = replace(backend.settings, penalties=PENALTIES.get(program.penalty, backend.settings.penalties))
    fit = METHODS.get(program.method, algorithms.rlhf)(fit_key, classes, problem, settings)
    leaves = policy.leaf_log_probs(fit.params)
    masses = {"hole_mass": mass_in(hole, leaves, task), "optimal_hole_mass": mass_in(hole, task.optimal, task)}
    kept = {name: getattr(fit, name) for name in ("penalty", "gradient_norm", "converged")}
    return metrics.evaluate(leaves, task)._asdict() | masses | kept


def random_hole(key: PRNGKey, tree: TokenTree, share: Float[Array, ""]) -> Bool[Array, "X L"]:
    """A random set of ``share`` of the responses to each prompt, to the nearest whole number."""
    rank = jnp.argsort(jax.random.uniform(key, (tree.prompts, tree.leaves)), axis=-1)
    return rank < jnp.round(share * tree.leaves)


def covered(reference: Float[Array, "X L"], hole: Bool[Array, "X L"]) -> Float[Array, "X L"]:
    """Log-probabilities of the reference policy given that the response is not in the hole; -inf in it."""
    return jax.nn.log_softmax(jnp.where(hole, -jnp.inf, reference), axis=-1)


def mass_in(hole: Bool[Array, "X L"], log_policy: Float[Array, "X L"], task: Task) -> Float[Array, ""]:
    """Probability that a policy writes a response of the hole, averaged over prompts."""
    return weighted_mean(jnp.sum(jnp.where(hole, jnp.exp(log_policy), 0.0), axis=-1), task.prompt_probs)


def arms(fits: pl.DataFrame) -> pl.DataFrame:
    """Fits with the columns arm (DPO, RLHF simple, a name in ``RICH``) and excess: the hole's mass beyond pi*'s."""
    table, names = pl.col("order") == pl.col("horizon"), pl.when(method="DPO").then(pl.lit("DPO"))
    names = names.when(method=BACKBONE).then(pl.lit("RLHF backbone")).when(table).then(pl.lit("RLHF table"))
    excess = pl.col("hole_mass") - pl.col("optimal_hole_mass")
    return fits.with_columns(arm=names.otherwise(pl.lit("RLHF simple")), excess=excess)


def findings(records: dict[str, pl.DataFrame]) -> list[Finding]:
    """Mass in the hole, then the gap in regret, where coverage and simple verifiers part; all at the most pairs."""
    fits = arms(records["fits"])
    most = max(fits["pairs"].to_list())
    fits, pairs, rows = fits.filter(pl.col("pairs") == most), f"{most:,} pairs", []
    holes = sorted(hole for hole in fits["unseen"].unique() if hole > 0)
    if holes:
        rows += _mass_findings(fits, holes[0], holes[-1], pairs)
    rows += _gap_findings(fits, max(holes, default=0.0), pairs)
    for penalty, named in _chosen_how(fits).items():
        claim = f"nothing withheld, {pairs}, {named}: mass of DPO on {MARKED:.0%} of responses - pi*'s"
        chosen = fits.filter(arm="DPO", unseen=0, penalties=penalty)
        level = estimate(chosen, pl.col("excess").mean())
        rows.append(Finding(claim, level, "", 0.0, "at", control=True, margin=EQUAL))
    return answered(rows)


RICH = {  # reward models as complex as a policy, in words: one, and many
    "RLHF table": ("a full-table reward model", "full tables"),
    "RLHF backbone": ("a reward model of the policy's own backbone", "reward models of the policy's own backbone"),
}


def _rich(fits: pl.DataFrame) -> str:
    """The arm of reward models as complex as a policy: its name in ``RICH``."""
    return next((arm for arm in RICH if arm in fits["arm"]), "RLHF table")


def _chosen_how(fits: pl.DataFrame) -> dict[str, str]:
    """The sets of penalties, or early stopping in their place, and how a claim names them."""
    return {STOPPED: STOPPED} if STOPPED in fits["penalties"] else {each: f"penalty {each}" for each in PENALTIES}


def _mass_findings(fits: pl.DataFrame, smallest: float, largest: float, pairs: str) -> list[Finding]:
    rows, here, rich = [], fits.filter(pl.col("unseen") == largest), _rich(fits)
    for penalty, named in _chosen_how(fits).items():
        where, chosen = f"{largest:.0%} withheld, {pairs}, {named}", here.filter(penalties=penalty)
        claim = f"{where}: mass of DPO on what no pair mentions - pi*'s"
        rows.append(Finding(claim, estimate(chosen.filter(arm="DPO"), pl.col("excess").mean()), "", 0.0, "above"))
        claim = f"{where}: mass of DPO there - that of RLHF with {RICH[rich][0]}"
        rows.append(Finding(claim, _between(chosen, "excess", "DPO", rich), "", 0.0, "above"))
    if smallest < largest:
        weakest, named = list(_chosen_how(fits).items())[-1]
        offline = fits.filter(arm="DPO", penalties=weakest)
        grown = _mean("excess", pl.col("unseen") == largest) - _mean("excess", pl.col("unseen") == smallest)
        claim = f"{pairs}, {named}: excess mass of DPO with {largest:.0%} withheld - with {smallest:.0%}"
        rows.append(Finding(claim, estimate(offline, grown), "", 0.0, "above"))
    return rows


def _gap_findings(fits: pl.DataFrame, largest: float, pairs: str) -> list[Finding]:
    """Regret between the arms, where reward models of the gold reward's order are simpler than full tables."""
    rich, first = _rich(fits), next(iter(_chosen_how(fits)))
    _, many = RICH[rich]
    fits = fits.filter(pl.col("gold_order") < pl.col("horizon"), penalties=first)
    full, hole = fits.filter(unseen=0), fits.filter(pl.col("unseen") == largest, pl.col("unseen") > 0)
    share = f"{largest:.0%} withheld, {pairs}"
    claim = f"nothing withheld, {pairs}: {REGRET} of DPO - RLHF with simple verifiers, which coverage says is 0"
    rows = [Finding(claim, _between(full, "regret", "DPO", "RLHF simple"), "nats", 0.0, "above")]
    claim = f"{share}: regret of DPO - RLHF with {many}, which coverage says is above 0"
    rows.append(Finding(claim, _between(hole, "regret", "DPO", rich), "nats", 0.0, "above"))
    claim = f"{share}: regret of RLHF with {many} - with simple verifiers, which reach what was withheld"
    rows.append(Finding(claim, _between(hole, "regret", rich, "RLHF simple"), "nats", 0.0, "above"))
    if not len(full) or not len(hole):
        return rows
    simple = pl.col("arm").is_in(["DPO", "RLHF simple"])
    gap = _mean("regret", pl.col("arm") == "DPO") - _mean("regret", pl.col("arm") == "RLHF simple")
    wider = by_seed(hole.filter(simple), gap) - by_seed(full.filter(simple), gap)
    claim = f"{share}: how much wider the gap of DPO to RLHF with simple verifiers is than with nothing withheld"
    return [*rows, Finding(claim, change(wider), "nats", 0.0, "above")]


def _between(fits: pl.DataFrame, column: str, left: str, right: str) -> Estimate:
    """Mean of a column over one arm less that over another, within a seed."""
    both = fits.filter(pl.col("arm").is_in([left, right]))
    return estimate(both, _mean(column, pl.col("arm") == left) - _mean(column, pl.col("arm") == right))


def _mean(column: str, where: pl.Expr) -> pl.Expr:
    return pl.col(column).filter(where).mean()


CAPTIONS = {
    "rival_coverage": (
        "Mass on responses that no pair mentions beyond that of the optimal policy, regret (KL to the optimal "
        "policy), and gold reward, against the share of responses withheld (at 0: the mass on a random 30 % that are "
        "mentioned). Coverage explains a gap that opens with that share, and DPO's mass above 0; simple verifiers one "
        "that is there at 0. Points are means over seeds, bars 95 % intervals."
    ),
}
ARMS = {
    "DPO": ("offline DPO", DPO, "s"),
    "RLHF simple": ("two-stage RLHF, simple verifier", RLHF, "o"),
    "RLHF table": ("two-stage RLHF, full-table verifier", PALE, "^"),
    "RLHF backbone": ("two-stage RLHF, verifier of the policy's backbone", PALE, "^"),
}
COLUMNS = {
    "excess": "on the unseen, beyond π*\n[probability]",
    "regret": "regret KL(π‖π*)\n[nats]",
    "gold_reward": "gold reward\n[reward]",
}


def draw(records: dict[str, pl.DataFrame]) -> dict[str, Figure]:
    """A row a penalty, for the fewest and the most pairs."""
    fits = arms(records["fits"])
    sizes = sorted(fits["pairs"].unique())
    named = _chosen_how(fits)
    rows = [(penalty, pairs) for penalty in named for pairs in (sizes[0], sizes[-1])[: len(sizes)]]
    figure, grid = panels(len(rows), len(COLUMNS), 1.5, sharey="none")
    for row, (penalty, pairs) in zip(grid, rows, strict=True):
        here = fits.filter(penalties=penalty, pairs=pairs)
        for axis, name in zip(row, COLUMNS, strict=True):
            _panel(axis, here, name)
            entitle(axis, named[penalty], here)
    for number, label in enumerate(COLUMNS.values()):
        name_axes(grid[:, number : number + 1], "withheld [share of responses]", label)
    legend_below(figure)
    return {"rival_coverage": figure}


def _panel(axis, fits: pl.DataFrame, name: str) -> None:
    if name == "excess":
        axis.axhline(0, color="0.45", linewidth=0.6)
    for arm, (label, colour, marker) in ARMS.items():
        here = fits.filter(arm=arm)
        if len(here):
            curve_of(axis, here, "unseen", name, label, marker=marker, color=colour)
