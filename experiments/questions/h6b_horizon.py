"""Does the gap close where writing is as easy as judging?

Writing is as easy as judging where responses are very short.
Responses grow from one token to several, while the gold reward and the reward models stay as simple as they are:
sums over single token positions (order 1), or over pairs of positions (order 2, from two tokens on). Where a response
is as long as the order, a policy has to learn no more than a reward model: there the gap should be gone, and it should
open as policies grow and reward models do not. All methods get the same pairs, held-out fifth and candidate penalties;
regret is KL(policy || soft-optimal policy of the gold reward), an exact sum over responses.
"""

import polars as pl
from matplotlib.figure import Figure

from experiments.kit import gap
from experiments.kit.findings import Finding, Question
from experiments.kit.gap import draw_bars, draw_series
from experiments.kit.plots import slices
from experiments.kit.presets import disjoint
from gvgap_jax.sweep import Grid

MEANING = 2
QUESTION = Question(
    place=61,
    label="H6",
    claim="The gap closes where generating is as easy as verifying, and only there.",
    reported="With two-word summaries arXiv 2503.01067 reported 21.9 against 23.2: nearly no gap.",
    figure="the two-word summaries, as a curve over the horizon",
    axes=("vocabulary", "horizon", "gold_order", "pairs"),
)


def _grid(seeds: int, longest: dict[int, int], **axes: tuple) -> Grid:
    """Horizons from 1 to the longest of each vocabulary."""
    walked = [(vocabulary, horizon) for vocabulary, most in longest.items() for horizon in range(1, most + 1)]
    vocabularies, horizons = zip(*walked, strict=True)
    return Grid({"vocabulary": vocabularies, "horizon": horizons} | axes, (("vocabulary", "horizon"),), seeds)


PRESETS = disjoint(
    {
        "tiny": Grid({"horizon": (2,), "gold_order": (1, 2), "pairs": (64, 256)}, seeds=2),
        "quick": Grid({"horizon": (1, 2, 3, 5), "gold_order": (1, 2), "pairs": (128, 512, 2048)}, seeds=24),
        "standard": _grid(32, {3: 6}, gold_order=(1, 2), pairs=(128, 512, 2048), reference_scale=(0.0, 1.5)),
        "paper": _grid(64, {2: 8, 3: 6}, gold_order=(1, 2), pairs=(128, 512, 2048, 16384)),
        "full": _grid(256, {2: 10, 3: 7}, gold_order=(1, 2, 3), pairs=(128, 512, 2048, 16384, 131072)),
    }
)
TRANSFORMER_PRESETS = disjoint(
    {
        "tiny": Grid({"horizon": (2,), "gold_order": (1, 2), "pairs": (64, 256)}, seeds=2),
        "quick": Grid({"horizon": (1, 2, 4), "gold_order": (1, 2), "pairs": (128, 512, 2048)}, seeds=24),
        "standard": Grid({"horizon": (1, 2, 3, 4), "gold_order": (1, 2), "pairs": (128, 512, 2048)}, seeds=24),
        "paper": _grid(64, {3: 6}, gold_order=(1, 2), pairs=(128, 512, 2048, 16384)),
        "full": _grid(256, {2: 8, 3: 6}, gold_order=(1, 2, 3), pairs=(128, 512, 2048, 16384, 131072)),
    }
)
Config, cells, run = gap.Config, gap.cells, gap.run


def findings(records: dict[str, pl.DataFrame]) -> list[Finding]:
    """For each order the gap of the longest responses, of the shortest, and the way between; then the controls."""
    gaps, rows = records["gaps"], []
    order_first = gaps.sort("gold_order", -pl.col("vocabulary"), "pairs")
    for (order, vocabulary), series in order_first.group_by("gold_order", "vocabulary", maintain_order=True):
        longest = series["horizon"].max()
        far = series.filter(gap.OPEN, horizon=longest)
        name = f"V = {vocabulary}, order {order}"
        rows += gap.series_findings(series, far, name, f"at H = {longest}")
    return rows + gap.equality_findings(gaps)


CAPTIONS = {
    "h6b_horizon": (
        "Regret (KL from the policy to the optimal one) against the horizon (tokens of a response). Gold reward and "
        "verifiers are of one order: they read so many token positions together. The methods part as responses become "
        "longer than that. Right: the ratio of regrets against the ratio of effective dimensions, which theory says it "
        "is for many pairs. Points are geometric means over seeds, bars 95 % intervals."
    ),
    "h6b_horizon_bars": (
        "Regret (KL from the policy to the optimal one; less is better) of offline DPO and of two-stage RLHF by the "
        "number of tokens of a response, geometric means over seeds with 95 % intervals. arXiv 2503.01067 reported win "
        "rates of 21.9 against 23.2 % for summaries of two words: nearly no gap. Here the methods should be level if "
        "responses are as long as the order of the gold reward (how many token positions it reads together), and part "
        "if they are longer."
    ),
}


def draw(records: dict[str, pl.DataFrame]) -> dict[str, Figure]:
    """Regrets, their ratio, and the ratio against that of effective dimensions; a row of panels an order; and bars."""
    words = {"gold_order": "gold and verifier order", "horizon": "horizon H [tokens]"}
    figures = {}
    for name, gaps in slices(records["gaps"], ["vocabulary"]):
        figures[f"h6b_horizon{name}"] = draw_series(gaps, "gold_order", "horizon", words)
        figures[f"h6b_horizon_bars{name}"] = draw_bars(gaps, "gold_order", "horizon", words)
    return figures
