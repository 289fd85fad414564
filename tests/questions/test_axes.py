"""Findings name their axes: no field of any experiment is averaged over without a word, whatever the grid."""

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
import polars.selectors as cs
import pytest
from matplotlib.figure import Figure

from experiments.kit import backends, points
from experiments.questions import questions, token_tasks
from gvgap_jax.sweep import Grid
from gvgap_jax.token_tasks import Objectives
from tests.questions.made_up import records
from tests.questions.test_every_question import SMALL

VALUES = {  # two of every field, the default or the usual one first
    "vocabulary": (3, 2), "horizon": (3, 2), "prompt_length": (1, 2), "gold_order": (1, 2), "policy_order": (2, 1),
    "verifier_order": (1, 2), "pairs": (80, 160), "beta": (1.0, 0.25), "temperature": (1.0, 2.0),
    "reference_scale": (0.0, 1.0), "steps": (25, 50), "tilt": (1.0, 0.0), "width": (4, 8), "labels": ("gold", "coin"),
    "policy_width": (2, 4), "verifier_width": (2, 4), "samples": (2, 4), "human_beta": (2.0, 1.0),
    "task": ("interactions", "sparse"), "policy": ("tabular", "interactions"), "layers": (1, 2), "prompts": (16, 128),
    "family": ("token_counts", "hidden_reference"), "candidates": (2, 4), "setting": ("tree", "arms"),
    "skew": (1.0, 100.0), "unseen": (0.0, 0.3), "features": (3, 2), "similarity": (0.5, 0.9), "test_share": (0.0, 0.5),
    "vertices": (3, 4), "reference_mass": (1e-6, 0.5), "margin": (4.0, 2.0), "gamma": (0.5, 1.0), "dimension": (2, 3),
    "terms": (1, 3), "penalty": (1.0, 0.1), "replicate": (0, 1), "start": ("text", "random"),
    "trained": ("all", "head"), "gold": ("interactions", "style"), "text_scale": (1.5, 0.4),
}  # fmt: skip
OTHERS = {
    "h3_optimisation": {"policy_order": (2, 3)},
    "rival_implicit": {"vocabulary": (4, 8)},
    "main_table": {"horizon": (1, 2)},
    "same_backbone": {"width": (16, 32)},
    "token_tasks": {"vocabulary": (4, 6), "prompts": (2, 4), "horizon": (2, 3)},
}
EVERY = [(name, backend) for backend in ("tree", "transformer") for name in backends.on_backend(questions(), backend)]
every_question = pytest.mark.parametrize(("name", "backend"), EVERY)


@pytest.fixture
def module_of(monkeypatch):
    """An experiment on a backend; transformers are networks that are traced faster, and J has made-up ends."""
    monkeypatch.setattr(backends, "TRANSFORMER", SMALL)
    monkeypatch.setattr(token_tasks, "exact", lambda *_: Objectives(np.ones(1), np.zeros(1), best=1.0, random=0.0))
    return lambda name, backend: backends.on_backend(questions(), backend)[name]


def fields_of(module) -> list[str]:
    return [field.name for field in dataclasses.fields(module.Config)]


def grid_of(name: str, module, two=(), one=(), seeds: int = 2) -> Grid:
    """Two values of the fields that findings take themselves and of ``two``, one of all others and of ``one``."""
    values = {field: (VALUES | OTHERS.get(name, {}))[field] for field in fields_of(module)}
    several = {*module.QUESTION.axes, *two} - {*one}
    return Grid({field: both if field in several else both[:1] for field, both in values.items()}, seeds=seeds)


@pytest.mark.parametrize("name", list(questions()))
def test_axes_are_fields(name):
    module = questions()[name]
    configs = [module.Config, *([module.TransformerConfig] if hasattr(module, "TransformerConfig") else [])]
    assert set(module.QUESTION.axes) <= {field.name for config in configs for field in dataclasses.fields(config)}


def told(found) -> None:
    """Everything that is printed of findings."""
    for each in found:
        assert each.verdict
        assert each.estimand
        assert isinstance(each.remark, str)


@pytest.mark.slow
@every_question
def test_one_seed_and_one_value_of_a_field_end_in_no_traceback(module_of, name, backend):
    module = module_of(name, backend)
    axes = [field for field in fields_of(module) if field in module.QUESTION.axes]
    for one in (axes, [], *([field] for field in axes)):
        made = records(module, grid_of(name, module, one=one, seeds=1))
        found = points.findings(module, made)
        told(found)
        assert all(each.undecided for each in found)
        if one == axes:
            for _, drawn in points.figures(module, made):
                plt.close(drawn) if isinstance(drawn, Figure) else None


@pytest.mark.parametrize(
    ("name", "only"), [("phase_diagram", {"policy": ("interactions",)}), ("token_tasks", {"labels": ("coin",)})]
)
def test_figures_leave_out_what_no_record_shows(module_of, name, only):
    module = module_of(name, "tree")
    grid = grid_of(name, module)
    made = records(module, dataclasses.replace(grid, axes={**grid.axes, **only}))
    titles = [title for title, drawn in points.figures(module, made) if isinstance(drawn, Figure)]
    assert titles == (
        ["phase_diagram_collapse", "phase_diagram", "phase_diagram_sparse"] if name == "phase_diagram" else []
    )
    plt.close("all")


@pytest.mark.slow
@every_question
def test_nothing_is_averaged_over_a_field_without_a_word(module_of, name, backend):
    """What changes at one value of a field changes the findings that name this value, and no others."""
    module = module_of(name, backend)
    for field in fields_of(module):
        if field in module.QUESTION.axes:
            continue
        grid = grid_of(name, module, two=[field], one=["horizon"] if field != "horizon" else [])
        made = records(module, grid)
        _, second = grid.axes[field]
        moved = {table: _moved(frame, field, second, fields_of(module)) for table, frame in made.items()}
        before, after = (points.findings(module, each) for each in (made, moved))
        own = points.words({field: second})
        changed = []
        for one, other in zip(before, after, strict=True):
            assert len(one.estimate.sample.axes.get(field, ())) <= 1
            if not np.array_equal(one.estimate.sample.values, other.estimate.sample.values, equal_nan=True):
                assert own in one.claim.split(": ")[0].split(", "), one.claim
                changed.append(one.claim)
        if any(frame[field].n_unique() > 1 for frame in made.values()):
            assert changed, field


def _moved(frame: pl.DataFrame, field: str, value, fields: list[str]) -> pl.DataFrame:
    kept = frame.columns[: frame.columns.index("seed") + 1]
    measured = cs.float() & ~cs.by_name(*kept, *fields, require_all=False)
    if isinstance(value, float):
        value = pl.lit(value, pl.Float32)
    here = pl.col(field).cast(pl.Float32) == value if frame[field].dtype.is_float() else pl.col(field) == value
    return frame.with_columns(pl.when(here).then(measured**1.1).otherwise(measured).name.keep())
