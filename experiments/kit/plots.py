"""One look for all figures: the width of a paper's column or page, readable type, colours safe for the colour-blind."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, get_args

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation
from matplotlib.transforms import Bbox
from tueplots import axes, figsizes, fontsizes

from experiments.kit.intervals import Interval, over_seeds
from experiments.kit.per_seed import curves_by_seed

Width = Literal["column", "page"]
Format = Literal["pdf", "png", "svg"]
Share = Literal["all", "row", "col", "none"]
FORMATS: tuple[Format, ...] = get_args(Format)
WIDTHS: dict[Width, float] = {  # inches, of a paper in two columns
    "column": figsizes.icml2024_half()["figure.figsize"][0],
    "page": figsizes.icml2024_full()["figure.figsize"][0],
}
ACROSS: dict[Width, int] = {"column": 2, "page": 4}  # panels beside each other, at most
DPO, RLHF, THIRD, FOURTH, PALE = "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9"  # colour-blind safe (Okabe, Ito)
AMBER = "#E69F00"
BLACK = "#000000"
THIN = {"markersize": 2.5, "linewidth": 1, "elinewidth": 0.6}  # curves with error bars
LETTERS = 20  # of a title, an inch
LOOK: dict[Any, Any] = fontsizes.icml2024() | axes.lines() | axes.spines(right=False, top=False)
LOOK |= {
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "axes.grid": True,
    "figure.constrained_layout.use": True,
    "figure.titlesize": 8,
    "grid.alpha": 0.3,
    "pdf.fonttype": 42,  # letters as letters: journals refuse matplotlib's own kind
}

matplotlib.use("Agg")  # figures are files; no screen is needed
plt.rcParams.update(LOOK)
_width: ContextVar[Width] = ContextVar("width", default="page")


@contextmanager
def at_width(width: Width) -> Iterator[None]:
    """Figures made inside have this width."""
    before = _width.set(width)
    try:
        yield
    finally:
        _width.reset(before)


def panels(
    rows: int, columns: int, height: float = 1.7, sharex: Share = "all", sharey: Share = "all", ratios=None
) -> tuple[Figure, np.ndarray]:
    """A figure and its panels [rows, columns], each ``height`` inches high.

    A row that is too long for the width is broken into several. ``sharex`` and ``sharey`` are as in
    ``pyplot.subplots``, of rows and columns before they are broken. Panels whose widths have ``ratios`` stand beside
    each other on a page, and below each other in a column.
    """
    width = _width.get()
    across = 1 if ratios and width == "column" else min(columns, ACROSS[width])
    deep = -(-columns // across)
    figure = plt.figure(figsize=(WIDTHS[width], height * rows * deep))
    places = figure.add_gridspec(rows * deep, across, width_ratios=ratios if across == columns else None)
    grid = np.empty((rows, columns), object)
    for row, column in np.ndindex(rows, columns):
        leaders = {"all": grid[0, 0], "row": grid[row, 0], "col": grid[0, column], "none": None}
        place = places[row * deep + column // across, column % across]
        grid[row, column] = figure.add_subplot(place, sharex=leaders[sharex], sharey=leaders[sharey])
    return figure, grid


def room(axis) -> float:
    """Inches that a panel has for its letters, from left to right."""
    return axis.figure.get_figwidth() / axis.get_subplotspec().get_gridspec().ncols - 0.4


def entitle(axis, title: str, rows: pl.DataFrame) -> None:
    """Title of a panel, and below it on how many pairs, where that is one number, and seeds its ``rows`` rest."""
    facts = [f"n = {rows['pairs'][0]:,}"] if "pairs" in rows.columns and rows["pairs"].n_unique() == 1 else []
    usable = rows.filter(status="ok") if "status" in rows.columns else rows
    facts.append(f"{usable['seed'].n_unique()} seeds")
    axis.set_title("\n".join([*textwrap.wrap(title, int(LETTERS * room(axis))), ", ".join(facts)]))


def name_axes(grid: np.ndarray, x: str = "", y: str | Sequence[str] = "") -> None:
    """Names on the axes of panels [rows, columns]; where the next panel below, or to the left, has the same, on that.

    ``y`` is one name, or one a row. A name ends with its unit: ``regret KL(π‖π*) [nats]``.
    """
    for row, name in zip(grid, [y] * len(grid) if isinstance(y, str) else y, strict=True):
        for axis in (axis for axis in row if axis.figure is not None):
            below, left = _neighbours(axis)
            if below is not None and axis.get_shared_x_axes().joined(axis, below):
                axis.tick_params(axis="x", which="both", labelbottom=False)
            else:
                axis.set_xlabel(textwrap.fill(x, int(LETTERS * room(axis))))
            if left is not None and axis.get_shared_y_axes().joined(axis, left):
                axis.tick_params(axis="y", which="both", labelleft=False)
            else:
                axis.set_ylabel(name)
            for way in (axis.xaxis, axis.yaxis):
                if way.get_scale() == "log":
                    way.set_minor_formatter(_Plain())


class _Plain(LogFormatterSciNotation):
    """Between powers of ten, where those are few, 0.5 is written so and not as a power; fewer the longer the axis."""

    def __call__(self, x, pos=None):
        assert self.axis is not None
        low, high = sorted(self.axis.get_view_interval())
        decades = np.log10(high / low)
        written = "" if decades > 2 else "25" if decades > 0.5 else "23468" if decades > 0.15 else "23456789"
        return f"{x:g}" if f"{x:e}"[0] in written else ""


def _neighbours(axis) -> tuple[Any, Any]:
    """The next panel below and the next one to the left; None where there is none."""
    here, places = axis.get_subplotspec(), {}
    for other in axis.figure.axes:
        place = other.get_subplotspec()
        if place is not None and place.get_gridspec() is here.get_gridspec():
            places[place.rowspan.start, place.colspan.start] = other
    row, column = here.rowspan.start, here.colspan.start
    below = min((place for place in places if place[1] == column and place[0] > row), default=None)
    left = max((place for place in places if place[0] == row and place[1] < column), default=None)
    return places.get(below), places.get(left)


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


def bars(axis, groups: Sequence[str], arms: Mapping[str, tuple[str | list[str], list[Interval]]]) -> None:
    """Bars with 95 % intervals and their numbers: for each group one an arm, of a colour or of one a group."""
    wide, crowded = 0.8 / len(arms), len(groups) * len(arms) > 4 * room(axis)
    for place, (label, (colour, intervals)) in enumerate(arms.items()):
        at = np.arange(len(groups)) + wide * (place - (len(arms) - 1) / 2)
        heights, highs = (np.array([getattr(i, name) for i in intervals]) for name in ("estimate", "high"))
        whiskers = np.vstack([[i.estimate - i.low for i in intervals], highs - heights])
        axis.bar(at, heights, wide, yerr=whiskers, color=colour, label=label, error_kw={"elinewidth": 0.8}, zorder=2)
        look = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center", "fontsize": 5}
        for x, height, high in zip(at, heights, np.fmax(heights, highs), strict=True):
            axis.annotate(f"{height:.3g}", (x, high), rotation=90 * crowded, **look)
    axis.set_xticks(range(len(groups)), groups)
    axis.margins(y=0.3 if crowded else 0.15)
    axis.grid(visible=False, axis="x")


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


def name_points(axis, points: dict[str, tuple[float, float]]) -> None:
    """A name beside each point, where no other point, its bar or its name is."""
    axis.figure.draw_without_rendering()  # where points are follows from the layout
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in axis.transData.transform(list(points.values()))]
    bars = (segment for lines in axis.collections for segment in lines.get_segments() if len(segment))
    taken += [Bbox(axis.transData.transform(segment)).padded(1) for segment in bars]
    around = [(far * np.cos(angle), far * np.sin(angle)) for far in (7, 11, 16, 24) for angle in np.arange(0, 6.2, 0.4)]
    for name, point in points.items():
        written = axis.annotate(name, point, (0, 0), textcoords="offset points", fontsize=6, ha="center", va="center")
        for offset in around:
            written.set_position(offset)
            box = written.get_window_extent().padded(1)
            if not box.count_overlaps(taken) and axis.bbox.contains(*box.min) and axis.bbox.contains(*box.max):
                break
        taken.append(box)


def legend_below(figure: Figure) -> None:
    """One legend for all panels, each label once, below them, in as many columns as fit; the figure grows by it."""
    handles = {
        label: handle for axis in figure.axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    for columns in range(min(len(handles), 4), 0, -1):
        legend = figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False
        )
        box = legend.get_window_extent()
        if box.width <= figure.bbox.width or columns == 1:
            break
        legend.remove()
    _close_gaps(figure)
    figure.set_figheight(figure.get_figheight() + box.height / figure.dpi + 0.1)


def _close_gaps(figure: Figure) -> None:
    """Take the height of rows away in which no panel is left."""
    places = [place for axis in figure.axes if (place := axis.get_subplotspec())]
    used = {place.rowspan.start for place in places}
    rows = places[0].get_gridspec()
    rows.set_height_ratios([1 if row in used else 1e-3 for row in range(rows.nrows)])
    figure.set_figheight(figure.get_figheight() * len(used) / rows.nrows)


def over_all(figure: Figure, words: str) -> None:
    """A title over all panels, before the one that is there, in lines that fit the width."""
    whole = ": ".join(filter(None, (words, " ".join(figure.get_suptitle().split()))))
    figure.suptitle(textwrap.fill(whole, int(LETTERS * 0.85 * figure.get_figwidth())))


def save(
    figure: Figure | pl.DataFrame, out: Path, title: str, formats: Sequence[Format] = ("png", "pdf")
) -> list[Path]:
    """Write a figure as files of some formats, and close it; a table that belongs to figures as CSV."""
    out.mkdir(parents=True, exist_ok=True)
    if isinstance(figure, pl.DataFrame):
        path = out / f"{title}.csv"
        figure.write_csv(path)
        return [path]
    paths = [out / f"{title}.{kind}" for kind in formats]
    for path in paths:
        figure.savefig(path, dpi=200)
    plt.close(figure)
    return paths
