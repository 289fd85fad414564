"""How far apart the two roads end, by the order of the policies' and of the reward models' class."""

from pathlib import Path

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from experiments.figures.style import style
from gvgap_jax.sweep import load

FLOOR = 1e-8  # single precision leaves about this much between equal policies

CAPTIONS = {
    "equivalence": (
        "KL between the policies that two-stage RLHF and offline DPO end at, by the order of both classes. On the "
        "diagonal the classes are equal and so are the roads; off it they part."
    ),
}


def draw(folder: str | Path) -> dict[str, Figure]:
    """Mean KL between the two roads' policies over seeds, one heat map a number of pairs."""
    distances = load(folder, "distances")
    return {"equivalence": _heat_maps(distances)}


def _heat_maps(distances: pl.DataFrame) -> Figure:
    sizes = sorted(distances["pairs"].unique())
    means = distances.group_by("pairs", "policy_order", "verifier_order").agg(pl.col("kl").mean())
    with style(2.6):
        figure, grid = plt.subplots(1, len(sizes), squeeze=False, sharey=True)
        for axis, pairs in zip(grid[0], sizes, strict=True):
            table = (
                means.filter(pairs=pairs)
                .pivot("verifier_order", index="policy_order", values="kl")
                .sort("policy_order")
            )
            orders = table["policy_order"].to_list()
            values = table.select(str(order) for order in orders).to_numpy()
            image = axis.imshow(values.clip(FLOOR), norm=LogNorm(FLOOR, 10), cmap="cividis", origin="lower")
            axis.set_xticks(range(len(orders)), orders)
            axis.set_yticks(range(len(orders)), orders)
            axis.set_title(f"{pairs:,} pairs")
            axis.set_xlabel("order of the reward models")
            axis.grid(False)
            for (row, column), value in zip(_positions(values), values.flat, strict=True):
                dark = value < 1e-3
                axis.text(column, row, "< 1e-6" if value < 1e-6 else f"{value:.2g}", ha="center", va="center",
                          fontsize=6, color="white" if dark else "black")  # fmt: skip
        grid[0, 0].set_ylabel("order of the policies")
        figure.colorbar(image, ax=grid[0].tolist(), label="KL(RLHF ‖ DPO), nats", shrink=0.8)
    return figure


def _positions(values):
    return [(row, column) for row in range(values.shape[0]) for column in range(values.shape[1])]
