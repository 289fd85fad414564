"""Accuracy on tested tokens against pairs; accuracy and generated cycles against beta."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from experiments.figures.style import BLACK, DPO, PALE, RLHF, curve, legend_below, style
from experiments.statistics import curves_by_seed
from gvgap_jax.sweep import load

CAPTIONS = {
    "rival_implicit_tokens": (
        "Accuracy of reward models on pairs of tokens that no training pair names (left), that a few name, and that "
        "half of them name (right). A policy has parameters of its own for every token and says nothing about a new "
        "one. A head with the same number of parameters and the same reward functions, but features in which tokens of "
        "a group resemble each other, ranks them: the number of dimensions is not what decides here. "
        "On transformers: a policy, and a reward model of its backbone that has read all tokens as prompts."
    ),
    "rival_implicit_cycles": (
        "A policy fitted by DPO to pairs of Hamiltonian cycles and other answers. Its own reward ranks all of them "
        "(orange, dashed), but it writes a cycle (orange, solid) only where the reference policy does (right) or beta "
        "is small; nor does RL with a learned one-parameter verifier (blue) or with the gold reward (black). Where the "
        "KL term lets a cycle through, RL with the small verifier writes far more of them than DPO at equal accuracy."
    ),
}

_ARMS = (  # arm, which similarity, label, look
    ("implicit", pl.col("similarity") == 0, "policy: a row a token", {"color": DPO, "marker": "s"}),
    ("explicit", pl.col("similarity") == 0, "head, the policy's features (control)",
     {"color": BLACK, "marker": "x", "linestyle": "none"}),
    ("explicit", pl.col("similarity").is_between(0, 1, closed="none"), "head, same rewards and parameters",
     {"color": RLHF}),
    ("explicit", pl.col("similarity") == 1, "head, one embedding a group", {"color": PALE, "linestyle": "--"}),
)  # fmt: skip
_TRANSFORMERS = (
    ("implicit", pl.lit(True), "policy: a transformer", {"color": DPO, "marker": "s"}),
    ("explicit", pl.lit(True), "reward model of the policy's own backbone", {"color": RLHF}),
)


def draw(folder: str | Path) -> dict[str, Figure]:
    """One figure a part of the experiment, with 95 % intervals over seeds."""
    return {
        "rival_implicit_tokens": _tokens(load(folder, "tokens")),
        "rival_implicit_cycles": _cycles(load(folder, "cycles")),
    }


def _tokens(tokens: pl.DataFrame) -> Figure:
    shares = sorted(tokens["test_share"].unique())
    with style(2.5):
        figure, grid = plt.subplots(1, len(shares), squeeze=False, sharey=True)
        for axis, share in zip(grid[0], shares, strict=True):
            axis.set_xscale("log", base=2)
            axis.axhline(0.5, color="0.6", linewidth=0.8, zorder=1)
            for arm, which, label, look in _ARMS if "similarity" in tokens.columns else _TRANSFORMERS:
                curve(axis, *_by_seed(tokens.filter(which, arm=arm, test_share=share), "pairs", "accuracy_tested"),
                      label, **look)  # fmt: skip
            axis.set_title(f"{share:.3g} of responses are tested tokens")
            axis.set_xlabel("labelled pairs n")
        grid[0, 0].set_ylabel("accuracy on tested tokens")
        legend_below(figure, 2)
    return figure


def _cycles(cycles: pl.DataFrame) -> Figure:
    cycles = cycles.filter(pairs=cycles["pairs"].max())
    masses = sorted(cycles["reference_mass"].unique())
    dpo, rlhf = pl.col("arm") == "DPO", pl.col("arm") == "RLHF"
    with style(2.6):
        figure, grid = plt.subplots(1, len(masses), squeeze=False, sharey=True)
        for axis, mass in zip(grid[0], masses, strict=True):
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            here = cycles.filter(reference_mass=mass)
            curve(axis, *_by_seed(here.filter(dpo), "beta", "accuracy"), "accuracy of DPO's reward", "s", color=DPO,
                  linestyle="--")  # fmt: skip
            curve(axis, *_by_seed(here.filter(dpo), "beta", "mass"), "written by DPO", "s", color=DPO)
            curve(
                axis, *_by_seed(here.filter(rlhf), "beta", "mass"), "written by RL, one-parameter verifier", color=RLHF
            )
            curve(axis, *_by_seed(here.filter(rlhf), "beta", "mass_gold"), "written by RL, gold reward", "x",
                  color=BLACK, linestyle=":")  # fmt: skip
            axis.axhline(mass, color="0.6", linewidth=0.8, zorder=1, label="reference policy")
            axis.set_title(f"reference mass of cycles {mass:.3g}")
            axis.set_xlabel("beta [reward per nat]")
        grid[0, 0].set_ylabel("accuracy, probability")
        legend_below(figure, 3)
    return figure


def _by_seed(rows: pl.DataFrame, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """Points [x] and values [seeds, x], averaged over any other axis."""
    return curves_by_seed(rows, x, pl.col(y).mean())
