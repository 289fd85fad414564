"""The gap between DPO and two-stage RLHF over pairs, orders, horizons and beta; and regret against n / d_eff."""

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.kit.findings import EQUAL
from experiments.kit.intervals import estimate
from experiments.kit.plots import entitle, legend_below, name_axes, over_all, panels, room
from experiments.kit.problems import TRAINED
from experiments.questions import phase_diagram_records

SMALL = 0.01  # nats: the colours are linear below
PREDICTED, DASHES = "#00A000", (0, (3, 1))
FAMILIES = {
    ("DPO", "tabular"): ("DPO, tabular policies", "#D55E00", "s"),
    ("DPO", "interactions"): ("DPO, interactions", "#E69F00", "o"),
    ("RLHF", "tabular"): ("two-stage RLHF", "#0072B2", "^"),
    ("RLHF", "interactions"): ("RLHF, smaller policy class", "#56B4E9", "v"),
}

CAPTIONS = {
    "phase_diagram": (
        "Regret (KL to the optimal policy) of DPO less that of two-stage RLHF, by the orders of policies, reward "
        "models and gold reward: how many token positions they read together. Blue: RLHF is better. White fields "
        "along a diagonal: policies and reward models are one class, and so are the methods. Colours are means over "
        "seeds; black lines: where the 95 % interval starts to exclude 0; green, dashed: where theory puts the border "
        "between the methods."
    ),
    "phase_diagram_horizons": (
        "Regret (KL to the optimal policy) of DPO less that of two-stage RLHF, with tabular policies, which can be "
        "any, by the orders of reward models and gold reward (how many token positions they read together), the "
        "horizon (tokens of a response) and beta (reward per nat). Colours are means over seeds, blue: RLHF is "
        "better; black lines: where the 95 % interval starts to exclude 0; green, dashed: where theory puts the "
        "border between the methods."
    ),
    "phase_diagram_collapse": (
        "Left: regret against the number of fitted pairs over the effective dimension d_eff of the class. If d_eff "
        "says what simple means, all points lie on one curve; circled are those that do not. Right: the ratio of the "
        "regrets of DPO and RLHF against the ratio of their effective dimensions. Points are geometric means over "
        "seeds; R² has its 95 % interval over seeds."
    ),
}


class Slice(NamedTuple):
    """What one row, column or stripe of the diagram shows: its name and the values of the fields that it fixes."""

    name: str
    fixed: dict[str, Any]


def draw(records: dict[str, pl.DataFrame]) -> dict[str, Figure | pl.DataFrame]:
    """Heat maps of the mean gap for each family of gold rewards, the collapse, and tables of what contradicts them."""
    points = phase_diagram_records.summary(phase_diagram_records.gaps(records))
    seeds = records["fits"]["seed"].n_unique()
    figures = {
        "phase_diagram_collapse": _collapse(records),
        "phase_diagram_disagreements": phase_diagram_records.disagreements(records),
        "phase_diagram_off_the_curve": phase_diagram_records.off_the_curve(records),
    }
    for task in sorted(points["task"].unique()):
        suffix = "" if task == "interactions" else f"_{task}"
        here = points.filter(task=task)
        if "interactions" in here["policy"]:
            figures[f"phase_diagram{suffix}"] = _classes(here, seeds)
        if "tabular" in here["policy"]:
            figures[f"phase_diagram_horizons{suffix}"] = _horizons(here, seeds)
    return figures


def _values(points: pl.DataFrame, name: str) -> list:
    return sorted(points[name].unique())


def _middle_beta(points: pl.DataFrame) -> float:
    return min(_values(points, "beta"), key=lambda beta: abs(np.log(beta)))


def _main_horizon(points: pl.DataFrame) -> int:
    """The horizon of the most policy classes, the longest of those."""
    classes = points.group_by("horizon").agg(pl.struct("policy", "policy_order").n_unique())
    return max(classes.iter_rows(), key=lambda row: (row[1], row[0]))[0]


def _gold(points: pl.DataFrame) -> str:
    return f"gold reward: {points['task'][0].replace('_', ' ')}"


def _golds(points: pl.DataFrame) -> list[Slice]:
    return [Slice(f"gold {order}", {"gold_order": order}) for order in _values(points, "gold_order")]


def _classes(points: pl.DataFrame, seeds: int) -> Figure:
    """Every class of policies against every class of reward models, at one horizon and beta."""
    horizon, beta = _main_horizon(points), _middle_beta(points)
    here = points.filter(horizon=horizon, beta=beta)
    columns = [Slice(f"verifier order {k}", {"verifier_order": k}) for k in _values(here, "verifier_order")]
    stripes = [
        Slice(f"order {k}", {"policy": "interactions", "policy_order": k})
        for k in _values(here.filter(policy="interactions"), "policy_order")
    ]
    stripes.append(Slice("tabular", {"policy": "tabular"}))
    title = f"{_gold(points)}, H = {horizon}, β = {beta:g}, {seeds} seeds"
    return _heat_maps(here, _golds(here), columns, stripes, "policies [class]", title)


def _horizons(points: pl.DataFrame, seeds: int) -> Figure:
    """Tabular policies: every horizon at one beta, and every other beta at one horizon."""
    here, horizon, beta = points.filter(policy="tabular"), _main_horizon(points), _middle_beta(points)
    settings = [(each, beta) for each in _values(here, "horizon")]
    settings += [(horizon, each) for each in _values(here, "beta") if each != beta]
    columns = [Slice(f"H = {h}, β = {b:g}", {"horizon": h, "beta": b}) for h, b in settings]
    stripes = [Slice(f"{k}", {"verifier_order": k}) for k in _values(here, "verifier_order")]
    title = f"{_gold(points)}, tabular policies, {seeds} seeds"
    return _heat_maps(here, _golds(here), columns, stripes, "verifiers [order]", title)


def _heat_maps(
    points: pl.DataFrame, rows: list[Slice], columns: list[Slice], stripes: list[Slice], label: str, title: str
) -> Figure:
    pairs = _values(points, "pairs")
    most = max(float(np.nanmax(np.abs(points["gap"].to_numpy()))), 2 * SMALL)
    norm = SymLogNorm(SMALL, vmin=-most, vmax=most)
    figure, grid = panels(len(rows), len(columns), max(1.25, 0.5 + 0.14 * len(stripes)))
    ticks, image = range(0, len(pairs), -(-len(pairs) // int(3 * room(grid[0, 0])))), None
    for row, axes in zip(rows, grid, strict=True):
        for column, axis in zip(columns, axes, strict=True):
            shown = points.filter(**row.fixed, **column.fixed)
            if not len(shown):
                axis.remove()
                continue
            image = _heat_map(axis, shown, stripes, pairs, norm)
            axis.set_title(column.name)
            axis.set_xticks(list(ticks), [f"{pairs[tick]:,}" for tick in ticks])
            axis.set_yticks(range(len(stripes)), [stripe.name for stripe in stripes])
    name_axes(grid, "labels n [pairs]", [f"{row.name}\n{label}" for row in rows])
    over_all(figure, f"regret of DPO less that of two-stage RLHF, {title}")
    assert image is not None
    figure.colorbar(image, ax=figure.axes, shrink=0.7, aspect=30, label="blue: RLHF is better [nats]")
    measured = {"color": "black", "linewidth": 0.8, "label": "measured: the interval starts to exclude 0"}
    predicted = {"color": PREDICTED, "linewidth": 1.4, "linestyle": DASHES, "label": "predicted: the sign changes"}
    for look in (measured, predicted):
        figure.axes[0].add_line(Line2D([], [], **look))
    legend_below(figure)
    return figure


def _heat_map(axis, points: pl.DataFrame, stripes: list[Slice], pairs: list[int], norm):
    gap, decided, sign = (np.full((len(stripes), len(pairs)), fill) for fill in (np.nan, 0.0, 0.0))
    for height, stripe in enumerate(stripes):
        for point in points.filter(**stripe.fixed).iter_rows(named=True):
            place = height, pairs.index(point["pairs"])
            gap[place] = point["gap"]
            decided[place] = point["low"] > EQUAL or point["high"] < -EQUAL
            sign[place] = np.sign(point["predicted_gap"])
    image = axis.imshow(gap, norm=norm, cmap="RdBu", origin="lower", aspect="auto")
    axis.set_facecolor("0.8")
    axis.grid(False)
    _outline(axis, decided, color="black", linewidth=0.8)
    _outline(axis, sign, color=PREDICTED, linewidth=1.4, linestyle=DASHES)
    return image


def _outline(axis, values: np.ndarray, **look) -> None:
    """Lines between neighbours of different value."""
    for row, column in np.argwhere(values[1:] != values[:-1]):
        axis.plot([column - 0.5, column + 0.5], [row + 0.5] * 2, **look)
    for row, column in np.argwhere(values[:, 1:] != values[:, :-1]):
        axis.plot([column + 0.5] * 2, [row - 0.5, row + 0.5], **look)


def _collapse(records: dict[str, pl.DataFrame]) -> Figure:
    """Regret against fitted pairs over effective dimension, and the ratio of regrets against that of dimensions."""
    fits, ratios = phase_diagram_records.collapse(records), phase_diagram_records.ratios(records)
    figure, grid = panels(1, 2, 2.4, "none", "none")
    left, right = grid[0]
    for axis in (left, right):
        axis.set(xscale="log", yscale="log")
    x, y = "log_pairs_a_dimension", "log_regret"
    for (arm, policy), (label, colour, marker) in FAMILIES.items():
        means = _means(fits.filter(arm=arm, policy=policy), phase_diagram_records.ARM, x, y)
        left.scatter(*means, s=7, color=colour, marker=marker, linewidth=0, alpha=0.6, label=label)
    _curve(left, fits, x, y, increasing=False)
    span = np.exp([fits[x].to_numpy().min(initial=0), fits[x].to_numpy().max(initial=0)])
    left.plot(span, 1 / (2 * span), color="0.4", linestyle=":", label=r"theory: $d_\mathrm{eff}/(2n)$, equal ratios")
    off = phase_diagram_records.off_the_curve(records)
    if len(off):
        where = TRAINED * off["pairs"] / off["effective_dimension"]
        ring = {"facecolor": "none", "edgecolor": "black", "linewidth": 0.6}
        left.scatter(where, off["regret"], s=30, label="off the curve", **ring)
    entitle(left, _explained(fits, y), fits)
    name_axes(grid[:, :1], r"fitted pairs over $d_\mathrm{eff}$ [times]", "regret KL(π‖π*) [nats]")
    x, y = "log_dimensions", "log_ratio"
    right.scatter(*_means(ratios, phase_diagram_records.POINT, x, y), s=7, color="#009E73", linewidth=0, alpha=0.6)
    _curve(right, ratios, x, y, increasing=True)
    span = np.exp([ratios[x].to_numpy().min(initial=0), ratios[x].to_numpy().max(initial=0)])
    right.plot(span, span, color="0.4", linestyle=":")
    entitle(right, _explained(ratios, y), ratios)
    name_axes(grid[:, 1:], r"$d_\mathrm{eff}$ of DPO / of RLHF [times]", "regret of DPO / of RLHF [times]")
    legend_below(figure)
    return figure


def _means(rows: pl.DataFrame, cell: list[str], x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """Geometric means over the seeds of each cell."""
    means = rows.group_by(cell).agg(pl.col(x).mean().exp(), pl.col(y).mean().exp()).sort(cell)
    return means[x].to_numpy(), means[y].to_numpy()


def _curve(axis, rows: pl.DataFrame, x: str, y: str, increasing: bool) -> None:
    along, height = phase_diagram_records.common_curve(rows[x].to_numpy(), rows[y].to_numpy(), increasing)
    axis.plot(np.exp(along), np.exp(height), color="black", linewidth=1, label="one monotone curve")


def _explained(rows: pl.DataFrame, y: str) -> str:
    interval = estimate(rows, phase_diagram_records.explained(y, "curve"), points=True).at()
    return f"R² within a seed {interval.estimate:.2f} ({interval.low:.2f} to {interval.high:.2f})"
