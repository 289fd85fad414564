"""The toy experiment with all that the command line and the report ask of an experiment, and a way to register it."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import polars as pl

from experiments.kit.findings import Finding, Question
from experiments.kit.intervals import mean
from experiments.kit.per_seed import of_values
from experiments.questions import questions
from gvgap_jax.sweep import Grid
from tests.sweep import toy_experiment

QUICK = Grid({"power": (1, 2), "base": (0.5, 2000.0)}, seeds=3)
PAPER = Grid({"power": (1, 2), "base": (0.5, 2000.0)}, seeds=4)


def findings(records):
    """One claim and one control over the powers of a small base."""
    values = of_values(records["even"].filter(pl.col("base") < 1)["value"])
    return [
        Finding("squares are large", mean(values), "nats", 1.0, "above"),
        Finding("cubes are larger", mean(values.map(lambda x: x**1.5)), "nats", 1.0, "above"),
        Finding("a control", mean(values - values), "nats", 0.0, "at", control=True, margin=0.1),
    ]


def draw(records):
    return {"toy": plt.figure(figsize=(1, 1)), "toy_rows": pl.DataFrame({"number": [1, 2]})}


def toy(**changes):
    """The toy experiment with everything that a report asks for."""
    parts = {name: getattr(toy_experiment, name) for name in ("MEANING", "Config", "cells", "run")}
    parts |= {
        "__doc__": "How large are ``powers``?\n\nNumbers are\nmultiplied.\n\nAll of it.",
        "QUESTION": Question(
            "H2", "Powers are large.", "Said <b>so</b> in arXiv 2503.01067.", place=20, axes=("power", "base")
        ),
        "PRESETS": {"tiny": QUICK, "quick": QUICK, "standard": QUICK, "paper": PAPER, "full": PAPER},
        "findings": findings,
        "CAPTIONS": {"toy": "Small and empty."},
        "draw": draw,
    }
    return SimpleNamespace(**parts | changes)


def install(patch, modules):
    """Put modules in the place of all questions; a patch is undone from its end on, and so keeps their order."""
    for name in reversed(list(questions())):
        patch.delitem(questions(), name)
    for name, module in modules.items():
        patch.setitem(questions(), name, module)
