"""Does RLHF beat offline preference learning because its reward models can use more, or broader, data?

Both arms always get the same pairs. Their responses come from the reference policy pi_ref, or from a law proportional
to pi_ref**tilt: 2 is narrower than the reference (what it likes already), 1 the reference itself, 0 broad (every
response alike), -1 off its support (what it hardly ever writes). If data that only a reward model can use were the
cause, the gap would be gone with pairs from the reference alone. The number of pairs grows until the gap closes.

The offline arm is DPO over all policies, the two-stage arm a simple reward model that holds the gold reward, with an
exact second stage. What could still mislead: a coverage changes how much the labels say, for both arms, so each is set
beside its effective dimension under that coverage, which foretells the regret with many pairs (infinite, in single
precision, where narrow pairs all but hide a direction); and a reward model that does not hold the gold reward could go
wrong off the support, which is not tested here.

Transformers are beside tables here: d_eff is that of the full table, which holds every policy, and a third arm is
two-stage RLHF whose reward model has the policy's own backbone. There breadth can also help a reward model to
generalise, which a simple one, right everywhere, has no need of.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
import polars as pl

from experiments.backends import TREE, Backend
from experiments.setting import TRAINED, check, problem_of, record_of, task_of
from experiments.statistics import Finding, Interval, Question, by_seed, over_seeds, ratio_of_means
from gvgap_jax import TokenTree, algorithms, complexity, metrics, preferences, verifiers
from gvgap_jax.sweep import Cell, Grid

MEANING = 1
QUESTION = Question(
    label="H4",
    claim="RLHF stays ahead on the same pairs, narrow or broad: its advantage is not one of broader data.",
    reported="With pairs from the SFT policy alone the gap persists: win rates 56.8, 58.8, 65.2 (arXiv 2503.01067).",
)

ROADS = {"DPO": algorithms.dpo, "RLHF": algorithms.rlhf, "restricted MLE": algorithms.restricted_mle}
BACKBONE = "RLHF, same backbone"  # reward models as expressive as policies
SMALLEST = 8192  # size that numbers of pairs are padded to
MODERATE = 512  # pairs at which coverages are compared, or the nearest number there is
CLOSED = 0.1  # share of the first gap
# Nats, for two roads that must end at one policy: narrow coverage leaves directions so flat that the solver's tolerance
# moves a regret in its third decimal.
EQUAL = 1e-2
FORETOLD = 0.5  # least share of the predicted gap: "within a factor of two"


@dataclass(frozen=True)
class Config:
    """One point of the sweep.

    Attributes:
      vocabulary: tokens of the vocabulary (V).
      horizon: tokens of a response (H).
      gold_order: the gold reward and the reward models are interactions of up to so many positions.
      tilt: responses of the pairs come from a law proportional to pi_ref**tilt.
      pairs: labelled pairs, a fifth of which is held out for selection.
      beta: strength of the KL regularisation, reward per nat.
      temperature: of the labels.
      reference_scale: standard deviation of the reference policy's logits.
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
        check(self, ("beta", "temperature", "reference_scale"), ("gold_order",))
        if self.gold_order > self.horizon:
            raise ValueError(f"gold_order must be at most the horizon, {self.horizon}, got {self.gold_order}.")
        if not np.isfinite(self.tilt):
            raise ValueError(f"tilt must be a finite number, got {self.tilt}.")


TILTS = (2.0, 1.0, 0.0, -1.0)
PRESETS = {
    "quick": Grid({"tilt": TILTS, "pairs": (64, 256, 512, 2048, 8192)}, seeds=16),
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
TRANSFORMER_PRESETS = PRESETS | {
    "quick": Grid({"tilt": (2.0, 1.0, 0.0), "pairs": (512, 8192)}, seeds=8),
}


class Program(NamedTuple):
    """What decides a compiled program: the arm (or the prediction), the tree, and the padded number of pairs."""

    arm: str
    tree: TokenTree
    pairs: int


def cells(config: Config, backend: Backend = TREE) -> list[Cell]:
    """Every arm, and the effective dimensions of reward models of the gold order and of all policies."""
    tree = TokenTree(config.vocabulary, config.horizon)
    names = ("gold_order", "tilt", "beta", "temperature", "reference_scale")
    numbers = {name: getattr(config, name) for name in names}
    found = []
    for arm in ROADS if backend is TREE else (*ROADS, BACKBONE):
        program = Program(arm, tree, preferences.padded(config.pairs, SMALLEST))
        labels: dict[str, str | int] = {"arm": arm, "horizon": config.horizon}
        found.append(Cell("fits", program, labels, numbers | {"pairs": config.pairs}))
    labels = {"horizon": config.horizon}
    for order in sorted({config.gold_order, config.horizon}):
        found.append(Cell("dimensions", Program("d_eff", tree, 0), labels, numbers | {"order": order}))
    return found


def run(program: Program, cell: dict, backend: Backend = TREE) -> dict:
    """One fit of one arm, or the effective dimension of one class under the coverage, as scalars."""
    tree = program.tree
    task, pairs_key, fit_key = task_of(cell, tree)
    coverage = jax.nn.log_softmax(cell["tilt"] * task.reference, axis=-1)
    if program.arm == "d_eff":
        verifier = verifiers.nested_interactions(tree, cell["order"])
        gradients = complexity.reward_gradients(verifier, verifier.init(fit_key))
        return {"effective_dimension": complexity.effective_dimension(gradients, task, coverage)}
    verifier = verifiers.nested_interactions(tree, cell["gold_order"])
    policy = backend.policy(tree, tree.conditionals(task.reference))
    restricted = verifiers.soft_optimal_class(tree, verifier, task.reference, task.beta)
    problem = problem_of(cell, tree, task, pairs_key, program.pairs, coverage)
    if program.arm == BACKBONE:
        verifier = backend.verifier(tree)
    road = ROADS.get(program.arm, algorithms.rlhf)
    fit = road(fit_key, algorithms.Classes(policy, verifier, restricted), problem, backend.settings)
    assert policy.leaf_log_probs is not None
    measured = metrics.evaluate(policy.leaf_log_probs(fit.params), task)
    return measured._asdict() | record_of(fit)


def findings(records: dict[str, pl.DataFrame]) -> list[Finding]:
    """For every coverage the gap, whether it closes, and whether d_eff foretells it; what breadth adds; the control."""
    paired, rows = gaps(records), []
    sizes = sorted(paired["pairs"].unique())
    moderate, most = min(sizes, key=lambda size: abs(size - MODERATE)), sizes[-1]
    tilts = sorted(paired["tilt"].unique(), key=lambda tilt: (tilt != 1, -tilt))  # the reference's own pairs first
    for tilt in tilts:
        here = paired.filter(tilt=tilt)
        gap = over_seeds(of_seed(here.filter(pairs=moderate)))
        claim = f"pairs from {coverage_name(tilt)}: regret of DPO - RLHF at {moderate:,} pairs"
        rows.append(Finding(claim, gap, "nats", 0.0, "above"))
        own = gaps(records, BACKBONE).filter(tilt=tilt, pairs=moderate)
        if len(own):
            claim += ", reward model of the policy's own backbone"
            rows.append(Finding(claim, over_seeds(of_seed(own)), "nats", 0.0, "at"))
        at_most, widest = here.filter(pairs=most), _widest(here)
        if len(sizes) > 1:
            closure = ratio_of_means(of_seed(at_most), of_seed(here.filter(pairs=widest)))
            claim = f"pairs from {coverage_name(tilt)}: gap at {most:,} pairs over the widest, at {widest:,}"
            rows.append(Finding(claim, closure, "times", CLOSED, "below"))
        foretold = ratio_of_means(of_seed(at_most), of_seed(at_most, "predicted_gap"))
        claim = f"pairs from {coverage_name(tilt)}: gap at {most:,} pairs over what d_eff foretells"
        rows.append(Finding(claim, foretold, "times", FORETOLD, "above"))
    if 0.0 in tilts and 1.0 in tilts:
        broad, policy = (of_seed(paired.filter(pairs=moderate, tilt=tilt)) for tilt in (0.0, 1.0))
        claim = f"what breadth adds: the gap with uniform pairs - the gap with the reference's, {moderate:,} pairs"
        rows.append(Finding(claim, over_seeds(broad - policy), "nats", 0.0, "above"))
    claim = "same class and penalty on both roads: largest difference of regret, over coverages and n"
    return [*rows, Finding(claim, equality_gap(records["fits"]), "nats", EQUAL, "below", control=True)]


def _widest(paired: pl.DataFrame) -> int:
    """The number of pairs of the largest mean gap; at the fewest, a gap can be nil because no arm knows anything."""
    means = paired.group_by("pairs").agg(pl.col("gap").fill_nan(None).mean())
    return means.sort("gap", descending=True, nulls_last=True)["pairs"][0]


def coverage_name(tilt: float) -> str:
    """A law proportional to pi_ref**tilt, in words."""
    names = {1.0: "the reference", 0.0: "the uniform law"}
    kind = "sharper than the reference" if tilt > 1 else "flatter than the reference" if tilt > 0 else "off its support"
    return names.get(tilt, f"pi_ref^{tilt:g} ({kind})")


CELL = ["horizon", "gold_order", "beta", "temperature", "reference_scale"]


def gaps(records: dict[str, pl.DataFrame], arm: str = "RLHF") -> pl.DataFrame:
    """Rows of DPO with ``gap``, its regret less that of RLHF (or of another arm) on the same data.

    And with ``predicted_gap``, from d_eff / (2n) of all policies and of reward models of the gold order.
    """
    fits, cell = records["fits"], [*CELL, "tilt", "seed"]
    both = fits.filter(arm="DPO").join(fits.filter(arm=arm), on=[*cell, "pairs"], suffix="_rlhf")
    simple, every = (
        records["dimensions"].filter(pl.col("order") == pl.col(order)).select(*cell, "effective_dimension")
        for order in ("gold_order", "horizon")
    )
    both = both.join(every, on=cell).join(simple, on=cell, suffix="_rlhf")
    excess = pl.col("effective_dimension") - pl.col("effective_dimension_rlhf")
    return both.with_columns(
        gap=pl.col("regret") - pl.col("regret_rlhf"), predicted_gap=excess / (2 * TRAINED * pl.col("pairs"))
    ).sort(*CELL, "tilt", "pairs", "seed")


def of_seed(paired: pl.DataFrame, column: str = "gap") -> np.ndarray:
    """The mean of ``column`` over the rows of each seed [seeds]."""
    return by_seed(paired, pl.col(column).mean())


def equality_gap(fits: pl.DataFrame) -> Interval:
    """Largest |regret of restricted MLE - regret of RLHF| of each seed, where both selected the same penalty."""
    cell = [*CELL, "tilt", "pairs", "seed", "penalty"]
    both = fits.filter(arm="restricted MLE").join(fits.filter(arm="RLHF"), on=cell, suffix="_rlhf")
    difference = (pl.col("regret") - pl.col("regret_rlhf")).abs().nan_max()
    return over_seeds(by_seed(both, difference))
