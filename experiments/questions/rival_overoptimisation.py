"""Is RLHF's advantage one of less over-optimisation?

Does it stop at a better distance from the reference?
A reward model fitted to n pairs is optimised harder and harder: by best-of-n, whose law is known exactly, and by
exact RL at smaller and smaller beta. DPO is fitted at each of those betas too. Every policy has a distance
d = sqrt(KL(policy || reference)) and a gold reward, so that the methods can be compared at the same distance. If RLHF
gains by stopping in time, nothing is left of the gap at a matched KL; if its simple verifier is simply a better
one, the gap is there at every KL. Best-of-n and RL on the gold reward itself can never over-optimise.

On transformers DPO's policies are networks, and so is the reward model that is as rich as they are, of their own
backbone. What optimises a reward model stays exact: a second stage of transformers would add an error of its own.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import polars as pl
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from experiments.kit.backends import TREE, Backend
from experiments.kit.fields import check
from experiments.kit.findings import EQUAL_REWARD, Finding, Question
from experiments.kit.intervals import largest, mean
from experiments.kit.per_seed import PerSeed, by_seed, curves_by_seed, together
from experiments.kit.plots import BLACK, DPO, PALE, RLHF, curve, entitle, legend_below, means, name_axes, panels
from experiments.kit.presets import disjoint
from experiments.kit.problems import problem_of, task_of
from gvgap_jax import TokenTree, algorithms, metrics, policies, preferences, verifiers
from gvgap_jax.divergence import kl
from gvgap_jax.losses import weighted_mean
from gvgap_jax.soft_rl import soft_optimal_policy
from gvgap_jax.sweep import Cell, Grid
from gvgap_jax.tasks import Task

MEANING = 2
QUESTION = Question(
    place=82,
    label="rival",
    claim="RLHF beats DPO because it over-optimises its reward model less, not because its verifier is simple.",
    reported=(
        "Gao et al. (arXiv 2210.10760): gold reward d (alpha - beta d) under best-of-n and d (alpha - beta log d) "
        "under RL, with d = sqrt(KL); it first rises and then falls."
    ),
    axes=("horizon", "gold_order", "pairs", "reference_scale"),
)

SAMPLES = tuple(2**power for power in range(11))  # n of best-of-n
BETAS = tuple(2.0 ** (power / 2) for power in range(6, -7, -1))  # 8 down to 0.125, reward per nat
STRENGTHS = {"best-of-n": SAMPLES, "RL": BETAS}
FORMS = {  # gold reward beyond the reference's, as columns whose coefficients are fitted
    "best-of-n": lambda d: np.stack([d, -(d**2)], axis=-1),
    "RL": lambda d: np.stack([d, -d * np.log(np.where(d > 0, d, 1.0))], axis=-1),
}
MATCHED = 1.0  # nats of KL to the reference at which methods are compared
EXACT = 1e-3  # reward: less than this is no decline, but what rounding may cost


@dataclass(frozen=True)
class Config:
    """Settings of one point.

    Attributes:
      horizon: tokens of a response (H); the tree has V**H responses and KL cannot exceed H log V.
    """

    vocabulary: int = 3
    horizon: int = 4
    gold_order: int = 1
    pairs: int = 256
    reference_scale: float = 0.0

    def __post_init__(self):
        check(self)


PRESETS = disjoint({
    "tiny": Grid({"horizon": (2,), "pairs": (64,)}, seeds=2),
    "quick": Grid({"pairs": (64, 512)}, seeds=24),
    "standard": Grid({"pairs": (64, 512), "reference_scale": (0.0, 1.0)}, seeds=32),
    "paper": Grid({"gold_order": (1, 2), "pairs": (64, 512, 4096), "reference_scale": (0.0, 1.0)}, seeds=64),
    "full": Grid(
        {
            "horizon": (6, 7), "gold_order": (1, 2, 3), "pairs": (64, 512, 4096, 32768),
            "reference_scale": (0.0, 0.5, 1.0),
        },
        seeds=256,
    ),
})  # fmt: skip
TRANSFORMER_PRESETS = disjoint(
    PRESETS
    | {
        "quick": Grid({"pairs": (128,)}, seeds=20),
        "standard": Grid({"pairs": (128, 512)}, seeds=24),  # four minutes of a core
    }
)
BACKBONE = "RLHF, same backbone"  # reward models as expressive as policies, on transformers


class Program(NamedTuple):
    """What decides a compiled program: frontiers of ``RLHF``, ``BACKBONE``, ``gold``; ``DPO``; tree; padded pairs."""

    arm: str
    tree: TokenTree
    pairs: int


def cells(config: Config, backend: Backend = TREE) -> list[Cell]:
    """Frontiers of reward models of the gold reward's order and of full tables, and of the gold reward; DPO's points.

    On transformers reward models of the policy's backbone are in the place of full tables; DPO has every other beta.
    None where the gold reward's order is beyond what the tree has.
    """
    if config.gold_order > config.horizon:
        return []
    tree, size = TokenTree(config.vocabulary, config.horizon), preferences.padded(config.pairs)
    labels: dict[str, str | int] = {"horizon": config.horizon}
    numbers: dict[str, int | float] = {"gold_order": config.gold_order, "temperature": 1.0}
    numbers["reference_scale"] = config.reference_scale
    fitted = numbers | {"pairs": config.pairs}
    made = [Cell("gold", Program("gold", tree, 0), labels, numbers | {"beta": 1.0})]
    for order in sorted({config.gold_order, config.horizon}):
        arm = "RLHF" if backend is TREE or order < config.horizon else BACKBONE
        said = labels if backend is TREE else labels | {"arm": arm}
        made.append(Cell("frontiers", Program(arm, tree, size), said, fitted | {"beta": 1.0, "order": order}))
    betas = BETAS if backend is TREE else BETAS[::2]
    return made + [Cell("dpo", Program("DPO", tree, size), labels, fitted | {"beta": beta}) for beta in betas]


def run(program: Program, cell: dict, backend: Backend = TREE) -> dict:
    """The frontier of one reward model, a column for each of its points; or the point of one fit of DPO."""
    tree = program.tree
    task, pairs_key, fit_key = task_of(cell, tree)
    if program.arm == "gold":
        return frontier(task, task.reward)
    problem, settings = problem_of(cell, tree, task, pairs_key, program.pairs), backend.settings
    if program.arm == "DPO":
        policy = backend.policy(tree, tree.conditionals(task.reference))
        fit = algorithms.dpo(fit_key, algorithms.Classes(policy), problem, settings)
        log_policy = policy.leaf_log_probs(fit.params)
        results = {"gold": _gain(task, task.reward, log_policy), "kl": _distance(task, log_policy)}
    else:
        simple = verifiers.nested_interactions(tree, cell["order"])
        verifier = backend.verifier(tree) if program.arm == BACKBONE else simple
        classes = algorithms.Classes(policies.tabular(tree), verifier)
        fit = algorithms.reward_model(fit_key, classes, problem, settings)
        results = frontier(task, verifier.leaf_scores(fit.params))
    return results | {name: getattr(fit, name) for name in ("penalty", "gradient_norm", "converged")}


def frontier(task: Task, proxy: Float[Array, "X L"]) -> dict[str, Float[Array, ""]]:
    """Columns ``METHOD STRENGTH gold``, ``proxy`` and ``kl`` of best-of-n and RL on a proxy reward.

    Rewards beyond the reference policy's; KL to the reference, in nats.
    """
    columns = {}
    for method, strengths in STRENGTHS.items():
        for strength in strengths:
            if method == "RL":
                log_policy = soft_optimal_policy(proxy, task.reference, strength)
            else:
                log_policy = jnp.log(metrics.best_of_n(task.reference, proxy, strength))
            columns[f"{method} {strength:g} gold"] = _gain(task, task.reward, log_policy)
            columns[f"{method} {strength:g} proxy"] = _gain(task, proxy, log_policy)
            columns[f"{method} {strength:g} kl"] = _distance(task, log_policy)
    return columns


def _gain(task: Task, reward: Float[Array, "X L"], log_policy: Float[Array, "X L"]) -> Float[Array, ""]:
    change = jnp.sum((jnp.exp(log_policy) - jnp.exp(task.reference)) * reward, axis=-1)
    return weighted_mean(change, task.prompt_probs)


def _distance(task: Task, log_policy: Float[Array, "X L"]) -> Float[Array, ""]:
    return jnp.maximum(weighted_mean(kl(log_policy, task.reference), task.prompt_probs), 0.0)


def _columns(method: str, name: str) -> list[pl.Expr]:
    return [pl.col(f"{method} {strength:g} {name}") for strength in STRENGTHS[method]]


def points(rows: pl.DataFrame, method: str, name: str) -> PerSeed:
    """One column of a frontier, [seeds, strengths] from weak to strong."""
    return by_seed(rows, *(column.mean() for column in _columns(method, name)))


def dpo_points(rows: pl.DataFrame, name: str) -> PerSeed:
    """Gold reward or KL of DPO, [seeds, betas] from weak to strong."""
    _, curves = curves_by_seed(rows, "beta", pl.col(name).mean())
    return curves.map(lambda ascending: ascending[:, ::-1])


def explained(distance: np.ndarray, gold: np.ndarray, form: str) -> float:
    """R^2 of the least-squares fit of a form to one frontier; NaN if a point is."""
    if not np.isfinite(distance + gold).all():
        return float("nan")
    columns = FORMS[form](distance)
    coefficients = np.linalg.lstsq(columns, gold)[0]
    return float(1 - np.sum((gold - columns @ coefficients) ** 2) / np.sum((gold - gold.mean()) ** 2))


def decline(gold: np.ndarray) -> np.ndarray:
    """Gold reward at the peak less that at the strongest optimisation, [seeds], for gold [seeds, strengths].

    Where the peak is, the other seeds say: a seed's own highest point would be above its last one by noise alone.
    """
    total = np.nansum(gold, axis=0, keepdims=True)
    others = total - np.nan_to_num(gold)
    peak = np.argmax(others, axis=1)
    return gold[np.arange(len(gold)), peak] - gold[:, -1]


def lost(gold: np.ndarray) -> np.ndarray:
    """Gold reward at each frontier's own peak less that at its end, [seeds]: at least 0, and above it by luck alone."""
    return gold.max(axis=1) - gold[:, -1]


def at_matched_kl(nats: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Gold reward at ``MATCHED`` nats on each frontier, [seeds], interpolated in sqrt(KL); NaN beyond its ends."""
    golds = []
    for x, y in zip(np.sqrt(nats), gold, strict=True):
        order = np.argsort(x)
        golds.append(np.interp(np.sqrt(MATCHED), x[order], y[order], left=np.nan, right=np.nan))
    return np.array(golds)


def findings(records: dict[str, pl.DataFrame]) -> list[Finding]:
    """For each task and number of pairs: the forms, the decline, and the gap at matched KL; then the control."""
    rows, point = [], ["horizon", "gold_order", "reference_scale", "pairs"]
    for values in sorted(records["frontiers"].select(point).unique().iter_rows()):
        fixed = dict(zip(point, values, strict=True))
        here, offline = (records[table].filter(**fixed).sort("seed") for table in ("frontiers", "dpo"))
        where = "H={horizon}, gold order {gold_order}, reference s.d. {reference_scale:g}, {pairs:,} pairs"
        rows += _point_findings(here, offline, where.format(**fixed))
    falls = (pl.max_horizontal(golds := _columns(method, "gold")) - golds[-1] for method in STRENGTHS)
    fallen = largest(by_seed(records["gold"], pl.max_horizontal(*falls).nan_max()))
    claim = "the gold reward as its own proxy: how far its own frontiers ever fall from their peak"
    return [*rows, Finding(claim, fallen, "reward", EXACT, "below", control=True)]


def _rich(frontiers: pl.DataFrame) -> str:
    """Reward models as rich as policies, in words."""
    return "same backbone" if "arm" in frontiers.columns else "full-table"


def _point_findings(frontiers: pl.DataFrame, offline: pl.DataFrame, where: str) -> list[Finding]:
    simple = frontiers.filter(pl.col("order") == pl.col("gold_order"))
    table = frontiers.filter(pl.col("order") == pl.col("horizon"))
    rows, rich = [], _rich(frontiers)
    for method in STRENGTHS if len(table) else ():
        claim = f"{where}, {rich} verifier, {method}: gold reward where others peak - at the strongest optimisation"
        rows.append(Finding(claim, mean(points(table, method, "gold").map(decline)), "reward", EXACT, "above"))
        rows.append(_form_finding(table, method, f"{where}, {rich} verifier"))
    if not len(simple) or not len(table) or simple.equals(table):
        return rows
    more = points(table, "RL", "gold").map(lost) - points(simple, "RL", "gold").map(lost)
    claim = f"{where}, RL: how much more a {rich} verifier falls from its own peak than a simple one"
    rows.append(Finding(claim, mean(more), "reward", 0.0, "above"))
    dpo = together(at_matched_kl, dpo_points(offline, "kl"), dpo_points(offline, "gold"))
    for model, name, rival, direction in (
        (simple, "simple", "over-optimisation", "above"),
        (table, rich, "simplicity", "at"),
    ):
        rlhf = together(at_matched_kl, points(model, "RL", "kl"), points(model, "RL", "gold"))
        claim = f"{where}, at {MATCHED:g} nat: gold reward of RLHF, {name} verifier - DPO, which {rival} says is 0"
        rows.append(Finding(claim, mean(rlhf - dpo), "reward", 0.0, direction, margin=EQUAL_REWARD))
    return rows


def _form_finding(model: pl.DataFrame, method: str, where: str) -> Finding:
    """R^2 of the method's own form less that of the other method's, seed by seed."""
    (other,) = set(FORMS) - {method}
    nats, gold = (points(model, method, name) for name in ("kl", "gold"))

    def explains(form: str) -> PerSeed:
        return together(lambda d, y: [explained(*each, form) for each in zip(np.sqrt(d), y, strict=True)], nats, gold)

    own = explains(method)
    claim = f"{where}, {method}: R^2 of its own form ({mean(own).at().estimate:.3f}) - of the other form"
    return Finding(claim, mean(own - explains(other)), "", 0.0, "above")


CAPTIONS = {
    "rival_overoptimisation": (
        "Reward beyond the reference's against the distance d = sqrt(KL to the reference), as a fitted reward model "
        "is optimised harder (points: means over seeds at one strength; dashed: the reward model's own score; dotted: "
        "the form of Gao et al. fitted to the gold reward). Over-optimisation is a gold reward that turns down while "
        "the proxy goes on rising. Black: the gold reward as its own proxy. Bars are 95 % intervals."
    ),
}
MODELS = {"gold_order": ("simple", RLHF, "o"), "horizon": ("", PALE, "^")}  # by order; the last as ``_rich`` says


def draw(records: dict[str, pl.DataFrame]) -> dict[str, Figure]:
    """A column a number of pairs, a row a method; a figure for each horizon, order of the gold reward and reference."""
    task, figures = ["horizon", "gold_order", "reference_scale"], {}
    tasks = records["frontiers"].select(task).unique().sort(task).to_dicts()
    for point in tasks:
        suffix = "" if len(tasks) == 1 else "_" + "_".join(f"{name}_{value:g}" for name, value in point.items())
        chosen = {table: rows.filter(**point) for table, rows in records.items()}
        figures[f"rival_overoptimisation{suffix}"] = _panels(chosen)
    return figures


def _panels(records: dict[str, pl.DataFrame]) -> Figure:
    sizes = sorted(records["frontiers"]["pairs"].unique())
    figure, grid = panels(2, len(sizes), 2.0)
    for row, method in zip(grid, STRENGTHS, strict=True):
        for axis, pairs in zip(row, sizes, strict=True):
            here = {table: rows.filter(pairs=pairs) for table, rows in records.items() if table != "gold"}
            _panel(axis, method, here, records["gold"])
            entitle(axis, method, here["frontiers"])
    name_axes(grid, "d = √KL(π‖reference) [√nats]", "beyond the reference's [reward]")
    grid[0, 0].set_ylim(-0.3, 1.25 * np.nanmax(means(points(records["gold"], "RL", "gold").values)))
    legend_below(figure)
    return figure


def _panel(axis, method: str, records: dict[str, pl.DataFrame], gold: pl.DataFrame) -> None:
    def shown(rows: pl.DataFrame, name: str):
        return points(rows, method, name).values

    axis.plot(_distances(shown(gold, "kl")), means(shown(gold, "gold")), color=BLACK, label="gold reward itself")
    for order, (kind, colour, marker) in MODELS.items():
        model = records["frontiers"].filter(pl.col("order") == pl.col(order))
        if not len(model):
            continue
        label = f"{kind or _rich(model)} verifier"
        distances, values = _distances(shown(model, "kl")), shown(model, "gold")
        curve(axis, distances, values, f"{label}: gold reward", color=colour, marker=marker, linestyle="none")
        columns = FORMS[method](distances)
        axis.plot(distances, columns @ np.linalg.lstsq(columns, means(values))[0], color=colour, linestyle=":")
        axis.plot(distances, means(shown(model, "proxy")), color=colour, linestyle="--", linewidth=0.8)
    if method == "RL" and len(records["dpo"]):
        distances = _distances(dpo_points(records["dpo"], "kl").values)
        curve(axis, distances, dpo_points(records["dpo"], "gold").values, "offline DPO", color=DPO, marker="s")


def _distances(nats: np.ndarray) -> np.ndarray:
    """Mean over seeds of sqrt(KL) at each strength."""
    return means(np.sqrt(nats))
