"""Does RLHF beat DPO where one network serves both?

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

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import jax.numpy as jnp
import polars as pl

from experiments.kit.fields import COIN, check
from experiments.kit.findings import EQUAL_TIMES, REGRET, Finding, Question, answered, equality
from experiments.kit.presets import disjoint
from experiments.kit.problems import OF
from experiments.questions.few_pairs_records import share_of_ceiling, share_of_signs
from experiments.questions.same_backbone_arms import (
    ALL,
    DPO,
    FINAL,
    HEAD,
    IMPLICIT,
    LAST,
    SUM,
    TABLE_RLHF,
    TRAIN,
    arms,
    converged,
    measured,
)
from experiments.questions.same_backbone_figures import CAPTIONS, draw
from experiments.questions.same_backbone_records import (
    AFTER,
    BASE,
    LAW,
    at,
    of,
    points,
    predicted,
    ratio,
    removed,
    replicated,
    rise,
    signs,
    slope,
)
from experiments.questions.same_backbone_scenes import INTERACTIONS, ON_TEXTS, STARTS, STYLE, Program, scene_of
from experiments.questions.token_tasks_families import FAMILIES
from gvgap_jax import TokenTree, metrics, preferences
from gvgap_jax.lm.model.shape import llama
from gvgap_jax.runtime.messages import unknown
from gvgap_jax.sweep import Cell, Grid

__all__ = ["CAPTIONS", "draw"]  # its second room's, so that a question is one module
MEANING = 1
NOT_ON_TRANSFORMERS = "its policies and reward models are transformers already: leave out --backend."
NETWORKS = True  # its rows cannot be expected again, but for their means
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
NOTHING = 0.05  # share of the reference's regret, below which nothing was learned
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
EASY_TO_JUDGE = ("subset_sum", "colouring")  # families whose judge reads once, and whose writer must search
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
    *({"gold": gold} for gold in (*EASY_TO_JUDGE, "hidden_reference")),
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
    """All arms of one point; a column is named by its arm and by what was measured."""
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
    """Who has less regret at every point; what each factor does; how far theory explains it; then the controls."""
    fits = records["fits"]
    informed = fits.filter(labels="gold")
    once = informed.filter(pl.col("replicate") == pl.col("replicate").min())
    return answered(_points(once) + _factors(once) + _theory(informed) + _controls(fits))


def _points(fits: pl.DataFrame) -> list[Finding]:
    """DPO over RLHF by texts and gold reward, which RLHF is claimed to win where skewed texts do not carry the gold."""
    rows, words = [], REGRET
    for point, here in points(at(fits, gold=None, gold_order=None, pairs=None)):
        if point["pairs"] > BASE["pairs"] or point["gold_order"] == here["horizon"][0] > 2:
            continue  # the figures and the slopes say these
        where, wins = _words(point, here["horizon"][0]), point["text_scale"] > 1 and point["gold"] != STYLE
        for arm in (FINAL, SUM):
            claim = f"{where}: {words} of DPO over that of {arm}"
            shown, theory, direction = ratio(here, arm), predicted(here, arm), "above" if wins else "at"
            rows.append(Finding(claim, shown, "times", 1.0, direction, margin=EQUAL_TIMES, predicted=theory))
            words = "regret"
        if wins and point["gold"] == INTERACTIONS and point["pairs"] == BASE["pairs"]:
            claim = f"{where}: the part of regret after prefixes that are rare in the pairs, DPO over {FINAL}"
            rows.append(Finding(claim, ratio(here, FINAL, "rare_regret"), "times", 1.0, "above"))
        if point["gold_order"] == BASE["gold_order"] and point["pairs"] == BASE["pairs"]:
            claim = f"{where}: regret of DPO over that of {FINAL}, whose second stage reaches every policy"
            rows.append(Finding(claim, ratio(here, FINAL, "exact_regret"), "times", 1.0, direction, margin=EQUAL_TIMES))
            claim = f"{where}: regret of DPO over that of RLHF, both over tables"
            rows.append(Finding(claim, ratio(here, TABLE_RLHF), "times", 1.0, "at", margin=EQUAL_TIMES))
    return rows


def _contrasts() -> Iterator[tuple[str, dict, dict, str, tuple[str, ...]]]:
    """A factor in words, a point and another that differs in it, where the ratio of ratios is claimed to be, arms."""
    high, low = SCALES
    for order in (1, 2):
        far, near = ({"text_scale": scale, "gold_order": order} for scale in SCALES)
        yield f"order {order}, texts of s.d. {high:g} over those of {low:g}", far, near, "above", (FINAL, SUM)
    for scale in SCALES:
        here, where = {"text_scale": scale}, f"texts of s.d. {scale:g}: "
        yield f"{where}their own style over order 1", here | {"gold": STYLE, "gold_order": 0}, here, "below", (FINAL,)
        yield f"{where}texts that were read over none", here, here | {"start": "random"}, "above", (FINAL,)
        yield (
            f"{where}texts that go on over texts that end",
            here,
            here | {"start": "text that ends"},
            "above",
            (FINAL,),
        )
        yield f"{where}texts that tell of gold over others", here | {"start": "text with gold"}, here, "above", (FINAL,)
        yield f"{where}all trained over the head alone", here, here | {"trained": HEAD}, "above", (FINAL,)
        yield f"{where}all trained over the last layer", here, here | {"trained": LAST}, "above", (FINAL,)
    hidden = {"gold": "hidden_reference", "gold_order": 0}
    for puzzle in EASY_TO_JUDGE:
        words = f"{puzzle.replace('_', ' ')} over a hidden reference"
        yield words, hidden | {"gold": puzzle}, hidden, "above", (FINAL,)


def _factors(fits: pl.DataFrame) -> list[Finding]:
    """What each factor changes of the ratio of regrets, and how it goes with pairs, where both ends are there."""
    rows = []
    for words, far, near, direction, read in _contrasts():
        one, other = at(fits, **far), at(fits, **near)
        for arm in read if len(one) and len(other) else ():
            claim = f"{words}: rise of DPO's regret over that of {arm}"
            change, theory = rise(one, other, arm), rise(one, other, arm, LAW).at().estimate
            rows.append(Finding(claim, change, "times", 1.0, direction, margin=EQUAL_TIMES, predicted=theory))
    for scale, arm in itertools.product(SCALES, (FINAL, SUM)):
        series = at(fits, text_scale=scale, pairs=None)
        if series["pairs"].n_unique() > 1:
            claim = f"texts of s.d. {scale:g}, order 1: slope of log DPO / {arm} on log pairs"
            theory = slope(series, arm, LAW).at().estimate
            rows.append(Finding(claim, slope(series, arm), "", 0.0, "above", predicted=theory))
    return rows


def _theory(fits: pl.DataFrame) -> list[Finding]:
    """How much of what data sets of one task leave to explain theory explains, of regrets and of signs."""
    rows, table = [], replicated(fits)
    if not len(table):
        return []
    for name, words in ((LAW, "at the common start"), (AFTER, "where the fits ended")):
        claim = f"tangent features {words}: share of the variance of log regret explained, over what data sets leave"
        rows.append(Finding(claim, share_of_ceiling(table, name), "", ENOUGH, "above", predicted=1.0))
        claim = f"tangent features {words}: share of right signs of DPO less RLHF, over that of data sets' own majority"
        rows.append(Finding(claim, share_of_signs(signs(fits, name), name), "", ENOUGH, "above", predicted=1.0))
    return rows


def _controls(fits: pl.DataFrame) -> list[Finding]:
    """One read-out on both sides, labels that say nothing, what a second stage leaves, and what was read of texts."""
    claim = f"the same network and read-out on both sides: regret of DPO over that of {IMPLICIT}"
    informed, coins = fits.filter(labels="gold"), fits.filter(labels=COIN)
    one = ratio(informed, IMPLICIT)
    rows = [Finding(claim, one, "times", 1.0, "at", control=True, margin=EQUAL_TIMES)]
    for arm in (DPO, FINAL, SUM):
        claim = f"labels by coin flips: share of the reference's regret that {arm} removes"
        rows.append(Finding(claim, removed(coins, arm), "", NOTHING, "below", control=True))
    for arm in (FINAL, SUM):
        left = of(arm).log() - of(arm, "exact_regret").log()
        claim = f"{arm}: largest difference of log regret from a second stage that reaches every policy"
        rows.append(equality(claim, fits.filter(trained="all"), left, LEFT, ""))
    return [*rows, equality("KL from the texts to the network that has read them", fits, pl.col("distance"), FAR)]


def _words(point: dict, horizon: int) -> str:
    """A point in words."""
    gold = {INTERACTIONS: f"order {point['gold_order']} of {horizon}", STYLE: "the texts' own style"}
    words = [f"texts of s.d. {point['text_scale']:g}", gold.get(point["gold"], point["gold"].replace("_", " "))]
    words.append(f"{point['pairs']:,} pairs")
    if point["start"] != "text":
        words.append("random start" if point["start"] == "random" else point["start"])
    return ", ".join(words if point["trained"] == ALL else [*words, f"{point['trained']} trained"])
