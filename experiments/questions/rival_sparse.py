"""Does a sparse gold reward give RLHF its advantage?

And what does finding its support cost?
The gold reward is ``terms`` interactions of equal size among all d = V^H - 1 interactions of the token positions (at
V = 2 the parities). Four arms get the same pairs: DPO over all policies; RLHF with a reward model over all d
interactions (dense); RLHF whose reward model keeps few of them (sparse); and RLHF that is given the right ones
(known). The sparse arm ranks the interactions by their coefficients in the dense fit, refits the first 1, 2, 4, ... d
of them, and keeps the number and the penalty of the lowest held-out loss. Regret is KL(policy || pi*), an exact sum
over responses.

The generation-verification gap, measured by the effective dimension d_eff of a class, says that dense RLHF gains
nothing from sparsity, and that the known support costs d_eff/(2n). Compressed sensing charges the unknown support
terms * ln(d / terms) / n on top. The two part on the sparse arm: its regret over that of the known support.

On transformers all policies are networks, and a fifth arm has a reward model of the policy's own backbone. The other
reward models stay what they are; which fit of each is kept, early stopping says in the place of a ridge penalty.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from experiments.kit.backends import TREE, Backend
from experiments.kit.fields import check
from experiments.kit.findings import EQUAL_LOG, EQUAL_TIMES, REGRET, Finding, Question, equality
from experiments.kit.intervals import Estimate, change, estimate, geometric
from experiments.kit.per_seed import PerSeed, by_seed, paired, side_by_side
from experiments.kit.plots import DPO, FOURTH, PALE, RLHF, THIRD, curve_of, entitle, legend_below, name_axes, panels
from experiments.kit.presets import disjoint
from experiments.kit.problems import TRAINED, problem_of
from gvgap_jax import Fit, TokenTree, algorithms, complexity, metrics, optimize, policies, preferences, tasks, verifiers
from gvgap_jax.features import interaction_basis
from gvgap_jax.soft_rl import soft_optimal_policy
from gvgap_jax.sweep import Cell, Grid
from gvgap_jax.types import PRNGKey

MEANING = 2
QUESTION = Question(
    place=84,
    label="rival: sparse rewards",
    claim="Where the gold reward is sparse, two-stage RLHF needs far fewer pairs than DPO.",
    reported="Shi et al., arXiv 2505.19770: with a sparse gold reward RLHF recovers an effective reward model from "
    "significantly fewer samples than DPO.",
    axes=("horizon", "terms", "pairs"),
)

ARMS = ("DPO", "dense", "known", "sparse")
BACKBONE = "backbone"  # reward models as expressive as policies, on transformers


@dataclass(frozen=True)
class Config:
    """Settings of one point.

    Attributes:
      terms: interactions in the gold reward; points with more than there are, V**H - 1, are left out.
    """

    vocabulary: int = 2
    horizon: int = 6
    terms: int = 4
    pairs: int = 256
    beta: float = 1.0

    def __post_init__(self):
        check(self)


PRESETS = disjoint(
    {
        "tiny": Grid({"horizon": (2,), "terms": (1, 3), "pairs": (32, 128)}, seeds=2),
        "quick": Grid({"terms": (1, 4, 16, 63), "pairs": (64, 256, 1024)}, seeds=24),
        "standard": Grid({"terms": (1, 4, 16, 63), "pairs": (32, 64, 128, 256, 512, 1024)}, seeds=48),
        "paper": Grid(
            {"terms": (1, 2, 4, 8, 16, 32, 63), "pairs": tuple(2**power for power in range(5, 14))}, seeds=64
        ),
        "full": Grid(
            {
                "horizon": (6, 7, 8),
                "terms": (1, 2, 4, 8, 16, 32, 63, 127, 255),
                "pairs": tuple(2**power for power in range(5, 16)),
            },
            seeds=128,
        ),
    }
)
TRANSFORMER_PRESETS = disjoint(
    PRESETS
    | {
        "quick": Grid({"horizon": (5,), "terms": (1, 31), "pairs": (64, 512)}, seeds=20),
        # Some minutes of a core.
        "standard": Grid({"horizon": (5,), "terms": (1, 4, 31), "pairs": (64, 512)}, seeds=20),
    }
)


class Program(NamedTuple):
    """What decides a program: the fit (DPO, dense or known, sparse, backbone, or d_eff), the tree, padded pairs."""

    fit: str
    tree: TokenTree
    pairs: int


def cells(config: Config, backend: Backend = TREE) -> list[Cell]:
    """Every arm, and the effective dimension of the known support and of all interactions."""
    tree = TokenTree(config.vocabulary, config.horizon)
    if config.terms >= tree.leaves:
        return []
    padded = preferences.padded(config.pairs, smallest=1024)
    numbers = {"terms": config.terms, "beta": config.beta}
    labels: dict[str, str | int] = {"horizon": config.horizon, "interactions": tree.leaves - 1}
    made = []
    for arm in ARMS if backend is TREE else (*ARMS, BACKBONE):
        program = Program("RLHF" if arm in ("dense", "known") else arm, tree, padded)
        data = {"pairs": config.pairs, "known": int(arm == "known")}
        made.append(Cell("fits", program, {"arm": arm} | labels, numbers | data))
    for known in (0, 1):
        made.append(Cell("dimensions", Program("d_eff", tree, 0), labels, numbers | {"known": known}))
    return made


def run(program: Program, cell: dict, backend: Backend = TREE) -> dict:
    """One fit of one arm, or the effective dimension of one support, as scalars."""
    tree = program.tree
    task_key, pairs_key, fit_key = jax.random.split(jax.random.key(cell["seed"]), 3)
    task = tasks.sparse(task_key, tree, cell["terms"])._replace(beta=cell["beta"])
    features = jnp.asarray(interaction_basis(tree, tree.horizon)[0], float)
    candidates = jnp.where(cell["known"] == 1, support(features, task.reward), 1.0)
    if program.fit == "d_eff":
        return {"effective_dimension": complexity.effective_dimension(features * candidates[None, None], task)}
    problem = problem_of(cell, tree, task, pairs_key, program.pairs)
    policy = backend.policy(tree, None)
    if program.fit in ("DPO", BACKBONE):
        method = algorithms.dpo if program.fit == "DPO" else algorithms.rlhf
        fit = method(fit_key, algorithms.Classes(policy, backend.verifier(tree)), problem, backend.settings)
        log_policy, kept = policy.leaf_log_probs(fit.params), jnp.ones(features.shape[-1])
    else:
        learn = choose_support if program.fit == "sparse" else reward_model
        kept, fit = learn(fit_key, tree, features, candidates, problem, backend.settings)
        reward = features @ fit.params
        if backend is TREE:
            log_policy = soft_optimal_policy(reward, task.reference, task.beta)
        else:
            second = algorithms.second_stage(fit_key, policy, reward, problem.known, backend.settings)
            log_policy = policy.leaf_log_probs(second.params)
            fit = fit._replace(converged=fit.converged & second.converged)
    truth = support(features, task.reward)
    return {
        "regret": metrics.evaluate(log_policy, task).regret,
        "size": jnp.sum(kept),
        "found": jnp.sum(kept * truth) / jnp.sum(truth),
        "held_out_loss": fit.held_out_loss,
        "penalty": fit.penalty,
        "converged": fit.converged,
    }


def support(features: Float[Array, "1 L d"], reward: Float[Array, "1 L"]) -> Float[Array, "d"]:
    """1 for the interactions that a reward is made of, 0 for the others; features are orthonormal over responses."""
    coefficients = jnp.einsum("xld,xl->d", features, reward) / features.shape[1]
    return (jnp.abs(coefficients) > 1e-3 * jnp.max(jnp.abs(coefficients))).astype(features.dtype)


def reward_model(
    key: PRNGKey, tree: TokenTree, features, kept: Float[Array, "d"], problem, settings: algorithms.Settings
) -> tuple[Array, Fit]:
    """The Bradley-Terry fit over the kept interactions; coefficients [d] of the others are 0."""
    classes = algorithms.Classes(policies.tabular(tree), verifiers.linear(tree, features * kept[None, None]))
    fit = algorithms.reward_model(key, classes, problem, settings)
    return kept, fit._replace(params=fit.params * kept)


def nested_supports(coefficients: Float[Array, "d"], sizes: tuple[int, ...]) -> Float[Array, "K d"]:
    """The interactions of the ``sizes`` largest coefficients, one row of zeros and ones a size."""
    rank = jnp.argsort(jnp.argsort(-jnp.abs(coefficients)))
    return (rank[None] < jnp.array(sizes)[:, None]).astype(coefficients.dtype)


def support_sizes(dimension: int) -> tuple[int, ...]:
    """1, 2, 4, ... and all of them."""
    return (*(2**power for power in range((dimension - 1).bit_length())), dimension)


def choose_support(key: PRNGKey, tree: TokenTree, features, candidates: Float[Array, "d"], problem, settings):
    """The support of the lowest held-out loss among those nested by the dense fit (screen, then refit)."""
    _, dense = reward_model(key, tree, features, candidates, problem, settings)
    nested = nested_supports(dense.params, support_sizes(features.shape[-1]))
    kept, fits = jax.vmap(lambda rows: reward_model(key, tree, features, rows, problem, settings))(nested)
    converged = dense.converged & jnp.all(fits.converged)
    kept, chosen = optimize.lowest(fits.held_out_loss, (kept, fits))
    return kept, chosen._replace(converged=converged)


def findings(records: dict[str, pl.DataFrame]) -> list[Finding]:
    """By sparsity: the rival's ratio, and the price of the search; then what d_eff says; then the controls."""
    rows, horizons = [], sorted(records["fits"]["horizon"].unique())
    for horizon in horizons:
        fits, dimensions = (records[table].filter(horizon=horizon) for table in ("fits", "dimensions"))
        where = f"H={horizon}, " if len(horizons) > 1 else ""
        for terms in sorted(fits["terms"].unique()):
            name = f"{where}{terms} of {fits['interactions'][0]} terms"
            rows += _sparsity(fits.filter(terms=terms), dimensions, name)
        rows += _whole(fits, where)
    return rows


def _sparsity(fits: pl.DataFrame, dimensions: pl.DataFrame, name: str) -> list[Finding]:
    """For one number of terms, at the fewest and the most pairs."""
    fewest, most = (fits.filter(pairs=pairs) for pairs in (fits["pairs"].min(), fits["pairs"].max()))
    few, many = (f"{name}, {rows['pairs'][0]:,} pairs" for rows in (fewest, most))
    claim = f"{many}: {REGRET} of DPO over sparse RLHF"
    if fits["terms"][0] == fits["interactions"][0]:
        return [Finding(claim, regret_ratio(most, "DPO", "sparse"), "times", 1.0, "at", margin=EQUAL_TIMES)]
    rows = [Finding(claim, regret_ratio(most, "DPO", "sparse"), "times", 2.0, "above")]
    claim = f"{many}: regret of the known support over what its effective dimension predicts, d_eff/(2n)"
    rows.append(
        Finding(claim, over_prediction(most, dimensions), "times", 1.0, "at", margin=EQUAL_TIMES, predicted=1.0)
    )
    claim = "regret of sparse RLHF over that of the known support"
    rows.append(
        Finding(f"{few}: {claim}", regret_ratio(fewest, "sparse", "known"), "times", 1.25, "above", predicted=1.0)
    )
    if len(fits["pairs"].unique()) == 1:
        return rows
    rows.append(
        Finding(f"{many}: {claim}", regret_ratio(most, "sparse", "known"), "times", 1.25, "below", predicted=1.0)
    )
    claim = f"{name}: excess over the known support in units of terms ln(d/terms)/n, most less fewest pairs"
    return [*rows, Finding(claim, change(search_price(most) - search_price(fewest)), "nats", 0.0, "below")]


def _whole(fits: pl.DataFrame, where: str) -> list[Finding]:
    """The dense arm over all sparse gold rewards, and the controls."""
    most, rows = fits.filter(pairs=fits["pairs"].max()), []
    name = f"{where}{most['pairs'][0]:,} pairs"
    sparse, full = (most.filter(rule) for rule in _is_sparse())
    if len(sparse):
        claim = f"{name}, all sparse gold rewards: regret of DPO over dense RLHF (equal effective dimensions)"
        rows.append(Finding(claim, regret_ratio(sparse, "DPO", "dense"), "times", 1.0, "at", margin=EQUAL_TIMES))
        if BACKBONE in sparse["arm"]:
            claim = f"{name}, all sparse gold rewards: the same, reward models of the policy's own backbone"
            rows.append(Finding(claim, regret_ratio(sparse, "DPO", BACKBONE), "times", 1.0, "at", margin=EQUAL_TIMES))
    if len(full):
        claim = f"{name}, every term in the gold reward: largest |log of sparse over dense RLHF's regret|"
        rows.append(equality(claim, arms(full, "sparse", "dense"), log_gap("sparse"), EQUAL_LOG))
        every = fits.filter(_is_sparse()[1])
        claim = f"{where}every term in the gold reward, all n: largest |log of known over dense RLHF's regret|"
        rows.append(equality(claim, arms(every, "known", "dense"), log_gap("known"), EQUAL_LOG))
    return rows


def _is_sparse() -> tuple[pl.Expr, pl.Expr]:
    return pl.col("terms") < pl.col("interactions"), pl.col("terms") == pl.col("interactions")


def arms(fits: pl.DataFrame, arm: str, other: str) -> pl.DataFrame:
    """Regrets of two arms side by side: one row a data set, one column an arm."""
    return side_by_side(fits, (arm, other), "regret", ["terms", "pairs", "beta", "interactions", "seed"])


def regret_ratio(fits: pl.DataFrame, arm: str, other: str) -> Estimate:
    """Geometric mean ratio of two arms' regrets, paired by seed."""
    return geometric(by_seed(arms(fits, arm, other), (pl.col(arm).log() - pl.col(other).log()).mean()))


def search_price(fits: pl.DataFrame) -> PerSeed:
    """(regret of sparse less of known) * n / (terms ln(d / terms)) of every seed, n the pairs that are fitted."""
    scale = pl.col("terms") * (pl.col("interactions") / pl.col("terms")).log()
    excess = (pl.col("sparse") - pl.col("known")) * TRAINED * pl.col("pairs") / scale
    return by_seed(arms(fits, "sparse", "known"), excess.mean())


def over_prediction(fits: pl.DataFrame, dimensions: pl.DataFrame) -> Estimate:
    """Regret of the known support over its own d_eff / (2 n), n the pairs that are fitted."""
    known, cell = fits.filter(arm="known"), ["terms", "beta", "seed"]
    both = paired(known, dimensions.filter(known=1), cell, "_of_class", shared=True)
    share = pl.col("regret") * 2 * TRAINED * pl.col("pairs") / pl.col("effective_dimension")
    return geometric(by_seed(both, share.log().mean()))


def log_gap(arm: str) -> pl.Expr:
    """Log regret of an arm less that of dense RLHF."""
    return pl.col(arm).log() - pl.col("dense").log()


CAPTIONS = {
    "rival_sparse": (
        "Regret (KL to the optimal policy) against the number n of labelled pairs, by the number of interactions in "
        "the gold reward. A reward model over all interactions (green) is no better than DPO; one that looks for few "
        "(blue) needs fewer pairs where the gold reward is sparse. What it pays above the one that is given the right "
        "ones (purple) is the price of the search, small where pairs are many. Theory predicts d_eff/(2n) (dashed), "
        "with d_eff the effective dimension. It does not know that price, nor that of choosing a penalty, which keeps "
        "purple above it where there is little else to learn. Points are means over seeds, bars 95 % intervals."
    ),
}

_LOOK = {
    "DPO": ("offline DPO", {"color": DPO, "marker": "s"}),
    "dense": ("RLHF, all interactions", {"color": THIRD, "linestyle": "--"}),
    "known": ("RLHF, the true interactions", {"color": FOURTH, "marker": "^"}),
    "sparse": ("RLHF, few interactions, chosen on held-out pairs", {"color": RLHF}),
    BACKBONE: ("RLHF, the policy's own backbone", {"color": PALE, "marker": "v", "linestyle": ":"}),
}


def draw(records: dict[str, pl.DataFrame]) -> dict[str, Figure]:
    """Regret curves of the four arms with 95 % intervals over seeds, one panel a number of terms, one row a horizon."""
    fits, dimensions = records["fits"], records["dimensions"]
    rows = [fits.filter(horizon=horizon) for horizon in sorted(fits["horizon"].unique())]
    columns = max(len(row["terms"].unique()) for row in rows)
    figure, grid = panels(len(rows), columns, 1.9)
    for axes, row in zip(grid, rows, strict=True):
        terms = sorted(row["terms"].unique())
        for axis in axes[len(terms) :]:
            axis.remove()
        for axis, count in zip(axes, terms, strict=False):
            _panel(axis, row.filter(terms=count), dimensions.filter(horizon=row["horizon"][0], terms=count))
            entitle(axis, f"{count} of {row['interactions'][0]} terms", row.filter(terms=count))
    name_axes(grid, "labels n [pairs]", "regret KL(π‖π*) [nats]")
    legend_below(figure)
    return {"rival_sparse": figure}


def _panel(axis, fits: pl.DataFrame, dimensions: pl.DataFrame) -> None:
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    pairs = np.array(sorted(fits["pairs"].unique()))
    for arm, (label, look) in _LOOK.items():
        if len(here := fits.filter(arm=arm)):
            curve_of(axis, here, "pairs", "regret", label, **look)
    dimension = estimate(dimensions.filter(known=1), pl.col("effective_dimension").mean()).at().estimate
    predicted = dimension / (2 * TRAINED * pairs)
    axis.plot(pairs, predicted, color="0.45", linestyle="--", linewidth=1, zorder=1,
              label=r"$d_\mathrm{eff}/(2n)$ of the true interactions")  # fmt: skip
