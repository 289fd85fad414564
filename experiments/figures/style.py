"""One look for all figures: full text width, readable type, colour-blind safe colours."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.figure import Figure
from tueplots import axes, fontsizes

WIDTH = 6.75  # inches: the text width of a two-column paper


@contextmanager
def style(height: float) -> Iterator[None]:
    """Matplotlib settings of a figure of the text width and ``height`` inches."""
    settings: dict[Any, Any] = fontsizes.icml2024() | axes.lines() | axes.spines(right=False, top=False)
    settings |= {
        "axes.grid": True,
        "grid.alpha": 0.3,
        "figure.figsize": (WIDTH, height),
        "figure.constrained_layout.use": True,
    }
    with plt.rc_context(settings):
        yield


def save(figure: Figure | pl.DataFrame, out: Path, title: str) -> list[Path]:
    """Write a figure as PNG and PDF, and close it; a table that belongs to figures as CSV."""
    out.mkdir(parents=True, exist_ok=True)
    if isinstance(figure, pl.DataFrame):
        path = out / f"{title}.csv"
        figure.write_csv(path)
        return [path]
    paths = [out / f"{title}.{kind}" for kind in ("png", "pdf")]
    for path in paths:
        figure.savefig(path, dpi=200)
    plt.close(figure)
    return paths
