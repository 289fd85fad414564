"""Figures: one module an experiment, drawing records and nothing else, as PNG and PDF.

Each has ``draw(folder)`` and ``CAPTIONS``, a few sentences for each figure that a reader who never ran it understands.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # figures are files; no screen is needed

from experiments.backends import BackendName, named
from experiments.figures import (
    equivalence,
    estimators,
    h1_information,
    h2_regularisation,
    h3_optimisation,
    h4_data,
    h5_generalisation,
    h6a_model_sizes,
    h6b_horizon,
    h6c_verifier_order,
    main_table,
    phase_diagram,
    rival_coverage,
    rival_implicit,
    rival_misspecification,
    rival_overoptimisation,
    rival_plateau,
    rival_sparse,
    sample_complexity,
    token_tasks,
)
from experiments.figures.style import save

FIGURES = {
    "main_table": main_table,
    "equivalence": equivalence,
    "estimators": estimators,
    "h1_information": h1_information,
    "h2_regularisation": h2_regularisation,
    "h3_optimisation": h3_optimisation,
    "h4_data": h4_data,
    "h5_generalisation": h5_generalisation,
    "h6a_model_sizes": h6a_model_sizes,
    "h6b_horizon": h6b_horizon,
    "h6c_verifier_order": h6c_verifier_order,
    "sample_complexity": sample_complexity,
    "phase_diagram": phase_diagram,
    "rival_misspecification": rival_misspecification,
    "rival_coverage": rival_coverage,
    "rival_overoptimisation": rival_overoptimisation,
    "rival_implicit": rival_implicit,
    "rival_sparse": rival_sparse,
    "rival_plateau": rival_plateau,
    "token_tasks": token_tasks,
}


def draw(name: str, folder: str | Path, out: Path, backend: BackendName = "tree") -> list[Path]:
    """Draw one experiment's figures from a backend's records in ``folder``; returns the files written.

    Raises:
      FileNotFoundError: the folder holds no such records.
    """
    drawn = FIGURES[name].draw(folder).items()
    return [path for title, figure in drawn for path in save(figure, out, named(title, backend))]
