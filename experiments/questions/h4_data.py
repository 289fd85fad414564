"""Does RLHF win because it can use more or broader data?

Both arms always get the same pairs. Their responses come from the reference policy pi_ref, or from a law proportional
to pi_ref**tilt: 2 is narrower than the reference (what it likes already), 1 the reference itself, 0 broad (every
response alike), -1 off its support (what it hardly ever writes). If data that only a reward model can use were the
cause, the gap would be gone with pairs from the reference alone. The number of pairs grows until the gap closes.

The offline arm is DPO over all policies, the two-stage arm a simple reward model that holds the gold reward, with an
exact second stage. What could still mislead: a coverage changes how much the labels say, for both arms, so each is set
beside its effective dimension d_eff under that coverage, which predicts the regret with many pairs, d_eff/(2n)
(infinite, in single precision, where narrow pairs all but hide a direction); and a reward model that does not hold the
gold reward could go wrong off the support, which is not tested here.

Transformers are beside tables here: d_eff is that of the full table, which holds every policy, and a third arm is
two-stage RLHF whose reward model has the policy's own backbone. There breadth can also help a reward model to
generalise, which a simple one, right everywhere, has no need of.
"""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from experiments.kit.backends import TREE, Backend
from experiments.kit.fields import check, check_gold_order
from experiments.kit.findings import EQUAL_NATS, REGRET, Finding, Question, equality
from experiments.kit.intervals import change, estimate, mean, ratio_of_means
from experiments.kit.per_seed import PerSeed, by_seed, curves_by_seed, paired
from experiments.kit.plots import BLACK, DPO, RLHF, curve, curve_of, entitle, legend_below, means, name_axes, panels
from experiments.kit.presets import disjoint
from experiments.kit.problems import METHODS, TRAINED, problem_of, record_of, task_of
from gvgap_jax import TokenTree, algorithms, complexity, metrics, preferences, verifiers
from gvgap_jax.sweep import Cell, Grid

MEANING = 2
QUESTION = Question(
    place=40,
    label="H4",
    claim="RLHF stays ahead on the same pairs, narrow or broad: its advantage is not one of broader data.",
    reported="With pairs from the SFT policy alone the gap persists: win rates 56.8, 58.8, 65.2 (arXiv 2503.01067).",
    figure="win rates with pairs of SFT responses alone",
    axes=("tilt", "pairs"),
)

BACKBONE = "RLHF, same backbone"  # reward models as expressive as policies
SMALLEST = 8192  # size that numbers of pairs are padded to
MODERATE = 512  # pairs at which coverages are compared, or the nearest number there is
CLOSED = 0.1  # share of the first gap
# Nats, wider than elsewhere: narrow coverage leaves directions so flat that the solver's tolerance moves a regret in
# its third decimal.
EQUAL = 1e-2
PREDICTED = 0.5  # least share of the predicted gap: "within a factor of two"


@dataclass(frozen=True)
class Config:
    """One point of the sweep.

    Attributes:
      gold_order: the gold reward and the reward models are interactions of up to so many positions.
      tilt: responses of the pairs come from a law proportional to pi_ref**tilt.
    """

    vocabulary: int = 3
    horizon: int = 4
    gold_order: int = 2
    tilt: float = 1.0
    pairs: int = 512
    beta: float = 1.0
    temperature: float = 1.0
    reference_scale: float = 1.0

    def __post_init__(self):
        check(self)
        check_gold_order(self)
        if not -np.inf < self.tilt < np.inf:
            raise ValueError(f"tilt must be a finite number, got {self.tilt}.")


TILTS = (2.0, 1.0, 0.0, -1.0)
PRESETS = disjoint(
    {
        "tiny": Grid({"horizon": (2,), "gold_order": (1,), "tilt": (1.0, 0.0), "pairs": (64, 512)}, seeds=2),
        "quick": Grid({"tilt": TILTS, "pairs": (64, 256, 512, 2048, 8192)}, seeds=24),
        "standard": Grid({"tilt": TILTS, "pairs": (64, 256, 512, 2048, 8192)}, seeds=64),
        "paper": Grid({"tilt": TILTS, "pairs": tuple(2**power for power in range(6, 17))}, seeds=64),
        "full": Grid(
            {
                "horizon": (4, 5),
                "gold_order": (1, 2, 4),
                "tilt": (3.0, 2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0),
                "pairs": tuple(2**power for power in range(5, 17)),
                "reference_scale": (0.5, 1.0, 2.0),
            },
            seeds=128,
        ),
    }
)
TRANSFORMER_PRESETS = disjoint(
    PRESETS
    | {
        "quick": Grid({"tilt": (2.0, 1.0, 0.0), "pairs": (512, 8192)}, seeds=24),
        "standard": Grid({"tilt": (2.0, 1.0, 0.0), "pairs": (512, 8192)}, seeds=32),
    }
)


class Program(NamedTuple):
    """What decides a compiled program: the arm (``limits`` of many pairs), the tree, the padded number of pairs."""

    arm: str
    tree: TokenTree
    pairs: int


def cells(config: Config, backend: Backend = TREE) -> list[Cell]:
    """Every arm, and the effective dimensions of reward models of the gold order and of all policies."""
    tree = TokenTree(config.vocabulary, config.horizon)
    names = ("gold_order", "tilt", "beta", "temperature", "reference_scale")
    numbers = {name: getattr(config, name) for name in names}
    made = []
    for arm in METHODS if backend is TREE else (*METHODS, BACKBONE):
        program = Program(arm, tree, preferences.padded(config.pairs, SMALLEST))
        labels: dict[str, str | int] = {"arm": arm, "horizon": config.horizon}
        made.append(Cell("fits", program, labels, numbers | {"pairs": config.pairs}))
    labels = {"horizon": config.horizon}
    for order in sorted({config.gold_order, config.horizon}):
        made.append(Cell("dimensions", Program("limits", tree, 0), labels, numbers | {"order": order}))
    return made


def run(program: Program, cell: dict, backend: Backend = TREE) -> dict:
    """One fit of one arm, or the effective dimension of one class under the coverage, as scalars."""
    tree = program.tree
    task, pairs_key, fit_key = task_of(cell, tree)
    coverage = jax.nn.log_softmax(cell["tilt"] * task.reference, axis=-1)
    if program.arm == "limits":
        verifier = verifiers.nested_interactions(tree, cell["order"])
        gradients = complexity.reward_gradients(verifier, verifier.init(fit_key))
        return {"effective_dimension": complexity.effective_dimension(gradients, task, coverage)}
    verifier = verifiers.nested_interactions(tree, cell["gold_order"])
    policy = backend.policy(tree, tree.conditionals(task.reference))
    restricted = verifiers.soft_optimal_class(tree, verifier, task.reference, task.beta)
    problem = problem_of(cell, tree, task, pairs_key, program.pairs, coverage)
    if program.arm == BACKBONE:
        verifier = backend.verifier(tree)
    method = METHODS.get(program.arm, algorithms.rlhf)
    fit = method(fit_key, algorithms.Classes(policy, verifier, restricted), problem, backend.settings)
    measured = metrics.evaluate(policy.leaf_log_probs(fit.params), task)
    return measured._asdict() | record_of(fit)


def findings(records: dict[str, pl.DataFrame]) -> list[Finding]:
    """For every coverage the gap, whether it closes, and whether d_eff predicts it; what breadth adds; the control."""
    both, rows = gaps(records), []
    sizes = sorted(both["pairs"].unique())
    moderate, most = min(sizes, key=lambda size: abs(size - MODERATE)), sizes[-1]
    tilts = sorted(both["tilt"].unique(), key=lambda tilt: (tilt != 1, -tilt))  # the reference's own pairs first
    for tilt in tilts:
        here = both.filter(tilt=tilt)
        claim = f"pairs from {coverage_name(tilt)}: {REGRET} of DPO - RLHF at {moderate:,} pairs"
        theory = predicted_gaps(records).filter(tilt=tilt)
        expected = mean(of_seed(theory.filter(pairs=moderate), "predicted_gap")).at().estimate
        gap = mean(of_seed(here.filter(pairs=moderate)))
        rows.append(Finding(claim, gap, "nats", 0.0, "above", predicted=expected))
        if BACKBONE in records["fits"]["arm"]:
            own = gaps(records, BACKBONE).filter(tilt=tilt, pairs=moderate)
            claim += ", reward model of the policy's own backbone"
            rows.append(Finding(claim, mean(of_seed(own)), "nats", 0.0, "at", margin=EQUAL_NATS))
        at_most, widest = here.filter(pairs=most), _widest(here)
        if len(sizes) > 1:
            closure = ratio_of_means(of_seed(at_most), of_seed(here.filter(pairs=widest)))
            claim = f"pairs from {coverage_name(tilt)}: gap at {most:,} pairs over the widest, at {widest:,}"
            rows.append(Finding(claim, closure, "times", CLOSED, "below"))
        predicted = ratio_of_means(of_seed(at_most), of_seed(theory.filter(pairs=most), "predicted_gap"))
        claim = f"pairs from {coverage_name(tilt)}: gap at {most:,} pairs over what effective dimensions predict"
        rows.append(Finding(claim, predicted, "times", PREDICTED, "above", predicted=1.0))
    if 0.0 in tilts and 1.0 in tilts:
        broad, policy = (of_seed(both.filter(pairs=moderate, tilt=tilt)) for tilt in (0.0, 1.0))
        claim = f"what breadth adds: the gap with uniform pairs - the gap with the reference's, {moderate:,} pairs"
        rows.append(Finding(claim, change(broad - policy), "nats", 0.0, "above"))
    return [*rows, equality_finding(records["fits"])]


def _widest(both: pl.DataFrame) -> int:
    """The number of pairs of the largest mean gap; at the fewest, a gap can be nil because no arm knows anything."""
    pairs, curves = curves_by_seed(both, "pairs", pl.col("gap").mean())
    counted = np.isfinite(curves.values).any(axis=0)
    return int(pairs[counted][np.nanmean(curves.values[:, counted], axis=0).argmax()] if counted.any() else pairs[-1])


def coverage_name(tilt: float) -> str:
    """A law proportional to pi_ref**tilt, in words."""
    names = {1.0: "the reference", 0.0: "the uniform law"}
    kind = "sharper than the reference" if tilt > 1 else "flatter than the reference" if tilt > 0 else "off its support"
    return names.get(tilt, f"pi_ref^{tilt:g} ({kind})")


CELL = ["horizon", "gold_order", "beta", "temperature", "reference_scale"]


def gaps(records: dict[str, pl.DataFrame], arm: str = "RLHF") -> pl.DataFrame:
    """Rows of DPO with ``gap``, its regret less that of RLHF (or of another arm) on the same data."""
    fits = records["fits"]
    both = paired(fits.filter(arm="DPO"), fits.filter(arm=arm), [*CELL, "tilt", "pairs", "seed"], "_rlhf")
    return both.with_columns(gap=pl.col("regret") - pl.col("regret_rlhf")).sort(*CELL, "tilt", "pairs", "seed")


def predicted_gaps(records: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """The gap of every data set that d_eff / (2n) of all policies and of reward models of the gold order predicts."""
    cell = [*CELL, "tilt", "seed"]
    simple, every = (
        records["dimensions"].filter(pl.col("order") == pl.col(order)) for order in ("gold_order", "horizon")
    )
    data = records["fits"].filter(arm="DPO").select(*cell, "pairs")
    both = paired(data, paired(every, simple, cell, "_rlhf"), cell, "_of_class", shared=True)
    excess = pl.col("effective_dimension") - pl.col("effective_dimension_rlhf")
    return both.with_columns(predicted_gap=excess / (2 * TRAINED * pl.col("pairs"))).sort(*cell, "pairs")


def of_seed(rows: pl.DataFrame, column: str = "gap") -> PerSeed:
    """The mean of ``column`` over the rows of each seed."""
    return by_seed(rows, pl.col(column).mean())


def equality_finding(fits: pl.DataFrame) -> Finding:
    """Likelihood restricted to RLHF's policies against RLHF, where both selected the same penalty."""
    cell = [*CELL, "tilt", "pairs", "seed"]
    both = paired(fits.filter(arm="restricted MLE"), fits.filter(arm="RLHF"), cell, "_rlhf")
    same = pl.col("penalty") == pl.col("penalty_rlhf")
    claim = "same class and penalty in both methods: largest difference of regret, over coverages and numbers of pairs"
    return equality(claim, both, pl.col("regret") - pl.col("regret_rlhf"), EQUAL, where=same)


CAPTIONS = {
    "h4_data": (
        "Regret (KL to the optimal policy) against the number n of labelled pairs, both arms on the same pairs, from "
        "narrow to off-support coverage (panels). Dashed: what theory predicts, d_eff/(2n), with d_eff the effective "
        "dimension of the arm's class under that coverage. If reward models won because they can use broader data, "
        "the gap would vanish with pairs from the reference policy. Points are means over seeds, bars 95 % intervals."
    ),
    "h4_data_gap": (
        "The gap itself, regret of DPO less that of RLHF, against the number of pairs, one curve a coverage; dotted: "
        "the gap that effective dimensions predict. It opens where pairs begin to tell simple rewards apart and "
        "closes once they tell policies apart. Points are means over seeds, bars 95 % intervals."
    ),
}
LOOKS = {
    "DPO": ("offline DPO, all policies", DPO, "s"),
    "RLHF": ("two-stage RLHF, simple rewards", RLHF, "o"),
    "restricted MLE": ("control: DPO over RLHF's class", BLACK, "x"),
}
MARKERS = "os^DvPX*"


def draw(records: dict[str, pl.DataFrame]) -> dict[str, Figure]:
    """Regret by coverage and pairs, and the gap of all coverages; bars are 95 % intervals over seeds."""
    predicted = predicted_gaps(records)
    return {"h4_data": _regrets(records["fits"], predicted), "h4_data_gap": _gaps(gaps(records), predicted)}


def _regrets(fits: pl.DataFrame, predicted: pl.DataFrame) -> Figure:
    tilts = sorted(fits["tilt"].unique(), reverse=True)
    figure, grid = panels(1, len(tilts), 1.9)
    for axis, tilt in zip(grid[0], tilts, strict=True):
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        _panel(axis, fits.filter(tilt=tilt), predicted.filter(tilt=tilt))
        entitle(axis, _title(tilt), fits.filter(tilt=tilt))
    shown = fits["regret"].to_numpy()
    grid[0, 0].set_ylim(0.5 * np.nanquantile(shown, 0.01), 2 * np.nanmax(shown))
    name_axes(grid, "labels n [pairs]", "regret KL(π‖π*) [nats]")
    legend_below(figure)
    return figure


def _title(tilt: float) -> str:
    words = {1.0: "from π_ref", 0.0: "uniform"}
    kind = "narrow" if tilt > 1 else "flattened" if tilt > 0 else "off-support"
    return words.get(tilt, rf"{kind}, ∝ π_ref$^{{{tilt:g}}}$")


def _panel(axis, fits: pl.DataFrame, predicted: pl.DataFrame) -> None:
    for arm, (label, colour, marker) in LOOKS.items():
        linestyle = "none" if arm == "restricted MLE" else "-"
        look = {"marker": marker, "color": colour, "linestyle": linestyle}
        curve_of(axis, fits.filter(arm=arm), "pairs", "regret", label, **look)
    pairs = np.array(sorted(predicted["pairs"].unique()))
    for column, colour in (("effective_dimension", DPO), ("effective_dimension_rlhf", RLHF)):
        dimension = estimate(predicted, pl.col(column).first()).at().estimate
        axis.plot(pairs, dimension / (2 * TRAINED * pairs), color=colour, linestyle="--", linewidth=0.8, zorder=1)
    axis.plot([], [], color="0.4", linestyle="--", linewidth=0.8, label=r"$d_\mathrm{eff}/(2n)$ of either arm")


def _gaps(both: pl.DataFrame, predicted: pl.DataFrame) -> Figure:
    tilts, highest = sorted(both["tilt"].unique(), reverse=True), []
    figure, grid = panels(1, 1, 2.4)
    axis = grid[0, 0]
    axis.set_xscale("log", base=2)
    axis.axhline(0, color="0.6", linewidth=0.8)
    shades = plt.get_cmap("viridis")(np.linspace(0.0, 0.85, len(tilts)))
    for tilt, shade, marker in zip(tilts, shades, itertools.cycle(MARKERS), strict=False):
        pairs, measured = curves_by_seed(both.filter(tilt=tilt), "pairs", pl.col("gap").mean())
        curve(axis, pairs, measured.values, _title(tilt), marker=marker, color=shade)
        _, expected = curves_by_seed(predicted.filter(tilt=tilt), "pairs", pl.col("predicted_gap").mean())
        axis.plot(pairs, means(expected.values), color=shade, linestyle=":", linewidth=1, zorder=1)
        highest.append(means(measured.values))
    axis.set_ylim(min(-0.05, 1.3 * np.nanmin(highest)), 1.4 * np.nanmax(highest))
    axis.plot([], [], color="0.4", linestyle=":", linewidth=1, label=r"$\Delta d_\mathrm{eff}/(2n)$")
    entitle(axis, "by which pairs are labelled", both)
    name_axes(grid, "labels n [pairs]", "regret of DPO less RLHF's [nats]")
    legend_below(figure)
    return figure
