"""Is the gap one of priors?

DPO over all policies is given a ridge that grows with the degree of its implicit reward.
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

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import polars as pl

from experiments.kit.fields import check
from experiments.kit.findings import EQUAL_TIMES, REGRET, Finding, Question
from experiments.kit.points import reference_name
from experiments.kit.presets import disjoint
from experiments.kit.problems import METHODS, TRAINED, problem_of, record_of, task_of
from experiments.questions.prior_geometry_figures import CAPTIONS, draw
from experiments.questions.prior_geometry_records import (
    DEGREE,
    DPO_DEGREE,
    DPO_FLAT,
    DPO_RANDOM,
    DPO_TOKENS,
    DPO_USUAL,
    INTERACTIONS,
    RANDOM,
    RESTRICTED,
    RLHF_GOLD,
    RLHF_ORDER,
    TOKENS,
    TYPICAL,
    USUAL,
    chosen,
    equalities,
    regret_ratio,
    share_closed,
)
from gvgap_jax import TokenTree, algorithms, metrics, policies, prediction, preferences, verifiers
from gvgap_jax.features import interaction_basis
from gvgap_jax.sweep import Cell, Grid
from gvgap_jax.tasks import Task
from gvgap_jax.types import Count, Number, PRNGKey, TreeVerifier

__all__ = ["CAPTIONS", "draw"]  # its second room's, so that a question is one module
MEANING = 1
NOT_ON_TRANSFORMERS = "its priors are ridges over the coefficients of interactions, which a network does not have."
QUESTION = Question(
    place=66,
    label="H6: priors",
    claim="Simple verifiers win by a prior: DPO over all policies closes the gap with a ridge that grows with the "
    "degree of its implicit reward.",
    reported="arXiv 2503.01067 explains the gap by a second stage that searches only the policies that are optimal for "
    "simple verifiers. Penalties on the policy's implicit reward are not considered.",
    axes=("gold_order", "reference_scale", "pairs"),
)

POWERS = {DEGREE: 99, TOKENS: 1, RANDOM: 99}  # of decay at most, by which interactions of high degree are held down
DECAYS = (1.0, 1 / 2, 1 / 4, 1 / 8, 1 / 16)


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
        "quick": Grid({"gold_order": (1, 2, 4), "reference_scale": REFERENCES, "pairs": (128, 512)}, seeds=20),
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
    """What decides a compiled fit: method, coordinates (logits or interactions), tree, padded number of pairs."""

    method: str
    coordinates: str
    tree: TokenTree
    pairs: int


class Law(NamedTuple):
    """What decides a compiled prediction: coordinates, tree, and the decays among which held-out pairs choose."""

    coordinates: str
    tree: TokenTree
    decays: tuple[float, ...]


def cells(config: Config) -> list[Cell]:
    """DPO in every geometry at every decay; RLHF with the degree ridge at every decay, and of every order, flat.

    And what theory says of four arms.
    """
    if config.gold_order > config.horizon:
        return []
    every, gold = config.horizon, config.gold_order
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
        program = Program(method, USUAL if geometry == USUAL else INTERACTIONS, tree, padded)
        prior = {"powers": POWERS.get(geometry, 0), "turned": int(geometry == RANDOM)}
        made += [
            Cell("fits", program, labels, shared | prior | {"decay": decay, "order": order}) for decay, order in rows
        ]
    for arm, coordinates, decays, order in (
        (DPO_USUAL, USUAL, (1.0,), every),
        (DPO_FLAT, INTERACTIONS, (1.0,), every),
        (DPO_DEGREE, INTERACTIONS, DECAYS, every),
        (RLHF_GOLD, INTERACTIONS, (1.0,), gold),
    ):
        law = Law(coordinates, tree, decays)
        made.append(Cell("predictions", law, {"horizon": every, "arm": arm}, shared | {"order": order}))
    return made


def run(program: Program | Law, cell: dict) -> dict:
    """One fit in one geometry, or the regret that theory says of an arm, as scalars."""
    tree = program.tree
    task, pairs_key, key = task_of(cell, tree)
    if isinstance(program, Law):
        return predicted(program, cell, task)
    policy, verifier = policies.tabular(tree, tree.conditionals(task.reference)), None
    turn_key, fit_key = jax.random.split(key)
    problem = problem_of(cell, tree, task, pairs_key, program.pairs)
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
    return verifiers.linear(tree, jnp.asarray(features, float) @ (turn * scale[None]))


def predicted(law: Law, cell: dict, task: Task) -> dict:
    """Mean and geometric mean of the regret over data sets, by the law of few pairs (``gvgap_jax.prediction``)."""
    pairs = jnp.atleast_1d(cell["pairs"])
    penalties = jnp.array(algorithms.PENALTIES)
    if law.coordinates == USUAL:
        fitted = prediction.of_all_policies(law.tree, task.known)
    else:
        features, degree = interaction_basis(law.tree, law.tree.horizon)
        fitted = prediction.of_features(jnp.asarray(features, float) * (degree <= cell["order"])[None, None])
        scales = jnp.array(law.decays)[:, None, None] ** (degree - 1)[None, None]
        penalties = (penalties[None, :, None] / scales**2).reshape(-1, len(degree))
    found = prediction.predict(fitted, task, TRAINED * pairs, (1 - TRAINED) * pairs, penalties)
    return {name: getattr(found, name)[0] for name in ("regret", "typical", "trusted")}


def findings(records: dict[str, pl.DataFrame]) -> list[Finding]:
    """By reference and gold order, at the most pairs: what the degree ridge gains, and what is left; then controls."""
    fits, point = records["fits"], ["reference_scale", "gold_order"]
    best, rows, controls = chosen(fits.filter(pairs=fits["pairs"].max())), [], []
    for (scale, gold), here in best.sort(point).group_by(point, maintain_order=True):
        horizon, pairs = here["horizon"][0], here["pairs"][0]
        where = f"{reference_name(scale)}, gold order {gold} of {horizon}, {pairs:,} pairs"
        law = records["predictions"].filter(reference_scale=scale, gold_order=gold, pairs=pairs)
        rows += _gains(here, law, where, simple=gold < horizon)
        if gold < horizon:
            claim = f"{where}: regret of {DPO_RANDOM} of the same spectrum over {DPO_FLAT}, where it must not be lower"
            known = regret_ratio(here, DPO_RANDOM, DPO_FLAT)
            controls.append(Finding(claim, known, "times", 1 / EQUAL_TIMES, "above", control=True))
    return [*rows, *controls, *equalities(fits)]


def _gains(here: pl.DataFrame, law: pl.DataFrame, where: str, simple: bool) -> list[Finding]:
    def ratio(one: str, other: str, direction: str, words: str = "regret") -> Finding:
        claim, known = f"{where}: {words} of {one} over {other}", {one, other} <= set(law["arm"])
        theory = regret_ratio(law, one, other, TYPICAL).at().estimate if known else float("nan")
        measured = regret_ratio(here, one, other)
        return Finding(claim, measured, "times", 1.0, direction, margin=EQUAL_TIMES, predicted=theory)

    rows = [ratio(DPO_USUAL, DPO_DEGREE, "above" if simple else "at", REGRET)]
    rows.append(ratio(DPO_DEGREE, RLHF_GOLD, "at"))
    if simple:
        claim = f"{where}: share of the log gap between {DPO_USUAL} and {RLHF_GOLD} that a degree ridge closes"
        theory = share_closed(law, TYPICAL).at().estimate
        rows.append(Finding(claim, share_closed(here), "", 0.5, "above", predicted=theory))
    rows.append(ratio(RLHF_ORDER, DPO_DEGREE, "at"))
    rows.append(ratio(DPO_FLAT, DPO_DEGREE, "above" if simple else "at"))
    return [*rows, ratio(DPO_TOKENS, DPO_DEGREE, "at")]
