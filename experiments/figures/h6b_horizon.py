"""Regret of both roads against the horizon, and their ratio."""

from pathlib import Path

from matplotlib.figure import Figure

from experiments.figures.gap import draw_series
from experiments.figures.style import slices
from gvgap_jax.sweep import load

CAPTIONS = {
    "h6b_horizon": (
        "Regret against the horizon, with gold reward and verifiers of one order: the roads part as responses become "
        "longer than what the verifier reads together. Right: the ratio of regrets against what theory predicts it "
        "to be for many pairs. Points are geometric means over seeds, bars 95 % intervals."
    ),
}


def draw(folder: str | Path) -> dict[str, Figure]:
    """Regrets, their ratio, and the ratio against that of effective dimensions; a row of panels an order."""
    words = {"gold_order": "gold and verifier order", "horizon": "horizon H [tokens]"}
    by_vocabulary = slices(load(folder, "gaps"), ["vocabulary"])
    return {f"h6b_horizon{name}": draw_series(gaps, "gold_order", "horizon", words) for name, gaps in by_vocabulary}
