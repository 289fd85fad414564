"""Figures of the experiment on priors: regret against pairs, and against the decay of the prior with degree."""

from collections.abc import Callable

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from experiments.kit.intervals import geometric, ratio_over_seeds
from experiments.kit.per_seed import by_seed, curves_by_seed
from experiments.kit.plots import (
    AMBER,
    BLACK,
    DPO,
    FOURTH,
    RLHF,
    THIRD,
    curve,
    entitle,
    legend_below,
    means,
    name_axes,
    panels,
)
from experiments.kit.points import reference_name
from experiments.questions.prior_geometry_records import (
    DEGREE,
    DPO_DEGREE,
    DPO_FLAT,
    DPO_RANDOM,
    DPO_TOKENS,
    DPO_USUAL,
    MEASURED,
    RANDOM,
    RESTRICTED,
    RLHF_GOLD,
    TOKENS,
    TYPICAL,
    chosen,
    is_dpo,
)

CAPTIONS = {
    "prior_geometry": (
        "Regret (KL to the optimal policy) against the number n of labelled pairs, by the reference policy and by the "
        "gold reward's order (how many token positions it reads together). DPO over all policies with its usual ridge "
        "(red) or a flat one (amber) against RLHF with a simple verifier (blue), and DPO with a ridge that grows with "
        "the degree of its implicit reward (green), with token sums alone held loosely (pink), and with random "
        "features of the same spectrum (grey). Decays are chosen on held-out pairs. Dashed: what the law of few pairs "
        "predicts, where it trusts itself. Points are geometric means over seeds, bars 95 % intervals."
    ),
    "prior_geometry_decay": (
        "Regret at the most pairs against the decay of the prior's standard deviation with the degree of the implicit "
        "reward: from flat (1) towards the restriction to sums over single tokens (dotted, decay 0). Dashed: RLHF with "
        "a verifier of the gold reward's order. Points are geometric means over seeds, bars 95 % intervals."
    ),
}

_LOOK = {
    DPO_USUAL: {"color": DPO, "marker": "s"},
    DPO_FLAT: {"color": AMBER, "marker": "D"},
    DPO_TOKENS: {"color": FOURTH, "marker": "v"},
    DPO_RANDOM: {"color": "0.6", "marker": "x"},
    DPO_DEGREE: {"color": THIRD, "marker": "^"},
    RLHF_GOLD: {"color": RLHF},
}
LAW = ", by the law of few pairs"
_GEOMETRIES = {DPO_DEGREE: DEGREE, DPO_TOKENS: TOKENS, DPO_RANDOM: RANDOM}


def draw(records: dict[str, pl.DataFrame]) -> dict[str, Figure]:
    """Regret against pairs, and against the decay at the most pairs; a row a reference, a column a gold order."""
    fits = records["fits"]
    law = records["predictions"].with_columns(pl.col("arm") + LAW, regret=TYPICAL)
    best = pl.concat([chosen(fits), law], how="diagonal")
    most = fits.filter(pairs=fits["pairs"].max())
    return {
        "prior_geometry": _figure(best, _over_pairs, "labels n [pairs]"),
        "prior_geometry_decay": _figure(most, _over_decay, "decay per degree [factor]"),
    }


def _figure(rows: pl.DataFrame, panel: Callable, x: str) -> Figure:
    scales, golds = (sorted(rows[name].unique()) for name in ("reference_scale", "gold_order"))
    figure, grid = panels(len(scales), len(golds), 1.8, sharey="row")
    for axes, scale in zip(grid, scales, strict=True):
        for axis, gold in zip(axes, golds, strict=True):
            here = rows.filter(reference_scale=scale, gold_order=gold)
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            panel(axis, here)
            order = f"gold order {gold} of {here['horizon'][0]}".replace(" ", "\N{NO-BREAK SPACE}")  # on one line
            entitle(axis, f"{reference_name(scale)}, {order}", here)
    name_axes(grid, x, "regret KL(π‖π*) [nats]")
    legend_below(figure)
    return figure


def _over_pairs(axis, rows: pl.DataFrame) -> None:
    for arm, look in _LOOK.items():
        _curve(axis, rows.filter(arm=arm), "pairs", arm, **look)
        law = rows.filter(arm=arm + LAW)
        if len(law):
            pairs, curves = curves_by_seed(law, "pairs", MEASURED.log().mean())
            axis.plot(pairs, np.exp(means(curves.values)), color=look["color"], linestyle="--", linewidth=1, zorder=1)
    axis.plot([], [], color="0.4", linestyle="--", linewidth=1, label="the law of few pairs, in each colour")


def _over_decay(axis, fits: pl.DataFrame) -> None:
    for arm, geometry in _GEOMETRIES.items():
        here = fits.filter(is_dpo, pl.col("decay") > RESTRICTED, geometry=geometry)
        _curve(axis, here, "decay", arm.replace("DPO with", "DPO,"), **_LOOK[arm])
    for rows, label, look in (
        (chosen(fits).filter(arm=RLHF_GOLD), RLHF_GOLD, {"color": RLHF, "linestyle": "--"}),
        (fits.filter(decay=RESTRICTED), "decay 0: RLHF with verifiers of order 1", {"color": BLACK, "linestyle": ":"}),
    ):
        level = geometric(by_seed(rows, MEASURED.log().mean())).at().estimate
        axis.axhline(level, label=label, linewidth=1, **look)


def _curve(axis, rows: pl.DataFrame, x: str, label: str, **look) -> None:
    at, curves = curves_by_seed(rows, x, MEASURED.log().mean())
    curve(axis, at, curves.values, label, interval=ratio_over_seeds, **look)
