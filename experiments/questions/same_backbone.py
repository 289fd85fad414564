"""Does RLHF beat DPO where the reward model is the policy's network?

Policy and reward model start at one network, and it asks where simplicity could come from.
Small transformers write responses whose every prefix is evaluated, so that regret is an exact sum. Texts have three
hidden styles, each a Markov chain. The network has read texts (a language model of their exact law, which is then the
reference policy) or is random (and then logits of the texts are added to the policy's). From there one arm trains it
by DPO, others as a reward model that reads the state after the last token or the sum over tokens, and then train the
policy on that reward, on the exact objective. Learning rate and number of steps are chosen on the same held-out pairs.

One factor at a time is varied around two base cells, which differ in how skewed the texts are (the standard deviation
of the chains' logits): what the network has read, what of it is trained, the gold reward, and the number of pairs. A
gold reward of random interactions is foreign to the texts; that of styles is theirs; puzzles are easier to judge than
to write. Where a text ends with the response, the state after it has no target in pretraining: texts go on, but for one
start. Theory is the law of few pairs for rewards linear in the tangent features of either network, at the common start
and once more where the fit ended. What could mislead: networks and trees are small.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import polars as pl

from experiments.kit.fields import COIN, check
from experiments.kit.findings import Finding, Question
from experiments.kit.presets import disjoint
from experiments.kit.problems import OF
from experiments.questions.same_backbone_arms import (
    TRAIN,
    arms,
    converged,
    measured,
)
from experiments.questions.same_backbone_scenes import INTERACTIONS, ON_TEXTS, STARTS, STYLE, Program, scene_of
from experiments.questions.token_tasks_families import FAMILIES
from gvgap_jax import TokenTree, metrics, preferences
from gvgap_jax.lm.model.shape import llama
from gvgap_jax.runtime.messages import unknown
from gvgap_jax.sweep import Cell, Grid

CAPTIONS = {}
draw = lambda records: {}
MEANING = 1
QUESTION = Question(
    place=67,
    label="H6: one network",
    claim="With a reward model of the policy's own pretrained network two-stage RLHF has less regret than DPO.",
    reported="arXiv 2503.01067 trains policy and reward model from one pretrained network, and online DPO wins 6 "
    "points more often than DPO at 1.4B and 2.8B parameters; a simpler reward model is the explanation.",
    axes=("start", "trained", "gold", "gold_order", "labels", "text_scale", "pairs", "replicate"),
)

GOLDS = (*ON_TEXTS, *(family for family in FAMILIES if family not in ON_TEXTS))
SMALLEST = 1024  # size that numbers of pairs are padded to
FAR = 1e-3  # nats a response, between the texts and the language model that has read them
LEFT = 0.05  # of the logarithm of regret: what a second stage of so many steps may leave

# Of the explanation, stated before the run:
ENOUGH = 0.8  # share of what data sets of the same task leave to explain of the variance of log regret


@dataclass(frozen=True)
class Config:
    """Settings of one point of the sweep.

    Attributes:
      layers: blocks of the network, which are Llama's.
      width: of the network, in heads of 16.
      start: what the network has read: nothing (``random``), texts, texts that end with the response, or texts in
        which a token that tells of the gold reward follows it.
      trained: the head alone, the last layer too, or all; of policy and reward model alike.
      gold: random ``interactions``, the texts' own ``style``, or a family of token tasks with V instances.
      gold_order: of the interactions.
      text_scale: standard deviation of the logits of the texts' Markov chains; 0 is uniform.
      replicate: number of the data set of the same task.
    """

    vocabulary: int = 3
    horizon: int = 4
    layers: int = 2
    width: int = 32
    start: str = "text"
    trained: str = "all"
    gold: str = INTERACTIONS
    gold_order: int = 1
    labels: str = "gold"
    text_scale: float = 1.5
    pairs: int = 512
    replicate: int = 0
    beta: float = 1.0
    temperature: float = 1.0

    def __post_init__(self):
        check(self)
        for name, choices in (("start", STARTS), ("trained", TRAIN), ("gold", GOLDS)):
            if getattr(self, name) not in choices:
                raise ValueError(unknown(name, getattr(self, name), choices))
        if self.width % 16:
            raise ValueError(f"width must be a multiple of 16, the width of a head, got {self.width}.")


def _around(fields: dict[str, tuple], seeds: int, **fixed: tuple) -> Grid:
    """Points that are walked one by one: a column of values for every field."""
    return Grid(fields | fixed, (tuple(fields),), seeds=seeds)


def _columns(*points: dict) -> dict[str, tuple]:
    """Points as columns; a field that a point does not name is at its default."""
    defaults = Config()
    names = [name for name in vars(defaults) if any(name in point for point in points)]
    return {name: tuple(point.get(name, getattr(defaults, name)) for point in points) for name in names}


SCALES = (1.5, 0.4)  # of the texts: the two base cells
PUZZLES = ("subset_sum", "colouring", "hidden_reference")
FACTORS = (  # what differs from a base cell, one factor at a time
    *({"start": start} for start in STARTS if start != "text"),
    *({"trained": part} for part in TRAIN if part != "all"),
    *({"gold_order": order} for order in (2, 4)),
    {"gold": STYLE},
    {"labels": COIN},
)
_BASES = [{"text_scale": scale} for scale in SCALES]
_QUICK = [base | factor for base in _BASES for factor in ({}, {"start": "random"}, {"gold": STYLE}, {"labels": COIN})]
_CROSSED = [
    base | {"gold_order": order, "pairs": pairs, "replicate": replicate}
    for base in _BASES
    for order in (1, 2)
    for pairs, replicate in ((128, 0), (512, 0), (512, 1), (2048, 0))
]
_STANDARD = [
    *_CROSSED,
    *(base | {"pairs": 8192} for base in _BASES),
    *(base | factor for base in _BASES for factor in FACTORS if factor != {"gold_order": 2}),
    *({"gold": gold} for gold in PUZZLES),
]
_PAPER_PAIRS = tuple(2**power for power in range(7, 14))
_PAPER = [
    base | factor | {"pairs": pairs, "replicate": replicate}
    for base in _BASES
    for factor in ({}, *FACTORS, *({"gold": gold} for gold in GOLDS if gold not in ON_TEXTS))
    for pairs in _PAPER_PAIRS
    for replicate in (0, 1)
]
PRESETS = disjoint(
    {
        "tiny": Grid({"horizon": (1,), "layers": (1,), "width": (16,), "pairs": (20,)}, seeds=2),
        "quick": _around(_columns(*_QUICK), 16, width=(16,), layers=(1,), horizon=(3,), pairs=(256,)),
        "standard": _around(_columns(*_STANDARD), 24),
        "paper": _around(_columns(*_PAPER), 32),
        "full": _around(_columns(*_PAPER), 64, horizon=(4, 5), width=(32, 64)),
    }
)


def cells(config: Config) -> list[Cell]:
    """One cell a point, all arms in it; none where the gold reward's order is above the horizon."""
    plain = config.gold == INTERACTIONS
    if plain and config.gold_order > config.horizon:
        return []
    tree = TokenTree(config.vocabulary, config.horizon, 0 if config.gold in ON_TEXTS else 1)
    shape = llama(config.vocabulary, config.layers, config.width, config.width // 16)
    program = Program(config.gold, tree, shape, preferences.padded(config.pairs, SMALLEST))
    labels: dict[str, str | int] = {name: getattr(config, name) for name in ("horizon", "layers", "width")}
    labels |= {name: getattr(config, name) for name in ("start", "trained", "gold", "labels")}
    pretrained, follows = STARTS[config.start]
    numbers = {name: getattr(config, name) for name in ("text_scale", "pairs", "replicate", "beta", "temperature")}
    numbers |= {"gold_order": config.gold_order if plain else 0, "informed": int(config.labels == "gold")}
    numbers |= {"pretrained": pretrained, "follows": follows, "moves": TRAIN.index(config.trained)}
    return [Cell("fits", program, labels, numbers)]


def run(program: Program, cell: dict) -> dict:
    """All arms of one point; a column is named by its arm and by what was measured (see ``by_arm``)."""
    scene = scene_of(program, cell)
    outcomes = arms(scene, cell["moves"])
    columns = {
        f"{arm}{OF}{name}": value
        for arm, values in measured(scene, outcomes, cell["pairs"]).items()
        for name, value in values.items()
    }
    columns |= {"reference_regret": metrics.evaluate(scene.task.reference, scene.task).regret}
    columns |= {"distance": jnp.asarray(scene.distance, float)}
    return columns | {"converged": converged(outcomes)}


def findings(records: dict[str, pl.DataFrame]) -> list[Finding]:
    return []
