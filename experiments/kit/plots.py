"""One look for all figures: full text width, readable type, colour-blind safe colours."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure
from tueplots import axes, fontsizes

from experiments.kit.intervals import over_seeds
from experiments.kit.per_seed import curves_by_seed

matplotlib.use("Agg")  # figures are files; no screen is needed

WIDTH = 6.75  # inches: the text width of a two-column paper
DPO, RLHF, THIRD, FOURTH, PALE = "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9"  # colour-blind safe (Okabe, Ito)
BLACK = "#000000"
THIN = {"markersize": 2.5, "linewidth": 1, "elinewidth": 0.6}  # curves with error bars


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


def means(by_seed) -> np.ndarray:
    """Means [x] over the seeds of ``by_seed`` [seeds, x] that have a number; NaN where none has."""
    return np.ma.masked_invalid(np.asarray(by_seed, float)).mean(axis=0).filled(np.nan)


def curve(axis, x, by_seed, label: str, marker: str = "o", interval=over_seeds, **look) -> None:
    """Means over seeds of ``by_seed`` [seeds, x], or what else ``interval`` estimates, with bars of 95 % intervals."""
    intervals = [interval(column) for column in np.asarray(by_seed, float).T]
    means, lows, highs = (np.array([getattr(i, name) for i in intervals]) for name in ("estimate", "low", "high"))
    if axis.get_yscale() == "log":
        lows = np.maximum(lows, means / 100)  # an interval that reaches 0 has no lower end on a log axis
    bars = np.vstack([means - lows, highs - means])
    axis.errorbar(x, means, yerr=bars, label=label, marker=marker, **THIN, **look)


def curve_of(axis, rows: pl.DataFrame, x: str, column: str, label: str, **look) -> None:
    """The curve of a column over the values of another, each seed's rows averaged first."""
    at, curves = curves_by_seed(rows, x, pl.col(column).mean())
    curve(axis, at, curves.values, label, **look)


def name_below(grid, name: str) -> None:
    """Name what is on the x axes of a grid of panels, below its last row."""
    for axis in grid[-1]:
        axis.set_xlabel(name)


def row_name(row: dict, rows: list[dict]) -> str:
    """Name of a setting among ``rows``: its gold reward, and whatever else differs between them."""
    differing = [name for name in row if len({other[name] for other in rows}) > 1]
    others = [f"{name.replace('_', ' ')} {row[name]:g}" for name in differing if name not in ("gold_order", "horizon")]
    return ", ".join([f"gold order {row['gold_order']} of {row['horizon']}", *others])


def slices(frame: pl.DataFrame, columns: Sequence[str]) -> Iterator[tuple[str, pl.DataFrame]]:
    """The rows of each combination of number columns, and a name for it of those that vary: ``_pairs512_beta2``."""
    varying = [column for column in columns if frame[column].n_unique() > 1]
    if not varying:
        yield "", frame
        return
    for values, rows in frame.sort(varying).group_by(varying, maintain_order=True):
        yield "".join(f"_{column}{value:g}" for column, value in zip(varying, values, strict=True)), rows


def legend_below(figure: Figure, columns: int = 3) -> None:
    """One legend for all panels, each label once, below them."""
    handles = {
        label: handle for axis in figure.axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False)


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
