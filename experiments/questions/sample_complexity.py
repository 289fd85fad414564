"""How many more pairs does DPO need than two-stage RLHF?

The gold reward is made of random interactions of up to so many token positions, its order: a low order makes a simple
verifier, and the highest, H, a full table, as complex as a policy. All arms get the same pairs, hold out the same
fifth of them, and select one of the same ridge penalties on it; every fit goes on until its gradient is as good as 0.
Regret is KL(policy || soft-optimal policy of the gold reward), an exact sum over responses. Theory predicts
d_eff/(2n) for n pairs, with d_eff the effective dimension of the class that is fitted.
"""

from dataclasses import dataclass
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from experiments.kit.backends import TREE, Backend
from experiments.kit.fields import check
from experiments.kit.findings import EQUAL_LOG, EQUAL_TIMES, Finding, Question, equality
from experiments.kit.intervals import Estimate, estimate, geometric
from experiments.kit.per_seed import PerSeed, by_seed, curves_by_seed, paired, together
from experiments.kit.plots import BLACK, DPO, curve_of, entitle, legend_below, name_axes, panels
from experiments.kit.presets import disjoint
from experiments.kit.problems import METHODS, TRAINED, problem_of, record_of, task_of
from gvgap_jax import TokenTree, algorithms, complexity, metrics, preferences, verifiers
from gvgap_jax.sweep import Cell, Grid

MEANING = 2
QUESTION = Question(
    place=63,
    label="H6",
    claim="A simple verifier is learned from fewer pairs, and RL over it needs fewer than DPO.",
    reported="arXiv 2503.01067 never varies the number of pairs; its claim is that the gap is one of sample size.",
    axes=("horizon", "pairs"),
)

BACKBONE = "RLHF, same backbone"  # reward models as expressive as policies: on the tree, RLHF of order H


@dataclass(frozen=True)
class Config:
    """Settings of one point of the sweep."""

    vocabulary: int = 3
    horizon: int = 6
    pairs: int = 512
    beta: float = 1.0
    temperature: float = 1.0
    reference_scale: float = 0.0

    def __post_init__(self):
        check(self)


PRESETS = disjoint(
    {
        "tiny": Grid({"horizon": (2,), "pairs": (8, 64, 512)}, seeds=2),
        "quick": Grid({"horizon": (2, 6), "pairs": tuple(2**power for power in range(5, 12))}, seeds=16),
        "standard": Grid(
            {"horizon": (2, 6), "pairs": tuple(2**power for power in range(5, 14)), "reference_scale": (0.0, 1.5)},
            seeds=32,
        ),
        "paper": Grid({"horizon": (2, 6), "pairs": tuple(2**power for power in range(5, 17))}, seeds=32),
        "full": Grid({"horizon": (1, 2, 4, 6, 7), "pairs": tuple(2**power for power in range(5, 18))}, seeds=128),
    }
)
TRANSFORMER_PRESETS = disjoint(
    PRESETS
    | {
        "tiny": Grid({"horizon": (2,), "pairs": (64, 512)}, seeds=2),
        "quick": Grid({"horizon": (4,), "pairs": (128, 512, 2048)}, seeds=24),
        "standard": Grid({"horizon": (4,), "pairs": (128, 256, 512, 1024, 2048)}, seeds=24),
        "full": Grid({"horizon": (2, 4, 6), "pairs": tuple(2**power for power in range(5, 18))}, seeds=128),
    }
)


class Program(NamedTuple):
    """What decides a compiled program: the arm (``limits`` of many pairs), the tree, the padded number of pairs."""

    arm: str
    tree: TokenTree
    pairs: int


def gold_orders(horizon: int) -> dict[int, str]:
    """Orders of a simple, a middling and a full-table gold reward, ascending; fewer where they coincide."""
    names = {max(1, 2 * horizon // 3): "middle", max(1, horizon // 3): "simple", horizon: "full table"}
    return dict(sorted(names.items()))


def cells(config: Config, backend: Backend = TREE) -> list[Cell]:
    """Every arm with every order of its verifier, for every gold order, and the effective dimensions."""
    tree = TokenTree(config.vocabulary, config.horizon)
    made = []
    for gold in gold_orders(config.horizon):
        orders = {"DPO": [config.horizon], "RLHF": range(1, config.horizon + 1), "restricted MLE": [gold]}
        if backend is not TREE:
            orders[BACKBONE] = [config.horizon]
        for arm in orders:
            program = Program(arm, tree, preferences.padded(config.pairs))
            made += [_cell("fits", program, config, gold, order, config.pairs) for order in orders[arm]]
        program = Program("limits", tree, 0)
        made += [_cell("dimensions", program, config, gold, order, 0) for order in sorted({gold, config.horizon})]
    return made


def _cell(table: str, program: Program, config: Config, gold: int, order: int, pairs: int) -> Cell:
    numbers: dict[str, int | float] = {"pairs": pairs, "gold_order": gold, "order": order}
    numbers |= {name: getattr(config, name) for name in ("beta", "temperature", "reference_scale")}
    return Cell(table, program, {"arm": program.arm, "horizon": program.tree.horizon}, numbers)


def run(program: Program, cell: dict, backend: Backend = TREE) -> dict:
    """One fit of one arm, or the effective dimension of one class, as scalars."""
    tree = program.tree
    task, pairs_key, fit_key = task_of(cell, tree)
    verifier = verifiers.nested_interactions(tree, cell["order"])
    if program.arm == "limits":
        gradients = complexity.reward_gradients(verifier, verifier.init(fit_key))
        return {"effective_dimension": complexity.effective_dimension(gradients, task)}
    policy = backend.policy(tree, tree.conditionals(task.reference))
    restricted = verifiers.soft_optimal_class(tree, verifier, task.reference, task.beta)
    if program.arm == BACKBONE:
        verifier = backend.verifier(tree)
    problem = problem_of(cell, tree, task, pairs_key, program.pairs)
    method = METHODS.get(program.arm, algorithms.rlhf)
    fit = method(fit_key, algorithms.Classes(policy, verifier, restricted), problem, backend.settings)
    measured = metrics.evaluate(policy.leaf_log_probs(fit.params), task)
    return measured._asdict() | record_of(fit)


def findings(records: dict[str, pl.DataFrame]) -> list[Finding]:
    """The headline first: how many times more pairs DPO needs, by horizon and gold order; then the control."""
    fits, rows = records["fits"], []
    most, several = max(fits["pairs"]), fits["pairs"].n_unique() > 1
    for horizon in sorted(fits["horizon"].unique(), reverse=True):
        for gold, name in gold_orders(horizon).items():
            here = fits.filter(horizon=horizon, gold_order=gold)
            where = f"H={horizon}, {name} gold reward (order {gold})"
            if several:  # it takes two points to make a curve
                classes = records["dimensions"].filter(horizon=horizon, gold_order=gold)
                rows += _pair_findings(here, where, name, most, dimension_ratio(classes))
            at_512 = here.filter(pairs=512)
            if name == "simple" and len(at_512):
                claim = f"{where}: RLHF's regret over DPO's at 512 pairs"
                rows.append(Finding(claim, regret_ratio(at_512), "times", 0.5, "below"))
    return [*rows, equality_finding(fits)]


def _pair_findings(here: pl.DataFrame, where: str, name: str, most: int, predicted: float) -> list[Finding]:
    """How many times more pairs DPO needs, for one horizon and gold order."""
    direction = "at" if name == "full table" else "above"
    claim = f"{where}: pairs that DPO needs over those that RLHF needs for DPO's regret with {most:,} pairs"
    gold = pair_ratio(here, "gold")
    rows = [Finding(claim, gold, "times", 1.0, direction, margin=EQUAL_TIMES, predicted=predicted)]
    if name == "simple":
        claim = f"{where}, verifier order chosen on held-out pairs: the same ratio"
        rows.append(Finding(claim, pair_ratio(here, "held out"), "times", 1.0, direction))
    if BACKBONE in here["arm"]:
        claim = f"{where}, reward model of the policy's own backbone: the same ratio"
        rows.append(Finding(claim, pair_ratio(here, "backbone"), "times", 1.0, "at", margin=EQUAL_TIMES))
    return rows


def _regrets(chosen: pl.DataFrame) -> tuple[np.ndarray, PerSeed]:
    return curves_by_seed(chosen, "pairs", pl.col("regret").mean())


def two_stage(fits: pl.DataFrame, orders: str) -> pl.DataFrame:
    """RLHF's fits with the verifier of the gold order, of the lowest held-out loss, or of the policy's own backbone.

    ``orders`` is ``gold``, ``held out`` or ``backbone``.
    """
    if orders == "backbone":
        return fits.filter(arm=BACKBONE)
    rlhf = fits.filter(arm="RLHF")
    if orders == "gold":
        return rlhf.filter(pl.col("order") == pl.col("gold_order"))
    cell = ["horizon", "gold_order", "pairs", "seed"]
    return rlhf.sort("held_out_loss", "order").group_by(cell, maintain_order=True).first()


def regret_ratio(fits: pl.DataFrame) -> Estimate:
    """Regret of RLHF with the gold order over that of DPO, paired by seed, for one horizon, gold order and n."""
    _, rlhf = _regrets(two_stage(fits, "gold"))
    _, dpo = _regrets(fits.filter(arm="DPO"))
    return geometric(together(lambda one, other: np.log(one / other)[:, 0], rlhf, dpo))


def equality_finding(fits: pl.DataFrame) -> Finding:
    """Likelihood restricted to RLHF's policies against RLHF: equal by Theorem 3.1.

    Only data sets for which both selected the same penalty count: held-out losses can tie to rounding.
    """
    cell = ["horizon", "gold_order", "order", "pairs", "seed"]
    both = paired(fits.filter(arm="restricted MLE"), two_stage(fits, "gold"), cell, "_rlhf")
    same = pl.col("penalty") == pl.col("penalty_rlhf")
    claim = "DPO's likelihood over RLHF's policies alone, same penalty: largest difference of log regret from RLHF"
    return equality(claim, both, pl.col("regret").log() - pl.col("regret_rlhf").log(), EQUAL_LOG, where=same)


def pair_ratio(fits: pl.DataFrame, orders: str) -> Estimate:
    """Pairs DPO needs over pairs RLHF needs, at the regret DPO reaches with the most pairs, paired by seed.

    Within a seed, RLHF's curve is interpolated in log regret against log n. A curve below that regret
    from its first point on counts as needing that many: the ratio is then too small, never too large.
    A curve that never comes down to it counts as one step of the grid beyond the last point.
    """
    pairs, dpo = _regrets(fits.filter(arm="DPO"))
    _, rlhf = _regrets(two_stage(fits, orders))

    def log_ratio(offline: np.ndarray, curves: np.ndarray) -> np.ndarray:
        targets = np.log(offline[:, -1])
        needed = [_pairs_needed(np.log(pairs), np.log(each), at) for each, at in zip(curves, targets, strict=True)]
        return np.log(pairs[-1]) - np.array(needed)

    return geometric(together(log_ratio, dpo, rlhf))


def _pairs_needed(log_pairs: np.ndarray, log_regret: np.ndarray, target: float) -> float:
    """Log of the first n at which the curve is at the target."""
    if not np.isfinite(log_regret).all() or not np.isfinite(target):
        return float("nan")
    below = np.flatnonzero(log_regret <= target)
    if not below.size:
        return float(2 * log_pairs[-1] - log_pairs[-2])
    first = below[0]
    if first == 0:
        return float(log_pairs[0])
    high, low = log_regret[first - 1], log_regret[first]
    share = (high - target) / (high - low)
    return float(log_pairs[first - 1] + share * (log_pairs[first] - log_pairs[first - 1]))


def dimension_ratio(dimensions: pl.DataFrame) -> float:
    """Effective dimension of the full table over that of the gold order: with d_eff/(2n), also the ratio of pairs."""
    log = pl.col("effective_dimension").log()
    gold, table = (log.filter(pl.col("order") == pl.col(order)).first() for order in ("gold_order", "horizon"))
    return geometric(by_seed(dimensions, table - gold)).at().estimate


def predicted_regret(dimensions: pl.DataFrame, horizon: int, gold: int, order: int, pairs: np.ndarray) -> np.ndarray:
    """Mean over seeds of d_eff / (2 n), with n the pairs that are fitted."""
    chosen = dimensions.filter(horizon=horizon, gold_order=gold, order=order)
    return estimate(chosen, pl.col("effective_dimension").mean()).at().estimate / (2 * TRAINED * pairs)


CAPTIONS = {
    "sample_complexity": (
        "Regret (KL from the policy to the optimal one) against the number n of labelled pairs. Order: how many token "
        "positions a reward reads together. With a simple gold reward two-stage RLHF with a simple verifier needs far "
        "fewer pairs than offline DPO; as the gold reward grows as complex as a policy the gap closes. Grey: what "
        "theory predicts, d_eff/(2n), with d_eff the effective dimension of the class. Crosses: DPO's likelihood over "
        "RLHF's policies alone. Points are means over seeds, bars 95 % intervals."
    ),
}


def draw(records: dict[str, pl.DataFrame]) -> dict[str, Figure]:
    """Regret curves of all arms with 95 % intervals over seeds, and the predicted d_eff / (2n)."""
    fits, dimensions = records["fits"], records["dimensions"]
    horizons = sorted(fits["horizon"].unique())
    columns = max(len(gold_orders(horizon)) for horizon in horizons)
    figure, grid = panels(len(horizons), columns, 1.9, sharey="row")
    for row, horizon in zip(grid, horizons, strict=True):
        for axis in row[len(gold_orders(horizon)) :]:
            axis.remove()
        for axis, (gold, name) in zip(row, gold_orders(horizon).items(), strict=False):
            _panel(axis, fits, dimensions, horizon, gold)
            entitle(axis, f"H = {horizon}: {name} gold, order {gold}", fits.filter(horizon=horizon, gold_order=gold))
    name_axes(grid, "labels n [pairs]", "regret KL(π‖π*) [nats]")
    legend_below(figure)
    return {"sample_complexity": figure}


def _panel(axis, fits: pl.DataFrame, dimensions: pl.DataFrame, horizon: int, gold: int) -> None:
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")

    def show(arm: str, order: int, label: str, **look):
        here = fits.filter(arm=arm, horizon=horizon, gold_order=gold, order=order)
        curve_of(axis, here, "pairs", "regret", label, **look)

    shades = plt.get_cmap("viridis")(np.linspace(0.85, 0.1, horizon))
    for order, shade in enumerate(shades, start=1):
        show("RLHF", order, f"two-stage RLHF, verifier order {order}", color=shade)
    show("DPO", horizon, "offline DPO, tabular policy", color=DPO, marker="s")
    show("restricted MLE", gold, "DPO over RLHF's policies, gold order", color=BLACK, linestyle="none", marker="x")
    pairs = np.array(sorted(fits["pairs"].unique()))
    for order, linestyle in ((gold, "--"), (horizon, ":")):
        predicted = predicted_regret(dimensions, horizon, gold, order, pairs)
        which = "of the gold order" if linestyle == "--" else "of the full table"
        label = rf"$d_\mathrm{{eff}}/(2n)$ {which}"
        axis.plot(pairs, predicted, color="0.45", linestyle=linestyle, linewidth=1, label=label, zorder=1)
    shown = fits.filter(horizon=horizon)["regret"]
    axis.set_ylim(0.5 * np.nanquantile(shown, 0.01), 2 * np.nanmax(shown))
