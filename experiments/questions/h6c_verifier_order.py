"""Does the gap close where judging is as hard as writing?

The length of responses is fixed, and with it all that a policy has to learn. The gold reward, and the reward
models with it, grow from sums over single token positions (order 1) to full tables (order H), which score a response
by looking it up, as a policy would have to. There the gap should be gone, and the simpler reward models are, the wider
it should be. All methods get the same pairs, held-out fifth and candidate penalties; regret is KL(policy ||
soft-optimal policy of the gold reward), an exact sum over responses.
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
    place=62,
    label="H6",
    claim="The gap closes where verifying is as hard as generating, and only there.",
    reported="Rewarded by ROUGE-L against a hidden reference, arXiv 2503.01067 reported .354 against .352: no gap.",
    figure="the ROUGE-L reward, as a curve over the verifier's order",
    axes=("vocabulary", "horizon", "gold_order", "pairs"),
)
PRESETS = disjoint(
    {
        "tiny": Grid({"horizon": (2,), "gold_order": (1, 2), "pairs": (64, 256)}, seeds=2),
        "quick": Grid({"horizon": (5,), "gold_order": (1, 2, 3, 4, 5), "pairs": (128, 512, 2048)}, seeds=24),
        "standard": Grid(
            {
                "horizon": (6,),
                "gold_order": tuple(range(1, 7)),
                "pairs": (128, 512, 2048),
                "reference_scale": (0.0, 1.5),
            },
            seeds=32,
        ),
        "paper": Grid({"horizon": (6,), "gold_order": tuple(range(1, 7)), "pairs": (128, 512, 2048, 16384)}, seeds=64),
        "full": Grid(
            {"horizon": (4, 5, 6), "gold_order": tuple(range(1, 7)), "pairs": (128, 512, 2048, 16384, 131072)},
            seeds=256,
        ),
    }
)
TRANSFORMER_PRESETS = disjoint(
    PRESETS
    | {
        "quick": Grid({"horizon": (4,), "gold_order": (1, 2, 4), "pairs": (128, 512, 2048)}, seeds=24),
        "standard": Grid({"horizon": (4,), "gold_order": (1, 2, 3, 4), "pairs": (128, 512, 2048)}, seeds=24),
        "full": Grid(
            {"horizon": (4, 6), "gold_order": tuple(range(1, 7)), "pairs": (128, 512, 2048, 16384)}, seeds=256
        ),
    }
)
Config, cells, run = gap.Config, gap.cells, gap.run


def findings(records: dict[str, pl.DataFrame]) -> list[Finding]:
    """For each horizon the gap with the simplest verifiers, with full tables, and between; then the controls."""
    gaps, rows = records["gaps"], []
    trees = ["vocabulary", "horizon"]
    for (vocabulary, horizon), series in gaps.sort(*trees, "pairs").group_by(trees, maintain_order=True):
        least = series["gold_order"].min()
        far = series.filter(gap.OPEN, gold_order=least)
        rows += gap.series_findings(series, far, f"V = {vocabulary}, H = {horizon}", f"at order {least}")
    return rows + gap.equality_findings(gaps)


CAPTIONS = {
    "h6c_verifier_order": (
        "Regret (KL from the policy to the optimal one) against the order of gold reward and verifiers (how many token "
        "positions they read together), for responses of one length. The methods meet where verifiers are full "
        "tables, as complex as policies. Right: the ratio of regrets against the ratio of effective dimensions, which "
        "theory says it is for many pairs. Points are geometric means over seeds, bars 95 % intervals."
    ),
    "h6c_verifier_order_bars": (
        "Regret (KL from the policy to the optimal one; less is better) of offline DPO and of two-stage RLHF by the "
        "order of gold reward and verifiers (how many token positions they read together), geometric means over seeds "
        "with 95 % intervals. The last order is a full table: there verifying is as hard as generating, as with the "
        "reward ROUGE-L against a hidden reference, for which arXiv 2503.01067 reported .354 against .352: no gap."
    ),
}


def draw(records: dict[str, pl.DataFrame]) -> dict[str, Figure]:
    """Regrets, their ratio, and the ratio against that of effective dimensions; a row of panels a horizon; and bars."""
    words = {"horizon": "H =", "gold_order": "gold and verifier order [tokens]"}
    figures = {}
    for name, gaps in slices(records["gaps"], ["vocabulary"]):
        figures[f"h6c_verifier_order{name}"] = draw_series(gaps, "horizon", "gold_order", words)
        figures[f"h6c_verifier_order_bars{name}"] = draw_bars(gaps, "horizon", "gold_order", words)
    return figures
