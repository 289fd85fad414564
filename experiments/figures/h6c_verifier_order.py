"""Regret of both roads against the order of gold reward and verifiers, and their ratio."""

from pathlib import Path

from matplotlib.figure import Figure

from experiments.figures.gap import draw_series
from experiments.figures.style import slices
from gvgap_jax.sweep import load

CAPTIONS = {
    "h6c_verifier_order": (
        "Regret against the order of gold reward and verifiers, for responses of one length: the roads meet where "
        "verifiers are full tables, as complex as policies. Right: the ratio of regrets against what theory predicts "
        "it to be for many pairs. Points are geometric means over seeds, bars 95 % intervals."
    ),
}


def draw(folder: str | Path) -> dict[str, Figure]:
    """Regrets, their ratio, and the ratio against that of effective dimensions; a row of panels a horizon."""
    words = {"horizon": "H =", "gold_order": "gold and verifier order [tokens]"}
    by_vocabulary = slices(load(folder, "gaps"), ["vocabulary"])
    return {
        f"h6c_verifier_order{name}": draw_series(gaps, "horizon", "gold_order", words) for name, gaps in by_vocabulary
    }
