"""Figures: one module an experiment, drawing records and nothing else, as PNG and PDF.

Each has ``draw(folder)`` and ``CAPTIONS``, a few sentences for each figure that a reader who never ran it understands.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # figures are files; no screen is needed

from experiments.figures import equivalence, h6b_horizon, h6c_verifier_order, phase_diagram, sample_complexity
from experiments.figures.style import save

FIGURES = {
    "sample_complexity": sample_complexity,
    "equivalence": equivalence,
    "phase_diagram": phase_diagram,
    "h6b_horizon": h6b_horizon,
    "h6c_verifier_order": h6c_verifier_order,
}


def draw(name: str, folder: str | Path, out: Path) -> list[Path]:
    """Draw one experiment's figures from the records in ``folder``; returns the files written.

    Raises:
      FileNotFoundError: the folder holds no such records.
    """
    return [path for title, figure in FIGURES[name].draw(folder).items() for path in save(figure, out, title)]
