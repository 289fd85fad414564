"""Is the gap one of priors? DPO over all policies, with a ridge that grows with the degree of its implicit reward.

A ridge penalty is a prior: independent normal coefficients of the implicit reward beta log(policy / reference), in a
basis of interactions that are orthonormal over responses. A *flat* one holds every coefficient alike, which is a ridge
on the rewards of whole responses. The *degree ridge* gives interactions of k token positions the standard deviation
decay**(k - 1): decay 1 is flat, decay 0 leaves sums over single tokens alone, a restriction of the class. The
*token-sum ridge* has decay once and for all above degree 1. The *random-feature ridge* has the spectrum of the degree
ridge along random directions, so it knows nothing of tokens. All are fitted by DPO over all policies. Two-stage RLHF
is fitted with simple verifiers, with full tables, and with the degree ridge, where Theorem 2.2 says that it ends where
DPO does. Each decay has the same candidate penalties; decay and penalty have the lowest loss on the same held-out fifth
of the pairs. Regret is KL(policy || soft-optimal policy of the gold reward), an exact sum over responses.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import polars as pl
from matplotlib.figure import Figure

from experiments.kit.fields import check
from experiments.kit.findings import EQUAL_LOG, EQUAL_TIMES, REGRET, Finding, Question, equality
from experiments.kit.intervals import Estimate, estimate, geometric, ratio_of_means
from experiments.kit.per_seed import PerSeed, by_seed, paired, side_by_side
from experiments.kit.plots import (
    AMBER,
    BLACK,
    DPO,
    FOURTH,
    RLHF,
    THIRD,
    curve_of,
    entitle,
    legend_below,
    name_axes,
    panels,
)
from experiments.kit.presets import disjoint
from experiments.kit.problems import METHODS, problem_of, record_of, task_of
from gvgap_jax import TokenTree, algorithms, metrics, policies, preferences, verifiers
from gvgap_jax.features import interaction_basis
from gvgap_jax.sweep import Cell, Grid
from gvgap_jax.types import Count, Number, PRNGKey, TreeVerifier

MEANING = 1
QUESTION = Question(
    place=66,
    label="H6: priors",
    claim="Simple verifiers win by a prior: DPO over all policies closes the gap with a ridge that grows with the "
    "degree of its implicit reward.",
    reported="arXiv 2503.01067 explains the gap by a second stage that searches only the policies that are optimal for "
    "simple verifiers. Penalties on the policy's implicit reward are not considered.",
    axes=("gold_order", "reference_scale", "pairs"),
)

USUAL = "logits"  # the geometry of tabular DPO: a ridge on logits of the next token after each prefix
DEGREE, TOKENS, RANDOM = "degree", "token sums", "random features"
POWERS = {DEGREE: 99, TOKENS: 1, RANDOM: 99}  # of decay at most, by which interactions of high degree are held down
DECAYS = (1.0, 1 / 2, 1 / 4, 1 / 8, 1 / 16)
RESTRICTED = 0.0  # the limit of decays: no policy but those of sums over single tokens


@dataclass(frozen=True)
class Config:
    """Settings of one point; there is none where the gold reward's order is above the horizon."""

    vocabulary: int = 3
    horizon: int = 4
    gold_order: int = 1
    pairs: int = 512
    beta: float = 1.0
    temperature: float = 1.0
    reference_scale: float = 0.0

    def __post_init__(self):
        check(self)


ORDERS, REFERENCES = (1, 2, 3, 4), (0.0, 1.5)
PRESETS = disjoint(
    {
        "tiny": Grid({"horizon": (2,), "gold_order": (1, 2), "pairs": (32, 128)}, seeds=2),
        "quick": Grid({"gold_order": ORDERS, "reference_scale": REFERENCES, "pairs": (128, 512)}, seeds=24),
        "standard": Grid(
            {"gold_order": ORDERS, "reference_scale": REFERENCES, "pairs": (32, 128, 512, 2048)}, seeds=32
        ),
        "paper": Grid(
            {
                "horizon": (4, 5),
                "gold_order": (*ORDERS, 5),
                "reference_scale": REFERENCES,
                "pairs": tuple(2**power for power in range(5, 14)),
            },
            seeds=64,
        ),
        "full": Grid(
            {
                "horizon": (4, 5, 6),
                "gold_order": (*ORDERS, 5, 6),
                "reference_scale": (0.0, 0.75, 1.5, 3.0),
                "pairs": tuple(2**power for power in range(5, 16)),
            },
            seeds=128,
        ),
    }
)


class Program(NamedTuple):
    """What decides a compiled program: method, coordinates (logits or interactions), tree, padded number of pairs."""

    method: str
    coordinates: str
    tree: TokenTree
    pairs: int


def cells(config: Config) -> list[Cell]:
    """DPO in every geometry at every decay; RLHF with the degree ridge at every decay, and of every order, flat."""
    if config.gold_order > config.horizon:
        return []
    every = config.horizon
    ridges = [(decay, every) for decay in DECAYS]
    settings = {
        ("DPO", USUAL): [(1.0, every)],
        ("DPO", DEGREE): [*ridges, (RESTRICTED, every)],
        ("DPO", TOKENS): ridges,
        ("DPO", RANDOM): ridges,
        ("RLHF", DEGREE): [*ridges, *((1.0, order) for order in range(1, every))],
    }
    names = ("gold_order", "pairs", "beta", "temperature", "reference_scale")
    shared = {name: getattr(config, name) for name in names}
    tree, padded = TokenTree(config.vocabulary, every), preferences.padded(config.pairs, smallest=512)
    made = []
    for (method, geometry), rows in settings.items():
        labels: dict[str, str | int] = {"horizon": every, "method": method, "geometry": geometry}
        program = Program(method, USUAL if geometry == USUAL else "interactions", tree, padded)
        prior = {"powers": POWERS.get(geometry, 0), "turned": int(geometry == RANDOM)}
        made += [
            Cell("fits", program, labels, shared | prior | {"decay": decay, "order": order}) for decay, order in rows
        ]
    return made


def run(program: Program, cell: dict) -> dict:
    """One fit in one geometry, as scalars."""
    tree = program.tree
    task, pairs_key, key = task_of(cell, tree)
    turn_key, fit_key = jax.random.split(key)
    problem = problem_of(cell, tree, task, pairs_key, program.pairs)
    policy, verifier = policies.tabular(tree, tree.conditionals(task.reference)), None
    if program.coordinates != USUAL:
        verifier = rewards(turn_key, tree, cell["decay"], cell["powers"], cell["order"], cell["turned"])
        if program.method == "DPO":
            policy = verifiers.soft_optimal_class(tree, verifier, task.reference, task.beta)
    fit = METHODS[program.method](fit_key, algorithms.Classes(policy, verifier), problem, algorithms.Settings())
    return metrics.evaluate(policy.leaf_log_probs(fit.params), task)._asdict() | record_of(fit)


def rewards(key: PRNGKey, tree: TokenTree, decay: Number, powers: Count, order: Count, turned: Count) -> TreeVerifier:
    """Rewards of up to ``order`` positions, in coordinates in which a plain ridge is that of a geometry.

    The coefficient of an interaction is scale * v, so that a ridge on the parameters v is a normal prior of the
    coefficient, whose standard deviation is proportional to the scale: decay to the power of the degree less 1, or of
    ``powers`` where that is less. With ``turned`` 1 a random orthogonal matrix turns the features, which ``key``
    decides.
    """
    features, degree = interaction_basis(tree, tree.horizon)
    dimension = len(degree)
    turn = jnp.where(turned == 1, jax.random.orthogonal(key, dimension), jnp.eye(dimension))
    scale = jnp.where(degree <= order, decay ** jnp.minimum(degree - 1, powers), 0.0)
    return verifiers.linear(tree, jnp.asarray(features, float) @ turn * scale)


# Methods by their names in claims: which fits are candidates. The lowest held-out loss decides where there are several.
DPO_USUAL, DPO_FLAT, DPO_DEGREE = "DPO with its usual ridge", "DPO with a flat ridge", "DPO with a degree ridge"
DPO_TOKENS, DPO_RANDOM = "DPO with a token-sum ridge", "DPO with a random-feature ridge"
RLHF_GOLD, RLHF_ORDER = (
    "RLHF with verifiers of the gold order",
    "RLHF with verifiers of an order chosen on held-out pairs",
)
_dpo, _flat = pl.col("method") == "DPO", pl.col("decay") == 1
CANDIDATES: dict[str, pl.Expr] = {
    DPO_USUAL: _dpo & (pl.col("geometry") == USUAL),
    DPO_FLAT: _dpo & (pl.col("geometry") == DEGREE) & _flat,
    DPO_DEGREE: _dpo & (pl.col("geometry") == DEGREE) & (pl.col("decay") > RESTRICTED),
    DPO_TOKENS: _dpo & (pl.col("geometry") == TOKENS),
    DPO_RANDOM: _dpo & (pl.col("geometry") == RANDOM),
    RLHF_GOLD: ~_dpo & _flat & (pl.col("order") == pl.col("gold_order")),
    RLHF_ORDER: ~_dpo & _flat,
}
DATA = ["horizon", "gold_order", "reference_scale", "pairs", "seed"]  # what tells data sets apart


def chosen(fits: pl.DataFrame) -> pl.DataFrame:
    """One fit of every arm on every data set, with the column ``arm``; the flatter and the simpler one of a tie."""
    ordered = fits.sort("held_out_loss", pl.col("decay").neg(), "order")
    return pl.concat(
        ordered.filter(rule).group_by(DATA, maintain_order=True).first().with_columns(arm=pl.lit(arm))
        for arm, rule in CANDIDATES.items()
    )


def findings(records: dict[str, pl.DataFrame]) -> list[Finding]:
    """By reference and gold order, at the most pairs: what the degree ridge gains, and what is left; then controls."""
    fits = records["fits"]
    best = chosen(fits.filter(pairs=fits["pairs"].max()))
    rows, controls = [], []
    for (scale, gold), here in best.sort("reference_scale", "gold_order").group_by(
        "reference_scale", "gold_order", maintain_order=True
    ):
        horizon, pairs = here["horizon"][0], here["pairs"][0]
        where = f"{_reference(scale)}, gold order {gold} of {horizon}, {pairs:,} pairs"
        rows += _gains(here, where, simple=gold < horizon)
        if gold < horizon:
            claim = f"{where}: regret of {DPO_RANDOM} of the same spectrum over {DPO_FLAT}, where it must not be lower"
            known = regret_ratio(here, DPO_RANDOM, DPO_FLAT)
            controls.append(Finding(claim, known, "times", 1 / EQUAL_TIMES, "above", control=True))
    return [*rows, *controls, *equalities(fits)]


def _reference(scale: float) -> str:
    return f"reference of s.d. {scale:g}" if scale else "uniform reference"


def _gains(here: pl.DataFrame, where: str, simple: bool) -> list[Finding]:
    def ratio(one: str, other: str, direction: str, words: str = "regret") -> Finding:
        claim = f"{where}: {words} of {one} over {other}"
        return Finding(claim, regret_ratio(here, one, other), "times", 1.0, direction, margin=EQUAL_TIMES)

    rows = [ratio(DPO_USUAL, DPO_DEGREE, "above" if simple else "at", REGRET)]
    rows.append(ratio(DPO_DEGREE, RLHF_GOLD, "at"))
    if simple:
        claim = f"{where}: share of the log gap between {DPO_USUAL} and {RLHF_GOLD} that a degree ridge closes"
        rows.append(Finding(claim, share_closed(here), "", 0.5, "above"))
    rows.append(ratio(RLHF_ORDER, DPO_DEGREE, "at"))
    rows.append(ratio(DPO_FLAT, DPO_DEGREE, "above" if simple else "at"))
    return [*rows, ratio(DPO_TOKENS, DPO_DEGREE, "at")]


def log_ratio(here: pl.DataFrame, one: str, other: str) -> PerSeed:
    """Log regret of one arm less that of another on the same data, a number a seed."""
    both = side_by_side(here, (one, other), "regret", DATA)
    return by_seed(both, (pl.col(one).log() - pl.col(other).log()).mean())


def regret_ratio(here: pl.DataFrame, one: str, other: str) -> Estimate:
    """Geometric mean ratio of two arms' regrets, paired by seed."""
    return geometric(log_ratio(here, one, other))


def share_closed(here: pl.DataFrame) -> Estimate:
    """How far DPO's log regret comes down to that of RLHF with the gold order, if its ridge grows with degree."""
    return ratio_of_means(log_ratio(here, DPO_USUAL, DPO_DEGREE), log_ratio(here, DPO_USUAL, RLHF_GOLD))


def equalities(fits: pl.DataFrame) -> list[Finding]:
    """The same prior in both methods, turned, and at its limit: two fits of one problem in each, with one penalty."""
    degree = pl.col("geometry") == DEGREE
    dpo, rlhf = (fits.filter(rule & degree) for rule in (_dpo, ~_dpo))
    every = rlhf.filter(pl.col("order") == pl.col("horizon"))
    rows = [
        _equal("the same degree ridge in DPO and in RLHF", dpo.filter(pl.col("decay") > RESTRICTED), every, "decay")
    ]
    rows.append(_equal("decay 0 in DPO and RLHF of order 1", dpo.filter(decay=RESTRICTED), rlhf.filter(order=1)))
    turned = fits.filter(_flat, geometry=RANDOM)
    return [*rows, _equal("a flat ridge along random features and interactions", turned, dpo.filter(_flat))]


def _equal(words: str, one: pl.DataFrame, other: pl.DataFrame, *on: str) -> Finding:
    both = paired(one, other, [*DATA, *on], "_other")
    difference = pl.col("regret").log() - pl.col("regret_other").log()
    same = pl.col("penalty") == pl.col("penalty_other")  # held-out losses can tie to rounding
    return equality(f"{words}, same penalty: largest difference of log regret", both, difference, EQUAL_LOG, where=same)


CAPTIONS = {
    "prior_geometry": (
        "Regret (KL to the optimal policy) against the number n of labelled pairs, by the reference policy and by the "
        "gold reward's order (how many token positions it reads together). DPO over all policies with its usual ridge "
        "(red) or a flat one (amber) against RLHF with a simple verifier (blue), and DPO with a ridge that grows with "
        "the degree of its implicit reward (green), with token sums alone held loosely (pink), and with random "
        "features of the same spectrum (grey). Decays are chosen on held-out pairs. Points are means over seeds, bars "
        "95 % intervals."
    ),
    "prior_geometry_decay": (
        "Regret at the most pairs against the decay of the prior's standard deviation with the degree of the implicit "
        "reward: from flat (1) towards the restriction to sums over single tokens (dotted, decay 0). Dashed: RLHF with "
        "a verifier of the gold reward's order. Points are means over seeds, bars 95 % intervals."
    ),
}

_LOOK = {
    DPO_USUAL: {"color": DPO, "marker": "s"},
    DPO_FLAT: {"color": AMBER, "marker": "D"},
    DPO_TOKENS: {"color": FOURTH, "marker": "v"},
    DPO_RANDOM: {"color": "0.6", "marker": "x"},
    DPO_DEGREE: {"color": THIRD, "marker": "^"},
    RLHF_GOLD: {"color": RLHF},
}
_GEOMETRIES = {DPO_DEGREE: DEGREE, DPO_TOKENS: TOKENS, DPO_RANDOM: RANDOM}


def draw(records: dict[str, pl.DataFrame]) -> dict[str, Figure]:
    """Regret against pairs, and against the decay at the most pairs; a row a reference, a column a gold order."""
    fits = records["fits"]
    most = fits.filter(pairs=fits["pairs"].max())
    return {
        "prior_geometry": _figure(chosen(fits), _over_pairs, "labels n [pairs]"),
        "prior_geometry_decay": _figure(most, _over_decay, "decay of the prior's s.d. with degree [factor]"),
    }


def _figure(rows: pl.DataFrame, panel: Callable, x: str) -> Figure:
    scales, golds = (sorted(rows[name].unique()) for name in ("reference_scale", "gold_order"))
    figure, grid = panels(len(scales), len(golds), 1.8, sharey="row")
    for axes, scale in zip(grid, scales, strict=True):
        for axis, gold in zip(axes, golds, strict=True):
            here = rows.filter(reference_scale=scale, gold_order=gold)
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            panel(axis, here)
            entitle(axis, f"{_reference(scale)}, gold order {gold} of {here['horizon'][0]}", here)
    name_axes(grid, x, "regret KL(π‖π*) [nats]")
    legend_below(figure)
    return figure


def _over_pairs(axis, best: pl.DataFrame) -> None:
    for arm, look in _LOOK.items():
        curve_of(axis, best.filter(arm=arm), "pairs", "regret", arm, **look)


def _over_decay(axis, fits: pl.DataFrame) -> None:
    for arm, geometry in _GEOMETRIES.items():
        here = fits.filter(_dpo, pl.col("decay") > RESTRICTED, geometry=geometry)
        curve_of(axis, here, "decay", "regret", arm.replace("DPO with", "DPO,"), **_LOOK[arm])
    for rows, label, look in (
        (chosen(fits).filter(arm=RLHF_GOLD), RLHF_GOLD, {"color": RLHF, "linestyle": "--"}),
        (fits.filter(decay=RESTRICTED), "decay 0: RLHF with verifiers of order 1", {"color": BLACK, "linestyle": ":"}),
    ):
        axis.axhline(estimate(rows, pl.col("regret").mean()).at().estimate, label=label, linewidth=1, **look)
