"""Figure of the question on the law of few pairs: measured against predicted regret, and what each law explains."""

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from experiments.kit.per_seed import OK
from experiments.kit.plots import BLACK, DPO, FOURTH, PALE, RLHF, THIRD, entitle, legend_below, means, name_axes, panels
from experiments.kit.points import reference_name
from experiments.questions.few_pairs_records import (
    LAW,
    LAWS,
    PARTS,
    SETTING,
    TODAY,
    beside,
    explained,
)

CAPTIONS = {
    "few_pairs": (
        "Regret (KL from the policy to the optimal one) measured against predicted, for gold rewards of every order, "
        "numbers of pairs, and classes: offline DPO, and two-stage RLHF with reward models of every order (how many "
        "token positions they read together). A point is the geometric mean over the data sets of a task; seeds are "
        "tasks. Dotted: as predicted. Left: the law of few pairs; crosses are predictions that it does not trust "
        "itself. Right: the least of the reference policy's regret and floor + d_eff/(2n), with d_eff the effective "
        "dimension of the class and the floor the regret that a class too small cannot get under."
    ),
}
COLOURS = (PALE, RLHF, THIRD, FOURTH, BLACK)
LEAST = 1e-4  # nats, of the axes


def draw(records: dict[str, pl.DataFrame]) -> dict[str, Figure | pl.DataFrame]:
    """Measured against predicted regret, a row a reference; what each law explains; where the law trusts itself."""
    fits = beside(records)
    scales, shown = sorted(fits["reference_scale"].unique()), (LAW, TODAY)
    figure, grid = panels(len(scales), len(shown), 2.6)
    for axes, scale in zip(grid, scales, strict=True):
        here = fits.filter(reference_scale=scale)
        for axis, law in zip(axes, shown, strict=True):
            _panel(axis, here, law)
            entitle(axis, f"{reference_name(scale)}: {LAWS[law]}", here)
    name_axes(grid, "predicted regret KL(π‖π*) [nats]", "measured regret [nats]")
    legend_below(figure)
    return {"few_pairs": figure, "few_pairs_variance": variance(fits), "few_pairs_trusted": trusted(fits)}


def _panel(axis, fits: pl.DataFrame, law: str) -> None:
    axis.set_xscale("log")
    axis.set_yscale("log")
    tasks = fits.filter(OK).group_by(*SETTING, "seed", maintain_order=True)
    tasks = tasks.agg(pl.col("log_regret").mean(), pl.col(law, "trusted").first())
    tasks = tasks.with_columns(x=pl.col(law).exp().clip(LEAST), y=pl.col("log_regret").exp().clip(LEAST))
    arms = tasks.select("arm", "order").unique().sort("arm", "order").rows()
    for arm, order in arms:
        own = tasks.filter(arm=arm, order=order)
        colour, marker = (DPO, "s") if arm == "DPO" else (COLOURS[(order - 1) % len(COLOURS)], "o")
        name = "offline DPO" if arm == "DPO" else f"RLHF, verifier order {order}"
        for believed, look in ((True, marker), (False, "x")):
            points = own.filter(trusted=believed) if law == LAW else own.filter(believed)
            label = name if believed else None
            axis.plot(points["x"], points["y"], look, color=colour, label=label, markersize=2, alpha=0.4, linewidth=0)
    span = np.array([tasks.select(pl.min_horizontal("x", "y").min()).item(), tasks["y"].max()])
    axis.plot(span, span, color="0.3", linestyle=":", linewidth=1, label="as predicted")


def variance(fits: pl.DataFrame) -> pl.DataFrame:
    """By reference and part: the share of the variance of log regret that each law explains, R², and the ceiling."""
    rows = []
    for (scale,), here in fits.sort("reference_scale").group_by("reference_scale", maintain_order=True):
        for part, of_part in PARTS.items():
            chosen = here.filter(of_part)
            shares = {law: means(explained(chosen, law).values) for law in LAWS}
            row = {"reference_scale": scale, "fits": part or "all", "ceiling": shares[LAW][1]}
            rows.append(row | {law: share[0] for law, share in shares.items()})
    return pl.DataFrame(rows)


def trusted(fits: pl.DataFrame) -> pl.DataFrame:
    """Share of tasks for which the law trusts itself, and how far it is off there and elsewhere, r.m.s. of the log."""
    off = (pl.col("log_regret") - pl.col("law")) ** 2
    return fits.filter(OK).group_by("reference_scale", "arm", "order", "pairs").agg(
        trusted=pl.col("trusted").cast(pl.Float64).mean(),
        noise=pl.col("noise").mean().sqrt(),
        off_where_trusted=off.filter("trusted").mean().sqrt(),
        off_elsewhere=off.filter(~pl.col("trusted")).mean().sqrt(),
    ).sort("reference_scale", "arm", "order", "pairs")  # fmt: skip
